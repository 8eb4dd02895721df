//! JSON as Go prints it: `<`, `>`, `&` and the line separators escaped, control characters as `\u00xx`.

use std::io::{self, Write};

use bytes::Bytes;
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter};

struct Go<F>(F);

/// Go prints whole numbers without a fraction and an exponent only for what is very small or very large.
struct Float<N>(N);

impl<N: Copy + Into<f64> + std::fmt::Display + std::fmt::LowerExp> std::fmt::Display for Float<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size: f64 = self.0.into().abs();
        if size != 0.0 && !(1e-6..1e21).contains(&size) {
            let text = format!("{:e}", self.0);
            // a plus sign before a positive exponent
            return f.write_str(&if text.contains("e-") { text } else { text.replace('e', "e+") });
        }
        write!(f, "{}", self.0)
    }
}

fn escaped(c: char) -> bool {
    matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $kind:ty),*)),* $(,)?) => {
        $(fn $name<W: ?Sized + Write>(&mut self, writer: &mut W $(, $arg: $kind)*) -> io::Result<()> {
            self.0.$name(writer $(, $arg)*)
        })*
    };
}

impl<F: Formatter> Formatter for Go<F> {
    forward! {
        begin_array(), end_array(), begin_array_value(first: bool), end_array_value(),
        begin_object(), end_object(), begin_object_key(first: bool), end_object_key(),
        begin_object_value(), end_object_value(),
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, number: f64) -> io::Result<()> {
        write!(writer, "{}", Float(number))
    }

    fn write_f32<W: ?Sized + Write>(&mut self, writer: &mut W, number: f32) -> io::Result<()> {
        write!(writer, "{}", Float(number))
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(escaped) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut chars = from.chars();
            if let Some(c) = chars.next() {
                write!(writer, "\\u{:04x}", c as u32)?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::Backspace => writer.write_all(b"\\u0008"),
            CharEscape::FormFeed => writer.write_all(b"\\u000c"),
            other => self.0.write_char_escape(writer, other),
        }
    }
}

/// Compact, without a newline.
pub fn compact<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, serde_json::Error> {
    let mut out = Vec::with_capacity(512);
    append(&mut out, value)?;
    Ok(out.into())
}

/// The same at the end of `out`.
pub fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, Go(CompactFormatter)))
}

/// Four blanks of indent and a newline at the end.
pub fn pretty<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, serde_json::Error> {
    let mut out = Vec::with_capacity(512);
    let formatter = Go(PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    out.push(b'\n');
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn prints_as_go_does() {
        let value = serde_json::json!({"a": ["<&>", "\u{8}\u{1}\n"], "b": {}});
        assert_eq!(
            &super::compact(&value).unwrap()[..],
            br#"{"a":["\u003c\u0026\u003e","\u0008\u0001\n"],"b":{}}"#
        );
        assert_eq!(&super::pretty(&serde_json::json!([1])).unwrap()[..], b"[\n    1\n]\n");
        let numbers = serde_json::json!([0.0, 1.0, 1.5, 0.00001, 2.5e-7, 1e20, 3.5e21]);
        assert_eq!(
            &super::compact(&numbers).unwrap()[..],
            b"[0,1,1.5,0.00001,2.5e-7,100000000000000000000,3.5e+21]"
        );
        assert_eq!(&super::compact(&33.33_f32).unwrap()[..], b"33.33");
    }
}
