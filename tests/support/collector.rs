//! An OTLP/HTTP receiver that keeps the spans it is sent.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use plinth_testbed::upstream::Upstream;
use prost::Message;

pub struct Collector(Upstream);

/// A span and the `service.name` of the process that sent it.
#[derive(Clone, Debug)]
pub struct Received {
    pub service: String,
    pub span: Span,
}

impl Collector {
    pub async fn start() -> Self {
        let upstream = Upstream::start().await;
        upstream.respond_status(200);
        Self(upstream)
    }

    /// The settings that make a program send its spans here soon.
    pub fn flags(&self) -> [String; 4] {
        let endpoint = format!("http://{}", self.0.addr);
        ["--telemetry-otlp-endpoint", &endpoint, "--telemetry-export-interval", "50ms"].map(str::to_owned)
    }

    pub fn spans(&self) -> Vec<Received> {
        let mut all = Vec::new();
        for request in self.0.requests() {
            assert_eq!(request.uri().path(), "/v1/traces");
            assert_eq!(request.headers()["content-type"], "application/x-protobuf");
            let export = ExportTraceServiceRequest::decode(request.into_body()).expect("OTLP");
            for group in export.resource_spans {
                let service = group.resource.iter().flat_map(|resource| &resource.attributes);
                let service = service.filter(|attribute| attribute.key == "service.name");
                let service: String = service.map(|attribute| format!("{:?}", attribute.value)).collect();
                for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    all.push(Received { service: service.clone(), span });
                }
            }
        }
        all
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
