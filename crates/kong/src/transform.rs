//! The `name:value` items of the transformer plugins.

/// One item, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit<'i> {
    pub name: &'i str,
    /// Empty when there is none; a template in request-transformer.
    pub value: &'i str,
}

/// Takes an item apart as Kong does: the name ends at the first colon, further colons right behind it belong to neither, all later ones
/// to the value.
pub fn edit(item: &str) -> Edit<'_> {
    match item.split_once(':') {
        None => Edit { name: item, value: "" },
        Some((name, value)) => Edit { name, value: value.trim_start_matches(':') },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_taken_apart_at_the_first_colon() {
        for (item, name, value) in [
            ("a", "a", ""),
            ("a:", "a", ""),
            ("a:b", "a", "b"),
            ("a: b", "a", " b"),
            ("a:b:c", "a", "b:c"),
            ("a::b", "a", "b"),
            ("X-Url:http://h:80", "X-Url", "http://h:80"),
        ] {
            assert_eq!(edit(item), Edit { name, value }, "{item}");
        }
    }
}
