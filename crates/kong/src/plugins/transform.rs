//! request-transformer and response-transformer.

use super::PluginSchema;
use crate::format;
use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::{Map, Node};
use crate::schema::Check::{OneOf, With};
use crate::schema::Literal::Strs;
use crate::schema::{Field, TEXT, array, record, string};

const NONE: crate::schema::Literal = Strs(&[]);
const METHOD: &[crate::schema::Check] = &[With(format::method)];

const NAME: Field = TEXT;
const HEADER: Field = TEXT.check(&[With(format::transformed_header)]);
const RENAMED: Field = TEXT.check(&[With(format::pair)]);
const RENAMED_HEADER: Field = TEXT.check(&[With(format::pair), With(format::renamed_header)]);
const SET: Field = TEXT.check(&[With(format::pair), With(format::template)]);
const SET_HEADER: Field =
    TEXT.check(&[With(format::pair), With(format::transformed_header), With(format::template)]);

const REMOVE: &[Field] = &[
    array("body", &NAME).or(NONE),
    array("headers", &HEADER).or(NONE),
    array("querystring", &NAME).or(NONE),
];
const RENAME: &[Field] = &[
    array("body", &RENAMED).or(NONE),
    array("headers", &RENAMED_HEADER).or(NONE),
    array("querystring", &RENAMED).or(NONE),
];
const EDIT: &[Field] = &[
    array("body", &SET).or(NONE),
    array("headers", &SET_HEADER).or(NONE),
    array("querystring", &SET).or(NONE),
];
const REPLACE: &[Field] = &[
    array("body", &SET).or(NONE),
    array("headers", &SET_HEADER).or(NONE),
    array("querystring", &SET).or(NONE),
    string("uri").check(&[With(format::whole_template)]),
];

pub(super) const REQUEST_TRANSFORMER: PluginSchema = PluginSchema {
    name: "request-transformer",
    per_consumer: true,
    prepare: None,
    rules: None,
    build: |value| serde_json::from_value(value).map(PluginConfig::RequestTransformer),
    fields: &[
        string("http_method").check(METHOD),
        record("remove", REMOVE),
        record("rename", RENAME),
        record("replace", REPLACE),
        record("add", EDIT),
        record("append", EDIT),
    ],
};

const SET_PLAIN: Field = TEXT.check(&[With(format::pair)]);
const SET_PLAIN_HEADER: Field = TEXT.check(&[With(format::pair), With(format::transformed_header)]);
const JSON_TYPE: Field = TEXT.check(&[OneOf(&["boolean", "number", "string"])]);

const ANSWER_REMOVE: &[Field] = &[array("json", &NAME).or(NONE), array("headers", &HEADER).or(NONE)];
const ANSWER_RENAME: &[Field] =
    &[array("json", &RENAMED).or(NONE), array("headers", &RENAMED_HEADER).or(NONE)];
const ANSWER_EDIT: &[Field] = &[
    array("json", &SET_PLAIN).or(NONE),
    array("json_types", &JSON_TYPE).or(NONE),
    array("headers", &SET_PLAIN_HEADER).or(NONE),
];

pub(super) const RESPONSE_TRANSFORMER: PluginSchema = PluginSchema {
    name: "response-transformer",
    per_consumer: true,
    prepare: None,
    rules: Some(json_types),
    build: |value| serde_json::from_value(value).map(PluginConfig::ResponseTransformer),
    fields: &[
        record("remove", ANSWER_REMOVE),
        record("rename", ANSWER_RENAME),
        record("replace", ANSWER_EDIT),
        record("add", ANSWER_EDIT),
        record("append", ANSWER_EDIT),
    ],
};

/// A type without a value would have no effect.
fn json_types(config: &Map, scope: &mut Scope<'_, '_>) {
    for operation in ["replace", "add", "append"] {
        let of = |field: &str| {
            let record = config.get(operation).and_then(Node::as_map);
            record.and_then(|record| record.get(field)).and_then(Node::as_seq).map_or(0, <[Node]>::len)
        };
        if of("json_types") > of("json") {
            scope.fault_in(operation, "json_types", "more types than values in 'json'");
        }
    }
}
