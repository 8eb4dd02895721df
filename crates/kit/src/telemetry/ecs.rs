//! Log lines in the Elastic Common Schema.

use std::fmt;

use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, span};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

const VERSION: &str = "8.11.0";
/// The span field that says which of several services in one process a line belongs to.
const SERVICE_FIELD: &str = "plinth.service";

/// Formats events as one JSON document per line.
pub(super) struct Ecs {
    service: String,
    version: String,
}

impl Ecs {
    pub(super) fn new(service: &str, version: &str) -> Ecs {
        Ecs { service: service.to_owned(), version: version.to_owned() }
    }
}

impl<S, N> FormatEvent<S, N> for Ecs
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let service = ctx
            .event_scope()
            .into_iter()
            .flatten()
            .find_map(|span| span.extensions().get::<ServiceName>().map(|name| name.0.clone()))
            .unwrap_or_else(|| self.service.clone());
        let mut line = json!({
            "@timestamp": jiff::Timestamp::now().to_string(),
            "log.level": metadata.level().as_str().to_ascii_lowercase(),
            "message": fields.message,
            "ecs.version": VERSION,
            "log.logger": metadata.target(),
            "service.name": service,
            "service.version": self.version,
            "process.pid": std::process::id(),
        });
        if let Value::Object(line) = &mut line {
            if let Some(error) = fields.rest.remove("error") {
                line.insert("error.message".to_owned(), error);
            }
            if let Some((trace, span)) = trace_ids(ctx) {
                line.insert("trace.id".to_owned(), Value::from(trace));
                line.insert("span.id".to_owned(), Value::from(span));
            }
            // Fields that the schema does not know have their place in a namespace of our own.
            if !fields.rest.is_empty() {
                line.insert("plinth".to_owned(), Value::Object(fields.rest));
            }
        }
        writeln!(writer, "{line}")
    }
}

fn trace_ids<S, N>(ctx: &FmtContext<'_, S, N>) -> Option<(String, String)>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let id = ctx.lookup_current()?.id();
    let context =
        tracing::dispatcher::get_default(|dispatch| tracing_opentelemetry::get_otel_context(&id, dispatch))?;
    let span = context.span().span_context().clone();
    span.is_valid().then(|| (span.trace_id().to_string(), span.span_id().to_string()))
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.rest.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.put(field, Value::from(text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, Value::from(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }
}

/// Span fields are not part of ECS lines, so they need not be formatted.
pub(super) struct NoFields;

impl<'writer> FormatFields<'writer> for NoFields {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        _: Writer<'writer>,
        _: R,
    ) -> fmt::Result {
        Ok(())
    }
}

struct ServiceName(String);

/// Remembers the service of spans that name one.
pub(super) struct ServiceNames;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ServiceNames {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        struct Find(Option<String>);
        impl Visit for Find {
            fn record_str(&mut self, field: &Field, value: &str) {
                if field.name() == SERVICE_FIELD {
                    self.0 = Some(value.to_owned());
                }
            }
            fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
        }
        if attributes.metadata().fields().field(SERVICE_FIELD).is_none() {
            return;
        }
        let mut find = Find(None);
        attributes.record(&mut find);
        if let (Some(name), Some(span)) = (find.0, ctx.span(id)) {
            span.extensions_mut().insert(ServiceName(name));
        }
    }
}
