//! Reads `clients`: the credentials of clients that do not get the bot's token.

use super::{Config, ConfigError, MAX_INTENTS, reader::Reader};
use crate::{
    downstream::credential::{Credential, Credentials, MAX_CREDENTIALS, MAX_NAME, SecretHash},
    protocol::{intents::Intents, opcode},
};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Largest id of a shard.
const LAST_SHARD: u64 = super::MAX_SHARDS - 1;

/// Reads `clients`. The second value is the list of warnings.
pub(super) fn read(reader: &mut Reader, name: &str) -> Result<(Credentials, Vec<String>), ConfigError> {
    const KEY: &str = "clients";
    let expected = format!(
        "a list of at most {MAX_CREDENTIALS} objects such as {{\"name\": \"dashboard\", \"secret\": \"sha256:…\", \"ops\": []}}"
    );
    let Some(value) = reader.take(KEY) else { return Ok((Credentials::default(), Vec::new())) };
    let objects: Option<Vec<Map<String, Value>>> = serde_json::from_value(value.clone()).ok();
    let Some(objects) = objects.filter(|objects| objects.len() <= MAX_CREDENTIALS) else {
        return Err(reader.error(KEY, &value, &expected));
    };
    let (mut all, mut warnings): (Vec<Credential>, Vec<String>) = Default::default();
    for (index, object) in objects.into_iter().enumerate() {
        let mut inner = Reader::new(name, &format!("{KEY}[{index}]."), object);
        let credential = read_one(&mut inner)?;
        if all.iter().any(|other| other.name == credential.name) {
            let own = Value::from(&*credential.name);
            return Err(inner.error("name", &own, "another name than those of the other clients"));
        }
        if all.iter().any(|other| other.hash == credential.hash) {
            return Err(inner.error("secret", &Value::Null, "a secret of its own, so that it can be revoked alone"));
        }
        warnings.extend(inner.unknown());
        all.push(credential);
    }
    Ok((Credentials::new(all), warnings))
}

fn read_one(reader: &mut Reader) -> Result<Credential, ConfigError> {
    const NAME: &str = "a name of 1 to 64 letters, digits, `-`, `_` or `.`, such as \"dashboard\"";
    const SECRET: &str =
        "`sha256:` and 64 hexadecimal digits: `gateway-proxy secret` makes a secret and this hash of it";
    let name = reader.string("name", NAME)?.unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(reader.error("name", &name.into(), NAME));
    }
    let secret = reader.string("secret", SECRET)?.unwrap_or_default();
    let hash = SecretHash::parse(&secret).ok_or_else(|| reader.error("secret", &Value::Null, SECRET))?;
    let intents = reader.number("intents", (0, MAX_INTENTS))?.map_or(Intents::ALL, Intents);
    let ops = read_ops(reader)?;
    let interactions = reader.bool("interactions", ops.is_none())?;
    Ok(Credential { name: name.into(), hash, intents, shards: read_shards(reader)?, ops, interactions })
}

/// Reads `shards`: ids, and ranges such as `"4-7"`.
fn read_shards(reader: &mut Reader) -> Result<Option<Vec<RangeInclusive<u32>>>, ConfigError> {
    const EXPECTED: &str = "a list of ids of shards and of ranges, such as [0, \"4-7\"]";
    let Some(value) = reader.take("shards") else { return Ok(None) };
    let range = |entry: &Value| {
        let (first, last) = match entry {
            Value::String(text) => {
                let (first, last) = text.split_once('-')?;
                (first.trim().parse().ok()?, last.trim().parse().ok()?)
            }
            entry => (entry.as_u64()?, entry.as_u64()?),
        };
        (first <= last && last <= LAST_SHARD).then_some(first as u32..=last as u32)
    };
    let ranges = value.as_array().and_then(|entries| entries.iter().map(range).collect::<Option<Vec<_>>>());
    ranges.filter(|ranges| !ranges.is_empty()).map(Some).ok_or_else(|| reader.error("shards", &value, EXPECTED))
}

/// Reads `ops`: opcodes of commands. Heartbeats, IDENTIFY and RESUME are no commands in this sense.
fn read_ops(reader: &mut Reader) -> Result<Option<Vec<u64>>, ConfigError> {
    const EXPECTED: &str =
        "a list of opcodes of commands such as [3, 4, 8, 31, 43], or [] for a client that only reads";
    const COMMANDS: [u64; 3] = [opcode::PRESENCE_UPDATE, opcode::VOICE_STATE_UPDATE, opcode::REQUEST_GUILD_MEMBERS];
    let Some(value) = reader.take("ops") else { return Ok(None) };
    let ops: Option<Vec<u64>> = serde_json::from_value(value.clone()).ok();
    let is_command = |op: &u64| COMMANDS.contains(op) || (12..=255).contains(op);
    ops.filter(|ops| ops.iter().all(is_command)).map(Some).ok_or_else(|| reader.error("ops", &value, EXPECTED))
}

