use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::Probe;

fn sources(args: &[&str], env: &[(&str, &str)], file: &str) -> Sources {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let env: BTreeMap<String, String> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources::new("registry-service", args, env, Some(file.to_owned())).unwrap()
}

fn faults(reader: Reader) -> Vec<(String, String)> {
    let faults = reader.finish().unwrap_err();
    faults.iter().map(|fault| (fault.setting.clone(), fault.message.clone())).collect()
}

#[test]
fn a_flag_wins_over_environment_over_file_over_default() {
    let file = "[database]\nurl = 'file'\npool = 3\n";
    let env = [("PLINTH_REGISTRY__DATABASE__URL", "env")];
    for (args, env, file, expected) in [
        (&["--database-url", "flag"][..], &env[..], file, "flag"),
        (&["--database-url=flag=x"], &env, file, "flag=x"),
        (&[], &env, file, "env"),
        (&[], &[], file, "file"),
        (&[], &[], "", "default"),
    ] {
        let mut reader = Reader::new(&sources(args, env, file));
        let url: String = reader.get("database.url", "where", "default".to_owned());
        reader.get("database.pool", "how many", 1_u32);
        assert_eq!(url, expected);
        reader.finish().unwrap();
    }
}

#[test]
fn reports_every_fault_at_once_by_name() {
    let sources = sources(
        &["--listne", "127.0.0.1:1", "--workers=many", "--ratio"],
        &[("PLINTH_REGISTRY__LISTEN", "localhost"), ("PLINTH_REGISTRY__LOG__LEVL", "x"), ("OTHER", "y")],
        "databse = 'x'\nwait = '10'\n",
    );
    let mut reader = Reader::new(&sources);
    reader.get::<SocketAddr>("listen", "where", "127.0.0.1:8510".parse().unwrap());
    reader.get("workers", "how many", 4_u16);
    reader.get("ratio", "share", 0.5_f64);
    reader.get("log.level", "what", "info".to_owned());
    reader.duration("wait", "how long", Duration::from_secs(1));
    reader.required::<String>("database", "which");
    let faults = faults(reader);
    let about = |name: &str| {
        faults
            .iter()
            .find(|(setting, _)| setting == name)
            .map(|(_, message)| message.as_str())
            .unwrap_or_default()
    };
    assert!(about("PLINTH_REGISTRY__LISTEN").contains("an address with a port such as"), "{faults:?}");
    assert!(about("--workers").contains("\"many\" is not a whole number"), "{faults:?}");
    assert_eq!(about("--ratio"), "needs a value");
    assert!(about("wait").contains("expected a duration such as"), "{faults:?}");
    assert!(about("database").contains("is required: which"), "{faults:?}");
    assert!(about("--listne").contains("did you mean --listen?"), "{faults:?}");
    assert!(about("PLINTH_REGISTRY__LOG__LEVL").contains("PLINTH_REGISTRY__LOG__LEVEL?"), "{faults:?}");
    assert!(about("databse").contains("did you mean database?"), "{faults:?}");
    assert_eq!(faults.len(), 8, "{faults:?}");
}

#[test]
fn booleans_need_no_value() {
    for (args, expected) in
        [(&["--demo"][..], true), (&["--demo", "false"], false), (&["--demo=true"], true), (&[], false)]
    {
        let mut reader = Reader::new(&sources(args, &[], ""));
        assert_eq!(reader.get("demo", "start examples", false), expected, "{args:?}");
        reader.finish().unwrap();
    }
}

#[test]
fn lists_come_separated_repeated_or_as_arrays() {
    for (args, env, file) in [
        (&["--tags", "a, b"][..], &[][..], ""),
        (&["--tags", "a", "--tags=b"], &[], ""),
        (&[], &[("PLINTH_REGISTRY__TAGS", "a,b,")], ""),
        (&[], &[], "tags = ['a', 'b']"),
    ] {
        let mut reader = Reader::new(&sources(args, env, file));
        assert_eq!(reader.list::<String>("tags", "labels", ""), ["a", "b"]);
        reader.finish().unwrap();
    }
    let mut reader = Reader::new(&sources(&["--one", "1", "--one", "2"], &[], ""));
    reader.get("one", "a single value", 0_u16);
    assert!(faults(reader)[0].1.contains("more than once"));
}

