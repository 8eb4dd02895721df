//! OpenAPI documents: what requests they let through, and what is wrong with the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use plinth_kong::oas::{BasePath, Body, Checks, Spec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A document with one operation, `POST /p`, whose JSON body has this schema.
fn body_spec(version: &str, schema: Value) -> Result<Spec, String> {
    let document = json!({
        "openapi": version,
        "paths": {"/p": {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}}},
        "components": {"schemas": {
            "Tree": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Tree"}, "n": {"type": "integer"}},
                     "required": ["n"]},
            "Loop": {"$ref": "#/components/schemas/Loop"},
            "Made": {"type": "string", "readOnly": true},
        }},
    });
    Spec::parse(&document.to_string(), BasePath::None)
}

fn check(version: &str, schema: &Value, value: &Value) -> Result<(), String> {
    let spec = body_spec(version, schema.clone()).unwrap();
    let found = spec.find("POST", "/p").unwrap();
    let Body::Schema { schema, .. } = found.operation.body("application/json") else { panic!("no schema") };
    spec.check_value(schema, value)
}

#[test]
fn values_fit_schemas_or_the_first_thing_wrong_is_told() {
    let object = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
                        "additionalProperties": false, "minProperties": 1, "maxProperties": 2});
    let list = json!({"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1, "maxItems": 3, "uniqueItems": true});
    let text = json!({"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-zé]+$"});
    for (schema, value, wanted) in [
        (json!({}), json!(null), ""),
        (json!({"type": "integer"}), json!(3.0), ""),
        (json!({"type": "integer"}), json!(3.5), "wrong type: expected integer, got number"),
        (json!({"type": "boolean"}), json!("true"), "wrong type: expected boolean, got string"),
        (json!({"type": "string", "nullable": true}), json!(null), ""),
        (json!({"type": "string"}), json!(null), "wrong type: expected string, got null"),
        (json!({"enum": [1, "a", {"x": [1.0]}]}), json!({"x": [1]}), ""),
        (json!({"enum": [1, "a"]}), json!(true), "matches none of the enum values"),
        (json!({"minimum": 3, "exclusiveMinimum": true}), json!(3), "expected 3 to be greater than 3"),
        (json!({"minimum": 3}), json!(3), ""),
        (json!({"maximum": 3.5}), json!(4), "expected 4 to be at most 3.5"),
        (json!({"multipleOf": 0.1}), json!(0.3), ""),
        (json!({"multipleOf": 3}), json!(7), "expected 7 to be a multiple of 3"),
        (
            json!({"type": "integer", "format": "int32"}),
            json!(4_294_967_296_u64),
            "expected 4294967296 to be a valid int32",
        ),
        (object.clone(), json!({"a": 1, "b": "x"}), ""),
        (object.clone(), json!({"b": "x"}), "property \"a\" is required"),
        (
            object.clone(),
            json!({"a": "x"}),
            "property a validation failed: wrong type: expected integer, got string",
        ),
        (object.clone(), json!({"a": 1, "c": 1}), "additional properties forbidden, found c"),
        (json!({"maxProperties": 1}), json!({"a": 1, "b": 2}), "expect object to have at most 1 properties"),
        (
            json!({"additionalProperties": {"type": "integer"}}),
            json!({"x": "y"}),
            "property x validation failed: wrong type: expected integer, got string",
        ),
        (list.clone(), json!([1, 2.5]), ""),
        (list.clone(), json!([]), "expect array to have at least 1 items"),
        (list.clone(), json!([1, 2, 3, 4]), "expect array to have at most 3 items"),
        (list.clone(), json!([1, 1.0]), "expected unique items but items 1 and 2 are equal"),
        (list.clone(), json!([1, -1]), "failed to validate item 2: expected -1 to be at least 0"),
        (text.clone(), json!("éa"), ""),
        (text.clone(), json!("é"), "string too short, expected at least 2, got 1"),
        (text.clone(), json!("abcde"), "string too long, expected at most 4, got 5"),
        (text.clone(), json!("ab1"), "failed to match pattern \"^[a-zé]+$\" with \"ab1\""),
        (json!({"format": "date"}), json!("2026-02-30"), "expected valid date, got \"2026-02-30\""),
        (json!({"format": "password"}), json!("x"), ""),
        (
            json!({"allOf": [{"type": "object"}, {"required": ["a"]}]}),
            json!({}),
            "allOf 2 failed: property \"a\" is required",
        ),
        (json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), json!(1), ""),
        (
            json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
            json!(null),
            "object matches none of the required",
        ),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), json!(1.5), ""),
        (
            json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            json!(1),
            "value should match only one schema, but matches both schemas 1 and 2",
        ),
        (
            json!({"oneOf": [{"type": "integer"}]}),
            json!("x"),
            "value should match only one schema, but matches none",
        ),
        (json!({"not": {"type": "integer"}}), json!(1), "value wasn't supposed to match schema"),
        (
            json!({"$ref": "#/components/schemas/Tree"}),
            json!({"n": 1, "next": {"n": 2, "next": {"n": 3}}}),
            "",
        ),
        (
            json!({"$ref": "#/components/schemas/Tree"}),
            json!({"n": 1, "next": {"n": 2, "next": {}}}),
            "property next validation failed: property next validation failed: property \"n\" is required",
        ),
        (
            json!({"required": ["id", "n"], "properties": {"id": {"$ref": "#/components/schemas/Made"}}}),
            json!({"n": 1}),
            "",
        ),
        (json!({"$ref": "#/components/schemas/Loop"}), json!(1), "nested too deeply to be checked"),
        // members beside a reference do not count before 3.1
        (json!({"$ref": "#/components/schemas/Tree", "maxProperties": 0}), json!({"n": 1}), ""),
    ] {
        let told = check("3.0.3", &schema, &value).err().unwrap_or_default();
        assert_eq!(told, wanted, "{schema} {value}");
    }
}

