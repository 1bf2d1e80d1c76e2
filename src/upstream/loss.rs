//! Why a shard lost its connection to Discord, by name: for logs, metrics and the live page.

/// The reason for a reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Discord sent a close frame.
    Closed,
    /// The connection ended without a close frame, or its bytes could not be decrypted.
    Lost,
    /// A connection could not be made.
    Unreachable,
    /// Discord asked for the reconnect (op 7).
    Reconnect,
    /// Discord ended the session (op 9).
    InvalidSession,
    /// A heartbeat was not acknowledged.
    NoHeartbeatAck,
    /// HELLO, READY or the next event of a replay did not come in time, or connecting took too long.
    Timeout,
    /// A payload could not be read or decompressed, or the WebSocket protocol was violated.
    Unreadable,
    /// An operator asked for the reconnect.
    ByHand,
    /// The watchdog found that the shard gets no events.
    Watchdog,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Closed,
        Self::Lost,
        Self::Unreachable,
        Self::Reconnect,
        Self::InvalidSession,
        Self::NoHeartbeatAck,
        Self::Timeout,
        Self::Unreadable,
        Self::ByHand,
        Self::Watchdog,
    ];

    /// The value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Lost => "connection_lost",
            Self::Unreachable => "unreachable",
            Self::Reconnect => "op7_reconnect",
            Self::InvalidSession => "op9_invalid_session",
            Self::NoHeartbeatAck => "no_heartbeat_ack",
            Self::Timeout => "timeout",
            Self::Unreadable => "unreadable",
            Self::ByHand => "by_hand",
            Self::Watchdog => "watchdog",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_the_order_of_their_numbers() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
