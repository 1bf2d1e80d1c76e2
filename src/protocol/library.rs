//! Which library a client runs, by the `properties` of its IDENTIFY (docs: Gateway Events, Identify Connection Properties).
//!
//! Only names of the table below are ever shown, so a client can put no text of its own into metrics, logs or pages, and the
//! number of values is bounded.

use serde_json::{Map, Value};

/// A library that the proxy knows, or one of two names for all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Library(u8);

/// What `browser` or `device` contains, in lower case, and the name that is shown for it. The first match wins.
const KNOWN: &[(&str, &str)] = &[
    ("discord.js", "discord.js"),
    ("@discordjs/ws", "discord.js"),
    ("discord.py", "discord.py"),
    ("pycord", "py-cord"),
    ("py-cord", "py-cord"),
    ("disnake", "disnake"),
    ("nextcord", "nextcord"),
    ("hikari", "hikari"),
    ("interactions", "interactions.py"),
    ("serenity", "serenity"),
    ("twilight", "twilight"),
    ("jda", "jda"),
    ("discord4j", "discord4j"),
    ("javacord", "javacord"),
    ("kord", "kord"),
    ("discordgo", "discordgo"),
    ("disgo", "disgo"),
    ("arikawa", "arikawa"),
    ("discordeno", "discordeno"),
    ("oceanic", "oceanic.js"),
    ("eris", "eris"),
    ("discord.net", "discord.net"),
    ("dsharpplus", "dsharpplus"),
    ("netcord", "netcord"),
    ("d++", "d++"),
    ("dpp", "d++"),
    ("concord", "concord"),
    ("discordrb", "discordrb"),
    ("nostrum", "nostrum"),
    ("nyxx", "nyxx"),
    ("discord-sim", "discord-sim"),
];

/// Longest value of a property that is looked at, in bytes.
const MAX_VALUE: usize = 256;

impl Library {
    /// The IDENTIFY says nothing of its library.
    pub const UNKNOWN: Self = Self(0);
    /// It names one that is not in the table.
    pub const OTHER: Self = Self(1);

    /// From the `properties` of an IDENTIFY. Older libraries write `$browser` and `$device`.
    pub fn from_properties(properties: &Map<String, Value>) -> Self {
        let values = ["browser", "$browser", "device", "$device"].into_iter().filter_map(|key| {
            let value = properties.get(key)?.as_str()?;
            (!value.is_empty() && value.len() <= MAX_VALUE).then(|| value.to_ascii_lowercase())
        });
        let mut library = Self::UNKNOWN;
        for value in values {
            match KNOWN.iter().position(|(needle, _)| value.contains(needle)) {
                Some(index) => return Self(index as u8 + 2),
                None => library = Self::OTHER,
            }
        }
        library
    }

    /// The library with this name; [`Library::UNKNOWN`] when there is none.
    pub fn from_name(name: &str) -> Self {
        match KNOWN.iter().position(|(_, known)| *known == name) {
            Some(index) => Self(index as u8 + 2),
            None if name == Self::OTHER.name() => Self::OTHER,
            None => Self::UNKNOWN,
        }
    }

    /// The name that is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::UNKNOWN => "unknown",
            Self::OTHER => "other",
            Self(known) => KNOWN[usize::from(known) - 2].1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn library(properties: &Value) -> &'static str {
        Library::from_properties(properties.as_object().expect("an object")).name()
    }

    #[test]
    fn libraries_are_known_by_their_properties() {
        assert_eq!(library(&json!({"os": "linux", "browser": "discord.py", "device": "discord.py"})), "discord.py");
        assert_eq!(library(&json!({"browser": "@discordjs/ws 1.2.3", "device": "x"})), "discord.js");
        assert_eq!(library(&json!({"browser": "Eris"})), "eris");
        assert_eq!(library(&json!({"$os": "linux", "$browser": "twilight.rs"})), "twilight");
        assert_eq!(library(&json!({"browser": "", "device": "JDA"})), "jda");
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        assert_eq!(library(&json!({"browser": "\"><script>"})), "other");
        assert_eq!(library(&json!({"browser": format!("jda{}", "x".repeat(MAX_VALUE))})), "unknown");
        assert_eq!(library(&json!({"browser": 5, "device": null})), "unknown");
        assert_eq!(library(&json!({})), "unknown");
    }

    #[test]
    fn names_lead_back_to_a_library_of_that_name() {
        for index in 0..KNOWN.len() + 2 {
            let library = Library(index as u8);
            assert_eq!(Library::from_name(library.name()).name(), library.name());
        }
        assert_eq!(Library::from_name("evil"), Library::UNKNOWN);
    }
}
