use super::*;

mod operators;

fn parse(text: &str) -> Result<(Config, Vec<String>), ConfigError> {
    Config::parse("config.json", text, None)
}

/// A valid configuration with these keys added.
fn with(keys: &str) -> Result<(Config, Vec<String>), ConfigError> {
    parse(&format!(r#"{{"token":"secret","intents":513{keys}}}"#))
}

fn error(keys: &str) -> String {
    with(keys).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_those_of_the_prior_art() {
    let (config, warnings) = with("").unwrap();
    assert_eq!(warnings.len(), 1, "of a port that is open to all: {warnings:?}");
    assert!(warnings[0].starts_with("config.json: `host` is missing"), "{warnings:?}");
    assert!(!config.rest_proxy_without_token && !config.trust_network);
    assert_eq!((config.voice_grace(), config.voice_rejoin), (Duration::from_secs(120), false));
    assert_eq!((config.allowed_origins, config.allowed_hosts), (Vec::new(), Vec::new()));
    assert_eq!((config.log_level.as_str(), config.intents, config.backpressure), ("info", 513, 100));
    assert_eq!(config.listen, "0.0.0.0:7878".parse().unwrap());
    assert_eq!((config.shards, config.shard_start, config.shard_end), (None, None, None));
    assert!(config.validate_token && config.honor_client_intents);
    assert_eq!(config.externally_accessible_url, "ws://localhost:7878");
    let flags = Flags { channels: true, roles: true, current_member: true, ..Flags::default() };
    assert_eq!((config.cache, config.cores, config.control_core), (flags, Cores::Default, None));
    assert_eq!((config.upstream_compression, config.twilight_http_proxy), (Transport::Zstd, None));
    assert_eq!((config.resume_window, config.resume_buffer), (Duration::from_secs(120), 16 << 20));
}

#[test]
fn every_key_is_read() {
    let (config, warnings) = with(
        r#","log_level":"debug","port":1234,"host":"::1","shards":8,"shard_start":2,"shard_end":6,"backpressure":5,
        "activity":{"name":"x","type":0},"status":"dnd","validate_token":false,"twilight_http_proxy":"localhost:3000",
        "rest_proxy":"rest:8080","externally_accessible_url":"wss://proxy.example/path/","cache":{"members":true,"users":true},"cores":[1,3],
        "control_core":0,"upstream_compression":"none","resume_window":7,"resume_buffer":1000000,
        "honor_client_intents":false,"state_dir":"/var/lib/x","rest_proxy_without_token":true,"trust_network":true,
        "voice_grace":0,"voice_after_loss":"rejoin",
        "allowed_origins":["https://a.example"],"allowed_hosts":["b.example"],"trust_state_dir":true,
        "gateway_hosts":["discord.gg"],"forward_opcodes":[44],"client_memory":100000000,"client_memory_per_address":2000000,"admin_listen":"127.0.0.1:9",
        "proxy_protocol_from":["10.0.0.0/8"],"forwarded_for_from":["::1"]"#,
    )
    .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((config.voice_grace(), config.voice_rejoin), (Duration::ZERO, true));
    assert_eq!(config.listen, "[::1]:1234".parse().unwrap());
    assert_eq!(config.shard_range(99), Ok(2..6));
    assert_eq!(config.externally_accessible_url, "wss://proxy.example/path");
    assert_eq!(config.cache, Flags { members: true, users: true, ..Flags::default() });
    assert_eq!((config.cores, config.control_core), (Cores::Cpus(vec![1, 3]), Some(0)));
    assert_eq!((config.upstream_compression, config.backpressure), (Transport::None, 5));
    assert_eq!((config.resume_window, config.resume_buffer), (Duration::from_secs(7), 1_000_000));
    assert!(!config.validate_token && !config.honor_client_intents);
    assert_eq!(config.state_dir.as_deref(), Some(Path::new("/var/lib/x")));
    let proxies = (config.twilight_http_proxy.as_deref(), config.rest_proxy.as_deref());
    assert_eq!(proxies, (Some("localhost:3000"), Some("rest:8080")));
    assert!(config.rest_proxy_without_token && config.trust_network);
    assert!(config.trust_state_dir);
    assert_eq!((&config.gateway_hosts[..], &config.forward_opcodes[..]), (&["discord.gg".to_owned()][..], &[44][..]));
    assert_eq!((config.client_memory, config.client_memory_per_address), (Some(100_000_000), Some(2_000_000)));
    assert_eq!(config.admin_listen, Some(AdminAddress::Tcp("127.0.0.1:9".parse().unwrap())));
    assert_eq!(config.proxy_protocol_from, [Network::parse("10.0.0.0/8").unwrap()]);
    assert_eq!(config.forwarded_for_from, [Network::parse("::1").unwrap()]);
    let (origins, hosts) = (["https://a.example".to_owned()], ["b.example".to_owned()]);
    assert_eq!((config.allowed_origins, config.allowed_hosts), (origins.to_vec(), hosts.to_vec()));
}

#[test]
fn the_variable_wins_over_the_file() {
    let text = r#"{"token":"file","intents":1}"#;
    let token = |variable: Option<&str>| {
        Config::parse("c", text, variable.map(str::to_owned)).unwrap().0.token.bare().to_owned()
    };
    assert_eq!(token(Some("Bot variable")), "variable");
    assert_eq!(token(Some("")), "file");
    assert_eq!(token(None), "file");
}

#[test]
fn errors_say_what_is_expected() {
    for (keys, expected) in [
        (r#","port":0"#, "config.json: `port` is 0, expected a whole number from 1 to 65535"),
        (r#","port":"7878""#, "config.json: `port` is \"7878\", expected a whole number from 1 to 65535"),
        (r#","shards":0"#, "config.json: `shards` is 0, expected a whole number from 1 to 65536"),
        (
            r#","shards":4,"shard_end":5"#,
            "config.json: `shard_start` is 0 and `shard_end` is 5, expected `shard_start` < `shard_end` <= `shards` (4)",
        ),
        (
            r#","shard_start":3,"shard_end":3"#,
            "config.json: `shard_start` is 3 and `shard_end` is 3, expected `shard_start` < `shard_end` <= `shards` (what Discord recommends)",
        ),
        (
            r#","status":"busy""#,
            "config.json: `status` is \"busy\", expected one of \"online\", \"idle\", \"dnd\", \"invisible\", \"offline\"",
        ),
        (r#","cache":true"#, "config.json: `cache` is true, expected an object of flags such as {\"channels\": true}"),
        (r#","cache":{"roles":1}"#, "config.json: `cache.roles` is 1, expected true or false"),
        (
            r#","cores":0"#,
            "config.json: `cores` is 0, expected a number of cores from 1 to 1024, or a list of CPU ids such as [1, 2, 3]",
        ),
        (
            r#","cores":[1,-1]"#,
            "config.json: `cores` is [1,-1], expected a number of cores from 1 to 1024, or a list of CPU ids such as [1, 2, 3]",
        ),
        (
            r#","host":"localhost""#,
            "config.json: `host` is \"localhost\", expected an IP address to listen on, such as \"0.0.0.0\" or \"127.0.0.1\"",
        ),
        (
            r#","upstream_compression":"gzip""#,
            "config.json: `upstream_compression` is \"gzip\", expected \"zstd-stream\", \"zlib-stream\" or \"none\"",
        ),
        (r#","backpressure":-1"#, "config.json: `backpressure` is -1, expected a whole number from 1 to 65536"),
        (r#","resume_window":3601"#, "config.json: `resume_window` is 3601, expected a whole number from 0 to 3600"),
        (
            r#","resume_buffer":5"#,
            "config.json: `resume_buffer` is 5, expected a whole number from 65536 to 4294967296",
        ),
        (r#","validate_token":"yes""#, "config.json: `validate_token` is \"yes\", expected true or false"),
        (r#","token":5"#, "config.json: `token` is the given value, expected the bot's token as a string"),
        (
            r#","state_dir":"""#,
            "config.json: `state_dir` is \"\", expected a directory for state files, which is made when it is missing",
        ),
        (
            r#","allowed_hosts":"a""#,
            "config.json: `allowed_hosts` is \"a\", expected a list of host names such as [\"proxy.example.com\"]",
        ),
        (r#","log_level":1"#, "config.json: `log_level` is 1, expected a level such as \"info\""),
    ] {
        assert_eq!(error(keys), expected);
    }
    for (keys, begin) in [
        (
            r#","twilight_http_proxy":"http://a:1""#,
            "config.json: `twilight_http_proxy` is \"http://a:1\", expected host:port",
        ),
        (r#","rest_proxy":"http://a:1""#, "config.json: `rest_proxy` is \"http://a:1\", expected host:port"),
        (r#","twilight_http_proxy":"a""#, "config.json: `twilight_http_proxy` is \"a\", expected host:port"),
        (r#","activity":{"name":5}"#, "config.json: `activity` is {\"name\":5}, expected an activity such as"),
        (
            r#","externally_accessible_url":"http://a""#,
            "config.json: `externally_accessible_url` is \"http://a\", expected a ws://",
        ),
        (
            r#","externally_accessible_url":"ws://a?x=1""#,
            "config.json: `externally_accessible_url` is \"ws://a?x=1\", expected",
        ),
    ] {
        assert!(error(keys).starts_with(begin), "{}", error(keys));
    }
}

#[test]
fn whole_files_that_are_wrong() {
    let text = |text| parse(text).unwrap_err().to_string();
    assert_eq!(text("[]"), "config.json: expected a JSON object, as in {\"intents\": 513}");
    assert!(text("{\n  \"port\": }").contains("not JSON") && text("{\n  \"port\": }").contains("line 2 column 11"));
    assert!(text(r#"{"intents":1}"#).contains("`token` is missing, and so is the variable TOKEN"));
    assert!(text(r#"{"token":"a"}"#).contains("`intents` is missing"));
    assert!(text(r#"{"token":"a","intents":-5}"#).contains("`intents` is -5, expected a whole number from 0"));
    assert!(text(r#"{"token":"a b","intents":1}"#).contains("characters that no token has"));
    let missing = Config::load(Path::new("/nonexistent/c.json"), None).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/c.json: can not be read"), "{missing}");
}

#[test]
fn unknown_keys_are_warned_of_with_the_nearest_name() {
    let (_, warnings) = with(r#","host":"127.0.0.1","shard":1,"cache":{"member":true},"utterly_different":1"#).unwrap();
    assert_eq!(
        warnings,
        [
            "config.json: unknown key `cache.member` is ignored; did you mean `cache.members`?",
            "config.json: unknown key `shard` is ignored; did you mean `shards`?",
            "config.json: unknown key `utterly_different` is ignored",
        ]
    );
}

#[test]
fn members_are_kept_with_their_users() {
    let cache = |flags: &str| {
        let (config, warnings) = with(&format!(r#","host":"127.0.0.1","cache":{{{flags}}}"#)).unwrap();
        (config.cache, warnings)
    };
    let both = Flags { members: true, users: true, ..Flags::default() };
    assert_eq!(cache(r#""members":true"#), (both, vec![]));
    assert_eq!(cache(r#""members":true,"users":true"#), (both, vec![]));
    let (flags, warnings) = cache(r#""members":true,"users":false"#);
    assert_eq!((flags, warnings.len()), (both, 1));
    assert!(
        warnings[0].starts_with("config.json: `cache.users` is false, but `cache.members` is true"),
        "{warnings:?}"
    );
    let (flags, warnings) = cache(r#""users":true"#);
    assert_eq!((flags, warnings.len()), (Flags { users: true, ..Flags::default() }, 1));
    assert!(warnings[0].starts_with("config.json: `cache.users` is true without effect"), "{warnings:?}");
    assert_eq!(cache(r#""users":true,"presences":true"#).1, Vec::<String>::new());
    assert_eq!(cache(r#""users":false,"members":false"#), (Flags::default(), vec![]));
}

#[test]
fn the_range_of_shards() {
    let range = |keys: &str, recommended| with(keys).unwrap().0.shard_range(recommended);
    assert_eq!(range("", 5), Ok(0..5));
    assert_eq!(range(r#","shard_start":3"#, 5), Ok(3..5));
    assert!(range(r#","shard_start":5"#, 5).is_err());
    assert!(range(r#","shard_end":6"#, 5).unwrap_err().to_string().contains("within 0 to 5"));
}

#[test]
fn the_token_is_never_shown() {
    let (config, _) = parse(r#"{"token":"very-secret","intents":1}"#).unwrap();
    assert!(!format!("{config:?}").contains("very-secret"));
    let misplaced = r#"{"token":["very-secret"],"intents":1}"#;
    assert!(!parse(misplaced).unwrap_err().to_string().contains("very-secret"));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_configuration() {
    let text = r#"{"token":"secret","intents":513}"#;
    let load = |bytes: &[u8]| {
        let path =
            std::env::temp_dir().join(format!("gateway-proxy-config-{}-{}.json", std::process::id(), bytes.len()));
        std::fs::write(&path, bytes).unwrap();
        let loaded = Config::load(&path, None).map(|(config, _)| config.intents).map_err(|error| error.to_string());
        std::fs::remove_file(&path).unwrap();
        loaded
    };
    assert_eq!(load(format!("\u{feff}{text}").as_bytes()), Ok(513));
    assert_eq!(load(text.as_bytes()), Ok(513));
    let utf16 = |bytes: fn(u16) -> [u8; 2], mark: &str| -> Vec<u8> {
        format!("{mark}{text}").encode_utf16().flat_map(bytes).collect()
    };
    for mark in ["\u{feff}", ""] {
        for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            let error = load(&utf16(bytes, mark)).unwrap_err();
            assert!(error.ends_with("is written in UTF-16: save it as UTF-8"), "{error}");
        }
    }
    let error = load(b"{\"token\":\"\xe9\"}").unwrap_err();
    assert!(error.ends_with("is not UTF-8 (the first wrong byte is number 11): save it as UTF-8"), "{error}");
}

#[test]
fn a_bot_for_everyone_has_to_be_wanted() {
    for open in ["", r#","host":"0.0.0.0""#, r#","host":"192.0.2.1""#, r#","host":"::""#] {
        let keys = format!(r#","validate_token":false{open}"#);
        let error = error(&keys);
        assert!(error.contains("`validate_token` is false") && error.contains("`trust_network` to true"), "{error}");
        assert!(with(&format!(r#"{keys},"trust_network":true"#)).is_ok(), "{keys}");
        assert!(with(open).is_ok());
    }
    for closed in ["127.0.0.1", "127.1.2.3", "::1"] {
        assert!(with(&format!(r#","validate_token":false,"host":"{closed}""#)).is_ok(), "{closed}");
    }
}

#[test]
fn a_token_may_be_in_a_file_of_its_own() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let path = std::env::temp_dir().join(format!("gateway-proxy-token-{}", std::process::id()));
    let text = serde_json::json!({"intents": 1, "host": "127.0.0.1", "token_file": path}).to_string();
    let error = parse(&text).unwrap_err().to_string();
    assert!(error.contains("`token_file` is") && error.contains("can not be read"), "{error}");
    fs::write(&path, "  Bot from-file\n").unwrap();
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let (config, warnings) = parse(&text).unwrap();
        assert_eq!((config.token.bare(), !warnings.is_empty()), ("from-file", warned), "{warnings:?}");
        assert!(!format!("{warnings:?}").contains("from-file"));
    }
    let given = Config::parse("c", &text, Some("given".into())).unwrap().0;
    assert_eq!(given.token.bare(), "given");
    fs::write(&path, "two words").unwrap();
    let error = parse(&text).unwrap_err().to_string();
    assert!(error.contains("characters that no token has") && !error.contains("two words"), "{error}");
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_configuration_with_a_token_that_all_can_read_is_warned_of() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let path = std::env::temp_dir().join(format!("gateway-proxy-config-{}", std::process::id()));
    let warnings = |text: &str, mode: u32| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&path, Some("given".into())).unwrap().1
    };
    let with_token = r#"{"intents":1,"host":"127.0.0.1","token":"secret"}"#;
    let warned = warnings(with_token, 0o644);
    assert!(
        warned.len() == 1 && warned[0].contains("every user of this machine can read it (mode 0644)"),
        "{warned:?}"
    );
    assert!(!warned[0].contains("secret"));
    assert_eq!(warnings(with_token, 0o640), [""; 0]);
    assert_eq!(warnings(r#"{"intents":1,"host":"127.0.0.1"}"#, 0o644), [""; 0]);
    fs::remove_file(&path).unwrap();
}

#[test]
fn errors_about_who_is_trusted_say_what_is_expected() {
    for (keys, expected) in [
        (
            r#","forward_opcodes":[2]"#,
            "config.json: `forward_opcodes` is [2], expected a list of opcodes of commands that this version does not know, such as [44]",
        ),
        (
            r#","admin_listen":"localhost""#,
            "config.json: `admin_listen` is \"localhost\", expected an address and port such as \"127.0.0.1:7879\", or a socket such as \"unix:/run/gateway-proxy/admin\"",
        ),
        (
            r#","proxy_protocol_from":["10.0.0.0/33"]"#,
            "config.json: `proxy_protocol_from` is [\"10.0.0.0/33\"], expected a list of addresses and networks such as [\"127.0.0.1\", \"10.0.0.0/8\"]",
        ),
        (r#","token_file":"x""#, "config.json: both `token` and `token_file` are set: remove one of them"),
    ] {
        assert_eq!(error(keys), expected);
    }
}
