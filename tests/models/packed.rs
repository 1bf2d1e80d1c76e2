//! Guilds pass from one process to the next as packed records, after events of real guilds. In the next process they
//! must be the same, whatever the codec's tables of the reading thread contain: nothing, the same entries, more
//! entries, or those of other guilds.

use gateway_proxy::{
    cache::{Cache, Flags, View},
    protocol::event::EventKind,
};
use std::thread;
use world::{Body, Settings, Wish, World};

struct Story {
    ready: String,
    /// GUILD_CREATEs, and the events until the proxy stops.
    before: Vec<(&'static str, String)>,
    /// The events that the next process gets.
    after: Vec<(&'static str, String)>,
}

impl Story {
    fn new(seed: u64) -> Self {
        let (shards, guilds, presences, channels, roles, emojis) = (1, 12, 0.5, 8, 6, 4);
        let mut world =
            World::generate(Settings { seed, shards, guilds, members: 60, presences, channels, roles, emojis });
        let guilds: Vec<String> = world.guilds_of(0).map(|guild| format!(r#"{{"id":"{}"}}"#, guild.id())).collect();
        let ready = format!(r#"{{"user":{{"id":"{}"}},"guilds":[{}]}}"#, world.bot(), guilds.join(","));
        let create = |world: &World, id| world.guild(id).expect("a guild").create(None, false, world.bot());
        let mut before = Vec::new();
        for id in world.guilds_of(0).map(|guild| guild.id()).collect::<Vec<_>>() {
            before.push(("GUILD_CREATE", create(&world, id)));
        }
        let happen = |world: &mut World, events: &mut Vec<_>, count| {
            for round in 0..count {
                for event in world.happen(0, if round % 3 == 0 { Wish::Any } else { Wish::State }) {
                    match event.body {
                        Body::Json { text, .. } => events.push((event.name, text)),
                        Body::Guild { .. } => events.push(("GUILD_CREATE", create(world, event.guild))),
                    }
                }
            }
        };
        happen(&mut world, &mut before, 3_000);
        let mut after = Vec::new();
        happen(&mut world, &mut after, 3_000);
        Self { ready, before, after }
    }

    fn cache(&self) -> Cache {
        let mut cache = Cache::new(Flags::ALL);
        cache.ready(self.ready.as_bytes()).expect("READY");
        cache
    }
}

fn play(cache: &mut Cache, events: &[(&str, String)]) {
    for (name, text) in events {
        cache.apply(EventKind::from_name(name.as_bytes()), text.as_bytes());
    }
}

type Shown = Vec<(u64, Option<String>)>;

/// The snapshots of all guilds in order; `None` for an unavailable guild.
fn shown(cache: &Cache) -> Shown {
    let show = |id| {
        let mut snapshot = cache.snapshot(id, View::ALL).filter(|snapshot| !snapshot.unavailable())?;
        let (mut out, length) = (Vec::new(), snapshot.len());
        while !snapshot.write(&mut out, 100_000) {}
        assert_eq!(out.len(), length, "the length that the snapshot said");
        Some(String::from_utf8(out).expect("UTF-8"))
    };
    cache.guilds().map(|(id, _)| (id, show(id))).collect()
}

fn counted(cache: &Cache) -> [usize; 7] {
    let counts = cache.counts();
    let people = [counts.members, counts.presences, counts.voice_states];
    let [members, presences, voice] = people;
    [counts.unavailable_guilds, counts.channels, members, presences, counts.roles, counts.emojis, voice]
}

fn written(cache: &mut Cache) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut tables = Vec::new();
    cache.write_tables(&mut tables);
    let mut guilds = Vec::new();
    for (id, available) in cache.guilds() {
        let mut out = Vec::new();
        assert_eq!(cache.write_guild(id, &mut out), available);
        guilds.extend(available.then_some(out));
    }
    (tables, guilds)
}

/// What the cache of the next process shows at the start, and after the events of `after`.
fn next_process(story: &Story, (tables, guilds): &(Vec<u8>, Vec<Vec<u8>>)) -> [(Shown, [usize; 7]); 2] {
    let mut cache = story.cache();
    let origin = cache.read_tables(tables).expect("well-formed tables");
    for guild in guilds {
        assert!(cache.read_guild(&origin, guild).is_some());
    }
    // Guilds are ordered as in READY, and guilds that were joined later come after those.
    let start = (shown(&cache), counted(&cache));
    play(&mut cache, &story.after);
    [start, (shown(&cache), counted(&cache))]
}

fn on_a_new_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(run).join().expect("no panic"))
}

#[test]
fn a_guild_is_the_same_on_every_thread() {
    for seed in 1..4 {
        let (story, other) = (Story::new(seed), Story::new(seed + 100));
        let (packed, expected) = on_a_new_thread(|| {
            let mut cache = story.cache();
            play(&mut cache, &story.before);
            let packed = written(&mut cache);
            // The expected result comes from a cache that gets the guilds as JSON text.
            let mut by_text = story.cache();
            for (_, text) in shown(&cache) {
                if let Some(text) = text {
                    assert!(by_text.apply(EventKind::GuildCreate, text.as_bytes()).changed);
                }
            }
            let start = (shown(&by_text), counted(&by_text));
            play(&mut by_text, &story.after);
            let expected = [start, (shown(&by_text), counted(&by_text))];
            assert_eq!(next_process(&story, &packed), expected, "the same thread");
            play(&mut other.cache(), &other.before);
            assert_eq!(next_process(&story, &packed), expected, "the same thread with larger tables");
            (packed, expected)
        });
        let new = on_a_new_thread(|| next_process(&story, &packed));
        assert_eq!(new, expected, "a new thread");
        let foreign = on_a_new_thread(|| {
            play(&mut other.cache(), &other.before);
            next_process(&story, &packed)
        });
        assert_eq!(foreign, expected, "a thread with other tables");
    }
}
