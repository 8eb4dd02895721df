use http::Method;

use super::super::tests::{Gateway, told};

fn gateway(config: &str) -> Gateway {
    Gateway::new(&format!(
        "services: [{{host: h, routes: [{{paths: [/]}}]}}]\nplugins: [{{name: request-transformer, config: {config}}}]"
    ))
}

/// All values of some headers after the plugin.
async fn headers(config: &str, names: &[&str]) -> Vec<String> {
    let gateway = gateway(config);
    let mut ctx = gateway
        .get("/p?q=1&two%20words=a+b", &[("x-a", "1"), ("x-a", "2"), ("x-b", "b"), ("host", "own.example")]);
    ctx.captures = vec![("id".into(), "42".to_owned()), ("1".into(), "42".to_owned())];
    assert!(gateway.access(&mut ctx).await.is_none(), "{config}");
    let all = names.iter().map(|name| {
        let values: Vec<&str> =
            ctx.head.headers.get_all(*name).iter().map(|value| value.to_str().unwrap()).collect();
        values.join("|")
    });
    all.collect()
}

#[tokio::test]
async fn headers_are_edited() {
    for (config, names, expected) in [
        ("{remove: {headers: [X-A]}}", ["x-a", "x-b"], ["", "b"]),
        ("{rename: {headers: ['X-A:X-C']}}", ["x-a", "x-c"], ["", "1|2"]),
        ("{rename: {headers: ['X-None:X-B']}}", ["x-none", "x-b"], ["", "b"]),
        ("{rename: {headers: ['X-A:X-B']}}", ["x-a", "x-b"], ["", "1|2"]),
        ("{replace: {headers: ['X-A:new', 'X-C:new']}}", ["x-a", "x-c"], ["new", ""]),
        ("{add: {headers: ['X-A:new', 'X-C: http://c:80/ ']}}", ["x-a", "x-c"], ["1|2", "http://c:80/"]),
        ("{append: {headers: ['X-A:3', 'X-C:c']}}", ["x-a", "x-c"], ["1|2|3", "c"]),
        // remove, rename, replace, add, append: in this order.
        (
            "{append: {headers: ['X-B:5']}, add: {headers: ['X-A:4']}, remove: {headers: [x-a]}, rename: {headers: ['X-B:X-C']}, replace: {headers: ['X-C:3']}}",
            ["x-a", "x-c"],
            ["4", "3"],
        ),
        ("{add: {headers: ['X-C:', 'X-D:x']}}", ["x-c", "x-d"], ["", "x"]),
        ("{add: {headers: ['X-C:$(query_params.q)/$(headers[\"x-b\"])']}}", ["x-c", "x-b"], ["1/b", "b"]),
        ("{add: {headers: ['X-C:$(query_params[\"two words\"])']}}", ["x-c", "x-d"], ["a b", ""]),
        ("{add: {headers: ['X-C:$(uri_captures.id)-$(uri_captures[1])']}}", ["x-c", "x-d"], ["42-42", ""]),
        // Templates see the request as it came.
        ("{remove: {headers: [x-b]}, add: {headers: ['X-C:$(headers.x_b)']}}", ["x-b", "x-c"], ["", "b"]),
        (
            "{add: {headers: ['X-C:$(headers.host)', 'Host:x']}}",
            ["x-c", "host"],
            ["own.example", "own.example"],
        ),
    ] {
        assert_eq!(headers(config, &names).await, expected, "{config}");
    }
}

#[tokio::test]
async fn path_host_method_and_query_are_edited() {
    let gateway = gateway(
        "{http_method: PUT, remove: {querystring: [a]}, rename: {querystring: ['b:z']}, replace: {headers: ['Host:new.example'], \
         uri: '/v2/$(uri_captures.id)/ü', querystring: ['c:3']}, add: {querystring: ['c:4', 'd:x y']}, append: {querystring: ['d:2']}}",
    );
    let mut ctx = gateway.get("/p?a=1&b=%7e&c=1&c=2&e", &[]);
    ctx.captures = vec![("id".into(), "42".to_owned())];
    assert!(gateway.access(&mut ctx).await.is_none());
    assert_eq!(ctx.head.method, Method::PUT);
    assert_eq!(ctx.upstream_path.as_deref(), Some("/v2/42/%C3%BC"));
    assert_eq!(ctx.upstream_host.as_ref().unwrap(), "new.example");
    assert_eq!(ctx.upstream_query.as_deref(), Some("z=~&c=3&e&d=x%20y&d=2"));
}

#[tokio::test]
async fn bodies_are_edited() {
    let all = "{remove: {body: [a]}, rename: {body: ['b:z']}, replace: {body: ['c:$(headers.x_h)', 'none:1']}, add: {body: ['c:no', 'd:x y']}, append: {body: ['z:2']}}";
    let (form, json, multi) =
        ("application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=X");
    let part = |name: &str, value: &str| {
        format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let parts = format!("{}{}{}--X--\r\n", part("a", "1"), part("b", "2"), part("c", "3"));
    let edited = format!("{}{}{}--X--\r\n", part("z", "2"), part("c", "new"), part("d", "x y"));
    for (config, kind, body, expected) in [
        (all, form, "a=1&b=2&c=3", "z=2&c=new&d=x%20y&z=2"),
        (all, json, r#"{"a":1,"b":"t","c":[3],"k":1.0}"#, r#"{"c":"new","k":1.0,"z":["t","2"],"d":"x y"}"#),
        (all, json, "", r#"{"c":"no","d":"x y","z":["2"]}"#),
        (all, json, "[1]", "[1]"),
        (all, json, "{broken", "{broken"),
        (all, "text/plain", "a=1", "a=1"),
        (all, multi, &parts, &edited),
        ("{remove: {body: [none]}}", json, r#"{ "a" : 1 }"#, r#"{ "a" : 1 }"#),
        ("{add: {headers: ['x-c:1']}}", form, "a=1", "a=1"),
    ] {
        let gateway = gateway(config);
        let mut ctx = gateway.request(Method::POST, "/", &[("content-type", kind), ("x-h", "new")]);
        assert_eq!(gateway.send(&mut ctx, body).await.unwrap(), expected, "{config} {kind} {body}");
    }
}

#[tokio::test]
async fn a_form_goes_along_in_the_query_of_a_get() {
    let gateway = gateway("{http_method: GET, add: {querystring: ['c:3']}}");
    let mut ctx =
        gateway.request(Method::POST, "/?a=1", &[("content-type", "application/x-www-form-urlencoded")]);
    gateway.send(&mut ctx, "b=x+y").await.unwrap();
    assert_eq!((ctx.head.method.as_str(), ctx.upstream_query.as_deref()), ("GET", Some("a=1&b=x+y&c=3")));
}

#[tokio::test]
async fn where_lua_would_stop_the_answer_is_500() {
    for config in [
        "{add: {headers: ['x-c:$(headers.none .. \"x\")']}}",
        "{add: {headers: ['x-c:$(query_params.evil)']}}",
        "{replace: {uri: '$(headers.none)'}}",
    ] {
        let gateway = gateway(config);
        let answer = gateway.access(&mut gateway.get("/?evil=a%0d%0ab", &[])).await.unwrap();
        assert_eq!(told(&answer), (500, "error: An unexpected error occurred".to_owned()), "{config}");
    }
}