#[test]
fn later_documents_have_later_keywords() {
    for (schema, value, fits) in [
        (json!({"type": ["integer", "null"]}), json!(null), true),
        (json!({"const": {"a": 1}}), json!({"a": 1.0}), true),
        (json!({"const": 1}), json!(2), false),
        (json!({"exclusiveMinimum": 3}), json!(3), false),
        (json!({"minimum": 4, "exclusiveMinimum": 3}), json!(3.5), false),
        (json!({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}), json!(["a", 1]), true),
        (
            json!({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}),
            json!(["a", "b"]),
            false,
        ),
        (json!({"prefixItems": [{"type": "string"}], "items": false}), json!(["a", 1]), false),
        (json!({"contains": {"type": "integer"}, "maxContains": 1}), json!(["a", 1]), true),
        (json!({"contains": {"type": "integer"}, "maxContains": 1}), json!([1, 2]), false),
        (json!({"contains": {"type": "integer"}}), json!(["a"]), false),
        (
            json!({"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": false}),
            json!({"x-a": 1}),
            true,
        ),
        (
            json!({"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": false}),
            json!({"y": 1}),
            false,
        ),
        (json!({"propertyNames": {"maxLength": 1}}), json!({"ab": 1}), false),
        (json!({"dependentRequired": {"a": ["b"]}}), json!({"a": 1}), false),
        (json!({"dependentSchemas": {"a": {"required": ["b"]}}}), json!({"a": 1, "b": 1}), true),
        (
            json!({"if": {"properties": {"k": {"const": 1}}}, "then": {"required": ["x"]}, "else": {"required": ["y"]}}),
            json!({"k": 1, "x": 0}),
            true,
        ),
        (
            json!({"if": {"properties": {"k": {"const": 1}}}, "then": {"required": ["x"]}, "else": {"required": ["y"]}}),
            json!({"k": 2, "x": 0}),
            false,
        ),
        (json!({"$ref": "#/components/schemas/Tree", "maxProperties": 0}), json!({"n": 1}), false),
        (json!(true), json!(1), true),
        (json!(false), json!(1), false),
    ] {
        assert_eq!(check("3.1.0", &schema, &value).is_ok(), fits, "{schema} {value}");
    }
}

