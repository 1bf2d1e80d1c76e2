//! Voice connections of the bot: Discord's side of them, what the proxy has been told of it, and what clients must and must
//! not get. P5 holds here in three forms: a token goes to one client session at most, a token that the proxy knew to be void
//! is never sent on a later connection, and who has asked last has the token that is good.

use crate::{
    discord::{BOT, Discord},
    host::Host,
    trace::{Coverage, Event, note},
};
use fastrand::Rng;
use gateway_proxy::protocol::Time;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A channel in which the bot is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    pub channel: u64,
    pub token: u64,
}

/// Discord's side.
#[derive(Default)]
pub struct Servers {
    pub guilds: BTreeMap<u64, Place>,
    /// The client session whose op 4 for a guild Discord has received last; 0 is the proxy itself.
    pub heard: BTreeMap<u64, u64>,
    next: u64,
}

/// What an event tells of voice.
#[derive(Clone, Copy, Debug)]
pub enum Told {
    Nothing,
    /// The bot has left.
    Left(u64),
    /// Guild and token.
    Server(u64, u64),
}

impl Told {
    /// Of a payload of Discord.
    pub fn by(text: &str) -> Self {
        if !text.starts_with(r#"{"t":"VOICE_"#) {
            return Self::Nothing;
        }
        let payload: Value = serde_json::from_str(text).expect("its own payload");
        let data = &payload["d"];
        let guild = number(&data["guild_id"]).expect("a guild");
        match number(&data["token"]) {
            Some(token) => Self::Server(guild, token),
            None if data["channel_id"].is_null() => Self::Left(guild),
            None => Self::Nothing,
        }
    }
}

fn number(value: &Value) -> Option<u64> {
    value.as_str().and_then(|text| text.parse().ok())
}

/// What the proxy knows of tokens, and to whom they went.
#[derive(Default)]
pub struct Tokens {
    good: BTreeMap<u64, u64>,
    /// Tokens that are void, in the order in which the proxy has learned it.
    void: BTreeMap<u64, u64>,
    order: u64,
    /// The client session that each token was sent to.
    owners: BTreeMap<u64, u64>,
    /// The client session whose op 4 for a guild was sent last.
    asked: BTreeMap<u64, u64>,
    sessions: u64,
}

impl Tokens {
    /// The proxy has taken an event; `ready`: it is a new session of Discord.
    pub fn told(&mut self, told: Told, ready: bool) {
        self.order += 1;
        let void: Vec<u64> = match told {
            _ if ready => std::mem::take(&mut self.good).into_values().collect(),
            Told::Left(guild) => self.good.remove(&guild).into_iter().collect(),
            Told::Server(guild, token) => self.good.insert(guild, token).into_iter().collect(),
            Told::Nothing => return,
        };
        self.void.extend(void.into_iter().map(|token| (token, self.order)));
    }

    /// What is void now is not sent on a connection that begins now.
    pub fn now(&self) -> u64 {
        self.order
    }

    /// A number for a client's session.
    pub fn session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }
}

/// A client session's side.
#[derive(Default)]
pub struct Heard {
    /// Its number.
    session: u64,
    /// What the proxy knew when its connection began.
    since: u64,
    /// The channel of the bot in each guild.
    channels: BTreeMap<u64, u64>,
    /// The newest token for each guild.
    tokens: BTreeMap<u64, u64>,
}

impl Heard {
    /// The session has begun, or has another connection.
    pub fn connects(&mut self, host: &mut Host) {
        if self.session == 0 {
            self.session = host.voice.session();
        }
        self.since = host.voice.now();
    }

    /// Sends an op 4 about one of these guilds.
    pub fn ask(&self, connection: u64, guilds: &[u64], host: &mut Host, rng: &mut Rng, coverage: &mut Coverage) {
        let Some(&guild) = guilds.get(rng.usize(0..guilds.len().max(1))) else { return };
        let channel = (rng.u8(0..5) > 0).then(|| (guild * 10 + rng.u64(0..2)).to_string());
        let data = json!({"guild_id": guild.to_string(), "channel_id": channel, "asker": self.session});
        if host.command(connection, &json!({"op": 4, "d": data}).to_string()).is_some() {
            note(|| format!("client session {}: wants {channel:?} of {guild}", self.session));
            coverage.count(Event::VoiceAsked);
            host.voice.asked.insert(guild, self.session);
        }
    }

    /// The bot's voice state in a GUILD_CREATE.
    pub fn guild(&mut self, guild: u64, data: &Value) {
        self.channels.remove(&guild);
        for state in data["voice_states"].as_array().expect("voice states") {
            self.state(guild, state);
        }
    }

    pub fn guild_left(&mut self, guild: u64) {
        self.channels.remove(&guild);
    }

    /// A voice state of the bot.
    pub fn state(&mut self, guild: u64, data: &Value) {
        match number(&data["channel_id"]) {
            Some(channel) => self.channels.insert(guild, channel),
            None => self.channels.remove(&guild),
        };
    }

