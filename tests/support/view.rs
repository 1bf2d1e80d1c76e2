//! What a library's own cache holds of a guild, in terms that all libraries share, and its comparison with the truth.

use std::{collections::BTreeMap, fmt::Debug};

use serde::Deserialize;
use serde_json::Value;

/// A guild as a library's cache or as the simulator has it. tests/clients/README.md names the same fields.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// The guild's name.
    pub name: String,
    /// Names of the channels, without threads.
    pub channels: BTreeMap<String, String>,
    /// Names of the roles.
    pub roles: BTreeMap<String, String>,
    /// Nicknames of the members that are known.
    pub members: BTreeMap<String, Option<String>>,
    /// The voice channels of the users who are in one.
    pub voice: BTreeMap<String, String>,
    /// Names of the active threads.
    pub threads: BTreeMap<String, String>,
}

impl View {
    /// The view of a guild that is given as the `d` of a GUILD_CREATE.
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

    /// The first difference between what a library holds and the truth. Of a large guild (`partial`) Discord itself sends
    /// a part of the members, so the library may know fewer; those that it knows have to be right.
    ///
    /// # Errors
    /// What differs.
    pub fn compare(&self, truth: &Self, partial: bool) -> Result<(), String> {
        if self.name != truth.name {
            return Err(format!("the name is {:?}, it should be {:?}", self.name, truth.name));
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
            None => return Err(format!("{what} {id} is gone, and the library holds {value:?}")),
            Some(right) if right != value => {
                return Err(format!("{what} {id}: the library holds {value:?}, it should be {right:?}"));
            }
            Some(_) => {}
        }
    }
    match truth.iter().find(|(id, _)| !partial && !held.contains_key(*id)) {
        Some((id, value)) => Err(format!("{what} {id} ({value:?}) is unknown to the library")),
        None => Ok(()),
    }
}
