//! The table that `plinth up` prints when everything is ready.

use std::path::Path;

use crate::print;
use crate::table::Table;

use super::demo::{Demo, Instances};

pub fn print(
    addresses: &[(&str, &str, String)],
    token: &Path,
    kong: &Path,
    demo: Option<&Demo>,
    instances: Option<&Instances>,
) {
    let mut table = Table::new(&["SERVICE", "WHAT", "WHERE"]);
    for (service, what, address) in addresses {
        table.row(vec![(*service).to_owned(), (*what).to_owned(), address.clone()]);
    }
    let mut text = table.render();
    text.push_str(&format!("\ntoken      {} (the commands below find it there)\n", token.display()));
    text.push_str(&format!("kong file  {} (reloaded when it changes)\n", kong.display()));
    if let Some(instances) = instances {
        let list: Vec<String> = instances.list().map(|(id, pid)| format!("{id} (pid {pid})")).collect();
        text.push_str(&format!("demo       {}\n", list.join(", ")));
    }
    let at = |service: &str, what: &str| {
        addresses
            .iter()
            .find(|entry| entry.0 == service && entry.1 == what)
            .map_or("", |entry| entry.2.as_str())
    };
    text.push_str("\ntry\n  plinth services list\n  plinth config set shop/dev/greeting '\"hello\"'\n");
    text.push_str(&format!("  Swagger UI: {}/docs\n", at("registry-service", "http")));
    let proxy = at("gateway", "proxy");
    match demo {
        Some(demo) => text
            .push_str(&format!("  curl {proxy}/api/v1/users/1 -H 'Authorization: Bearer {}'\n", demo.token)),
        None => text.push_str(&format!("  curl {proxy}/registry/health\n")),
    }
    text.push_str("\nCtrl-C stops everything.");
    print::line(&text);
}