#[test]
fn what_cannot_be_checked_is_a_fault_of_the_document() {
    for (schema, said) in [
        (json!({"unevaluatedProperties": false}), "'unevaluatedProperties' cannot be checked here"),
        (json!({"properties": {"a": {"$dynamicRef": "#x"}}}), "properties.a: '$dynamicRef'"),
        (json!({"$ref": "other.yaml#/x"}), "leads out of the document"),
        (json!({"$ref": "#/components/schemas/Nobody"}), "leads nowhere"),
        (json!({"type": "text"}), "type is one of null, boolean"),
        (json!({"pattern": "("}), "pattern '('"),
        (json!({"minLength": -1}), "minLength is a whole number"),
        (json!({"enum": 1}), "enum is a list"),
        (json!(7), "a schema is an object"),
    ] {
        let told = body_spec("3.1.0", schema.clone()).unwrap_err();
        assert!(told.contains(said) && told.contains("paths./p.post"), "{schema}: {told}");
    }
    for (text, said) in [
        ("", "no OpenAPI document"),
        ("[1]", "no OpenAPI document"),
        ("a: 1", "neither 'openapi' nor 'swagger'"),
        ("openapi: 4.0.0", "neither Swagger 2.0 nor OpenAPI 3"),
        ("openapi: 3.0.0", "'paths' is missing"),
        ("openapi: 3.0.0\npaths: {p: {}}", "does not start with '/'"),
        ("openapi: 3.0.0\npaths: {'/{a': {}}", "braces do not match"),
        ("openapi: 3.0.0\npaths: {'/a': {get: {parameters: [{in: query}]}}}", "a parameter has a name"),
        (
            "openapi: 3.0.0\npaths: {'/a': {get: {parameters: [{name: x, in: body}, {name: y, in: nowhere}]}}}",
            "is in path, query",
        ),
        (
            "openapi: 3.0.0\npaths: {'/a': {get: {parameters: [{name: x, in: query, style: simple}]}}}",
            "no style 'simple' in query",
        ),
    ] {
        let told = Spec::parse(text, BasePath::None).unwrap_err();
        assert!(told.contains(said), "{text}: {told}");
    }
}

const PATHS: &str = "
openapi: 3.0.0
servers: [{url: 'https://api.example/v1/'}]
paths:
  /pets/mine: {get: {responses: {200: {description: d}}}}
  /pets/{id}: {get: {}, parameters: [{name: id, in: path, required: true, schema: {type: integer}}]}
  /pets/{id}/{part}: {get: {parameters: [{name: part, in: path, required: true, schema: {enum: [head, tail]}}]}}
  /pets/{id}/photo: {put: {}}
  /files/{name}.{kind}: {get: {parameters: [{name: kind, in: path, required: true, schema: {type: string, maxLength: 3}}]}}
";

#[test]
fn operations_are_found_by_path_and_method() {
    let spec = Spec::parse(PATHS, BasePath::None).unwrap();
    let all = Checks { path: true, query: true, header: true };
    let told = |method: &str, path: &str| match spec.find(method, path) {
        None => "none".to_owned(),
        Some(found) => spec.check_parameters(&found, all, None, &|_| None).err().unwrap_or_default(),
    };
    let wrong = |name: &str, why: &str| format!("path '{name}' validation failed with error: '{why}'");
    for (method, path, wanted) in [
        ("GET", "/pets/mine", String::new()),
        ("get", "/pets/7", String::new()),
        ("GET", "/pets/x", wrong("id", "wrong type: expected integer, got string")),
        ("DELETE", "/pets/7", "none".to_owned()),
        ("GET", "/pets/", "none".to_owned()),
        ("GET", "/pets", "none".to_owned()),
        ("GET", "/pets/7/head", String::new()),
        ("GET", "/pets/7/leg", wrong("part", "matches none of the enum values")),
        ("PUT", "/pets/7/photo", String::new()),
        // the particular path has no GET: the other one that fits has
        ("GET", "/pets/7/photo", wrong("part", "matches none of the enum values")),
        ("GET", "/files/a.b.png", String::new()),
        ("GET", "/files/a.jpeg", wrong("kind", "string too long, expected at most 3, got 4")),
        ("GET", "/files/a", "none".to_owned()),
        ("GET", "/v1/pets/mine", "none".to_owned()),
    ] {
        assert_eq!(told(method, path), wanted, "{method} {path}");
    }
    for (base, path) in [(BasePath::Document, "/v1/pets/mine"), (BasePath::Own("/own/"), "/own/pets/mine")] {
        let spec = Spec::parse(PATHS, base).unwrap();
        assert!(spec.find("GET", path).is_some() && spec.find("GET", "/pets/mine").is_none(), "{base:?}");
    }
    let encoded: String = PATHS.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert!(Spec::parse(&encoded, BasePath::None).unwrap().find("GET", "/pets/mine").is_some());
}

