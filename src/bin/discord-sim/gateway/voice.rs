//! The bot's voice connections, as the main gateway and the voice servers see them (docs: Voice Connections).
//!
//! Owns the voice tokens: one for each guild with the bot in a voice channel. A token is made when the bot joins a
//! channel. It is revoked when the bot leaves or changes the channel, when the voice server is moved, or when the
//! gateway session that joined the channel ends. Pure.

use super::{Gateway, intents};
use std::collections::BTreeMap;
use world::Event;
use world::json::{self, Object};

/// Why a voice server closes a connection (docs: Opcodes and Status Codes, Voice Close Event Codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoiceClose {
    /// A payload that can not be parsed, or that lacks a field.
    #[error("Failed to decode payload.")]
    Malformed,
    /// A command before IDENTIFY or RESUME.
    #[error("Not authenticated.")]
    NotAuthenticated,
    /// The token is not the one of the session's current grant.
    #[error("Authentication failed.")]
    AuthenticationFailed,
    /// A second IDENTIFY or RESUME on an authenticated connection.
    #[error("Already authenticated.")]
    AlreadyAuthenticated,
    /// The guild has no grant for this session and user, or the token has been revoked.
    #[error("Session is no longer valid.")]
    SessionNoLongerValid,
    /// The bot is in no guild with this id.
    #[error("Server not found.")]
    ServerNotFound,
    /// Another protocol than UDP.
    #[error("Unknown protocol.")]
    UnknownProtocol,
    /// The bot has left the channel, or the voice server has been moved.
    #[error("Disconnected.")]
    Disconnected,
    /// A mode of encryption that was not offered.
    #[error("Unknown encryption mode.")]
    UnknownMode,
}

impl VoiceClose {
    /// The close code.
    pub fn code(self) -> u16 {
        match self {
            Self::Malformed => 4002,
            Self::NotAuthenticated => 4003,
            Self::AuthenticationFailed => 4004,
            Self::AlreadyAuthenticated => 4005,
            Self::SessionNoLongerValid => 4006,
            Self::ServerNotFound => 4011,
            Self::UnknownProtocol => 4012,
            Self::Disconnected => 4014,
            Self::UnknownMode => 4016,
        }
    }
}

/// Maximum number of revoked tokens that are remembered. A remembered token is refused with 4006, an unknown token with
/// 4004.
const MAX_STALE: usize = 4_096;

/// The right to connect to a voice server for one guild.
struct Grant {
    session: String,
    token: String,
    /// Number of the grant. Each grant gets a higher number than the one before.
    number: u64,
    /// Whether a voice connection of this grant has been sent SESSION DESCRIPTION or RESUMED and has not ended since.
    described: bool,
}

/// The credentials in a voice connection's op 0 or op 7.
pub struct Credentials<'a> {
    /// The guild.
    pub server: u64,
    /// The bot's user id; a RESUME has none.
    pub user: Option<u64>,
    /// Id of the gateway session with the bot in the channel.
    pub session: &'a str,
    /// The token from VOICE_SERVER_UPDATE.
    pub token: &'a str,
}

/// See the module's description.
#[derive(Default)]
pub struct Grants {
    guilds: BTreeMap<u64, Grant>,
    /// Revoked tokens, newest last. At most [`MAX_STALE`].
    stale: Vec<String>,
    next: u64,
    identifies: u64,
    resumes: u64,
    /// Number of refused voice connections by close code.
    refused: BTreeMap<u16, u64>,
}

impl Grants {
    fn grant(&mut self, guild: u64, session: &str, token: String) {
        self.revoke(guild);
        self.next += 1;
        let grant = Grant { session: session.to_owned(), token, number: self.next, described: false };
        self.guilds.insert(guild, grant);
    }

    fn revoke(&mut self, guild: u64) {
        let Some(grant) = self.guilds.remove(&guild) else { return };
        if self.stale.len() == MAX_STALE {
            self.stale.remove(0);
        }
        self.stale.push(grant.token);
    }

    /// Whether the grant with this number is the guild's current one.
    pub fn is_good(&self, guild: u64, number: u64) -> bool {
        self.guilds.get(&guild).is_some_and(|grant| grant.number == number)
    }

    /// Notes that a voice connection is sent SESSION DESCRIPTION or RESUMED: the library counts as connected.
    pub fn described(&mut self, guild: u64) {
        if let Some(grant) = self.guilds.get_mut(&guild) {
            grant.described = true;
        }
    }

    /// Notes that the voice connection of this grant has ended.
    pub fn ended(&mut self, guild: u64, number: u64) {
        if let Some(grant) = self.guilds.get_mut(&guild).filter(|grant| grant.number == number) {
            grant.described = false;
        }
    }

