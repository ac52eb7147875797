//! What an operator sees and does: numbers, lists, ending access, logs.

mod connections;
mod disconnect;
mod guard;
mod logs;
mod metrics;
mod topics;

use serde_json::Value;

use crate::support::{TestGateway, within};

impl TestGateway {
    /// Status and JSON of a GET on the operators' listener.
    async fn admin(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(self.admin_url(path)).send();
        let answer = within(path, answer).await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.expect("JSON"))
    }

    /// The answer to a list that is to succeed.
    async fn list(&self, path: &str) -> Value {
        let (status, list) = self.admin(path).await;
        assert_eq!(status, 200, "{path}: {list}");
        list
    }
}
