//! Time as Discord writes it: snowflakes, ISO 8601 timestamps, and the monotonic clock that latency is measured with.
//!
//! Pure apart from reading two clocks. It never sleeps.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds from 1970 to the first millisecond of 2015, the epoch of snowflakes (Reference: "Snowflakes").
pub const DISCORD_EPOCH_MS: u64 = 1_420_070_400_000;

/// 2026-01-01T00:00:00Z. The newest generated ids and times are before it, so that a seed gives the same world on every
/// day.
pub const GENERATED_UNTIL_MS: u64 = 1_767_225_600_000;

/// Nanoseconds of `CLOCK_MONOTONIC`. Processes of one machine can compare them.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that outlives the call, and CLOCK_MONOTONIC exists on every Linux.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    debug_assert_eq!(result, 0);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// The milliseconds since 1970 at which a snowflake was made.
pub fn created_ms(snowflake: u64) -> u64 {
    (snowflake >> 22) + DISCORD_EPOCH_MS
}

/// A timestamp in Discord's format: `2021-08-14T09:12:44.731000+00:00`.
pub fn iso8601(unix_ms: u64) -> String {
    let days = unix_ms / 86_400_000;
    let of_day = unix_ms % 86_400_000;
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}000+00:00",
        of_day / 3_600_000,
        of_day / 60_000 % 60,
        of_day / 1_000 % 60,
        of_day % 1_000
    )
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Days are counted from 0000-03-01, so that a leap day is the last day of its year.
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_as_discord_writes_them() {
        assert_eq!(iso8601(0), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(iso8601(DISCORD_EPOCH_MS), "2015-01-01T00:00:00.000000+00:00");
        assert_eq!(iso8601(1_709_210_096_789), "2024-02-29T12:34:56.789000+00:00");
        assert_eq!(iso8601(GENERATED_UNTIL_MS), "2026-01-01T00:00:00.000000+00:00");
    }

    #[test]
    fn the_snowflake_of_the_reference_has_its_documented_time() {
        assert_eq!(iso8601(created_ms(175_928_847_299_117_063)), "2016-04-30T11:18:25.796000+00:00");
    }

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let before = monotonic_ns();
        assert!(before > 0);
        assert!(monotonic_ns() >= before);
    }
}