    fn check(&self, credentials: &Credentials<'_>, bot: u64) -> Result<u64, VoiceClose> {
        let Some(grant) = self.guilds.get(&credentials.server) else { return Err(VoiceClose::SessionNoLongerValid) };
        let stale = self.stale.iter().any(|token| token == credentials.token);
        if stale || grant.session != credentials.session || credentials.user.is_some_and(|user| user != bot) {
            return Err(VoiceClose::SessionNoLongerValid);
        }
        if grant.token == credentials.token { Ok(grant.number) } else { Err(VoiceClose::AuthenticationFailed) }
    }

    /// The object `voice` of `/sim/stats`.
    pub fn stats(&self) -> String {
        let guilds = self.guilds.iter().map(|(guild, grant)| {
            Object::new()
                .id("guild", *guild)
                .str("session_id", &grant.session)
                .int("number", grant.number)
                .bool("connected", grant.described)
                .finish()
        });
        let refused = self.refused.iter().fold(Object::new(), |out, (code, count)| out.int(&code.to_string(), *count));
        Object::new()
            .int("identifies", self.identifies)
            .int("resumes", self.resumes)
            .int("grants", self.next)
            .raw("refused", &refused.finish())
            .raw("guilds", &json::array(guilds))
            .finish()
    }
}

impl Gateway {
    /// Checks the credentials of a voice IDENTIFY or RESUME. Returns the number of the grant.
    pub fn voice_credentials(&mut self, credentials: &Credentials<'_>, resumes: bool) -> Result<u64, VoiceClose> {
        let known = self.world.guild(credentials.server).is_some();
        let checked = match known {
            true => self.voice.check(credentials, self.world.bot()),
            false => Err(VoiceClose::ServerNotFound),
        };
        match checked {
            Ok(_) if resumes => self.voice.resumes += 1,
            Ok(_) => self.voice.identifies += 1,
            Err(close) => *self.voice.refused.entry(close.code()).or_default() += 1,
        }
        checked
    }

    /// Handles an op 4 of the session with key `key`: the bot joins, moves or leaves (Gateway Events: "Update Voice
    /// State").
    pub fn voice_state(&mut self, key: u64, guild: u64, channel: Option<u64>, self_mute: bool, self_deaf: bool) {
        let Some((shard, id)) = self.sessions.get(&key).map(|session| (session.shard, session.id.clone())) else {
            return;
        };
        let Some(joined) = self.world.bot_voice(guild, channel, self_mute, self_deaf, &id) else { return };
        if channel.is_none() {
            self.voice.revoke(guild);
        }
        self.publish(shard, &joined.state);
        if joined.moved {
            self.grant_voice(key, guild, &id);
        }
    }

    /// Makes a new voice token for a guild, and sends it to the session in VOICE_SERVER_UPDATE.
    fn grant_voice(&mut self, key: u64, guild: u64, session: &str) {
        let token = format!("{:016x}", self.rng.u64(..));
        let update = Object::new()
            .str("token", &token)
            .id("guild_id", guild)
            .str("endpoint", &self.options.voice_endpoint)
            .finish();
        self.voice.grant(guild, session, token);
        self.push_to(key, "VOICE_SERVER_UPDATE", &update);
    }

    /// Key and id of the gateway session that has the guild's grant.
    fn voice_session(&self, guild: u64) -> Option<(u64, String)> {
        let id = &self.voice.guilds.get(&guild)?.session;
        let key = self.sessions.iter().find(|(_, session)| session.id == *id).map(|(key, _)| *key)?;
        Some((key, id.clone()))
    }

    /// Moves the bot to another channel, or disconnects it from voice, as a moderator can. False if the bot is in no
    /// voice channel of the guild.
    pub fn move_from_voice(&mut self, guild: u64, channel: Option<u64>) -> bool {
        let Some((key, _)) = self.voice_session(guild) else { return false };
        self.voice_state(key, guild, channel, false, false);
        true
    }

    /// Moves the bot to another voice server: the session gets a VOICE_SERVER_UPDATE without a server (`endpoint:
    /// null`), then one with the new server (Gateway Events: "Voice Server Update"). False if the bot is in no voice
    /// channel of the guild.
    pub fn move_voice_server(&mut self, guild: u64) -> bool {
        let Some((key, id)) = self.voice_session(guild) else { return false };
        let token = format!("{:016x}", self.rng.u64(..));
        let away = Object::new().str("token", &token).id("guild_id", guild).null("endpoint").finish();
        self.voice.revoke(guild);
        self.push_to(key, "VOICE_SERVER_UPDATE", &away);
        self.grant_voice(key, guild, &id);
        true
    }

    /// Revokes the guild's voice token after the end of the session took the bot out of the channel.
    pub fn voice_ended(&mut self, event: &Event) {
        debug_assert_eq!(intents::of(event.name), intents::GUILD_VOICE_STATES);
        self.voice.revoke(event.guild);
    }
}
