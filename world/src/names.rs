//! Names of users, guilds and channels, texts and hashes, drawn from a seeded generator.
//!
//! Generated names contain what real names contain: other scripts, emoji, joiners, quotes, backslashes and line ends.
//! Pure.

use fastrand::Rng;

const SYLLABLES: &[&str] = &[
    "ka", "ri", "no", "zu", "mel", "tor", "vex", "lu", "shi", "dra", "el", "wyn", "fox", "ny", "mo", "ber", "qua",
    "jo", "pix", "hal", "ter", "rin", "sol", "va", "gr", "oak", "ice", "blu", "dex", "ora", "tin", "umi", "rex", "cy",
    "phe", "lo",
];
const FIRST: &[&str] = &[
    "Mira",
    "Jonas",
    "Ayşe",
    "Łukasz",
    "Zoë",
    "Иван",
    "Анна",
    "美咲",
    "太郎",
    "민준",
    "Chloé",
    "Søren",
    "Nguyễn",
    "أحمد",
    "דָּנִי",
    "Max",
    "Lena",
    "Oliver",
    "Björk",
    "Ezra",
    "Noor",
    "Kai",
    "Ines",
    "Tomás",
];
const DECORATION: &[&str] = &[
    "✨",
    "🦊",
    "🐧",
    "🔥",
    "🌸",
    "👩‍💻",
    "🏳️‍🌈",
    "🎮",
    "☕",
    "⚔️",
    "🇵🇱",
    "💀",
    "(AFK)",
    "\"dev\"",
    "\\o/",
    "ツ",
    "™",
    "[clan]",
];
const GUILD: &[&str] = &[
    "Gaming",
    "Study",
    "Anime",
    "Rust",
    "Crypto",
    "Art",
    "Music",
    "Minecraft",
    "Café",
    "Guild",
    "Academy",
    "Fan Club",
    "Community",
    "Server",
    "HQ",
    "Lounge",
    "Labs",
    "日本語",
    "Россия",
    "Brasil",
    "Deutschland",
    "Official",
];
const CHANNEL: &[&str] = &[
    "general",
    "off-topic",
    "memes",
    "bot-commands",
    "announcements",
    "rules",
    "welcome",
    "introductions",
    "art",
    "music",
    "screenshots",
    "support",
    "suggestions",
    "looking-for-group",
    "dev-log",
    "help",
    "pets",
    "フリートーク",
    "общение",
    "『💬』chat",
    "logs",
    "mod-chat",
    "starboard",
    "news",
    "events",
    "clips",
];
const VOICE: &[&str] = &["Lounge", "Gaming 1", "Gaming 2", "Music 🎵", "AFK", "Duo", "Squad", "Study Room", "Sala 1"];
const ROLE: &[&str] = &[
    "Admin",
    "Moderator",
    "Member",
    "VIP",
    "Booster 💎",
    "Muted",
    "Artist",
    "Streamer",
    "Bots",
    "Level 10",
    "Level 50",
    "he/him",
    "she/her",
    "they/them",
    "EU",
    "NA",
    "Event Host",
    "Verified ✅",
    "Neuling",
    "古参",
];
const WORDS: &[&str] = &[
    "the",
    "a",
    "is",
    "you",
    "what",
    "lol",
    "this",
    "game",
    "not",
    "why",
    "when",
    "we",
    "play",
    "today",
    "cool",
    "nice",
    "check",
    "https://example.com/watch?v=dQw4w9WgXcQ&t=42s",
    "<@&41771983423143937>",
    "<:pog:41771983423143938>",
    "bruh",
    "ok",
    "thanks",
    "не",
    "да",
    "ありがとう",
    "schön",
    "año",
    "🎉",
    "😂",
    "`cargo run`",
    "\"quoted\"",
    "C:\\Users",
    "someone",
    "server",
    "again",
    "maybe",
    "tomorrow",
    "stream",
    "new",
    "update",
    "broke",
    "my",
    "build",
];
const GAMES: &[&str] = &[
    "Minecraft",
    "VALORANT",
    "League of Legends",
    "Genshin Impact",
    "Visual Studio Code",
    "osu!",
    "Factorio",
    "Counter-Strike 2",
    "Stardew Valley",
    "Pokémon Showdown",
    "Elden Ring",
    "Rocket League®",
];
const SONGS: &[&str] = &["Bad Apple!!", "Sandstorm", "Für Elise", "夜に駆ける", "Bohemian Rhapsody", "99 Luftballons"];
const EMOJI: &[&str] = &["🔥", "👍", "😂", "❤️", "🎉", "👀", "🦀", "🙏", "💀", "✅"];
const EMOJI_NAMES: &[&str] = &[
    "pog",
    "kekw",
    "sadge",
    "blobcat",
    "party_parrot",
    "thonk",
    "catjam",
    "yes",
    "no",
    "pepe_hands",
    "ferris",
    "heart_eyes",
];

