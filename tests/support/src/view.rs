//! The content of a library's own cache about a guild, in terms that all libraries share, and its comparison with the
//! true state.

use std::{collections::BTreeMap, fmt::Debug};

use serde::Deserialize;
use serde_json::Value;

/// A guild as a library's cache or the simulator has it. tests/clients/README.md names the same fields.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// The guild's name.
    pub name: String,
    /// The names of the channels, without threads, by id.
    pub channels: BTreeMap<String, String>,
    /// The names of the roles, by id.
    pub roles: BTreeMap<String, String>,
    /// The nicknames of the members, by user id.
    pub members: BTreeMap<String, Option<String>>,
    /// The voice channel of each user who is in one, by user id.
    pub voice: BTreeMap<String, String>,
    /// The names of the active threads, by id.
    pub threads: BTreeMap<String, String>,
}

impl View {
    /// The view of the guild in the `d` of a GUILD_CREATE.
    pub fn of_guild(guild: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let map = |list: &str, key: fn(&Value) -> &Value, value: &str| -> BTreeMap<String, String> {
            let list = guild[list].as_array().into_iter().flatten();
            list.map(|entry| (text(key(entry)), text(&entry[value]))).collect()
        };
        let members = guild["members"].as_array().into_iter().flatten();
        Self {
            name: text(&guild["name"]),
            channels: map("channels", |channel| &channel["id"], "name"),
            roles: map("roles", |role| &role["id"], "name"),
            members: members
                .map(|member| (text(&member["user"]["id"]), member["nick"].as_str().map(ToOwned::to_owned)))
                .collect(),
            voice: map("voice_states", |state| &state["user_id"], "channel_id"),
            threads: map("threads", |thread| &thread["id"], "name"),
        }
    }

    /// Compares a library's cache with the true state. `partial`: Discord sends only a part of the members of a large
    /// guild, so members may be missing, but those that the library has must be right.
    ///
    /// # Errors The first difference.
    pub fn compare(&self, truth: &Self, partial: bool) -> Result<(), String> {
        if self.name != truth.name {
            return Err(format!("the name is {:?}, expected {:?}", self.name, truth.name));
        }
        same("channel", &self.channels, &truth.channels, false)?;
        same("role", &self.roles, &truth.roles, false)?;
        same("voice state of user", &self.voice, &truth.voice, false)?;
        same("thread", &self.threads, &truth.threads, false)?;
        same("member", &self.members, &truth.members, partial)
    }
}

fn same<T: PartialEq + Debug>(
    what: &str,
    held: &BTreeMap<String, T>,
    truth: &BTreeMap<String, T>,
    partial: bool,
) -> Result<(), String> {
    for (id, value) in held {
        match truth.get(id) {
            None => return Err(format!("{what} {id} does not exist any more, but the library has {value:?}")),
            Some(right) if right != value => {
                return Err(format!("{what} {id}: the library has {value:?}, expected {right:?}"));
            }
            Some(_) => {}
        }
    }
    match truth.iter().find(|(id, _)| !partial && !held.contains_key(*id)) {
        Some((id, value)) => Err(format!("the library lacks {what} {id} ({value:?})")),
        None => Ok(()),
    }
}
