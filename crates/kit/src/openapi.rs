//! The OpenAPI document at `/openapi.json` and Swagger UI at `/docs`, both from the binary.

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use http::header;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, OpenApi, RefOr};
use utoipa_swagger_ui::{Config, SwaggerUi};

/// Name of the security scheme in every document.
const BEARER: &str = "bearer";
const DOCUMENT: &str = "/openapi.json";

/// The document as it is served and committed: with the bearer scheme, indented, ending in a newline.
///
/// # Errors
/// A document that cannot be serialised.
pub fn document(openapi: OpenApi) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(&with_bearer(openapi))?;
    text.push('\n');
    Ok(text)
}

/// Routes of the document and its user interface.
///
/// # Errors
/// A document that cannot be serialised.
pub fn routes(openapi: OpenApi) -> Result<Router, serde_json::Error> {
    let document = Bytes::from(document(openapi)?);
    let ui = SwaggerUi::new("/docs")
        .config(Config::from(DOCUMENT).persist_authorization(true).validator_url("none"));
    Ok(
        Router::new()
            .route(
                DOCUMENT,
                get(move || async move {
                    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
                }),
            )
            .merge(ui),
    )
}

/// Every operation wants a bearer token unless it says otherwise itself (`security(())`).
fn with_bearer(mut openapi: OpenApi) -> OpenApi {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("A JWT with scopes such as services:write or config:read:shop/production"))
        .build();
    let mut components = openapi.components.unwrap_or_else(|| ComponentsBuilder::new().build());
    components.security_schemes.insert(BEARER.to_owned(), RefOr::T(SecurityScheme::Http(scheme)));
    openapi.components = Some(components);
    if openapi.security.is_none() {
        openapi.security = Some(vec![SecurityRequirement::new::<_, [String; 0], String>(BEARER, [])]);
    }
    openapi
}
