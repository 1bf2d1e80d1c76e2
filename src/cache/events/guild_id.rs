//! Finding the `guild_id` of an event without scanning the whole event.

use crate::protocol::json;
use memchr::memmem::FinderRev;
use std::sync::LazyLock;

/// The value of `"guild_id":"…"` when that is the last entry of the object, or its first entry and the text
/// `"guild_id"` does not occur again. Discord puts it in one of these two places, so this usually saves a scan of the
/// whole object.
///
/// `None` does not mean that the object has no `guild_id`. The answer is right only for a well-formed object without
/// needless escapes.
pub(super) fn outer_guild_id(object: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"guild_id\":\"";
    static NAME: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new(b"\"guild_id\""));
    if let Some(inner) = object.strip_suffix(b"\"}") {
        let length = inner.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (before, id) = inner.split_at(inner.len() - length);
        if before.strip_suffix(KEY).is_some_and(|before| before.last() == Some(&b',')) {
            return json::parse_id(id);
        }
    }
    let rest = object.strip_prefix(b"{").and_then(|rest| rest.strip_prefix(KEY))?;
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // If the key occurred again, the last one would count.
    json::parse_id(&rest[..length]).filter(|_| rest.get(length) == Some(&b'"') && NAME.rfind(rest).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code takes other paths on CPUs with AVX2. `CPU_HAS_AVX2=yes` or `no` states which CPU the tests are meant to
    /// run on, for example an emulated one; without it the answer of this machine is expected.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_cpu_is_the_expected_one() {
        let own = || std::fs::read_to_string("/proc/cpuinfo").expect("Linux").contains(" avx2 ");
        let expected = std::env::var("CPU_HAS_AVX2").map_or_else(|_| own(), |has| has == "yes");
        assert_eq!(std::arch::is_x86_feature_detected!("avx2"), expected);
    }

    #[test]
    fn guild_ids_at_either_end() {
        let id = |text: &str| outer_guild_id(text.as_bytes());
        assert_eq!(id(r#"{"guild_id":"12","a":1}"#), Some(12));
        assert_eq!(id(r#"{"a":1,"guild_id":"12"}"#), Some(12));
        assert_eq!(id(r#"{"a":{"guild_id":"12"}}"#), None);
        assert_eq!(id(r#"{"a":"\"guild_id\":\"12"}"#), None);
        assert_eq!(id(r#"{"a":1,"guild_id":12}"#), None);
        assert_eq!(id(r#"{"a":1,"guild_id":"99999999999999999999"}"#), None);
        assert_eq!(id(r#"{"a":1,"guild_id":""}"#), None);
        assert_eq!(id(r#"{"guild_id":"123456789012345678905","a":1}"#), None);
        assert_eq!(id(r#"{"guild_id":"12a","a":1}"#), None);
        assert_eq!(id(r#"{"guild_id":"12","a":1,"guild_id" : "13","b":2}"#), None);
        assert_eq!(id(r#"{"guild_id":"12","a":1,"guild_id":"13"}"#), Some(13));
    }
}
