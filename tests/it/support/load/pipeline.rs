//! A publisher on `/ws` that waits for no answer before it goes on.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Answer, PATIENCE, PAUSE, TRY_AGAIN, judge};
use crate::support::{Checker, Received, TestGateway, Ws};

const IN_FLIGHT: usize = 16;

pub struct Pipeline {
    pub checker: Arc<Checker>,
    pub gateway: TestGateway,
    pub token: String,
    /// What was not answered over one connection is sent again over the next, in the same order.
    pub keyed: bool,
    pub stop: watch::Receiver<bool>,
    /// Sent and not answered, the oldest first: numbers and messages.
    pub in_flight: VecDeque<(u64, Value)>,
}

/// The connection has ended, or is taken for gone.
struct Gone;

impl Pipeline {
    pub async fn run(mut self) {
        while !self.is_stopped() {
            let connecting = Ws::connect(&self.gateway, "", Some(&self.token), None);
            if let Ok(Ok(mut ws)) = timeout(PATIENCE, connecting).await {
                // Where it is gone, another one follows.
                let _ = self.publish_over(&mut ws).await;
            }
            if !self.keyed {
                self.in_flight.clear();
            }
            sleep(TRY_AGAIN).await;
        }
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Until the connection ends, or the load, and what is under way then is answered.
    async fn publish_over(&mut self, ws: &mut Ws) -> Result<(), Gone> {
        let connection = self.checker.connect();
        for (number, message) in &self.in_flight {
            self.checker.publish_again(connection, *number);
            send(ws, message).await?;
        }
        while !self.is_stopped() {
            while self.in_flight.len() < IN_FLIGHT {
                let (number, message) = self.next(connection);
                self.in_flight.push_back((number, message.clone()));
                send(ws, &message).await?;
            }
            let pause = PAUSE * IN_FLIGHT as u32;
            self.take_answers(ws, pause, IN_FLIGHT - 1).await?;
        }
        self.take_answers(ws, Duration::ZERO, 0).await
    }

    fn next(&self, connection: usize) -> (u64, Value) {
        let (number, mut message) = self.checker.publish_over(connection, self.keyed);
        message["type"] = json!("publish");
        message["ref"] = json!(number);
        if self.keyed {
            message["key"] = json!(format!("key-{number}"));
        }
        (number, message)
    }

    /// For so long at least, and until no more than so many are not answered.
    async fn take_answers(
        &mut self,
        ws: &mut Ws,
        at_least: Duration,
        most_left: usize,
    ) -> Result<(), Gone> {
        let begun = Instant::now();
        loop {
            let is_enough = self.in_flight.len() <= most_left;
            let until = begun + if is_enough { at_least } else { PATIENCE };
            match timeout_at(until, ws.receive()).await {
                Ok(Received::Json(answer)) => self.take(&answer).await?,
                Err(_) if is_enough => return Ok(()),
                Ok(Received::Close(..) | Received::End) | Err(_) => return Err(Gone),
            }
        }
    }

    async fn take(&mut self, answer: &Value) -> Result<(), Gone> {
        let Some(number) = answer["ref"].as_u64() else {
            if answer["type"] == "error" {
                // Of the whole connection.
                judge(&self.checker, answer);
                return Err(Gone);
            }
            return Ok(());
        };
        let expected = self.in_flight.pop_front().map(|(expected, _)| expected);
        if expected != Some(number) {
            let so = format!("{expected:?} was to be answered, and it was {number}: {answer}");
            self.checker.complain(so);
        }
        match judge(&self.checker, answer) {
            Answer::Ids(ids) => self.checker.acknowledge(number, &ids),
            // It is not sent again: it would come behind what was sent after it.
            Answer::Unavailable(again) => {
                self.checker.refuse(number);
                sleep(again.min(TRY_AGAIN)).await;
            }
            Answer::None => {}
        }
        Ok(())
    }
}

async fn send(ws: &mut Ws, message: &Value) -> Result<(), Gone> {
    let sent = timeout(PATIENCE, ws.try_send(message)).await;
    sent.ok().and_then(Result::ok).ok_or(Gone)
}
