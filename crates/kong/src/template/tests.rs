use proptest::prelude::*;

use super::*;

struct Request;

impl Lookup for Request {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            "x-one" => Some("1".into()),
            "authorization" => Some("Bearer sb_abc".into()),
            "apikey" => Some("key".into()),
            _ => None,
        }
    }

    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        (name == "q").then(|| "query value".into())
    }

    fn capture(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            "1" | "id" => Some("42".into()),
            _ => None,
        }
    }
}

fn rendered(text: &str) -> String {
    Template::parse(text).unwrap().render(&Request).unwrap()
}

#[test]
fn expressions() {
    for (template, expected) in [
        ("plain", "plain"),
        ("$", "$"),
        ("a$b (c)", "a$b (c)"),
        ("$(headers.x_one)", "1"),
        ("$(headers['X-One'])", "1"),
        ("$(headers[\"x-one\"])", "1"),
        ("<$(headers.absent)>", "<>"),
        ("$(query_params.q)!", "query value!"),
        ("/v2/$(uri_captures.id)/$(uri_captures[1])", "/v2/42/42"),
        ("$(headers.absent or 'none')", "none"),
        ("$(headers.absent and 'some' or 'none')", "none"),
        ("$(headers.x_one and 'some' or 'none')", "some"),
        ("$(headers.x_one == '1')", "true"),
        ("$(headers.x_one == 1)", ""),
        ("$(headers.x_one ~= '1' or 'same')", "same"),
        ("$('a' .. 'b' .. 1)", "ab1"),
        ("$(1 .. 2)", "12"),
        ("$('$(headers.x_one)')", "$(headers.x_one)"),
        ("$(not headers.absent)", "true"),
        ("$(headers.authorization:sub(8))", "sb_abc"),
        ("$(headers.authorization:sub(-3, -1))", "abc"),
        ("$(headers.authorization:sub(1, 100):upper())", "BEARER SB_ABC"),
        ("$(headers.authorization:sub(5, 2))", ""),
        ("$(nil)$(false)$(true)", "true"),
        ("$(", "$("),
        ("$(uri_captures[1] == nil and \"\" or \"/\" .. uri_captures[1])", "/42"),
        ("$('it\\'s' .. \"\\t\")", "it's\t"),
        ("$('or' == 'or' and 'ü')", "ü"),
    ] {
        assert_eq!(rendered(template), expected, "{template}");
    }
}

/// What Supabase's files hold.
#[test]
fn keys_are_exchanged_for_tokens() {
    let template = "$((headers.authorization ~= nil and headers.authorization:sub(1, 10) ~= 'Bearer sb_' and headers.authorization) \
                    or (headers.apikey == 'key' and 'Bearer token') or headers.apikey)";
    assert_eq!(rendered(template), "Bearer token");
    assert_eq!(rendered("$((query_params.apikey))"), "");
}

#[test]
fn lua_stops_where_it_does() {
    let error = |text: &str| Template::parse(text).unwrap().render(&Request).unwrap_err();
    assert_eq!(error("$(headers.absent .. 'x')"), RenderError::Concat);
    assert_eq!(error("$(headers.absent:sub(1))"), RenderError::Method);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (template, part) in [
        ("$(os.time())", "'os' is not supported"),
        ("$(shared.x)", "'shared' is not supported"),
        ("$(headers.x:gsub('a', 'b'))", "takes whole numbers only"),
        ("$(headers.x:rep(3))", "the method ':rep()' is not supported"),
        ("$(headers)", "'headers' is a table"),
        ("$(headers[headers.x])", "needs a string or a number"),
        ("$(1 + 1)", "unsupported '+'"),
        ("$()", "an expression is missing"),
        ("$(headers.x headers.y)", "unexpected 'headers'"),
        ("$(headers.x:sub())", "wrong number of arguments"),
        ("$('a)", "unfinished string"),
        ("$(1.5)", "unsupported number '1.5'"),
    ] {
        let error = Template::parse(template).unwrap_err();
        assert!(error.contains(part) && error.contains("cannot evaluate"), "{template}: {error}");
    }
    let deep = format!("$({}1{})", "(".repeat(500), ")".repeat(500));
    assert!(Template::parse(&deep).unwrap_err().contains("nested too deeply"));
    let long = format!("$(1{})", " .. 1".repeat(5000));
    assert!(Template::parse(&long).unwrap_err().contains("nested too deeply"));
}

/// An expression's text and what Lua makes of it.
fn strings() -> impl Strategy<Value = (String, String)> {
    let leaf = "[a-z ]{0,5}".prop_map(|text| (format!("'{text}'"), text));
    leaf.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| (format!("{} .. {}", a.0, b.0), a.1 + &b.1)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| (format!("({} or {})", a.0, b.0), a.1)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| (format!("({} and {})", a.0, b.0), b.1)),
            inner.clone().prop_map(|a| (format!("({}):upper()", a.0), a.1.to_uppercase())),
            (inner, 1..4_usize).prop_map(|(a, from)| {
                let rest = a.1.get(from - 1..).unwrap_or_default().to_owned();
                (format!("({}):sub({from})", a.0), rest)
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "[$()a-z.'\"\\[\\]:=~,0-9 \\\\ü-]{0,60}") {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.render(&Request);
        }
    }

    #[test]
    fn text_without_expressions_is_itself(text in "[^$]{0,40}") {
        let template = Template::parse(&text).unwrap();
        prop_assert_eq!(template.constant(), Some(text.as_str()));
        prop_assert_eq!(template.render(&Request).unwrap(), text);
    }

    #[test]
    fn string_expressions_mean_what_they_mean_in_lua((text, expected) in strings()) {
        prop_assert_eq!(rendered(&format!("<$({text})>")), format!("<{expected}>"), "{}", text);
    }
}
