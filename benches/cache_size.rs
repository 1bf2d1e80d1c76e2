//! What the cache takes: bytes of heap for each member, presence and guild. `cargo bench --bench cache_size`.
//!
//! Every allocation of the process is counted, so nothing is left out: records, chunks, indices, tables, and what the
//! allocator was asked for in vain. The same world is cached with one thing more each time; the difference is its price.
//!
//! Fails when a flag's price is more than a tenth away from the figure of `cache::sizes`, with which `gateway-proxy check`
//! estimates. That is checked for the default world alone.

use gateway_proxy::{
    cache::{
        Cache, Flags,
        sizes::{Each, GUILD, SIZES},
    },
    protocol::event::EventKind,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    env,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};
use world::{Body, Settings, Wish, World};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; only a number is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size, Relaxed);
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn fill(texts: &[String], flags: Flags) -> (Cache, usize) {
    let before = ALLOCATED.load(Relaxed);
    let mut cache = Cache::new(flags);
    for text in texts {
        assert!(cache.apply(EventKind::GuildCreate, text.as_bytes()).changed);
    }
    let after = ALLOCATED.load(Relaxed);
    (cache, after - before)
}

/// Prints what each flag takes alone. Returns those that differ from the figures of `cache::sizes`.
fn by_flag(texts: &[String], presences: f64) -> Vec<(&'static str, f64)> {
    let (none, without) = fill(texts, Flags::default());
    let guilds = none.counts().guilds as f64;
    let (all, _) = fill(texts, Flags::ALL);
    let counts = all.counts();
    assert!((counts.presences as f64 / counts.members as f64 - presences).abs() < 0.05, "the share of presences");
    let mut wrong = Vec::new();
    let mut note = |flag, figure: f64, measured: f64| {
        println!("{flag:<17} {measured:8.1} bytes, and {figure:.1} for `gateway-proxy check`");
        // A byte more or less of something tiny is no difference.
        if (measured - figure).abs() > 0.1 * figure + 2.0 {
            wrong.push((flag, measured));
        }
    };
    note("guild", GUILD, without as f64 / guilds);
    for size in &SIZES {
        let taken = fill(texts, size.alone).1 as f64 - without as f64;
        let number = match size.each {
            Each::Guild => guilds,
            Each::Member => counts.members as f64,
            Each::Presence => counts.presences as f64,
        };
        note(size.flag, size.bytes, taken / number);
    }
    wrong
}

fn main() {
    let (guilds, members) = (setting("GUILDS", 2_000), setting("MEMBERS", 400_000));
    let updates = setting("UPDATES", 1_000_000);
    let (seed, shards, presences) = (7, 1, 0.3);
    let mut world = World::generate(Settings {
        seed,
        shards,
        guilds: guilds as usize,
        members: members / guilds,
        presences,
        channels: 30,
        roles: 25,
        emojis: 20,
    });
    let texts: Vec<String> = world.guilds_of(0).map(|guild| guild.create(None, false, world.bot())).collect();
    let json: usize = texts.iter().map(String::len).sum();
    // The tables are made once and stay; the first round pays for them.
    let tables = fill(&texts, Flags::ALL).1;
    let rest = fill(&texts, Flags { members: false, presences: false, current_member: false, ..Flags::ALL }).1;
    let with_members = fill(&texts, Flags { presences: false, ..Flags::ALL }).1;
    let (mut cache, all) = fill(&texts, Flags::ALL);
    let counts = cache.counts();
    let each = |bytes: usize, count: usize| bytes as f64 / count as f64;
    println!(
        "{} guilds, {} members, {} presences, {} MB of JSON",
        counts.guilds,
        counts.members,
        counts.presences,
        json >> 20
    );
    println!("bytes per member with its user   {:8.1}", each(with_members - rest, counts.members));
    println!("bytes per presence               {:8.1}", each(all - with_members, counts.presences));
    println!("bytes of the rest of a guild     {:8.0}", each(rest, counts.guilds));
    println!("tables, once for each core       {:8}", tables - all);
    println!(
        "all                              {:8.1} MB, of {:.1} MB that the cache counts itself",
        each(all, 1 << 20),
        each(cache.heap(), 1 << 20)
    );
    println!("times smaller than its JSON      {:8.1}", each(json, all));
    let wrong = by_flag(&texts, presences);
    let is_default = env::var("GUILDS").is_err() && env::var("MEMBERS").is_err();
    assert!(!is_default || wrong.is_empty(), "put these figures into src/cache/sizes.rs: {wrong:?}");
    drop(texts);
    let mut held = 0;
    for _ in 0..updates {
        for event in world.happen(0, Wish::Any) {
            if let Body::Json { text, .. } = event.body {
                let world_now = ALLOCATED.load(Relaxed);
                cache.apply(EventKind::from_name(event.name.as_bytes()), text.as_bytes());
                held += ALLOCATED.load(Relaxed) as i64 - world_now as i64;
            }
        }
    }
    let counts = cache.counts();
    println!(
        "after {updates} events               {:+8.1} MB: {} members, {} presences, {:.1} MB in all",
        held as f64 / f64::from(1 << 20),
        counts.members,
        counts.presences,
        each((all as i64 + held) as usize, 1 << 20),
    );
}