fn pick<'a>(rng: &mut Rng, words: &[&'a str]) -> &'a str {
    words[rng.usize(..words.len())]
}

/// A random element of `words`.
pub fn one_of<'a>(rng: &mut Rng, words: &[&'a str]) -> &'a str {
    pick(rng, words)
}

/// A username in the form that is required since 2023: lower case, digits, dots and underscores.
pub fn username(rng: &mut Rng) -> String {
    let mut name = String::with_capacity(16);
    for _ in 0..rng.usize(2..5) {
        name.push_str(pick(rng, SYLLABLES));
    }
    match rng.u8(..6) {
        0 => name.push('_'),
        1 => name.push('.'),
        _ => {}
    }
    if rng.u8(..3) > 0 {
        name.push_str(itoa::Buffer::new().format(rng.u32(..99_999)));
    }
    name
}

/// A display name or nickname.
pub fn display_name(rng: &mut Rng) -> String {
    let mut name = if rng.bool() {
        pick(rng, FIRST).to_owned()
    } else {
        let mut made = username(rng);
        made[..1].make_ascii_uppercase();
        made
    };
    if rng.u8(..3) == 0 {
        name.push(' ');
        name.push_str(pick(rng, DECORATION));
    }
    name
}

/// A guild name.
pub fn guild(rng: &mut Rng) -> String {
    let mut name = display_name(rng);
    if rng.bool() {
        name.push_str("'s");
    }
    name.push(' ');
    name.push_str(pick(rng, GUILD));
    name
}

/// A name of a text, announcement or forum channel.
pub fn channel(rng: &mut Rng) -> String {
    let mut name = pick(rng, CHANNEL).to_owned();
    if rng.u8(..3) == 0 {
        name.push('-');
        name.push_str(pick(rng, SYLLABLES));
    }
    name
}

/// A name of a voice or stage channel.
pub fn voice_channel(rng: &mut Rng) -> &'static str {
    pick(rng, VOICE)
}

/// A role name.
pub fn role(rng: &mut Rng) -> &'static str {
    pick(rng, ROLE)
}

/// A text of about `words` words, sometimes with line ends.
pub fn text(rng: &mut Rng, words: usize) -> String {
    let mut text = String::with_capacity(words * 6);
    for at in 0..words {
        if at > 0 {
            text.push(if rng.u8(..40) == 0 { '\n' } else { ' ' });
        }
        text.push_str(pick(rng, WORDS));
    }
    text
}

/// The name of a game or an editor.
pub fn game(rng: &mut Rng) -> &'static str {
    pick(rng, GAMES)
}

/// A song.
pub fn song(rng: &mut Rng) -> &'static str {
    pick(rng, SONGS)
}

/// A Unicode emoji.
pub fn emoji(rng: &mut Rng) -> &'static str {
    pick(rng, EMOJI)
}

/// A name of a custom emoji, sticker or sound.
pub fn emoji_name(rng: &mut Rng) -> &'static str {
    pick(rng, EMOJI_NAMES)
}

/// `digits` hexadecimal digits.
pub fn hex(rng: &mut Rng, digits: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(digits);
    let mut bits = 0_u64;
    for at in 0..digits {
        if at % 16 == 0 {
            bits = rng.u64(..);
        }
        text.push(char::from(DIGITS[(bits & 15) as usize]));
        bits >>= 4;
    }
    text
}

/// An image hash; one in ten is animated.
pub fn image_hash(rng: &mut Rng) -> String {
    let hash = hex(rng, 32);
    if rng.u8(..10) == 0 { format!("a_{hash}") } else { hash }
}
