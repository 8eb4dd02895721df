//! JSON as Go's decoder reads it: the first value of a body counts and what follows it is not looked at, bad UTF-8 and lone
//! surrogates become U+FFFD, and a syntax error is told in Go's words.

use serde_json::{Map, Number, Value};

/// Deepest nesting of lists and objects. What is stored is wrapped in some more levels, and the log and snapshots are read
/// by a parser that goes 127 deep: a body beyond that would be taken, and the next start refused.
const DEEPEST: usize = 100;

/// Parses the first value; the error is the text Go gives.
pub fn parse(body: &[u8]) -> Result<Value, String> {
    let mut reader = Reader { bytes: body, at: 0, depth: 0 };
    reader.blanks();
    if reader.peek().is_none() {
        return Err("EOF".to_owned());
    }
    reader.value()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

type Read<T> = Result<T, String>;

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// What is said of the character here, which does not belong.
    fn unfit<T>(&self, context: &str) -> Read<T> {
        Err(match self.peek() {
            None => "unexpected EOF".to_owned(),
            Some(byte) => format!("invalid character {} {context}", quoted(byte)),
        })
    }

    fn value(&mut self) -> Read<Value> {
        self.blanks();
        match self.peek() {
            Some(b'{') => self.deeper(Self::object),
            Some(b'[') => self.deeper(Self::array),
            Some(b'"') => self.text().map(Value::String),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.unfit("looking for beginning of value"),
        }
    }

    fn deeper(&mut self, read: fn(&mut Self) -> Read<Value>) -> Read<Value> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("exceeded max depth".to_owned());
        }
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Read<Value> {
        let mut map = Map::new();
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return self.unfit("looking for beginning of object key string");
            }
            let key = self.text()?;
            self.blanks();
            if self.peek() != Some(b':') {
                return self.unfit("after object key");
            }
            self.at += 1;
            let value = self.value()?;
            map.insert(key, value);
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(map));
                }
                _ => return self.unfit("after object key:value pair"),
            }
        }
    }

    fn array(&mut self) -> Read<Value> {
        let mut list = Vec::new();
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(list));
        }
        loop {
            list.push(self.value()?);
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(list));
                }
                _ => return self.unfit("after array element"),
            }
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Read<Value> {
        for wanted in word.bytes() {
            if self.peek() != Some(wanted) {
                return self.unfit(&format!("in literal {word} (expecting {})", quoted(wanted)));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn digits(&mut self) -> bool {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at > start
    }

    fn number(&mut self) -> Read<Value> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else if !self.digits() {
            return self.unfit("in numeric literal");
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            if !self.digits() {
                return self.unfit("after decimal point in numeric literal");
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !self.digits() {
                return self.unfit("in exponent of numeric literal");
            }
        }
        let text = String::from_utf8_lossy(&self.bytes[start..self.at]);
        let exact = if !whole {
            None
        } else if negative {
            text.parse::<i64>().ok().map(Number::from)
        } else {
            text.parse::<u64>().ok().map(Number::from)
        };
        let near = || text.parse::<f64>().ok().and_then(Number::from_f64);
        match exact.or_else(near) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(format!("json: cannot unmarshal number {text} into Go value of type float64")),
        }
    }

    fn text(&mut self) -> Read<String> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(String::from_utf8_lossy(&out).into_owned());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape(&mut out)?;
                }
                Some(byte) if byte >= 0x20 => {
                    out.push(byte);
                    self.at += 1;
                }
                _ => return self.unfit("in string literal"),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Read<()> {
        let plain = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.at += 1;
                let mut code = self.hex()?;
                if (0xD800..0xDC00).contains(&code) {
                    code = self.second_half(code)?;
                }
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.unfit("in string escape code"),
        };
        out.push(plain);
        self.at += 1;
        Ok(())
    }

    /// The other half of a surrogate pair; without one the first half stands alone and is no character.
    fn second_half(&mut self, high: u32) -> Read<u32> {
        let before = self.at;
        if self.bytes[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let low = self.hex()?;
            if (0xDC00..0xE000).contains(&low) {
                return Ok(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00));
            }
        }
        self.at = before;
        Ok(high)
    }

    fn hex(&mut self) -> Read<u32> {
        let mut code = 0;
        for _ in 0..4 {
            match self.peek().and_then(|b| (b as char).to_digit(16)) {
                Some(digit) => code = code * 16 + digit,
                None => return self.unfit("in \\u hexadecimal character escape"),
            }
            self.at += 1;
        }
        Ok(code)
    }
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        byte if byte < 0x20 || byte == 0x7f => format!("'\\x{byte:02x}'"),
        byte => format!("'{}'", byte as char),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_are_told_as_go_tells_them() {
        for (body, error) in [
            ("", "EOF"),
            (" \n", "EOF"),
            ("{\"a\"", "unexpected EOF"),
            ("nul", "unexpected EOF"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\":1 \"x\"}", "invalid character '\"' after object key:value pair"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            ("{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{\"a\":01}", "invalid character '1' after object key:value pair"),
            ("{\"a\":-}", "invalid character '}' in numeric literal"),
            ("{\"a\":1.}", "invalid character '}' after decimal point in numeric literal"),
            ("{\"a\":1e}", "invalid character '}' in exponent of numeric literal"),
            ("{\"a\":tru}", "invalid character '}' in literal true (expecting 'e')"),
            ("\"a\\q\"", "invalid character 'q' in string escape code"),
            ("\"\\u00zz\"", "invalid character 'z' in \\u hexadecimal character escape"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("bad", "invalid character 'b' looking for beginning of value"),
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap_err(), error, "{body}");
        }
        assert_eq!(parse("[".repeat(100_000).as_bytes()).unwrap_err(), "exceeded max depth");
    }

    #[test]
    fn what_go_takes_is_taken() {
        assert_eq!(parse(b"{\"a\":1} trailing").unwrap(), json!({"a": 1}));
        assert_eq!(parse(b"\"a\\ud800b\"").unwrap(), json!("a\u{fffd}b"));
        assert_eq!(parse(b"\"\\ud83d\\ude00\"").unwrap(), json!("\u{1f600}"));
        assert_eq!(parse(b"\"a\xffb\"").unwrap(), json!("a\u{fffd}b"));
        assert_eq!(parse(b"18446744073709551615").unwrap(), json!(u64::MAX));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_serde_writes_is_read_back(text in any::<String>(), number in any::<i64>(), flag in any::<bool>()) {
            let value = json!({"t": text, "l": [number, flag, null], "o": {}});
            prop_assert_eq!(parse(value.to_string().as_bytes()).unwrap(), value);
        }
    }
}
