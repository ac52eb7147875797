//! `GET /readyz`: whether the node takes clients, in words; as JSON for whoever asks for it, with what is
//! known of the log.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, http::header, web};
use serde::Serialize;

use super::{Operator, Phase};
use crate::engine::LogServer;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    ready: bool,
    /// In words: `ready`, or why not.
    said: String,
    engine: &'static str,
    durability: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerDetails>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerDetails {
    address: String,
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<u64>,
    heard_ms: u64,
}

impl From<LogServer> for ServerDetails {
    fn from(server: LogServer) -> Self {
        Self {
            address: server.address,
            version: server.version,
            role: server.role,
            replicas: server.replicas,
            storage: server.storage,
            cluster: server.cluster,
            behind: server.behind,
            heard_ms: u64::try_from(server.heard.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

pub(super) async fn readyz(request: HttpRequest, operator: web::Data<Operator>) -> HttpResponse {
    let refusal = match operator.readiness.phase() {
        Phase::Starting => Some("starting".to_owned()),
        Phase::Draining => Some("draining".to_owned()),
        Phase::Ready => operator.bus.engine_condition().refuses,
    };
    let status = match refusal {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let ready = refusal.is_none();
    let said = refusal.unwrap_or_else(|| "ready".to_owned());
    let mut answer = HttpResponse::build(status);
    if !wants_json(&request) {
        return answer.body(format!("{said}\n"));
    }
    answer.json(Details {
        ready,
        said,
        engine: operator.engine.name(),
        durability: operator.bus.durability(),
        server: operator.bus.log_server().map(ServerDetails::from),
    })
}

/// Probes say nothing, or that they take anything.
fn wants_json(request: &HttpRequest) -> bool {
    let accept = request.headers().get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/json"))
}