#[test]
fn secrets_stay_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "from file\n").unwrap();
    let path = path.display().to_string();
    let mut reader = Reader::new(&sources(&["--auth-secret-file", &path], &[], ""));
    let secret = reader.secret("auth.secret", "shared secret").unwrap();
    assert_eq!(secret.expose(), "from file");
    assert!(!format!("{secret:?}").contains("from file"));
    reader.finish().unwrap();

    let mut reader =
        Reader::new(&sources(&["--auth-secret=a"], &[("PLINTH_REGISTRY__AUTH__SECRET_FILE", "/x")], ""));
    assert!(reader.secret("auth.secret", "shared secret").is_none());
    assert!(faults(reader)[0].1.contains("not both"));

    let mut reader = Reader::new(&sources(&["--auth-secret-file", "/nowhere"], &[], ""));
    assert!(reader.secret("auth.secret", "shared secret").is_none());
    assert!(faults(reader)[0].1.contains("cannot read /nowhere"));
}

#[test]
fn passwords_in_urls_are_not_shown() {
    for url in ["postgres://user:hunter2@db/x", "postgres://user:hunt/er2@db/x", "amqp://user:hunt@er2@mq"] {
        let mut reader = Reader::new(&sources(&["--pool", url], &[], ""));
        reader.get("pool", "how many", 1_u16);
        let text = reader.finish().unwrap_err().to_string();
        assert!(!text.contains("hunt") && !text.contains("er2"), "{text}");
    }
}

#[test]
fn other_names_of_a_variable_count_less() {
    let env = [("KONG_PROXY_LISTEN", "kong"), ("PLINTH_REGISTRY__PROXY_LISTEN", "own")];
    for (env, expected) in [(&env[..1], "kong"), (&env[..], "own")] {
        let mut reader = Reader::new(&sources(&[], env, ""));
        reader.alias_env("proxy_listen", "KONG_PROXY_LISTEN");
        assert_eq!(reader.get("proxy_listen", "where", String::new()), expected);
        assert!(reader.help().contains("KONG_PROXY_LISTEN"));
        reader.finish().unwrap();
    }
}

#[test]
fn malformed_sources_are_faults() {
    let broken = Sources::new("x", vec![], BTreeMap::new(), Some("a = ".to_owned())).unwrap_err();
    assert!(broken.to_string().contains("settings file"), "{broken}");
    let missing = vec!["--settings".to_owned(), "/nowhere.toml".to_owned()];
    let missing = Sources::new("x", missing, BTreeMap::new(), None).unwrap_err();
    assert!(missing.to_string().contains("cannot read /nowhere.toml"), "{missing}");
    let stray = Sources::new("x", vec!["stray".to_owned()], BTreeMap::new(), None).unwrap_err();
    assert!(stray.to_string().contains("unexpected argument"), "{stray}");
}

#[test]
fn healthcheck_is_a_word_before_the_settings() {
    let wanted = |args: &[&str]| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Sources::new("x", args, BTreeMap::new(), None)
            .map(|sources| sources.wanted())
            .map_err(|faults| faults.to_string())
    };
    assert_eq!(wanted(&["healthcheck"]), Ok(Some(Wanted::Healthcheck(Probe::Live))));
    assert_eq!(wanted(&["healthcheck", "ready", "--a", "b"]), Ok(Some(Wanted::Healthcheck(Probe::Ready))));
    assert!(wanted(&["healthcheck", "soon"]).unwrap_err().contains("live or ready"));
    assert!(wanted(&["--a=b", "healthcheck"]).unwrap_err().contains("unexpected argument"));
}

#[test]
fn help_lists_every_setting() {
    let sources = sources(&["--help"], &[], "");
    let mut reader = Reader::new(&sources);
    reader.get("log.level", "what is logged", "info".to_owned());
    reader.required::<String>("database.url", "where the history is");
    reader.secret("auth.secret", "shared secret");
    assert_eq!(reader.wanted(), Some(Wanted::Help));
    let help = reader.help();
    for part in [
        "--log-level",
        "what is logged",
        "default info",
        "PLINTH_REGISTRY__LOG__LEVEL",
        "--database-url",
        "required",
        "file database.url",
        "_file",
    ] {
        assert!(help.contains(part), "{part} is missing in:\n{help}");
    }
}
