//! Configuration of the oas-validation plugin.

use serde::{Deserialize, Serialize};

use crate::model::or_default;
use crate::oas::BasePath;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OasValidationConfig {
    /// The document's text.
    pub api_spec: String,
    /// Clients are told what is wrong, not only that something is.
    #[serde(deserialize_with = "or_default")]
    pub verbose_response: bool,
    #[serde(deserialize_with = "or_default")]
    pub validate_request_body: bool,
    #[serde(deserialize_with = "or_default")]
    pub validate_request_header_params: bool,
    #[serde(deserialize_with = "or_default")]
    pub validate_request_query_params: bool,
    #[serde(deserialize_with = "or_default")]
    pub validate_request_uri_params: bool,
    /// What does not fit is logged and goes on.
    #[serde(deserialize_with = "or_default")]
    pub notify_only_request_validation_failure: bool,
    /// Parameters that the document does not declare are refused.
    #[serde(deserialize_with = "or_default")]
    pub query_parameter_check: bool,
    #[serde(deserialize_with = "or_default")]
    pub header_parameter_check: bool,
    /// Headers that need no declaration, joined by commas.
    pub allowed_header_parameters: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub include_base_path: bool,
    pub custom_base_path: Option<String>,
}

impl OasValidationConfig {
    /// What precedes the document's paths.
    pub fn base_path(&self) -> BasePath<'_> {
        Self::base_path_of(self.include_base_path, self.custom_base_path.as_deref())
    }

    pub(crate) fn base_path_of(included: bool, own: Option<&str>) -> BasePath<'_> {
        match (included, own) {
            (false, _) => BasePath::None,
            (true, None) => BasePath::Document,
            (true, Some(own)) => BasePath::Own(own),
        }
    }
}
