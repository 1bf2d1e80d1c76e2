//! Times that the session with Discord waits, and bounds of what Discord may ask for. Discord's documentation gives
//! some of them; the others are ours, with the reason.

use std::time::Duration;

/// The longest time for opening a connection, with TLS and the WebSocket upgrade.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest time from the opening of a connection to HELLO.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest time from IDENTIFY to READY; a server may acknowledge heartbeats and never send READY. The limit is
/// high, because the next attempt uses another IDENTIFY.
pub const READY_TIMEOUT: Duration = Duration::from_secs(180);
/// The longest time from RESUME to the first event of the replay, between two events, and from the last one to RESUMED.
/// The replay as a whole may take any time.
pub const RESUME_TIMEOUT: Duration = Duration::from_secs(20);
/// The machine repeats its request for a permit after this time, because the request or the permit may have been lost.
/// The identify queue does not count a shard twice.
pub const PERMIT_RETRY: Duration = Duration::from_secs(60);
/// Shortest and longest pause after Invalid Session (op 9); Discord wants a random one (docs: Gateway, Resuming).
pub const INVALID_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// After this many failures in a row the machine connects to the general URL in place of the resume URL.
pub const RESUME_URL_ATTEMPTS: u32 = 3;
/// The highest sequence that is accepted: the largest integer that every JSON parser reads exactly. After a higher one,
/// no later event of the session could have a higher sequence.
pub const MAX_SEQUENCE: u64 = (1 << 53) - 1;
/// Bounds of the heartbeat interval, in milliseconds: a shorter one would flood Discord, a longer one never beat.
pub const HEARTBEAT_RANGE: (u64, u64) = (1_000, 300_000);