/// What a query, a header or a cookie of this parameter is told.
fn told(parameter: &str, query: &str, header: Option<&str>) -> String {
    let text = format!("openapi: 3.0.0\npaths: {{/p: {{get: {{parameters: [{parameter}]}}}}}}");
    let spec = Spec::parse(&text, BasePath::None).unwrap_or_else(|why| panic!("{parameter}: {why}"));
    let found = spec.find("GET", "/p").unwrap();
    let all = Checks { path: true, query: true, header: true };
    let outcome = spec.check_parameters(&found, all, Some(query), &|_| header.map(str::to_owned));
    outcome.err().map_or_else(String::new, |told| {
        told.split_once(" validation failed with error: ")
            .map_or(told.clone(), |(_, why)| why.trim_matches('\'').to_owned())
    })
}

#[test]
fn parameters_are_read_as_they_are_written() {
    const MISSING: &str = "required parameter value not found in request";
    const INTEGERS: &str = "schema: {type: array, items: {type: integer}}";
    const POINT: &str =
        "schema: {type: object, required: [x], properties: {x: {type: integer}, s: {type: string}}}";
    let item = "failed to validate item 2: wrong type: expected integer, got string";
    let query = |rest: &str| format!("{{name: q, in: query, {rest}}}");
    for (parameter, given, wanted) in [
        (query("schema: {type: integer}"), "q=7", ""),
        (query("schema: {type: integer}"), "q=x", "wrong type: expected integer, got string"),
        (query("schema: {type: integer}"), "q=7&q=8", "given more than once"),
        (query("schema: {type: integer}"), "", ""),
        (query("required: true, schema: {type: integer}"), "r=1", MISSING),
        (query("required: true, allowEmptyValue: true"), "q", ""),
        (query("schema: {type: boolean}"), "q=true", ""),
        (query("schema: {type: string}"), "q=7", ""),
        (query("schema: {type: string, enum: ['a b']}"), "q=a+b", ""),
        (query("schema: {type: string, enum: ['a b']}"), "%71=a%20b", ""),
        (query("schema: {anyOf: [{type: integer}, {enum: [all]}]}"), "q=all", ""),
        (
            query("schema: {anyOf: [{type: integer}, {enum: [all]}]}"),
            "q=some",
            "object matches none of the required",
        ),
        (query(INTEGERS), "q=1&q=2", ""),
        (query(INTEGERS), "q=1&q=b", item),
        (query(INTEGERS), "q=1,2", "failed to validate item 1: wrong type: expected integer, got string"),
        (query(&format!("explode: false, {INTEGERS}")), "q=1,2", ""),
        (query(&format!("explode: false, {INTEGERS}")), "q=1,b", item),
        (query(&format!("style: spaceDelimited, explode: false, {INTEGERS}")), "q=1%202", ""),
        (query(&format!("style: pipeDelimited, explode: false, {INTEGERS}")), "q=1|b", item),
        (query(&format!("style: deepObject, {POINT}")), "q[x]=1&q[s]=y", ""),
        (
            query(&format!("style: deepObject, {POINT}")),
            "q%5Bx%5D=y",
            "property x validation failed: wrong type: expected integer, got string",
        ),
        (query(&format!("style: deepObject, {POINT}")), "q[s]=1", "property \"x\" is required"),
        (query(POINT), "x=1&s=2&other=3", ""),
        (query(POINT), "x=y", "property x validation failed: wrong type: expected integer, got string"),
        (query(&format!("explode: false, {POINT}")), "q=x,1,s,2", ""),
        (query("content: {application/json: {schema: {type: array, maxItems: 1}}}"), "q=%5B1%5D", ""),
        (query("content: {application/json: {schema: {type: array}}}"), "q=%5B1", "not JSON"),
    ] {
        assert_eq!(told(&parameter, given, None), wanted, "{parameter} {given}");
    }
    for (parameter, given, wanted) in [
        ("{name: X-N, in: header, schema: {type: integer}}", Some("7"), ""),
        (
            "{name: X-N, in: header, schema: {type: integer}}",
            Some("7 "),
            "wrong type: expected integer, got string",
        ),
        ("{name: X-N, in: header, required: true, schema: {type: integer}}", None, MISSING),
        ("{name: X-N, in: header, schema: {type: array, items: {type: integer}}}", Some("1,2"), ""),
        ("{name: X-N, in: header, schema: {type: array, items: {type: integer}}}", Some("1,b"), item),
        (
            "{name: X-N, in: header, explode: true, schema: {type: object, properties: {a: {type: integer}}}}",
            Some("a=1"),
            "",
        ),
        ("{name: c, in: cookie, required: true, schema: {type: boolean}}", Some("a=1; c=true"), ""),
        (
            "{name: c, in: cookie, required: true, schema: {type: boolean}}",
            Some("a=1; c=x"),
            "wrong type: expected boolean, got string",
        ),
        ("{name: c, in: cookie, required: true, schema: {type: boolean}}", Some("a=1"), MISSING),
        (
            "{name: c, in: cookie, explode: false, schema: {type: array, items: {type: integer}}}",
            Some("c=1,2,3; other=value"),
            "",
        ),
        (
            "{name: c, in: cookie, explode: false, schema: {type: array, items: {type: integer}}}",
            Some("c=1,b"),
            item,
        ),
    ] {
        assert_eq!(told(parameter, "", given), wanted, "{parameter} {given:?}");
    }
}

