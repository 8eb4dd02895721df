//! What goes to standard output.

use std::io::Write;

use serde_json::Value;

use crate::table::{Table, cell};

/// Indented, as one document.
pub fn json(value: &Value) {
    // Writing a `Value` as text cannot fail; the alternate form is the indented one.
    line(&format!("{value:#}"));
}

pub fn table(table: &Table, none: &str) {
    if table.is_empty() {
        eprintln!("{none}");
    } else {
        line(table.render().trim_end());
    }
}

/// One object as two columns.
pub fn fields(value: &Value) {
    let mut rows = Table::new(&["FIELD", "VALUE"]);
    for (name, value) in value.as_object().into_iter().flatten() {
        rows.row(vec![name.clone(), cell(value)]);
    }
    table(&rows, "nothing");
}

/// A closed pipe (`plinth ... | head`) ends the program quietly, as users of pipes expect.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
