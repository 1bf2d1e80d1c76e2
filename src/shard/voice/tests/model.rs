//! The table against a model of Discord: op 4s of two clients in every order with Discord's answers, of which one may be
//! missing.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Clone, Debug, PartialEq)]
enum Event {
    State(Option<u64>),
    /// A token, and the client for whose op 4 Discord made it.
    Server(u32, SessionKey),
}

/// A VOICE_SERVER_UPDATE with this token.
fn server(token: u32) -> Vec<u8> {
    format!(r#"{{"token":{token},"endpoint":"voice"}}"#).into_bytes()
}

/// A guild at Discord, the commands and events on their way, and what two clients have been sent.
#[derive(Clone)]
struct Model {
    table: Table,
    channel: Option<u64>,
    token: u32,
    commands: VecDeque<(SessionKey, Option<u64>)>,
    events: VecDeque<Event>,
    position: u64,
    /// The session whose op 4 went to Discord last, and the channel that it wants.
    last: Option<(SessionKey, Option<u64>)>,
    /// The newest token that each client has, and the channel that it believes the bot to be in.
    has: [(u32, Option<u64>); 2],
    /// A client that has asked for the channel that the bot is in. It must not get a voice state that says that the bot
    /// left.
    waits: Option<(SessionKey, u64)>,
    /// Discord has ignored a command. Discord ignores at most one.
    ignored: bool,
    /// The client for whose op 4 Discord last changed the channel.
    connected: Option<SessionKey>,
    /// The steps so far, see [`Model::step`].
    story: Vec<u8>,
}

impl Model {
    fn new() -> Self {
        let (commands, events) = (VecDeque::new(), VecDeque::new());
        let has = [(0, None); 2];
        Self {
            table: table(),
            channel: None,
            token: 0,
            commands,
            events,
            position: 1,
            last: None,
            has,
            waits: None,
            ignored: false,
            connected: None,
            story: Vec::new(),
        }
    }

    fn sends(&mut self, client: SessionKey, channel: Option<u64>) {
        let owner = self.table.owner(GUILD);
        match self.table.send(SECOND, client, ask(channel), |_| true) {
            Verdict::Refuse => {
                assert!(channel.is_none() && owner.is_some_and(|owner| owner != client));
                return;
            }
            Verdict::LeaveFirst => {
                assert!(owner != Some(client));
                self.commands.push_back((client, None));
                self.waits = channel.map(|channel| (client, channel));
            }
            Verdict::Send => self.waits = None,
        }
        self.commands.push_back((client, channel));
        self.last = Some((client, channel));
    }

    fn discord_hears(&mut self) {
        let Some((client, channel)) = self.commands.pop_front() else { return };
        if channel == self.channel {
            self.events.extend(channel.map(|_| Event::State(channel)));
            return;
        }
        self.channel = channel;
        self.events.push_back(Event::State(channel));
        if channel.is_some() {
            self.token += 1;
            self.connected = Some(client);
            self.events.push_back(Event::Server(self.token, client));
        }
    }

    fn discord_ignores(&mut self) {
        self.ignored |= self.commands.pop_front().is_some();
    }

    /// The token that is valid after Discord has handled everything that was sent.
    fn final_token(&self) -> u32 {
        let mut future = self.clone();
        while !future.commands.is_empty() {
            future.discord_hears();
        }
        if future.channel.is_some() { future.token } else { 0 }
    }

    fn proxy_hears(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        self.position += 1;
        match event {
            Event::State(channel) => {
                let to = self.table.own_state(SECOND, state(channel), b"s");
                for client in [SessionKey(0), SessionKey(1)] {
                    if to == Audience::All || to == Audience::Only(client) {
                        let shown_away = channel.is_none() && self.waits.is_some_and(|(waits, _)| waits == client);
                        assert!(!shown_away, "the asker is shown that the bot left");
                        self.has[client.0 as usize].1 = channel;
                    }
                }
                self.waits = self
                    .waits
                    .filter(|(_, wanted)| channel != Some(*wanted) || self.table.guilds[&GUILD].pending_join.is_some());
            }
            Event::Server(token, cause) => match self.table.server_update(GUILD, self.position, &server(token)) {
                Audience::Only(client) => {
                    assert_eq!(self.table.owner(GUILD), Some(client), "a token for who is not the owner");
                    assert!(self.table.is_fresh(GUILD, self.position, client));
                    if !self.ignored {
                        assert_eq!(self.last.map(|(last, _)| last), Some(client), "the owner has not asked last");
                        let stale = cause != client && token != self.final_token();
                        assert!(!stale, "a token of another client that will be void");
                    }
                    self.has[client.0 as usize].0 = token;
                }
                Audience::Nobody => {}
                Audience::All => panic!("a token for everyone"),
            },
        }
    }

    /// Delivers everything that is on its way, and checks that the client that asked last is connected.
    fn check(mut self) {
        while !self.commands.is_empty() || !self.events.is_empty() {
            self.discord_hears();
            self.proxy_hears();
        }
        if self.ignored {
            return self.check_after_time();
        }
        let Some((client, wanted)) = self.last else { return };
        assert_eq!(self.channel, wanted);
        if wanted.is_some() {
            assert_eq!(self.has[client.0 as usize], (self.token, wanted), "client {client} has the newest token");
            assert_eq!(self.table.owner(GUILD), Some(client));
        } else {
            assert!(self.table.is_empty() || self.table.guilds[&GUILD].pending_join.is_some());
        }
    }

    /// Discord has ignored a command. Lets the table give up, and checks that the owner can connect.
    fn check_after_time(mut self) {
        while let Some(at) = self.table.deadline() {
            for due in self.table.tick(at, true) {
                match due {
                    DueAction::TellState(_) => self.has.iter_mut().for_each(|(_, channel)| *channel = None),
                    DueAction::TellServer(_, text) => {
                        let token = json::get(&text, "token").and_then(json::parse_id).expect("a token");
                        self.events.push_back(Event::Server(token as u32, SessionKey(9)));
                    }
                    DueAction::Leave(_) => panic!("no session has ended"),
                }
                self.proxy_hears();
            }
        }
        assert_eq!(self.has.map(|(_, channel)| channel), [self.channel; 2], "both know the channel");
        if self.channel.is_some() {
            let client = self.table.owner(GUILD).expect("no session has ended");
            // An answer to an op 4 for the channel that the owner wants may have been one to another client's op 4.
            let wanted = self.last == Some((client, self.channel));
            assert!(wanted || self.connected == Some(client), "{client} is connected after {:?}", self.story);
            assert_eq!(
                self.has[client.0 as usize].0, self.token,
                "{client} has the newest token after {:?}",
                self.story
            );
        }
    }

    fn step(&mut self, what: u8) {
        self.story.push(what);
        match what {
            0..=5 => self.sends(SessionKey(u32::from(what % 2)), [Some(10), Some(11), None][usize::from(what / 2)]),
            6 => self.discord_hears(),
            8 => self.discord_ignores(),
            _ => self.proxy_hears(),
        }
    }
}

/// Every sequence of seven steps: op 4s of two clients for two channels or none, in every order with Discord's answers, of
/// which one may be missing.
#[test]
fn the_last_one_to_ask_is_connected_in_every_order_of_things() {
    fn explore(model: &Model, depth: u32) -> u64 {
        model.clone().check();
        if depth == 0 {
            return 1;
        }
        (0..9).fold(1, |count, what| {
            if (what == 8 && (model.ignored || model.commands.is_empty()))
                || (what == 6 && model.commands.is_empty())
                || (what == 7 && model.events.is_empty())
            {
                return count;
            }
            let mut next = model.clone();
            next.step(what);
            count + explore(&next, depth - 1)
        })
    }
    let explored = explore(&Model::new(), 7);
    assert!(explored > 10_000, "{explored}");
}

proptest! {
    /// Random sequences of such steps, which are longer.
    #[test]
    fn the_last_one_to_ask_is_connected_after_long_stories(steps in prop::collection::vec(0u8..13, 0..40)) {
        let mut model = Model::new();
        for what in steps {
            match what {
                0..8 => model.step(what),
                8 if model.ignored => {}
                8 => model.step(8),
                _ => model.step(6 + what % 2),
            }
        }
        model.check();
    }
}
