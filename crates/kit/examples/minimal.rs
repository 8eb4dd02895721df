//! The smallest whole service: `cargo run -p plinth-kit --example minimal`.

use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Json, Problem};
use plinth_kit::settings::{Faults, Reader};
use plinth_kit::{App, AppBuilder, BoxError, Context, Routes, Service};
use serde_json::{Value, json};
use utoipa::OpenApi;

const SERVICE: Service =
    Service::new("minimal-service", env!("CARGO_PKG_VERSION")).port(8599).document(document);

#[derive(OpenApi)]
#[openapi(info(title = "minimal-service"))]
struct Document;

fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

struct Settings {
    greeting: String,
    refuse: bool,
    hang: bool,
}

impl Settings {
    fn read(reader: &mut Reader) -> Settings {
        Settings {
            greeting: reader.get("greeting", "what to answer", "hello".to_owned()),
            refuse: reader.get("refuse", "fail at the start, to show exit code 64", false),
            hang: reader.get("hang", "never finish starting, as when a database is away", false),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot start minimal-service")]
struct Error(#[source] BoxError);

async fn start(settings: Settings, context: Context) -> Result<App, Error> {
    let wrap = |error: BoxError| Error(error);
    if settings.refuse {
        return Err(wrap(Faults::one(SERVICE.name, "refuse", "is set; leave it out").into()));
    }
    if settings.hang {
        std::future::pending::<()>().await;
    }
    let listener = context.bind().await.map_err(|error| wrap(error.into()))?;
    let greeting = settings.greeting;
    let hello = move |caller: Caller| async move {
        caller.require("services", "read", None)?;
        Ok::<_, Problem>(Json::<Value>(json!({"greeting": greeting, "to": caller.subject()})))
    };
    let routes = Routes::new(Router::new().route("/hello", get(hello)));
    let router = context.router(routes, document()).map_err(|error| wrap(error.into()))?;
    AppBuilder::new(&context).http(listener, router).start().await.map_err(|error| wrap(error.into()))
}

fn main() -> ExitCode {
    plinth_kit::run(SERVICE, Settings::read, start)
}