#[test]
fn paths_have_styles_too() {
    let text = "openapi: 3.0.0
paths:
  /l/{v}: {get: {parameters: [{name: v, in: path, style: label, schema: {type: array, items: {type: integer}}}]}}
  /m/{v}: {get: {parameters: [{name: v, in: path, style: matrix, schema: {type: array, items: {type: integer}}}]}}
  /e/{v}: {get: {parameters: [{name: v, in: path, style: matrix, explode: true, schema: {type: array, items: {type: integer}}}]}}
  /s/{v}: {get: {parameters: [{name: v, in: path, schema: {type: array, items: {type: string}, maxItems: 2}}]}}";
    let spec = Spec::parse(text, BasePath::None).unwrap();
    for (path, fits) in [
        ("/l/.1,2", true),
        ("/l/1,2", false),
        ("/m/;v=1,2", true),
        ("/m/;w=1,2", false),
        ("/e/;v=1;v=2", true),
        ("/e/;v=1;v=b", false),
        // an escaped comma belongs to its item
        ("/s/a%2Cb,c", true),
        ("/s/a,b,c", false),
    ] {
        let found = spec.find("GET", path).unwrap();
        let all = Checks { path: true, query: true, header: true };
        assert_eq!(spec.check_parameters(&found, all, None, &|_| None).is_ok(), fits, "{path}");
    }
}

