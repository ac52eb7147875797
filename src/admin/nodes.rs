//! The nodes of the log, as far as this one knows.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::{Operator, guard::refuse_pages, json};
use crate::{
    cluster::{About, KnownNode},
    protocol::Refusal,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    id: String,
    is_this: bool,
    #[serde(flatten)]
    about: About,
    last_heard_ms: u64,
}

impl From<KnownNode> for Listed {
    fn from(known: KnownNode) -> Self {
        Self {
            id: known.node.to_string(),
            is_this: known.is_this,
            about: known.about,
            last_heard_ms: u64::try_from(known.last_heard.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

pub(super) async fn list(
    request: HttpRequest,
    operator: web::Data<Operator>,
) -> Result<HttpResponse, Refusal> {
    refuse_pages(&request, &operator)?;
    let nodes = operator.shared.cluster.nodes();
    let nodes: Vec<_> = nodes.into_iter().map(Listed::from).collect();
    Ok(json(&serde_json::json!({ "nodes": nodes })))
}
