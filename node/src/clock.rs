//! The only place that reads the wall clock. Everything else gets the time as a value.

use std::time::{SystemTime, UNIX_EPOCH};

use fathom_protocol::time::UnixMs;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, ZonedDateTime};

/// Now, in milliseconds since the Unix epoch. 0 if the machine's clock is before it.
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The minute of the week, which begins with Monday 00:00, that the clock on the wall shows: in the machine's time zone, or in UTC
/// where none is set.
#[must_use]
pub fn local_minute() -> u16 {
    minute_of_week(&local(now()))
}

/// When the clock on the wall shows what it shows `minutes` after the minute under way. Where clocks are put forward over it, that is
/// when they are.
#[must_use]
pub fn after_local_minutes(minutes: u16) -> Option<UnixMs> {
    after(&local(now()), minutes)
}

/// `at` as the clock on the wall shows it, such as `Mon 18:00`.
#[must_use]
pub fn local_text(at: UnixMs) -> String {
    local(at).strftime("%a %H:%M").to_string()
}

fn local(at: UnixMs) -> ZonedDateTime {
    let at = i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or(Timestamp::MAX).to_zoned_datetime(TimeZone::system())
}

fn minute_of_week(at: &ZonedDateTime) -> u16 {
    let day = u16::try_from(at.weekday().to_monday_zero_offset()).unwrap_or_default();
    let minute = u16::try_from(i16::from(at.hour()) * 60 + i16::from(at.minute())).unwrap_or_default();
    day * 24 * 60 + minute
}

fn after(at: &ZonedDateTime, minutes: u16) -> Option<UnixMs> {
    let begun = at.datetime().with().second(0).subsec_nanosecond(0).build().ok()?;
    let then = begun.checked_add(i64::from(minutes).minutes()).ok()?.to_zoned_datetime(at.time_zone().clone()).ok()?;
    u64::try_from(then.timestamp().as_millisecond()).ok().map(UnixMs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Central Europe, whose clocks were put forward on 2026-03-29 at 02:00 and back on 2026-10-25 at 03:00.
    fn berlin(text: &str) -> ZonedDateTime {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        text.parse::<jiff::civil::DateTime>().unwrap().to_zoned_datetime(zone).unwrap()
    }

    fn ms(at: &ZonedDateTime) -> UnixMs {
        UnixMs(u64::try_from(at.timestamp().as_millisecond()).unwrap())
    }

    #[test]
    fn the_week_begins_on_monday() {
        assert_eq!(minute_of_week(&berlin("2026-11-23T00:00:59")), 0);
        assert_eq!(minute_of_week(&berlin("2026-11-29T23:59:00")), 7 * 24 * 60 - 1);
        assert_eq!(minute_of_week(&berlin("2026-07-06T08:30:00")), 8 * 60 + 30, "in summer, too");
    }

    #[test]
    fn eight_o_clock_is_eight_o_clock_when_clocks_are_changed() {
        // From Saturday 20:00 to Sunday 08:00 the clock on the wall moves by 12 h, and 11 or 13 pass.
        for (before, then, hours) in [
            ("2026-03-28T20:00:30", "2026-03-29T08:00:00", 11),
            ("2026-10-24T20:00:30", "2026-10-25T08:00:00", 13),
            ("2026-11-21T20:00:30", "2026-11-22T08:00:00", 12),
        ] {
            let (before, then) = (berlin(before), berlin(then));
            assert_eq!(after(&before, 12 * 60), Some(ms(&then)));
            assert_eq!(ms(&then).0 - ms(&before).0, hours * 3_600_000 - 30_000);
        }
        // A time that is left out.
        let skipped = after(&berlin("2026-03-28T23:00:00"), 3 * 60 + 30).unwrap();
        assert_eq!(skipped, ms(&berlin("2026-03-29T03:30:00")));
    }
}
