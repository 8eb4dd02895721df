//! SPIFFE ids and patterns of them.

use std::fmt;
use std::str::FromStr;

/// `spiffe://<trust domain>/<path>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: String,
    /// Where the path begins in `text`.
    path: usize,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Lower case.
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path).unwrap_or_default()
    }

    /// With its leading slash.
    pub fn path(&self) -> &str {
        self.text.get(self.path..).unwrap_or_default()
    }

    /// The service of an id as Consul makes them: `/ns/<namespace>/dc/<datacenter>/svc/<service>`.
    pub fn connect_service(&self) -> Option<&str> {
        let mut parts = self.path().split('/');
        let shape =
            [parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let service = parts.next()?;
        let fits = matches!(shape, ["", "ns", namespace, "dc", datacenter, "svc"]
            if !namespace.is_empty() && !datacenter.is_empty());
        (fits && !service.is_empty() && parts.next().is_none()).then_some(service)
    }

    /// Whether the id is that of a service by its last part: `.../svc/<service>` or `.../sa/<service>`.
    pub fn ends_in_service(&self, service: &str) -> bool {
        let mut parts = self.path().rsplit('/');
        parts.next() == Some(service) && matches!(parts.next(), Some("svc" | "sa"))
    }
}

impl FromStr for SpiffeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{text:?} is no SPIFFE id: {why}"));
        let Some(rest) = strip_scheme(text) else { return wrong("it does not begin with spiffe://") };
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if domain.is_empty() || !domain.bytes().all(host) {
            return wrong("its trust domain is empty or holds other characters than letters, digits, - . _");
        }
        if path.bytes().any(|b| !b.is_ascii_graphic() || matches!(b, b'?' | b'#')) {
            return wrong("its path holds other characters than a path may");
        }
        let text = format!("{SCHEME}{}{path}", domain.to_ascii_lowercase());
        Ok(Self { path: SCHEME.len() + domain.len(), text })
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let scheme = text.get(..SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| text.get(SCHEME.len()..)).flatten()
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A SPIFFE id in which each `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPattern(String);

impl IdPattern {
    /// Whether the whole id fits.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        glob(&self.0, id.as_str())
    }
}

impl FromStr for IdPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = strip_scheme(text).is_some_and(|rest| !rest.is_empty())
            && text.bytes().all(|b| b.is_ascii_graphic());
        if !fits {
            return Err("expected a SPIFFE id, with * for any characters: spiffe://example.org/ns/*/sa/web"
                .to_owned());
        }
        let rest = strip_scheme(text).unwrap_or_default();
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Ok(Self(format!("{SCHEME}{}{path}", domain.to_ascii_lowercase())))
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Each part between stars is looked for from the left, which finds a match if there is one.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_as_consul_makes_them() {
        let id: SpiffeId = "SPIFFE://AB-1.consul/ns/default/dc/dc1/svc/web".parse().unwrap();
        assert_eq!(id.as_str(), "spiffe://ab-1.consul/ns/default/dc/dc1/svc/web");
        assert_eq!((id.trust_domain(), id.connect_service()), ("ab-1.consul", Some("web")));
        assert!(id.ends_in_service("web"));
        for other in [
            "spiffe://d/ns/default/dc/dc1/svc/web/x",
            "spiffe://d/ns/default/dc/dc1/svc/",
            "spiffe://d/ns//dc/dc1/svc/web",
            "spiffe://d/x/ns/default/dc/dc1/svc/web",
            "spiffe://d/agent/client/dc/dc1/id/a",
            "spiffe://d",
        ] {
            assert_eq!(other.parse::<SpiffeId>().unwrap().connect_service(), None, "{other}");
        }
        let istio: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        assert!(
            istio.ends_in_service("web") && !istio.ends_in_service("b") && istio.connect_service().is_none()
        );
    }

    #[test]
    fn what_is_no_id() {
        for text in [
            "https://d/x",
            "spiffe:///x",
            "spiffe://d:80/x",
            "spiffe://u@d/x",
            "spiffe://d/x?y",
            "spiffe://d/a b",
            "",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn patterns() {
        let id: SpiffeId = "spiffe://d.org/ns/shop/sa/web".parse().unwrap();
        for (pattern, fits) in [
            ("spiffe://d.org/ns/shop/sa/web", true),
            ("spiffe://D.org/ns/shop/sa/web", true),
            ("spiffe://d.org/ns/*/sa/web", true),
            ("spiffe://*/sa/*", true),
            ("spiffe://*", true),
            ("spiffe://d.org/*/web*", true),
            ("spiffe://d.org/ns/shop/sa/we", false),
            ("spiffe://d.org/ns/shop/sa/web2", false),
            ("spiffe://d.org/*/sa/api", false),
            ("spiffe://e.org/*", false),
            ("spiffe://d.org/ns/shop/sa/web*b", false),
        ] {
            assert_eq!(pattern.parse::<IdPattern>().unwrap().matches(&id), fits, "{pattern}");
        }
        assert!("*".parse::<IdPattern>().is_err());
        assert!("".parse::<IdPattern>().is_err());
    }
}
