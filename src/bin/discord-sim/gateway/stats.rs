//! The text of `/sim/stats`.

use super::session::Session;
use super::{Gateway, ShardRecord, Transport};
use std::collections::BTreeMap;
use std::time::Instant;
use world::json::{self, Object};

impl Gateway {
    /// One shard's object in `/sim/stats`.
    pub fn shard_stats(&self, shard: usize) -> String {
        let Some(record) = self.shards.get(shard) else { return "null".to_owned() };
        let newest = record.sessions.last().and_then(|key| self.sessions.get(key));
        let by_op = |values: &BTreeMap<u64, String>| {
            values.iter().fold(Object::new(), |object, (op, data)| object.raw(&op.to_string(), data)).finish()
        };
        let commands = record.commands.iter().map(|(op, count)| (*op, count.to_string())).collect();
        Object::new()
            .int("shard", shard as u64)
            .bool("connected", !self.connections_of(shard).is_empty())
            .bool("session", newest.is_some())
            .int("sessions", record.sessions.len() as u64)
            .opt_str("session_id", newest.map(|session| session.id.as_str()))
            .int("identifies", record.identifies)
            .int("resumes", record.resumes)
            .int("sequence", newest.map_or(0, Session::sequence))
            .int("guilds", self.world.guilds_of(shard).count() as u64)
            .int("guilds_pending", newest.map_or(0, |session| session.pending.len() as u64))
            .int("events_sent", record.events_sent)
            .int("last_number", self.world.last_number(shard))
            .int("heartbeats", record.heartbeats)
            .raw("commands", &by_op(&commands))
            .raw("last_commands", &by_op(&record.last_commands))
            .opt_str("compress", record.compress.map(Transport::name))
            .str("path", &record.path)
            .raw("last_identify", record.last_identify.as_deref().unwrap_or("null"))
            .raw("last_presence", record.last_presence.as_deref().unwrap_or("null"))
            .finish()
    }

    /// The whole object `/sim/stats`.
    pub fn stats(&self, now: Instant) -> String {
        let total = |count: fn(&ShardRecord) -> u64| self.shards.iter().map(count).sum();
        let violations = self.violations.iter().map(|violation| {
            let shard = violation.shard.map_or("null".to_owned(), |shard| shard.to_string());
            Object::new().raw("shard", &shard).str("what", &violation.what).finish()
        });
        let closest = self.budget.closest().map(|gap| gap.as_millis().to_string());
        Object::new()
            .int("identifies", total(|shard| shard.identifies))
            .int("resumes", total(|shard| shard.resumes))
            .int("remaining", self.remaining(now).0)
            .raw("closest_identifies_ms", &closest.unwrap_or("null".to_owned()))
            .int("connections", self.peers.len() as u64)
            .int("events_sent", total(|shard| shard.events_sent))
            .int("violation_count", self.violation_count)
            .raw("voice", &self.voice.stats())
            .raw("violations", &json::array(violations))
            .raw("shards", &json::array((0..self.shards.len()).map(|shard| self.shard_stats(shard))))
            .finish()
    }
}
