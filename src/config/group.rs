//! The keys for several proxies of one bot: which part of the shards this proxy serves, and the queue at which all of
//! the proxies ask for IDENTIFY permits.

use super::{ConfigError, reader::Reader};
use crate::websocket::Endpoint;
use serde_json::Value;
use std::ops::Range;

/// The variable whose value takes precedence over `index` of `shard_group`.
pub const INDEX_VARIABLE: &str = "SHARD_GROUP_INDEX";
/// Most proxies in a group.
const MAX_PROXIES: u64 = 4096;

/// The place of this proxy in a group of proxies that serve about the same number of shards each (`shard_group`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardGroup {
    /// Index of this proxy in the group, from 0.
    pub index: u32,
    /// Number of proxies in the group.
    pub of: u32,
}

impl ShardGroup {
    /// The shards of this proxy, if the bot has `count` shards. Together the proxies of a group serve every shard once.
    pub fn range(self, count: u32) -> Range<u32> {
        let cut = |index: u32| (u64::from(count) * u64::from(index) / u64::from(self.of)) as u32;
        cut(self.index)..cut(self.index + 1)
    }
}

/// The parts of the process's environment that can give its index in the group.
pub struct Environment {
    /// The value of [`INDEX_VARIABLE`].
    pub index: Option<String>,
    /// The host name. Kubernetes puts the number of a StatefulSet's pod at its end: `gateway-proxy-2`.
    pub host_name: String,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let index = std::env::var(INDEX_VARIABLE).ok().filter(|index| !index.is_empty());
        Self { index, host_name: host_name.trim().to_owned() }
    }

    /// Returns `url` with the index of this proxy in place of `{{index}}`, and the host name in place of
    /// `{{hostname}}`, so that the proxies of a group can have the same file and be reached at different addresses.
    /// `None`: `url` has `{{index}}`, and there is no group.
    pub fn fill_in(&self, url: &str, group: Option<ShardGroup>) -> Option<String> {
        const INDEX: &str = "{{index}}";
        let url = match group {
            Some(group) => url.replace(INDEX, &group.index.to_string()),
            None if url.contains(INDEX) => return None,
            None => url.to_owned(),
        };
        Some(url.replace("{{hostname}}", &self.host_name))
    }
}

/// Reads `shard_group`.
pub(super) fn read_shard_group(
    reader: &mut Reader,
    name: &str,
    environment: &Environment,
) -> Result<Option<ShardGroup>, ConfigError> {
    const EXPECTED: &str = "an object such as {\"index\": 0, \"of\": 3}";
    const INDEX: &str =
        "a number from 0 up to but not including `of`, or \"hostname\" to take the number at the end of the host name";
    let object = match reader.take("shard_group") {
        None => return Ok(None),
        Some(Value::Object(object)) => object,
        Some(value) => return Err(reader.error("shard_group", &value, EXPECTED)),
    };
    if reader.has("shard_start") || reader.has("shard_end") {
        return Err(ConfigError::GroupAndRange { file: name.into() });
    }
    let mut inner = Reader::new(name, "shard_group.", object);
    let Some(of) = inner.number("of", (1, MAX_PROXIES))? else {
        let (key, expected) = ("shard_group.of", "the number of proxies of the bot");
        return Err(ConfigError::Missing { file: name.into(), key, expected });
    };
    let given = inner.take("index");
    let index = match (&environment.index, &given) {
        (Some(text), _) => {
            let wrong = || ConfigError::IndexVariable { value: text.clone(), last: of - 1 };
            text.parse().ok().filter(|index| *index < of).ok_or_else(wrong)?
        }
        (None, Some(Value::String(text))) if text == "hostname" => {
            let host_name = &environment.host_name;
            let digits = host_name.rsplit_once('-').map_or("", |(_, digits)| digits);
            let wrong = || ConfigError::HostName { file: name.into(), host_name: host_name.clone(), last: of - 1 };
            digits.parse().ok().filter(|index| *index < of).ok_or_else(wrong)?
        }
        (None, Some(value)) => {
            value.as_u64().filter(|index| *index < of).ok_or_else(|| inner.error("index", value, INDEX))?
        }
        (None, None) => {
            return Err(ConfigError::IndexMissing { file: name.into(), expected: INDEX });
        }
    };
    // Unknown keys of the object need no warning: a misspelt `index` or `of` is an error already, because the key is
    // missing.
    Ok(Some(ShardGroup { index: index as u32, of: of as u32 }))
}

