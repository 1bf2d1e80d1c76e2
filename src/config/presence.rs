//! The presence that shards identify with (docs: Gateway Events, Update Presence).

use serde_json::{Value, json, value::RawValue};
use twilight_model::gateway::presence::Activity;

/// The placeholder for the shard's id in `name` and `state` of the activity.
const PLACEHOLDER: &str = "{{shard}}";

/// The presence of all shards, with the placeholder.
#[derive(Clone, Debug, PartialEq)]
pub struct Presence {
    pub(super) activity: Option<Activity>,
    pub(super) status: String,
}

impl Presence {
    /// The presence of one shard, as it goes into IDENTIFY.
    pub fn for_shard(&self, shard: u32) -> Box<RawValue> {
        let activity = self.activity.clone().map(|mut activity| {
            let id = shard.to_string();
            activity.name = activity.name.replace(PLACEHOLDER, &id);
            activity.state = activity.state.map(|state| state.replace(PLACEHOLDER, &id));
            activity
        });
        let activities: Vec<Value> = activity
            .iter()
            .map(|activity| serde_json::to_value(activity).expect("an activity can be written as JSON"))
            .collect();
        let presence = json!({"since": null, "activities": activities, "status": self.status, "afk": false});
        serde_json::value::to_raw_value(&presence).expect("a JSON value is JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_the_shard_is_filled_in() {
        let activity = json!({"name": "shard {{shard}}", "type": 4, "state": "on {{shard}} of many"});
        let activity = serde_json::from_value(activity).unwrap();
        let presence = Presence { activity: Some(activity), status: "idle".into() };
        let presence: Value = serde_json::from_str(presence.for_shard(17).get()).unwrap();
        assert_eq!(presence["activities"][0]["name"], "shard 17");
        assert_eq!(presence["activities"][0]["state"], "on 17 of many");
        assert_eq!(
            (&presence["status"], &presence["afk"], &presence["since"]),
            (&json!("idle"), &json!(false), &json!(null))
        );
        let plain = Presence { activity: None, status: "online".into() };
        let plain: Value = serde_json::from_str(plain.for_shard(0).get()).unwrap();
        assert_eq!(plain["activities"], json!([]));
    }
}
