use plinth_kong::{Format, PluginConfig, load};
use serde_json::json;

use super::*;

fn plugin(config: &str) -> ResponseTransformer {
    let text =
        format!("_format_version: \"3.0\"\nplugins: [{{name: response-transformer, config: {config}}}]");
    let loaded = load(&text, Format::Yaml).unwrap_or_else(|faults| panic!("{faults}"));
    let PluginConfig::ResponseTransformer(config) = &loaded.config.plugins[0].config else { panic!("other") };
    ResponseTransformer::new(config).unwrap()
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

#[test]
fn headers_are_edited_in_kongs_order() {
    let plugin = plugin(
        "{remove: {headers: [x-gone]}, rename: {headers: ['x-old:x-new']}, replace: {headers: ['x-new: 2', 'x-none:1']}, \
         add: {headers: ['x-new:3', 'x-made:http://a:1']}, append: {headers: ['x-new:4']}}",
    );
    let mut found = headers(&[("x-gone", "1"), ("x-old", "a"), ("x-old", "b"), ("x-kept", "k")]);
    plugin.header(&mut found);
    let expected = headers(&[("x-new", "2"), ("x-new", "4"), ("x-made", "http://a:1"), ("x-kept", "k")]);
    assert_eq!(found, expected);
    assert!(!plugin.rewrites());
}

#[test]
fn json_is_edited_with_types() {
    let plugin = plugin(
        "{remove: {json: [gone]}, rename: {json: ['old:new']}, \
         replace: {json: ['count:5', 'none:1'], json_types: [number, number]}, \
         add: {json: ['flag:true', 'text:x:y', 'half:0.5', 'bad:x'], json_types: [boolean, string, number, number]}, \
         append: {json: ['list:9'], json_types: [number]}}",
    );
    let json = headers(&[("content-type", "application/json; charset=utf-8")]);
    let body = Bytes::from_static(br#"{"gone":1,"old":{"a" : 1},"count":1,"list":[8]}"#);
    let found: Value = serde_json::from_slice(&plugin.body(&json, &body).unwrap()).unwrap();
    assert_eq!(
        found,
        json!({"new": {"a": 1}, "count": 5, "list": [8, 9], "flag": true, "text": "x:y", "half": 0.5})
    );
    for (kind, body) in [
        ("application/json", "[1]"),
        ("application/json", "{"),
        ("application/problem+json", "{}"),
        ("text/plain", "{}"),
    ] {
        let kinds = headers(&[("content-type", kind)]);
        assert_eq!(plugin.body(&kinds, &Bytes::from_static(body.as_bytes())), None, "{kind} {body}");
    }
    assert!(plugin.wants_body(&json) && !plugin.wants_body(&headers(&[("content-type", "text/plain")])));
}

#[test]
fn an_answer_may_be_made_json_by_its_header() {
    let plugin = plugin("{replace: {headers: ['content-type:application/json']}, add: {json: ['a:1']}}");
    assert!(plugin.wants_body(&headers(&[("content-type", "text/plain")])));
}

#[test]
fn what_frames_messages_cannot_be_edited() {
    let config = ResponseTransformerConfig {
        remove: Default::default(),
        rename: Default::default(),
        replace: Default::default(),
        add: ResponseEdits { headers: vec!["Content-Length:5".to_owned()], ..Default::default() },
        append: Default::default(),
    };
    let fault = ResponseTransformer::new(&config).unwrap_err();
    assert_eq!(fault, "the header 'content-length' is the gateway's own and cannot be changed");
}