/// Checks who gets in. With `validate_token` false, everybody gets in. That is an error when `host` is not a loopback
/// address and `trust_network` is false, and also when `clients` has credentials, because they would restrict nobody. A
/// credential whose secret is the bot's token is an error too. Returns a warning for each credential whose own
/// `intents` have bits that the `intents` of the configuration do not have.
pub(super) fn check(config: &Config, name: &str) -> Result<Vec<String>, ConfigError> {
    let is_open = !config.validate_token;
    if is_open && !config.listen.ip().is_loopback() && !config.trust_network {
        return Err(ConfigError::OpenToAll { file: name.into(), host: config.listen.ip() });
    }
    if is_open && !config.clients.is_empty() {
        return Err(ConfigError::ClientsOfAll { file: name.into() });
    }
    if let Some(same) = config.clients.of_secret(config.token.bare()) {
        return Err(ConfigError::ClientWithToken { file: name.into(), name: same.name.to_string() });
    }
    let beyond = |credential: &Credential| credential.intents.without(Intents(config.intents)) != Intents::default();
    let named = config.clients.iter().filter(|credential| credential.intents != Intents::ALL && beyond(credential));
    Ok(named
        .map(|credential| {
            format!(
                "{name}: `intents` of `{}` in `clients` has bits that `intents` does not have: its clients get no events for them",
                credential.name
            )
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn with(keys: &str) -> Result<(Config, Vec<String>), ConfigError> {
        Config::parse("c", &format!(r#"{{"token":"secret","intents":513,"host":"127.0.0.1",{keys}}}"#), None)
    }

    fn error_of(clients: &str) -> String {
        with(&format!(r#""clients":{clients}"#)).unwrap_err().to_string()
    }

    #[test]
    fn a_credential_is_read() {
        let (config, warnings) = with(&format!(
            r#""clients":[{{"name":"a","secret":"{HASH}","intents":513,"shards":[0,"4-7"],"ops":[8,31]}},
                          {{"name":"b","secret":"{}"}}]"#,
            HASH.replace('b', "c")
        ))
        .unwrap();
        assert_eq!(warnings, [""; 0]);
        let found = config.clients.of_secret("abc").expect("the secret of the hash");
        assert_eq!((&*found.name, found.intents.0, found.interactions), ("a", 513, false));
        assert_eq!((found.shards.clone(), found.ops.clone()), (Some(vec![0..=0, 4..=7]), Some(vec![8, 31])));
        let other = config.clients.iter().last().expect("two");
        assert_eq!((&*other.name, other.intents, other.interactions), ("b", Intents::ALL, true));
        assert_eq!((&other.shards, &other.ops), (&None, &None));
        let (config, warnings) = with(&format!(
            r#""clients":[{{"name":"a","secret":"{HASH}","ops":[],"interactions":true,"op":1,"intents":3}}]"#
        ))
        .unwrap();
        assert!(config.clients.iter().all(|credential| credential.interactions));
        assert!(
            warnings[0].contains("unknown key `clients[0].op` is ignored; did you mean `clients[0].ops`?"),
            "{warnings:?}"
        );
        assert!(warnings[1].contains("`intents` of `a` in `clients` has bits"), "{warnings:?}");
    }

    #[test]
    fn errors_say_what_is_expected_and_show_no_secret() {
        for (clients, expected) in [
            (r#"{"secret":"plain"}"#, "`clients` is the given value, expected a list of at most 256 objects"),
            (r#"["plain"]"#, "`clients` is the given value, expected a list"),
            (r#"[{"secret":"plain"}]"#, "`clients[0].name` is \"\", expected a name of 1 to 64 letters"),
            (r#"[{"name":"a b","secret":"plain"}]"#, "`clients[0].name` is \"a b\", expected a name"),
            (r#"[{"name":"a","secret":"plain"}]"#, "`clients[0].secret` is the given value, expected `sha256:` and 64"),
            (r#"[{"name":"a"}]"#, "`clients[0].secret` is the given value, expected `sha256:` and 64"),
        ] {
            assert!(error_of(clients).contains(expected), "{}", error_of(clients));
            assert!(!error_of(clients).contains("plain"), "{}", error_of(clients));
        }
        let one = |keys: &str| format!(r#"[{{"name":"a","secret":"{HASH}"{keys}}}]"#);
        for (keys, expected) in [
            (r#","shards":[]"#, "`clients[0].shards` is [], expected a list of ids"),
            (r#","shards":["7-4"]"#, "`clients[0].shards` is [\"7-4\"], expected a list of ids"),
            (r#","shards":[65536]"#, "`clients[0].shards` is [65536], expected a list of ids"),
            (r#","ops":[2]"#, "`clients[0].ops` is [2], expected a list of opcodes of commands"),
            (r#","ops":8"#, "`clients[0].ops` is 8, expected a list of opcodes of commands"),
            (r#","intents":-1"#, "`clients[0].intents` is -1, expected a whole number"),
        ] {
            assert!(error_of(&one(keys)).contains(expected), "{}", error_of(&one(keys)));
        }
        let twice = format!(r#"[{{"name":"a","secret":"{HASH}"}},{{"name":"b","secret":"{HASH}"}}]"#);
        assert!(error_of(&twice).contains("`clients[1].secret` is the given value, expected a secret of its own"));
        let twice =
            format!(r#"[{{"name":"a","secret":"{HASH}"}},{{"name":"a","secret":"{}"}}]"#, HASH.replace('b', "c"));
        assert!(error_of(&twice).contains("`clients[1].name` is \"a\", expected another name"));
        let many = format!("[{}]", vec!["{}"; MAX_CREDENTIALS + 1].join(","));
        assert!(error_of(&many).contains("expected a list of at most 256 objects"));
    }

    #[test]
    fn a_credential_opens_less_than_the_token() {
        let one = format!(r#""clients":[{{"name":"a","secret":"{HASH}"}}]"#);
        let open = with(&format!(r#""validate_token":false,{one}"#)).unwrap_err().to_string();
        assert!(open.contains("a client without a secret may do more"), "{open}");
        let text = format!(r#"{{"token":"Bot abc","intents":513,{one}}}"#);
        let same = Config::parse("c", &text, None).unwrap_err().to_string();
        assert!(same.contains("the secret of `a` in `clients` is the bot's token"), "{same}");
    }
}
