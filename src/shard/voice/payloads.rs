//! Reads the parts of voice payloads that the [table](super::Table) needs, and writes the voice payloads that the proxy
//! makes.

use crate::protocol::{edit, json};

/// An Update Voice State (op 4; docs: Gateway Events).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoiceCommand {
    /// The guild.
    pub guild: u64,
    /// The channel to join; `None`: leave.
    pub channel: Option<u64>,
}

impl VoiceCommand {
    /// The start of every op 4 that goes to Discord.
    const PREFIX: &[u8] = br#"{"op":4,"d":"#;

    /// Reads a command that goes to Discord; `None` if it is no op 4, or has no guild.
    pub fn parse(command: &[u8]) -> Option<Self> {
        let data = command.strip_prefix(Self::PREFIX)?.strip_suffix(b"}")?;
        let [guild, channel] = json::get_all(data, ["guild_id", "channel_id"]);
        Some(Self { guild: json::parse_id(guild?)?, channel: channel.and_then(json::parse_id) })
    }

    /// Writes an op 4.
    pub fn command(guild: u64, channel: Option<u64>, self_mute: bool, self_deaf: bool) -> Vec<u8> {
        let channel = channel.map_or("null".into(), |channel| format!("\"{channel}\""));
        format!(
            r#"{{"op":4,"d":{{"guild_id":"{guild}","channel_id":{channel},"self_mute":{self_mute},"self_deaf":{self_deaf}}}}}"#
        )
        .into_bytes()
    }
}

/// A voice state of the bot itself (docs: Voice State Object).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnState {
    /// The guild.
    pub guild: u64,
    /// The channel; `None`: the bot has left its channel.
    pub channel: Option<u64>,
    /// The voice state belongs to the shard's session, not to another session of the bot.
    pub ours: bool,
    /// See the documentation.
    pub self_mute: bool,
    /// See the documentation.
    pub self_deaf: bool,
}

impl OwnState {
    /// Reads a voice state; `None` if it is of another user than `user`. `guild` is for a voice state in a
    /// GUILD_CREATE, which has no guild id. `session` is Discord's id of the shard's session.
    pub fn parse(state: &[u8], guild: Option<u64>, user: u64, session: Option<&str>) -> Option<Self> {
        let keys = ["user_id", "guild_id", "channel_id", "session_id", "self_mute", "self_deaf"];
        let [of, in_guild, channel, id, mute, deaf] = json::get_all(state, keys);
        if json::parse_id(of?)? != user {
            return None;
        }
        let guild = guild.or_else(|| in_guild.and_then(json::parse_id))?;
        let id: Option<String> = id.and_then(|id| serde_json::from_slice(id).ok());
        let ours = match (&id, session) {
            (Some(id), Some(session)) => id == session,
            _ => true,
        };
        let is_true = |value: Option<&[u8]>| value == Some(b"true");
        let channel = channel.and_then(json::parse_id);
        Some(Self { guild, channel, ours, self_mute: is_true(mute), self_deaf: is_true(deaf) })
    }

    /// Finds the bot's voice state in the `d` of a GUILD_CREATE.
    pub fn in_guild(data: &[u8], guild: u64, user: u64, session: Option<&str>) -> Option<Self> {
        let states = json::elements(json::get(data, "voice_states")?).ok()?;
        states.into_iter().find_map(|state| Self::parse(state, Some(guild), user, session))
    }
}

/// The `d` of a VOICE_STATE_UPDATE that says that the bot has left its channel in a guild.
pub fn left_state(guild: u64, user: u64, session: &str) -> Vec<u8> {
    let text = format!(
        r#"{{"guild_id":"{guild}","channel_id":null,"user_id":"{user}","deaf":false,"mute":false,"self_deaf":false,"self_mute":false,"self_video":false,"suppress":false,"request_to_speak_timestamp":null}}"#
    );
    let mut id = Vec::new();
    json::write_string(&mut id, session);
    edit::with(text.as_bytes(), "session_id", &id).unwrap_or_else(|_| text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn op_4_is_read_in_every_form_that_libraries_send() {
        let ask = |guild, channel| Some(VoiceCommand { guild, channel });
        for (command, read) in [
            (r#"{"op":4,"d":{"guild_id":"1","channel_id":"2","self_mute":false}}"#, ask(1, Some(2))),
            // discord.py sends ids as numbers.
            (r#"{"op":4,"d":{"guild_id":1,"channel_id":2}}"#, ask(1, Some(2))),
            (r#"{"op":4,"d":{"channel_id":null,"guild_id":"1"}}"#, ask(1, None)),
            (r#"{"op":4,"d":{"guild_id":"1"}}"#, ask(1, None)),
            (r#"{"op":4,"d":{"guild_id":null,"channel_id":null}}"#, None),
            (r#"{"op":4,"d":{}}"#, None),
            (r#"{"op":8,"d":{"guild_id":"1"}}"#, None),
        ] {
            assert_eq!(VoiceCommand::parse(command.as_bytes()), read, "{command}");
        }
        for channel in [None, Some(7)] {
            assert_eq!(VoiceCommand::parse(&VoiceCommand::command(5, channel, true, false)), ask(5, channel));
        }
    }

    #[test]
    fn own_voice_states_are_told_from_others() {
        let text = br#"{"member":{"user":{"id":"9"}},"guild_id":"1","channel_id":"2","user_id":"9","session_id":"up","self_mute":true,"self_deaf":false}"#;
        let own = OwnState { guild: 1, channel: Some(2), ours: true, self_mute: true, self_deaf: false };
        assert_eq!(OwnState::parse(text, None, 9, Some("up")), Some(own));
        assert_eq!(OwnState::parse(text, None, 9, Some("other")), Some(OwnState { ours: false, ..own }));
        assert_eq!(OwnState::parse(text, None, 8, Some("up")), None);
        assert_eq!(OwnState::parse(b"{}", None, 9, None), None);
        let guild = br#"{"id":"1","voice_states":[{"user_id":"8","channel_id":"3"},{"user_id":"9","channel_id":"2"}]}"#;
        let in_guild = OwnState::in_guild(guild, 1, 9, Some("up")).unwrap();
        assert_eq!((in_guild.guild, in_guild.channel, in_guild.ours), (1, Some(2), true));
        assert_eq!(OwnState::in_guild(br#"{"id":"1"}"#, 1, 9, None), None);
        let state = left_state(1, 9, "u\"p");
        assert_eq!(
            OwnState::parse(&state, None, 9, Some("u\"p")),
            Some(OwnState { channel: None, self_mute: false, ..own })
        );
    }
}