#[test]
fn undeclared_parameters_are_noticed() {
    let text = "openapi: 3.0.0
paths:
  /p:
    get:
      parameters:
      - {name: a, in: query}
      - {name: tags, in: query, schema: {type: array, items: {}}}
      - {name: deep, in: query, style: deepObject, schema: {type: object}}
      - {name: spread, in: query, schema: {type: object, properties: {x: {}, y: {}}}}
      - {name: X-A, in: header}";
    let spec = Spec::parse(text, BasePath::None).unwrap();
    let operation = spec.find("GET", "/p").unwrap().operation;
    for (query, wanted) in [
        ("", None),
        ("a=1&tags[]=2&tags=3&deep[k]=v&x=1&y=2", None),
        ("a=1&b=2", Some("b")),
        ("deep=1", Some("deep")),
        ("A=1", Some("A")),
    ] {
        assert_eq!(spec.undeclared_in_query(operation, query).as_deref(), wanted, "{query}");
    }
    assert!(operation.declares_header("x-a") && !operation.declares_header("x-b"));
}

#[test]
fn bodies_have_media_types() {
    let text = "openapi: 3.0.0
paths:
  /p:
    post: {requestBody: {$ref: '#/components/requestBodies/B'}}
    put: {}
components:
  requestBodies:
    B:
      required: true
      content:
        application/json: {schema: {type: object}}
        'application/x-www-form-urlencoded; charset=utf-8':
          schema: {type: object, required: [n], properties: {n: {type: integer}, many: {type: array, items: {type: boolean}}}}
        image/*: {}";
    let spec = Spec::parse(text, BasePath::None).unwrap();
    let post = spec.find("POST", "/p").unwrap().operation;
    assert!(matches!(post.body("APPLICATION/json"), Body::Schema { required: true, .. }));
    assert_eq!(post.body("image/png"), Body::Anything { required: true });
    assert_eq!(post.body("text/plain"), Body::Refused);
    assert_eq!(spec.find("PUT", "/p").unwrap().operation.body("text/plain"), Body::Unsaid);
    let Body::Schema { schema, .. } = post.body("application/x-www-form-urlencoded") else {
        panic!("no schema")
    };
    let fields = |all: &[(&str, &str)]| {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(
        spec.check_fields(schema, &fields(&[("n", "1"), ("many", "true"), ("many", "false")])),
        Ok(())
    );
    let wrong = spec.check_fields(schema, &fields(&[("n", "x")])).unwrap_err();
    assert_eq!(wrong, "property n validation failed: wrong type: expected integer, got string");
    assert!(spec.check_fields(schema, &fields(&[("n", "1"), ("many", "x")])).is_err());
}

#[test]
fn swagger_2_is_understood() {
    let text = "swagger: '2.0'
basePath: /v2
consumes: [application/json]
paths:
  /pets:
    get:
      parameters:
      - {name: ids, in: query, required: true, type: array, items: {type: integer}, collectionFormat: csv}
      - {name: limit, in: query, type: integer, maximum: 10}
    post: {parameters: [{name: pet, in: body, required: true, schema: {$ref: '#/definitions/Pet'}}]}
    put: {consumes: [multipart/form-data], parameters: [{name: file, in: formData, type: file, required: true}]}
definitions:
  Pet: {type: object, required: [name], properties: {name: {type: string}}}";
    let spec = Spec::parse(text, BasePath::Document).unwrap();
    let all = Checks { path: true, query: true, header: true };
    let get = spec.find("GET", "/v2/pets").unwrap();
    let told = |query: &str| spec.check_parameters(&get, all, Some(query), &|_| None);
    assert_eq!(told("ids=1,2&limit=10"), Ok(()));
    assert!(told("limit=1").unwrap_err().contains("query 'ids'"));
    assert!(told("ids=1,b").is_err() && told("ids=1&limit=11").is_err());
    let post = spec.find("POST", "/v2/pets").unwrap().operation;
    let Body::Schema { schema, required: true } = post.body("application/json") else { panic!("no schema") };
    assert!(spec.check_value(schema, &json!({"name": "x"})).is_ok());
    assert!(spec.check_value(schema, &json!({})).is_err());
    let put = spec.find("PUT", "/v2/pets").unwrap().operation;
    assert_eq!(put.body("multipart/form-data"), Body::Anything { required: true });
    assert_eq!(put.body("application/json"), Body::Refused);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-5_i64..5).prop_map(Value::from),
        (-20_i32..20).prop_map(|number| json!(f64::from(number) / 4.0)),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The narrowest schema that says what a value is.
fn schema_of(value: &Value) -> Value {
    match value {
        Value::Null => json!({"type": "null"}),
        Value::Bool(_) => json!({"type": "boolean", "enum": [value]}),
        Value::Number(number) => json!({"type": "number", "minimum": number, "maximum": number}),
        Value::String(text) => {
            let length = text.chars().count();
            json!({"type": "string", "minLength": length, "maxLength": length, "pattern": format!("^{text}$")})
        }
        Value::Array(items) => {
            let first: Vec<Value> = items.iter().map(schema_of).collect();
            json!({"type": "array", "prefixItems": first, "items": false, "minItems": items.len()})
        }
        Value::Object(members) => {
            let properties: Map<String, Value> =
                members.iter().map(|(name, value)| (name.clone(), schema_of(value))).collect();
            let names: Vec<&String> = members.keys().collect();
            json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
        }
    }
}

/// Equal but for how numbers are spelled.
fn equal(one: &Value, other: &Value) -> bool {
    check("3.1.0", &json!({"const": one}), other).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_value_fits_its_own_schema_and_no_other_value_does(one in value(), other in value()) {
        let schema = schema_of(&one);
        prop_assert!(check("3.1.0", &schema, &one).is_ok(), "{} {}", schema, one);
        prop_assert_eq!(check("3.1.0", &schema, &other).is_ok(), equal(&one, &other), "{} {}", schema, other);
    }

    #[test]
    fn combinations_follow_from_their_parts(one in value(), other in value(), given in value()) {
        let (a, b) = (schema_of(&one), schema_of(&other));
        let fits = |schema: &Value| check("3.1.0", schema, &given).is_ok();
        let (in_a, in_b) = (fits(&a), fits(&b));
        prop_assert_eq!(fits(&json!({"allOf": [a, b]})), in_a && in_b);
        prop_assert_eq!(fits(&json!({"anyOf": [a, b]})), in_a || in_b);
        prop_assert_eq!(fits(&json!({"oneOf": [a, b]})), in_a != in_b);
        prop_assert_eq!(fits(&json!({"not": a})), !in_a);
        prop_assert_eq!(fits(&json!({"if": a, "then": false, "else": b})), !in_a && in_b);
    }

    #[test]
    fn equal_items_are_found_however_many_there_are(mut items in prop::collection::vec(value(), 0..40), copy in any::<prop::sample::Index>()) {
        let schema = json!({"uniqueItems": true});
        let pairwise = items.iter().enumerate().any(|(at, one)| items[at + 1..].iter().any(|other| equal(one, other)));
        prop_assert_eq!(check("3.1.0", &schema, &json!(items.clone())).is_err(), pairwise);
        if !items.is_empty() {
            items.push(items[copy.index(items.len())].clone());
            prop_assert!(check("3.1.0", &schema, &json!(items)).is_err());
        }
    }

    #[test]
    fn any_document_and_request_is_survived(
        text in "(openapi: 3.0.0\npaths:\n)?[ -~\n]{0,120}", schema in value(), path in "/[ -~]{0,20}", query in "[ -~]{0,30}"
    ) {
        let _ = Spec::parse(&text, BasePath::Document);
        let document = json!({"openapi": "3.1.0", "paths": {
            "/{a}": {"get": {"parameters": [{"name": "a", "in": "path", "schema": schema},
                                            {"name": "b", "in": "query", "style": "deepObject", "schema": {}}]}},
        }});
        if let Ok(spec) = Spec::parse(&document.to_string(), BasePath::None)
            && let Some(found) = spec.find("GET", &path)
        {
            let all = Checks { path: true, query: true, header: true };
            let _ = spec.check_parameters(&found, all, Some(&query), &|_| Some(query.clone()));
        }
    }
}
