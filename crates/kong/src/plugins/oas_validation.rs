//! oas-validation: requests against an OpenAPI document. Kong has the plugin in its Enterprise edition.

use super::PluginSchema;
use crate::load::Scope;
use crate::model::{OasValidationConfig, PluginConfig};
use crate::node::{Map, Node};
use crate::schema::Literal::Str;
use crate::schema::{Field, NO, YES, boolean, string};

const EXTENSION: &str = "the plugin is in Kong's Enterprise edition only";
const ANSWERS: &str = "answers are not validated here";

const fn extension(name: &'static str, default: crate::schema::Literal) -> Field {
    boolean(name).or(default).required().different(EXTENSION)
}

pub(super) const OAS_VALIDATION: PluginSchema = PluginSchema {
    name: "oas-validation",
    per_consumer: true,
    prepare: None,
    rules: Some(rules),
    build: |value| serde_json::from_value(value).map(|config| PluginConfig::OasValidation(Box::new(config))),
    fields: &[
        string("api_spec").required().different(EXTENSION),
        boolean("api_spec_encoded")
            .or(YES)
            .ignored("whether the document is percent-encoded is seen from the document"),
        extension("verbose_response", NO),
        extension("validate_request_body", YES),
        extension("validate_request_header_params", YES),
        extension("validate_request_query_params", YES),
        extension("validate_request_uri_params", YES),
        extension("notify_only_request_validation_failure", NO),
        extension("query_parameter_check", NO),
        extension("header_parameter_check", NO),
        string("allowed_header_parameters")
            .or(Str("Host,Content-Type,User-Agent,Accept,Content-Length"))
            .different(EXTENSION),
        extension("include_base_path", NO),
        string("custom_base_path").different(EXTENSION),
        boolean("validate_response_body").or(NO).required().different(EXTENSION),
        boolean("notify_only_response_body_validation_failure").or(NO).ignored(ANSWERS),
        boolean("collect_all_errors").or(NO).ignored("the first thing that is wrong is told"),
    ],
};

fn rules(config: &Map, scope: &mut Scope<'_, '_>) {
    if config.get("validate_response_body").and_then(Node::as_bool) == Some(true) {
        scope.fault("validate_response_body", ANSWERS);
    }
    let text = |field: &str| config.get(field).and_then(Node::as_str);
    let included = config.get("include_base_path").and_then(Node::as_bool) == Some(true);
    let base = OasValidationConfig::base_path_of(included, text("custom_base_path"));
    if let Err(why) = crate::oas::Spec::parse(text("api_spec").unwrap_or_default(), base) {
        scope.fault("api_spec", &why);
    }
}
