//! Spans of publishes and deliveries, as an OpenTelemetry collector gets them.

use std::{collections::HashMap, net::TcpListener};

use actix_web::{App, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, any_value::Value as Any},
    trace::v1::Span,
};
use prost::Message;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::support::{Claims, TestGateway, within};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector that takes what is exported to it.
struct Collector {
    address: String,
    exported: UnboundedReceiver<ExportTraceServiceRequest>,
    spans: Vec<Span>,
    service: String,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, exported) = unbounded_channel();
        std::thread::spawn(move || {
            let serve = HttpServer::new(move || {
                App::new()
                    .app_data(web::Data::new(sender.clone()))
                    .route("/v1/traces", web::post().to(take))
            });
            let server = serve.workers(1).disable_signals().listen(listener);
            actix_web::rt::System::new().block_on(server.expect("it listens").run())
        });
        Self {
            address,
            exported,
            spans: Vec::new(),
            service: String::new(),
        }
    }

    /// Waits until there are as many spans of this name.
    async fn spans(&mut self, name: &str, count: usize) -> Vec<Span> {
        loop {
            let named = || self.spans.iter().filter(|span| span.name == name);
            if named().count() >= count {
                return named().cloned().collect();
            }
            let batch = within(name, self.exported.recv()).await.expect("spans");
            for resource in batch.resource_spans {
                let attributes = resource.resource.expect("a resource").attributes;
                for attribute in attributes {
                    if attribute.key == "service.name" {
                        self.service = text(attribute.value);
                    }
                }
                let scopes = resource.scope_spans.into_iter();
                self.spans.extend(scopes.flat_map(|scope| scope.spans));
            }
        }
    }
}

async fn take(
    sender: web::Data<UnboundedSender<ExportTraceServiceRequest>>,
    body: web::Bytes,
) -> HttpResponse {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
    let _ = sender.send(request);
    HttpResponse::Ok().finish()
}

fn text(value: Option<AnyValue>) -> String {
    match value.expect("a value").value.expect("a value") {
        Any::StringValue(text) => text,
        Any::IntValue(number) => number.to_string(),
        Any::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    }
}

fn attributes(span: &Span) -> HashMap<String, String> {
    let pairs = span.attributes.iter();
    pairs
        .map(|pair| (pair.key.clone(), text(pair.value.clone())))
        .collect()
}

async fn publish(gateway: &TestGateway, traceparent: Option<&str>, body: &str) -> u16 {
    let mut request = gateway
        .http
        .post(gateway.url("/publish"))
        .bearer_auth(Claims::all("backend").token())
        .body(body.to_owned());
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    request.send().await.expect("an answer").status().as_u16()
}

/// A gateway that exports to a collector, with this share of traces.
async fn traced(sample_ratio: f64) -> (Collector, TestGateway) {
    let collector = Collector::start();
    let gateway = TestGateway::with(&format!(
        "telemetry.otlp_endpoint = \"{}\"\ntelemetry.sample_ratio = {sample_ratio}\n\
         telemetry.service_name = \"gateway-under-test\"",
        collector.address
    ))
    .await;
    (collector, gateway)
}

#[tokio::test]
async fn a_publish_and_its_deliveries_join_the_publishers_trace() {
    let (mut collector, gateway) = traced(0.0).await;
    let mut ws = gateway.ws("topics=order:*").await;
    let mut sse = gateway.sse("topics=order:1").await;
    ws.frame("live").await;
    while sse.next().await.json()["type"] != "live" {}
    let body = r#"[{"topic":"order:1"},{"topic":"order:2"}]"#;
    assert_eq!(publish(&gateway, Some(PARENT), body).await, 200);
    ws.frame("event").await;
    gateway.stop().await;

    let published = collector.spans("publish", 1).await.remove(0);
    let trace = published.trace_id.clone();
    assert_eq!(trace[..4], [0x4b, 0xf9, 0x2f, 0x35]);
    assert_eq!(published.parent_span_id[6..], [0x02, 0xb7]);
    assert_eq!(published.kind, 4, "a producer");
    let told = attributes(&published);
    assert_eq!(told["messaging.destination.name"], "order:1");
    assert_eq!(told["messaging.batch.message_count"], "2");
    assert_eq!(told["tribus.sequence"], "1");

    // Two workers have one client each, or one worker has both.
    let delivered = collector.spans("deliver", 2).await;
    let mut sessions = HashMap::new();
    for span in &delivered {
        assert_eq!(span.trace_id, trace);
        assert_eq!(span.parent_span_id, published.span_id);
        assert_eq!(span.kind, 5, "a consumer");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        let told = attributes(span);
        let count: u32 = told["tribus.sessions"].parse().expect("a number");
        *sessions
            .entry(told["messaging.destination.name"].clone())
            .or_insert(0) += count;
    }
    assert_eq!(sessions["order:1"], 2);
    assert_eq!(sessions["order:2"], 1);
    assert_eq!(collector.service, "gateway-under-test");
}

#[tokio::test]
async fn the_publisher_decides_whether_it_is_traced_and_the_share_where_it_does_not() {
    let (mut collector, gateway) = traced(1.0).await;
    let not_sampled = PARENT.replace("b7-01", "b7-00");
    let body = |topic: &str| json!({"topic": topic}).to_string();
    assert_eq!(
        publish(&gateway, Some(&not_sampled), &body("not:1")).await,
        200
    );
    assert_eq!(publish(&gateway, None, &body("by-share:1")).await, 200);
    let mut ws = gateway.ws("").await;
    ws.send(json!({"type": "publish", "topic": "by-ws:1"}))
        .await;
    ws.frame("published").await;
    gateway.stop().await;
    let published = collector.spans("publish", 2).await;
    let topics: Vec<String> = published
        .iter()
        .map(|span| attributes(span)["messaging.destination.name"].clone())
        .collect();
    assert_eq!(topics, ["by-share:1", "by-ws:1"]);
    assert!(published.iter().all(|span| span.parent_span_id.is_empty()));
}

#[tokio::test]
async fn a_refused_append_is_an_error_in_its_span() {
    let (mut collector, gateway) = traced(1.0).await;
    for (data, status) in [(1, 200), (2, 409)] {
        let answer = gateway
            .http
            .post(gateway.url("/publish"))
            .bearer_auth(Claims::all("backend").token())
            .header("idempotency-key", "k")
            .body(json!({"topic": "a:1", "data": data}).to_string())
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), status);
    }
    gateway.stop().await;
    let published = collector.spans("publish", 2).await;
    assert_eq!(attributes(&published[1])["error.type"], "conflict");
    let code = |span: &Span| span.status.as_ref().map_or(0, |status| status.code);
    assert_eq!((code(&published[0]), code(&published[1])), (0, 2));
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_nobody_anything() {
    let address = {
        let unused = TcpListener::bind("127.0.0.1:0").expect("a port");
        unused.local_addr().expect("an address")
    };
    let gateway = TestGateway::with(&format!(
        "telemetry.otlp_endpoint = \"http://{address}\"\ntelemetry.sample_ratio = 1.0"
    ))
    .await;
    let mut ws = gateway.ws("topics=a:1").await;
    for _ in 0..100 {
        gateway.publish("a:1", json!(1)).await;
        ws.frame("event").await;
    }
    within("the end", gateway.stop()).await;
}
