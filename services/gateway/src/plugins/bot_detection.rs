//! bot-detection: crawlers and scripts stay out, as far as they say what they are.

use std::sync::LazyLock;

use http::{StatusCode, header};
use plinth_kong::{BotDetectionConfig, Pattern};
use regex::{Regex, RegexSet};

use crate::context::{EarlyResponse, RequestContext};

/// Crawlers, feed readers, link checkers and HTTP libraries by the names they go by in `User-Agent`.
const ROBOTS: &[&str] = &[
    r"(?i)\b[a-z0-9_.-]*(?:spider|crawl(?:er)?|scrap(?:er|e|y))[a-z0-9]*\b",
    r"(?i)\b(?:adsbot-google|googlebot|bingpreview|mediapartners-google|appengine-google|google\.?web\.?snippet|feedfetcher)",
    r"(?i)facebookexternalhit|facebot|pingdom|uptimerobot|gomezagent|httpmonitor|yottaamonitor|keynote",
    r"(?i)\b(?:apache-httpclient|google-http-java-client|python-urllib|winhttp|jnlp|tlsprober|http%20client)\b",
    r"(?i)\b(?:slurp|yahooseeker|yandex\w+|baidu\w*|ia_archiver|archiver|heritrix|htdig|holmes|larbin|nutch|grub-client|wget-crawl)\b",
    r"(?i)\b(?:teoma|ask jeeves|altavista|lycos|infoseek|scooter|mogimogi|gsa-crawler|voyager/|zyborg|zeus link|xenu link sleuth)\b",
    r"(?i)\b(?:linkwalker|linkaider|linkchecker|checklinks|findlinks|sitecheck|semanticdiscovery|simplepie|simplerss|netvibes|newsgator)\b",
    r"(?i)\b(?:whatweb|wesee|web-sniffer|webthumb|thumbshots|url2png|pagepeeker|favicon|read%20later|wotbox|vagabondo|wordpress/)",
    r"MSIECrawler|^(?:NING|vortex|Zao)\b",
];

/// Names that end in `bot`.
const BOT: &str = r"(?i)[a-z0-9_.-]*bots?\b";
/// A maker of telephones.
const NO_BOT: &str = "cubot";

static BUILT_IN: LazyLock<Option<(RegexSet, Regex)>> =
    LazyLock::new(|| Some((RegexSet::new(ROBOTS).ok()?, Regex::new(BOT).ok()?)));

fn is_known_robot(agent: &str) -> bool {
    BUILT_IN.as_ref().is_some_and(|(names, bot)| {
        names.is_match(agent)
            || bot.find_iter(agent).any(|name| !name.as_str().to_ascii_lowercase().ends_with(NO_BOT))
    })
}

#[derive(Debug)]
pub(super) struct BotDetection {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
}

impl BotDetection {
    pub fn new(config: &BotDetectionConfig) -> Result<BotDetection, String> {
        let patterns = |list: &[String]| {
            list.iter().map(|pattern| Pattern::anywhere(pattern)).collect::<Result<Vec<_>, _>>()
        };
        if BUILT_IN.is_none() {
            return Err("the list of robots cannot be compiled".to_owned());
        }
        Ok(BotDetection { allow: patterns(&config.allow)?, deny: patterns(&config.deny)? })
    }

    /// Requests that do not say what they are pass.
    pub fn access(&self, ctx: &RequestContext) -> Option<EarlyResponse> {
        let mut agents = ctx.head.headers.get_all(header::USER_AGENT).iter();
        let agent = agents.next()?;
        if agents.next().is_some() {
            let message = "Only one User-Agent header allowed";
            return Some(EarlyResponse::error(StatusCode::BAD_REQUEST, message));
        }
        let agent = String::from_utf8_lossy(agent.as_bytes());
        self.is_robot(agent.trim()).then(|| EarlyResponse::error(StatusCode::FORBIDDEN, "Forbidden"))
    }

    fn is_robot(&self, agent: &str) -> bool {
        if self.allow.iter().any(|pattern| pattern.is_match(agent)) {
            return false;
        }
        self.deny.iter().any(|pattern| pattern.is_match(agent)) || is_known_robot(agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_robot(agent: &str) -> bool {
        BotDetection { allow: Vec::new(), deny: Vec::new() }.is_robot(agent)
    }

    #[test]
    fn crawlers_are_told_from_browsers() {
        for agent in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
            "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
            "Mozilla/5.0 (compatible; YandexImages/3.0; +http://yandex.com/bots)",
            "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
            "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
            "Twitterbot/1.0",
            "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
            "Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)",
            "Scrapy/2.11 (+https://scrapy.org)",
            "msnbot-media/1.1 (+http://search.msn.com/msnbot.htm)",
            "Python-urllib/3.11",
            "Apache-HttpClient/4.5.13 (Java/11)",
            "ia_archiver (+http://www.alexa.com/site/help/webmasters)",
            "SomeCrawler/0.1",
            "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 5.1; MSIECrawler)",
        ] {
            assert!(is_robot(agent), "{agent}");
        }
        for agent in [
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:133.0) Gecko/20100101 Firefox/133.0",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Version/18.1 Mobile/15E148 Safari/604.1",
            "Mozilla/5.0 (Linux; Android 9; CUBOT_X19) AppleWebKit/537.36 Chrome/80.0.3987.99 Mobile Safari/537.36",
            "curl/8.5.0",
            "Wget/1.21",
            "okhttp/4.12.0",
            "python-requests/2.32",
            "",
        ] {
            assert!(!is_robot(agent), "{agent}");
        }
    }

    #[test]
    fn own_lists_go_first() {
        let pattern = |text: &str| vec![Pattern::anywhere(text).unwrap()];
        let plugin = BotDetection { allow: pattern("^Googlebot"), deny: pattern("curl|Googlebot") };
        assert!(!plugin.is_robot("Googlebot/2.1"));
        assert!(plugin.is_robot("curl/8"));
        assert!(plugin.is_robot("x Googlebot"));
    }
}
