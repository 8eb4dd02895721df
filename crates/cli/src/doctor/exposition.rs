//! Single values out of Prometheus' text format.

/// All samples of a metric: its labels as they are written, and its value.
pub fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        Some((labels, value.trim().split(' ').next()?.parse().ok()?))
    })
}

/// The value of a metric that has one sample.
pub fn value(text: &str, name: &str) -> Option<f64> {
    samples(text, name).next().map(|(_, value)| value)
}

/// One label's value.
pub fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_values_by_whole_names() {
        let text = "# HELP a text\n# TYPE a gauge\na_total 7\na{use=\"tls\",plinth_service=\"x\"} 1.5\na 3 1700000000\nb 1e3\n";
        let all: Vec<_> = samples(text, "a").collect();
        assert_eq!(all, [("use=\"tls\",plinth_service=\"x\"", 1.5), ("", 3.0)]);
        assert_eq!(label(all[0].0, "use"), Some("tls"));
        assert_eq!(label(all[0].0, "us"), None);
        assert_eq!(value(text, "b"), Some(1000.0));
        assert_eq!(value(text, "c"), None);
    }
}
