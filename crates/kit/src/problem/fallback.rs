//! Problems for what no handler answers.

use std::any::Any;

use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, Uri};

use super::{Cause, Problem};

/// 404 for a path that no route has.
pub async fn not_found(uri: Uri) -> Problem {
    Problem::not_found("no such path").instance(uri.path())
}

/// 405 for a method that the path does not have; axum adds `Allow`.
pub async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED)
        .detail(format!("this path does not have {method}"))
        .instance(uri.path())
}

/// 503 for a handler that did not answer in time.
pub fn timed_out() -> Problem {
    Problem::unavailable("the request took too long")
}

/// 500 for a handler that panicked; the message goes into the log only.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    let mut response = Problem::new(StatusCode::INTERNAL_SERVER_ERROR).into_response();
    response.extensions_mut().insert(Cause(format!("handler panicked: {message}").into()));
    response
}
