//! OpenTelemetry: spans of publishes and deliveries, exported by OTLP over HTTP where configured.
//!
//! ```text
//! traceparent ─▶ publish (producer) ─┬─▶ deliver (consumer), worker 0
//!                                    └─▶ deliver (consumer), worker 1
//! ```
//!
//! Whether a publish is traced is its publisher's decision where it sends a `traceparent`, else the
//! configured share's. A delivery is one span a worker and event, from when the publish was
//! accepted until the event lay in the mailboxes of the worker's sessions: one a client would be
//! thousands of spans for one publish. Spans wait in a queue of fixed size; what a collector that
//! is down or slow does not take is dropped, and told in the log.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{
        Span as _, SpanContext, SpanKind, Status, TraceContextExt, TraceState, Tracer,
        TracerProvider,
    },
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};

use crate::{
    config::TelemetryConfig,
    engine::Appended,
    event::{Event, TraceContext},
    protocol::{Refusal, TraceParent},
};

/// Where an OTLP/HTTP collector takes spans (OTLP specification, "OTLP/HTTP Request").
const TRACES_PATH: &str = "/v1/traces";
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the process waits at its end for the last spans to be taken.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// Makes spans and exports them. One for the gateway, shared by all workers.
pub struct Telemetry {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Telemetry {
    /// Starts the export; `None` where no collector is configured.
    ///
    /// # Errors
    /// Where the collector's address is none.
    pub fn start(config: &TelemetryConfig) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(endpoint) = &config.otlp_endpoint else {
            return Ok(None);
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(traces_url(endpoint)?)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .context("configuration key `telemetry.otlp_endpoint`")?;
        let sampler = Sampler::TraceIdRatioBased(config.sample_ratio);
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("tribus");
        Ok(Some(Arc::new(Self { provider, tracer })))
    }

    /// Whether [`Telemetry::start`] would start.
    ///
    /// # Errors
    /// Where the collector's address is none.
    pub fn check(config: &TelemetryConfig) -> anyhow::Result<()> {
        match &config.otlp_endpoint {
            Some(endpoint) => traces_url(endpoint).map(drop),
            None => Ok(()),
        }
    }

    /// Begins the span of a publish of so many events, the first of them to this topic.
    pub fn publish(
        &self,
        parent: Option<&TraceParent<'_>>,
        topic: &str,
        events: usize,
    ) -> PublishSpan {
        let parent = match parent {
            Some(parent) => Context::new().with_remote_span_context(remote(parent)),
            None => Context::new(),
        };
        let span = self
            .tracer
            .span_builder("publish")
            .with_kind(SpanKind::Producer)
            .with_attributes([
                KeyValue::new("messaging.system", "tribus"),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.destination.name", topic.to_owned()),
                KeyValue::new("messaging.batch.message_count", events as i64),
            ])
            .start_with_context(&self.tracer, &parent);
        PublishSpan(span)
    }

    /// Notes that a worker has put an event into the mailboxes of so many sessions.
    pub fn delivered(&self, event: &Event, sessions: usize) {
        let Some(trace) = &event.trace else {
            return;
        };
        let parent = Context::new().with_remote_span_context(sampled(
            TraceId::from_bytes(trace.trace_id),
            SpanId::from_bytes(trace.span_id),
        ));
        self.tracer
            .span_builder("deliver")
            .with_kind(SpanKind::Consumer)
            .with_start_time(trace.accepted)
            .with_attributes([
                KeyValue::new("messaging.system", "tribus"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new(
                    "messaging.destination.name",
                    event.topic.as_str().to_owned(),
                ),
                KeyValue::new("tribus.sequence", event.sequence as i64),
                KeyValue::new("tribus.sessions", sessions as i64),
            ])
            .start_with_context(&self.tracer, &parent)
            .end();
    }

    /// Sends the spans that wait, for as long as this at most. Blocks.
    pub fn shut_down(&self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit.min(LAST_EXPORT)) {
            tracing::warn!("the last spans were not exported: {error}");
        }
    }
}

fn traces_url(endpoint: &str) -> anyhow::Result<String> {
    let key = "configuration key `telemetry.otlp_endpoint`";
    let url = url::Url::parse(endpoint)
        .with_context(|| format!("{key}: write a URL such as http://127.0.0.1:4318"))?;
    anyhow::ensure!(
        matches!(url.scheme(), "http" | "https"),
        "{key}: only http and https are supported"
    );
    let base = endpoint.trim_end_matches('/');
    Ok(match base.ends_with(TRACES_PATH) {
        true => base.to_owned(),
        false => format!("{base}{TRACES_PATH}"),
    })
}

fn remote(parent: &TraceParent<'_>) -> SpanContext {
    let (trace_id, span_id) = (
        TraceId::from_bytes(parent.trace_id_bits),
        SpanId::from_bytes(parent.span_id),
    );
    match parent.sampled {
        true => sampled(trace_id, span_id),
        false => SpanContext::new(
            trace_id,
            span_id,
            TraceFlags::default(),
            true,
            TraceState::default(),
        ),
    }
}

fn sampled(trace_id: TraceId, span_id: SpanId) -> SpanContext {
    SpanContext::new(
        trace_id,
        span_id,
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    )
}

/// The span of one publish, from its request to its answer. Ends when it is dropped.
pub struct PublishSpan(Span);

impl PublishSpan {
    /// What the published events carry, so that their deliveries join the trace; `None` where the
    /// publish is not traced.
    pub fn context(&self) -> Option<Arc<TraceContext>> {
        let context = self.0.span_context();
        context.is_sampled().then(|| {
            Arc::new(TraceContext {
                trace_id: context.trace_id().to_bytes(),
                span_id: context.span_id().to_bytes(),
                accepted: SystemTime::now(),
            })
        })
    }

    /// Tells how it ended.
    pub fn finish(mut self, outcome: Result<&Appended, &Refusal>) {
        match outcome {
            Ok(appended) => self.0.set_attributes([
                KeyValue::new("tribus.sequence", appended.first.sequence as i64),
                KeyValue::new("tribus.duplicate", appended.duplicate),
            ]),
            Err(refusal) => {
                self.0
                    .set_attribute(KeyValue::new("error.type", refusal.code.as_str()));
                self.0.set_status(Status::error(refusal.code.as_str()));
            }
        }
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_to_the_collectors_path() {
        for (endpoint, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://c.example/x", "https://c.example/x/v1/traces"),
            ("http://c:1/v1/traces", "http://c:1/v1/traces"),
        ] {
            assert_eq!(traces_url(endpoint).expect("a URL"), url);
        }
        for bad in ["127.0.0.1:4318", "grpc://127.0.0.1:4317", ""] {
            let error = traces_url(bad).expect_err(bad).to_string();
            assert!(error.contains("telemetry.otlp_endpoint"), "{error}");
        }
    }
}