    /// A VOICE_SERVER_UPDATE.
    pub fn server(&mut self, guild: u64, data: &Value, host: &mut Host, coverage: &mut Coverage) {
        coverage.count(Event::VoiceServers);
        let token = number(&data["token"]).expect("a token");
        let owner = *host.voice.owners.entry(token).or_insert(self.session);
        assert_eq!(owner, self.session, "P5: token {token} of guild {guild} goes to a second client session");
        let void = host.voice.void.get(&token).is_some_and(|order| *order <= self.since);
        assert!(!void, "P5: token {token} of guild {guild} was void before the connection on which it is sent");
        self.tokens.insert(guild, token);
    }

    /// Does it know where the bot is, and can it use the connections that it has asked for last?
    pub fn check(&self, name: usize, host: &Host, discord: &Discord) {
        let truth: BTreeMap<u64, u64> =
            discord.voice.guilds.iter().map(|(guild, place)| (*guild, place.channel)).collect();
        assert_eq!(self.channels, truth, "P5: the voice channels of the bot for client {name}");
        for (guild, place) in &discord.voice.guilds {
            let last = |asked: &BTreeMap<u64, u64>| asked.get(guild) == Some(&self.session);
            if last(&host.voice.asked) && last(&discord.voice.heard) {
                assert_eq!(
                    self.tokens.get(guild),
                    Some(&place.token),
                    "P5: client {name} has asked last in guild {guild}"
                );
            }
        }
    }
}

impl Discord {
    /// Update Voice State (op 4): only who comes from elsewhere is given a voice server.
    pub fn voice_state(&mut self, now: Time, data: &Value, coverage: &mut Coverage) {
        let guild = number(&data["guild_id"]).expect("a guild");
        if !self.guilds.get(&guild).is_some_and(|guild| guild.available) {
            return;
        }
        coverage.count(Event::VoiceHeard);
        self.voice.heard.insert(guild, data["asker"].as_u64().unwrap_or(0));
        self.enter_voice(now, guild, number(&data["channel_id"]));
    }

    fn enter_voice(&mut self, now: Time, guild: u64, channel: Option<u64>) {
        let before = self.voice.guilds.get(&guild).copied();
        let Some(channel) = channel else {
            if self.voice.guilds.remove(&guild).is_some() {
                self.tell_voice_state(now, guild, None);
            }
            return;
        };
        let moved = before.is_none_or(|before| before.channel != channel);
        let token = if moved { self.new_token() } else { before.map_or(0, |before| before.token) };
        self.voice.guilds.insert(guild, Place { channel, token });
        self.tell_voice_state(now, guild, Some(channel));
        if moved {
            self.tell_voice_server(now, guild, token);
        }
    }

    fn new_token(&mut self) -> u64 {
        self.voice.next += 1;
        self.voice.next
    }

    /// The bot's voice states in a GUILD_CREATE.
    pub fn voice_states(&self, guild: u64) -> Value {
        let place = self.voice.guilds.get(&guild);
        place.map_or(json!([]), |place| json!([self.own_state(Some(place.channel))]))
    }

    fn own_state(&self, channel: Option<u64>) -> Value {
        json!({
            "user_id": BOT.to_string(), "channel_id": channel.map(|channel| channel.to_string()),
            "session_id": self.session_id(), "self_mute": false, "self_deaf": false,
        })
    }

    fn tell_voice_state(&mut self, now: Time, guild: u64, channel: Option<u64>) {
        let mut data = self.own_state(channel);
        data["guild_id"] = guild.to_string().into();
        self.dispatch(now, "VOICE_STATE_UPDATE", &data, None, Some(guild), false);
    }

    fn tell_voice_server(&mut self, now: Time, guild: u64, token: u64) {
        let data = json!({"guild_id": guild.to_string(), "token": token.to_string(), "endpoint": "voice"});
        self.dispatch(now, "VOICE_SERVER_UPDATE", &data, None, Some(guild), false);
    }

    /// A moderator moves the bot or takes it out of voice, or Discord moves the voice server.
    pub fn disturb_voice(&mut self, now: Time, rng: &mut Rng, coverage: &mut Coverage) {
        let guilds: BTreeSet<u64> = self.voice.guilds.keys().copied().collect();
        let Some(&guild) = guilds.iter().nth(rng.usize(0..guilds.len().max(1))) else { return };
        coverage.count(Event::VoiceDisturbed);
        match rng.u8(0..3) {
            0 => self.enter_voice(now, guild, None),
            1 => self.enter_voice(now, guild, Some(guild * 10 + rng.u64(0..2))),
            _ => {
                let token = self.new_token();
                self.voice.guilds.get_mut(&guild).expect("it is there").token = token;
                self.tell_voice_server(now, guild, token);
            }
        }
    }
}
