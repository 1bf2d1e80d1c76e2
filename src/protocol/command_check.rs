//! Checks that Discord can parse a client's command (docs: Gateway Events, Send Events).
//!
//! Discord closes the shard's connection, which all clients share, with 4002 for a command that it can not parse. So
//! the proxy checks the types of the documented fields and closes only the client that sent the command. Undocumented
//! fields pass, and so does a missing or null value of a field with a default.

use super::opcode;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use std::fmt;

/// An id: a string of digits, as documented, or a number, as some libraries send it.
struct Id;

/// One id, or a list of them.
struct Ids;

struct IdVisitor {
    lists: bool,
}

impl<'de> de::Visitor<'de> for IdVisitor {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id")
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(_) if digits => Ok(()),
            _ => Err(E::custom("not an id")),
        }
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.lists {
            return Err(de::Error::custom("a list in place of an id"));
        }
        while list.next_element::<Id>()?.is_some() {}
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor { lists: false }).map(|()| Self)
    }
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor { lists: true }).map(|()| Self)
    }
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only whether the fields can be read counts")]
struct Activity {
    name: Option<String>,
    r#type: Option<u8>,
    url: Option<String>,
    state: Option<String>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only whether the fields can be read counts")]
struct Presence {
    activities: Option<Vec<Activity>>,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Online,
    Dnd,
    Idle,
    Invisible,
    Offline,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only whether the fields can be read counts")]
struct VoiceState {
    guild_id: Id,
    channel_id: Option<Id>,
    self_mute: Option<bool>,
    self_deaf: Option<bool>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only whether the fields can be read counts")]
struct GuildMembers {
    guild_id: Ids,
    query: Option<String>,
    limit: Option<u64>,
    presences: Option<bool>,
    user_ids: Option<Ids>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only whether the fields can be read counts")]
struct SoundboardSounds {
    guild_ids: Ids,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only whether the fields can be read counts")]
struct ChannelInfo {
    guild_id: Id,
    fields: Vec<String>,
}

/// What is not as documented in the data of a client's command, so that Discord could not read it. The text goes into
/// the client's close frame, so it never quotes the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub enum CommandError {
    /// Op 3 has data that no presence can be made of.
    NoPresence,
    /// Op 3 has a field of a wrong type.
    Presence,
    /// Op 4 lacks its guild, or has a field of a wrong type.
    VoiceState,
    /// Op 8 lacks its guild, or has a field of a wrong type.
    GuildMembers,
    /// Op 8 does not say which members it wants.
    NoQuery,
    /// Op 31 lacks its list of guilds.
    SoundboardSounds,
    /// Op 43 lacks its guild or its list of fields.
    ChannelInfo,
    /// A value is JSON by the grammar, but parsers refuse it: a number beyond 64 bits of floating point, half of a
    /// surrogate pair in a string, or more than 127 values inside of each other.
    Unreadable,
}

impl CommandError {
    /// What the data has to be.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoPresence => "op 3: not a presence",
            Self::Presence => "op 3: activities or status are not as documented",
            Self::VoiceState => "op 4: guild_id, channel_id, self_mute or self_deaf are not as documented",
            Self::GuildMembers => "op 8: guild_id, query, limit, presences or user_ids are not as documented",
            Self::NoQuery => "op 8: query or user_ids has to be there",
            Self::SoundboardSounds => "op 31: guild_ids is not a list of ids",
            Self::ChannelInfo => "op 43: guild_id or fields are not as documented",
            Self::Unreadable => "a number is too large, a string has half a surrogate pair, or the nesting is too deep",
        }
    }
}

/// Checks the data of a command with this opcode. `data` is JSON by the grammar.
pub fn check(op: u64, data: &str) -> Result<(), CommandError> {
    fn reads<'a, T: Deserialize<'a>>(data: &'a str, otherwise: CommandError) -> Result<T, CommandError> {
        // Serde would read a list of values as the fields in their order, but Discord does not.
        let object = data.starts_with('{').then_some(data).ok_or(otherwise)?;
        serde_json::from_str(object).map_err(|_| otherwise)
    }
    match op {
        opcode::PRESENCE_UPDATE => reads::<Presence>(data, CommandError::Presence).map(drop),
        opcode::VOICE_STATE_UPDATE => reads::<VoiceState>(data, CommandError::VoiceState).map(drop),
        opcode::REQUEST_GUILD_MEMBERS => {
            let request: GuildMembers = reads(data, CommandError::GuildMembers)?;
            if request.query.is_none() && request.user_ids.is_none() {
                return Err(CommandError::NoQuery);
            }
            Ok(())
        }
        opcode::REQUEST_SOUNDBOARD_SOUNDS => reads::<SoundboardSounds>(data, CommandError::SoundboardSounds).map(drop),
        opcode::REQUEST_CHANNEL_INFO => reads::<ChannelInfo>(data, CommandError::ChannelInfo).map(drop),
        _ => Ok(()),
    }?;
    // The types above skip undocumented fields, and Discord parses those, too.
    serde_json::from_str::<Value>(data).map_or(Err(CommandError::Unreadable), |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_send_passes() {
        for (op, data) in [
            (3, r#"{"since":null,"activities":[{"name":"chess","type":0}],"status":"online","afk":false}"#),
            (3, r#"{"since":91879201,"activities":null,"status":"dnd","afk":false}"#),
            (3, r#"{"game":{"name":"x","type":0},"x":[1]}"#),
            (3, r#"{"activities":[{"name":"Custom Status","type":4,"state":"hi","url":null,"emoji":{"name":"x"}}]}"#),
            (4, r#"{"guild_id":"41771983423143937","channel_id":"1","self_mute":false,"self_deaf":true}"#),
            (4, r#"{"guild_id":41771983423143937,"channel_id":null,"self_mute":null,"self_video":false}"#),
            (8, r#"{"guild_id":"1","query":"","limit":0,"presences":true,"nonce":"x"}"#),
            (8, r#"{"guild_id":["1",2],"user_ids":["1","2"],"limit":100,"nonce":7}"#),
            (8, r#"{"guild_id":1,"user_ids":3,"query":null}"#),
            (31, r#"{"guild_ids":["1","2"]}"#),
            (43, r#"{"guild_id":"1","fields":["status","voice_start_time"]}"#),
            (44, r#"{"guild_id":[]}"#),
            (8, "{\"guild\\u005fid\":\"\\u0031\",\"query\":\"\\u00e9\"}"),
        ] {
            assert_eq!(check(op, data), Ok(()), "{data}");
        }
    }

    #[test]
    fn what_discord_could_not_read_does_not() {
        for (op, data) in [
            (3, r#"{"activities":{}}"#),
            (3, r#"{"activities":[7]}"#),
            (3, r#"{"activities":[{"name":7}]}"#),
            (3, r#"{"activities":[{"name":"x","type":"0"}]}"#),
            (3, r#"{"status":"busy"}"#),
            (3, "null"),
            (3, "[]"),
            (4, "{}"),
            (4, r#"{"guild_id":["1"],"channel_id":null}"#),
            (4, r#"{"guild_id":"x"}"#),
            (4, r#"{"guild_id":"1","channel_id":true}"#),
            (4, r#"{"guild_id":"1","channel_id":null,"self_mute":"no"}"#),
            (8, r#"{"query":"","limit":0}"#),
            (8, r#"{"guild_id":"1","limit":0}"#),
            (8, r#"{"guild_id":{},"query":""}"#),
            (8, r#"{"guild_id":"1","query":5}"#),
            (8, r#"{"guild_id":"1","query":"","limit":-1}"#),
            (8, r#"{"guild_id":"1","query":"","limit":"0"}"#),
            (8, r#"{"guild_id":"1","query":"","presences":1}"#),
            (8, r#"{"guild_id":"1","user_ids":[null]}"#),
            (8, r#"{"guild_id":"+1","query":""}"#),
            (8, r#"{"guild_id":"99999999999999999999","query":""}"#),
            (8, r#"{"guild_id":1.5,"query":""}"#),
            (8, r#"["1","",0,true,["1"]]"#),
            (31, "{}"),
            (31, r#"{"guild_ids":[{}]}"#),
            (43, r#"{"guild_id":"1","fields":"status"}"#),
            (43, r#"{"guild_id":"1"}"#),
        ] {
            assert!(check(op, data).is_err(), "{data}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        for (op, data) in [
            (4, r#"{"guild_id":"1","nonce":1e999}"#),
            (8, r#"{"guild_id":"1","query":"","nonce":"\ud800"}"#),
            (44, "[1e999]"),
            (44, &deep),
        ] {
            assert_eq!(check(op, data), Err(CommandError::Unreadable), "{data}");
        }
    }
}
