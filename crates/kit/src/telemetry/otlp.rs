//! Exports spans over OTLP/HTTP with protobuf bodies.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};

use crate::outbound::Outbound;

use super::{TelemetryError, TelemetrySettings};

/// Largest answer of a receiver that is read.
const ANSWER_LIMIT: usize = 64 * 1024;

pub(super) fn provider(
    endpoint: &str,
    settings: &TelemetrySettings,
    handle: &tokio::runtime::Handle,
) -> Result<SdkTracerProvider, TelemetryError> {
    let client = ExportClient {
        outbound: Outbound::new()?,
        handle: handle.clone(),
        timeout: settings.export_timeout,
        failing: AtomicBool::new(false),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(settings.export_timeout)
        .build()?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(settings.queue)
        .with_max_export_batch_size(settings.queue.min(512))
        .with_scheduled_delay(settings.export_interval)
        .build();
    // Without the detectors of the SDK: they read the environment behind the back of the settings.
    let resource = Resource::builder_empty()
        .with_service_name(settings.service.clone())
        .with_attribute(KeyValue::new("service.version", settings.version.clone()))
        .with_attribute(KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio))))
        .with_resource(resource)
        .build())
}

/// The batch processor runs on a thread of its own without a runtime; calls hop onto ours.
#[derive(Debug)]
struct ExportClient {
    outbound: Outbound,
    handle: tokio::runtime::Handle,
    timeout: Duration,
    failing: AtomicBool,
}

impl HttpClient for ExportClient {
    fn send_bytes<'life, 'future>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let (outbound, timeout) = (self.outbound.clone(), self.timeout);
            let call = self.handle.spawn(async move { outbound.send(request, timeout, ANSWER_LIMIT).await });
            let outcome: Result<Response<Bytes>, HttpError> = match call.await {
                Ok(outcome) => outcome.map_err(Into::into),
                Err(ended) => Err(ended.into()),
            };
            self.report(&outcome);
            outcome
        })
    }
}

impl ExportClient {
    /// Once when it begins to fail and once when it works again: a receiver that is away must not fill the log.
    fn report(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let failure = match outcome {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("status {}", response.status())),
            Err(error) => Some(crate::problem::chain(&**error)),
        };
        let was_failing = self.failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_failing => tracing::warn!(error, "traces cannot be exported"),
            None if was_failing => tracing::info!("traces are exported again"),
            _ => {}
        }
    }
}