/// Reads `identify_queue`.
pub(super) fn read_identify_queue(reader: &mut Reader) -> Result<Option<String>, ConfigError> {
    const KEY: &str = "identify_queue";
    const EXPECTED: &str =
        "an http:// or https:// URL without query of a queue for IDENTIFYs, such as \"http://queue:8080\"";
    let Some(url) = reader.string(KEY, EXPECTED)? else { return Ok(None) };
    // `Endpoint` parses only ws:// and wss://, and checks host and port, which the schemes have in common.
    let as_gateway = url.strip_prefix("http").map(|rest| format!("ws{rest}"));
    let good = !url.contains(['?', '#', '"', '\\', ' ']) && as_gateway.is_some_and(|url| Endpoint::parse(&url).is_ok());
    if good { Ok(Some(url.trim_end_matches('/').to_owned())) } else { Err(reader.error(KEY, &url.into(), EXPECTED)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(value: Value, index: Option<&str>, host_name: &str) -> Result<Option<ShardGroup>, String> {
        let object = json!({"shard_group": value});
        let mut reader = Reader::new("c", "", object.as_object().unwrap().clone());
        let environment = Environment { index: index.map(str::to_owned), host_name: host_name.to_owned() };
        read_shard_group(&mut reader, "c", &environment).map_err(|error| error.to_string())
    }

    #[test]
    fn the_index_comes_from_the_file_the_variable_or_the_host_name() {
        let group = |index| Ok(Some(ShardGroup { index, of: 3 }));
        assert_eq!(read(json!({"index": 1, "of": 3}), None, "x-2"), group(1));
        assert_eq!(read(json!({"index": 1, "of": 3}), Some("2"), ""), group(2));
        assert_eq!(read(json!({"of": 3}), Some("0"), ""), group(0));
        assert_eq!(read(json!({"index": "hostname", "of": 3}), None, "gateway-proxy-2"), group(2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, index, host, expected) in [
            (json!(3), None, "", "`shard_group` is 3, expected an object"),
            (json!({"index": 1}), None, "", "`shard_group.of` is missing"),
            (json!({"of": 3}), None, "", "`shard_group.index` is missing, and so is the variable SHARD_GROUP_INDEX"),
            (json!({"index": 3, "of": 3}), None, "", "`shard_group.index` is 3, expected a number from 0"),
            (json!({"index": "first", "of": 3}), None, "", "`shard_group.index` is \"first\", expected"),
            (json!({"index": 0, "of": 3}), Some("3"), "", "SHARD_GROUP_INDEX is \"3\", expected a number from 0 to 2"),
            (
                json!({"index": "hostname", "of": 3}),
                None,
                "proxy",
                "the host name \"proxy\" does not end with a number",
            ),
            (json!({"index": "hostname", "of": 3}), None, "proxy-3", "the host name \"proxy-3\" does not end"),
            (json!({"index": 0, "of": 0}), None, "", "`shard_group.of` is 0"),
        ] {
            let error = read(value.clone(), index, host).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
        }
    }

    #[test]
    fn urls_of_queues() {
        let read = |url: &str| {
            let object = json!({"identify_queue": url});
            read_identify_queue(&mut Reader::new("c", "", object.as_object().unwrap().clone()))
                .map_err(|error| error.to_string())
        };
        assert_eq!(read("http://queue:8080/"), Ok(Some("http://queue:8080".into())));
        assert_eq!(read("https://queue.example/path"), Ok(Some("https://queue.example/path".into())));
        for wrong in ["queue:8080", "ftp://queue", "http://queue?shard=1", "http://", ""] {
            assert!(read(wrong).unwrap_err().contains("expected an http:// or https:// URL"), "{wrong}");
        }
    }

    #[test]
    fn the_url_of_a_proxy_has_its_index_or_host_name() {
        let here = Environment { index: None, host_name: "gateway-proxy-2".into() };
        let group = Some(ShardGroup { index: 1, of: 3 });
        let fill = |url: &str, group| here.fill_in(url, group);
        assert_eq!(fill("ws://a", None), Some("ws://a".into()));
        assert_eq!(fill("ws://proxy-{{index}}.b:1", group), Some("ws://proxy-1.b:1".into()));
        assert_eq!(fill("ws://{{hostname}}.b", None), Some("ws://gateway-proxy-2.b".into()));
        assert_eq!(fill("ws://proxy-{{index}}", None), None);
    }

    proptest! {
        #[test]
        fn parts_cover_all_shards_and_none_twice(count in 1u32..70_000, of in 1u32..200) {
            let parts: Vec<_> = (0..of).map(|index| ShardGroup { index, of }.range(count)).collect();
            prop_assert_eq!(parts[0].start, 0);
            prop_assert_eq!(parts[parts.len() - 1].end, count);
            prop_assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            let sizes = parts.iter().map(|part| part.end - part.start);
            prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }
}
