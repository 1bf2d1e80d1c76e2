//! Writes the payloads of a traced shard to the log; see [`crate::logging::trace`].

use crate::{
    logging::trace::{Line, TARGET, Trace},
    protocol::Time,
};

/// The way of a payload.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// From Discord to the proxy.
    Received,
    /// From the proxy to Discord.
    Sent,
}

/// Writes a payload of `shard` to the log, if the shard is traced. A trace that has lasted long enough ends.
#[cold]
#[inline(never)]
pub fn show(tracing: &mut Option<Box<Trace>>, now: Time, shard: u32, way: Way, payload: &[u8]) {
    let Some(trace) = tracing else { return };
    if trace.is_over(now) {
        *tracing = None;
        tracing::info!(target: TARGET, shard, "the trace of the shard ends, because its time is over");
        return;
    }
    let Some(Line { text, left_out }) = trace.line(now, payload) else { return };
    let left_out = (left_out > 0).then_some(left_out);
    let way = match way {
        Way::Received => "received",
        Way::Sent => "sent",
    };
    tracing::info!(target: TARGET, shard, way, bytes = payload.len(), left_out, "{text}");
}
