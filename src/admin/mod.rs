//! The operators' listener: health, readiness, numbers, lists, and ending a client's access.

mod connections;
mod disconnect;
mod guard;
mod nodes;
mod pages;
mod readiness;
mod scrape;
mod topics;

use std::{sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, error::QueryPayloadError, http::header, web};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, watch};

use guard::refuse_pages;

use crate::{
    bus::{Answers, Bus, ShardCommand},
    config::EngineKind,
    protocol::{ErrorCode, Refusal},
    topic::Tenant,
    transport::{Shared, endpoint},
};

/// A list that takes longer is given up: the node is too busy, or the list too long.
const LIST_DEADLINE: Duration = Duration::from_secs(5);

/// Whether a balancer should send clients to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Ready,
    Draining,
}

/// The phase of the node's run, of which [`Readiness::default`] is the first.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<Phase>);

impl Default for Readiness {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Readiness {
    pub fn set(&self, phase: Phase) {
        self.0.send_replace(phase);
    }

    fn phase(&self) -> Phase {
        *self.0.borrow()
    }
}

/// What the operators' endpoints work on.
#[derive(Clone)]
pub struct Operator {
    readiness: Readiness,
    bus: Arc<Bus>,
    shared: Arc<Shared>,
    /// Of all the addresses that operators connect to.
    is_on_loopback: bool,
    engine: EngineKind,
    /// One list and one scrape at a time, so that whoever asks often costs the workers no more.
    listing: Arc<Semaphore>,
    scraping: Arc<Semaphore>,
}

impl Operator {
    pub fn new(
        readiness: Readiness,
        bus: Arc<Bus>,
        shared: Arc<Shared>,
        is_on_loopback: bool,
        engine: EngineKind,
    ) -> Self {
        Self {
            readiness,
            bus,
            shared,
            is_on_loopback,
            engine,
            listing: Arc::new(Semaphore::new(1)),
            scraping: Arc::new(Semaphore::new(1)),
        }
    }

    /// Has every worker list something.
    ///
    /// # Errors
    /// `unavailable` where not all of them answered in time.
    async fn list<T>(
        &self,
        command: impl Fn(tokio::sync::mpsc::Sender<T>) -> ShardCommand,
    ) -> Result<Vec<T>, Refusal> {
        let asked = async {
            let _turn = self.listing.acquire().await;
            self.bus.ask(LIST_DEADLINE, command).await
        };
        match tokio::time::timeout(LIST_DEADLINE, asked).await {
            Ok(Answers { answers, silent: 0 }) => Ok(answers),
            Ok(_) | Err(_) => Err(Refusal::unavailable(
                "the workers did not list this within 5 s: ask for less, or later",
            )),
        }
    }
}

pub fn configure(app: &mut web::ServiceConfig) {
    // Load balancers like to ask with HEAD.
    app.service(
        probe("/healthz")
            .route(web::get().to(healthz))
            .route(web::head().to(healthz)),
    )
    .service(
        probe("/readyz")
            .route(web::get().to(readiness::readyz))
            .route(web::head().to(readiness::readyz)),
    )
    .service(endpoint("/metrics", "GET").route(web::get().to(scrape::metrics)))
    .service(endpoint("/admin/connections", "GET").route(web::get().to(connections::list)))
    .service(endpoint("/admin/nodes", "GET").route(web::get().to(nodes::list)))
    .service(endpoint("/admin/topics", "GET").route(web::get().to(topics::list)))
    .service(endpoint("/admin/disconnect", "POST").route(web::post().to(disconnect::disconnect)))
    .default_service(web::to(not_found));
}

fn probe(path: &str) -> actix_web::Resource {
    endpoint(path, "GET, HEAD")
}

async fn not_found() -> Result<HttpResponse, Refusal> {
    Err(Refusal::new(
        ErrorCode::NotFound,
        "there is nothing here: operators use /healthz, /readyz, /metrics, /admin/connections, \
         /admin/nodes, /admin/topics and POST /admin/disconnect",
    ))
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok().body("ok\n")
}

/// The parameters of a list.
///
/// # Errors
/// `bad_request`, which names an unknown parameter or a bad value.
fn parameters<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Refusal> {
    web::Query::<T>::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| match error {
            QueryPayloadError::Deserialize(error) => Refusal::bad_request(error.to_string()),
            other => Refusal::bad_request(other.to_string()),
        })
}

/// As operators write it: an empty name stands for no tenant.
fn tenant_named(name: &str) -> Tenant {
    match name {
        "" => Tenant::none(),
        name => Tenant::named(name),
    }
}

fn json(body: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(body)
}
