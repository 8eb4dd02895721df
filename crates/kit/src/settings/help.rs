//! `--help`: every setting with its meaning, default and spellings.

/// One declared setting.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub key: &'static str,
    pub doc: &'static str,
    /// The default as text; none for optional and required settings.
    pub default: Option<String>,
    pub required: bool,
    /// Secrets may also be given as `<key>_file`.
    pub secret: bool,
    pub aliases: Vec<String>,
}

/// `database.url` as a flag: `database-url`.
pub(super) fn flag_name(key: &str) -> String {
    key.replace(['.', '_'], "-")
}

/// `database.url` in the environment: `PLINTH_REGISTRY__DATABASE__URL`.
pub(super) fn env_name(prefix: &str, key: &str) -> String {
    format!("{prefix}{}", key.replace('.', "__").to_uppercase())
}

/// The text of `--help`.
pub(super) fn render(service: &str, env_prefix: &str, declared: &[Declared]) -> String {
    let mut text = format!(
        "Usage: {service} [--settings FILE] [--<setting> VALUE]...\n       \
         {service} healthcheck [live|ready] [--settings FILE] [--<setting> VALUE]...\n\n\
         Every setting can be given as a flag, as an environment variable or in the TOML file given by\n\
         --settings; a flag wins over the environment, the environment over the file. Durations are\n\
         written 500ms, 10s, 1m, 1h30m; lists are separated by commas.\n\nSettings:\n"
    );
    for setting in declared {
        text.push_str(&format!("  --{}\n      {}\n", flag_name(setting.key), setting.doc));
        let default = match (&setting.default, setting.required) {
            (_, true) => "required".to_owned(),
            (Some(default), _) if !default.is_empty() => format!("default {default}"),
            _ => "unset by default".to_owned(),
        };
        let mut names = vec![env_name(env_prefix, setting.key)];
        names.extend(setting.aliases.iter().cloned());
        if setting.secret {
            names.push("or a file: the same names with _file".to_owned());
        }
        text.push_str(&format!("      [{default}; env {}; file {}]\n", names.join(", "), setting.key));
    }
    text.push_str(
        "\n  --settings FILE\n      settings in TOML\n  --help, -h\n      this text\n  --version, -V\n      name and version\n\n\
         healthcheck asks the running service, found by the same settings, and ends with 0 or 1.\n\n\
         Exit codes: 0 stopped as asked, 1 failed, 64 bad settings.\n",
    );
    text
}
