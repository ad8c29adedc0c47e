//! Caps by the time of the week. No clock: the minute of the week is an argument, as the local clock on the wall shows it, so that
//! "18:00" means 18:00 in summer and in winter.

use std::str::FromStr;

use super::rate::{RATE_MAX, RATE_MIN, format_rate, parse_rate};

/// Minutes of a day, and of a week, which begins with Monday 00:00.
const DAY: u16 = 24 * 60;
pub(super) const WEEK: u16 = 7 * DAY;
/// Entries of a schedule.
pub(super) const ENTRIES_MAX: usize = 64;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// How no cap is written.
const NONE: &str = "none";

/// How much the node may send and receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    /// Bytes per second sent; none: no cap.
    pub upload: Option<u64>,
    /// Bytes per second received; none: no cap.
    pub download: Option<u64>,
}

/// `[[node.schedule]]`: other caps at some time of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleEntry {
    /// The days on which it begins, Monday first.
    pub days: [bool; 7],
    /// When it begins, minutes after midnight.
    pub from: u16,
    /// When it ends, minutes after midnight; not after `from` means: on the next day.
    pub to: u16,
    /// The upload cap then, `Some(None)` for no cap; none: as at other times.
    pub upload: Option<Option<u64>>,
    /// The same for download.
    pub download: Option<Option<u64>>,
}

impl ScheduleEntry {
    /// Whether it is its time at `minute` of the week.
    fn covers(&self, minute: u16) -> bool {
        let length = if self.to > self.from { self.to - self.from } else { self.to + DAY - self.from };
        (0..7).filter(|day| self.days[usize::from(*day)]).any(|day| {
            let begins = day * DAY + self.from;
            (minute + WEEK - begins) % WEEK < length
        })
    }

    /// Checks what the fields cannot show by themselves.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.from >= DAY || self.to > DAY || self.from == self.to {
            return Err(
                "from and to must be different times from \"00:00\" to \"24:00\"; leave both out for the whole day"
                    .to_owned(),
            );
        }
        if !self.days.contains(&true) {
            return Err("days must name at least one day".to_owned());
        }
        if self.upload.is_none() && self.download.is_none() {
            return Err("say what the cap is then, as in upload = \"2 Mbit/s\" or upload = \"none\"".to_owned());
        }
        Ok(())
    }

    /// Sets one of its keys from text.
    pub(super) fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        match key {
            "days" => self.days = days(text).ok_or("write days as \"mon-fri\", \"sat,sun\" or \"daily\"")?,
            "from" => self.from = time(text).ok_or("write a time as \"08:00\"")?,
            "to" => self.to = time(text).ok_or("write a time as \"18:00\"")?,
            "upload" => self.upload = Some(cap(text).ok_or_else(|| expectation(NONE))?),
            "download" => self.download = Some(cap(text).ok_or_else(|| expectation(NONE))?),
            _ => return Err("no such key".to_owned()),
        }
        Ok(())
    }

    /// Its keys and values as they are read.
    pub(super) fn shown(&self) -> Vec<(&'static str, String)> {
        let rate = |cap: Option<u64>| cap.map_or_else(|| NONE.to_owned(), format_rate);
        let days: Vec<&str> = DAYS.into_iter().zip(self.days).filter(|(_, on)| *on).map(|(day, _)| day).collect();
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let mut shown = vec![("days", days.join(",")), ("from", time(self.from)), ("to", time(self.to))];
        shown.extend(self.upload.map(|cap| ("upload", rate(cap))));
        shown.extend(self.download.map(|cap| ("download", rate(cap))));
        shown
    }
}

impl Default for ScheduleEntry {
    /// Every day, the whole day, no caps of its own.
    fn default() -> Self {
        Self { days: [true; 7], from: 0, to: DAY, upload: None, download: None }
    }
}

impl FromStr for ScheduleEntry {
    type Err = String;

    /// Reads `[DAYS] [FROM-TO] [upload=RATE] [download=RATE]`, as in `mon-fri 08:00-18:00 upload=2Mbit/s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut entry = Self::default();
        for word in text.split_whitespace() {
            let told = match (word.split_once('='), word.split_once('-')) {
                (Some((key @ ("upload" | "download"), rate)), _) => entry.set(key, rate),
                (None, Some((from, to))) if word.contains(':') => {
                    entry.set("from", from).and_then(|()| entry.set("to", to))
                }
                (None, _) => entry.set("days", word),
                _ => Err("only upload= and download= have values".to_owned()),
            };
            told.map_err(|problem| {
                format!("`{word}`: {problem}; the whole is like \"mon-fri 08:00-18:00 upload=2Mbit/s\"")
            })?;
        }
        entry.check()?;
        Ok(entry)
    }
}

/// The caps at `minute` of the week: those of the first entry of `schedule` whose time it is, else `usual`.
pub(super) fn caps_at(usual: Caps, schedule: &[ScheduleEntry], minute: u16) -> Caps {
    match schedule.iter().find(|entry| entry.covers(minute % WEEK)) {
        None => usual,
        Some(entry) => {
            Caps { upload: entry.upload.unwrap_or(usual.upload), download: entry.download.unwrap_or(usual.download) }
        }
    }
}

/// In how many minutes the caps change after `minute` of the week; none if they never do.
pub(super) fn next_change(usual: Caps, schedule: &[ScheduleEntry], minute: u16) -> Option<u16> {
    let now = caps_at(usual, schedule, minute);
    let ends = schedule.iter().flat_map(|entry| [entry.from, entry.to]);
    let times = ends.flat_map(|time| (0..7).map(move |day| (day * DAY + time) % WEEK));
    let ahead = times.map(|time| (time + WEEK - minute % WEEK) % WEEK).filter(|ahead| *ahead > 0);
    ahead.filter(|ahead| caps_at(usual, schedule, minute % WEEK + ahead) != now).min()
}

/// What a rate must be; `no_cap` is how none is written.
pub(super) fn expectation(no_cap: &str) -> String {
    format!(
        "a rate from {} to {}, such as \"5 Mbit/s\" or \"600 KiB/s\", or \"{no_cap}\" for no cap",
        format_rate(RATE_MIN),
        format_rate(RATE_MAX)
    )
}

/// A rate or no cap; `None` if it is neither.
pub(super) fn cap(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "" | NONE => Some(None),
        text => parse_rate(text).filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate)).map(Some),
    }
}

fn days(text: &str) -> Option<[bool; 7]> {
    let number = |name: &str| DAYS.iter().position(|day| *day == name.trim().to_ascii_lowercase());
    if matches!(text.trim(), "" | "daily") {
        return Some([true; 7]);
    }
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (number(first)?, number(last)?);
        days[day] = true;
        while day != last {
            day = (day + 1) % 7;
            days[day] = true;
        }
    }
    Some(days)
}

/// Minutes after midnight.
fn time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let digits =
        |text: &str| if text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None };
    let (hours, minutes): (u16, u16) = (digits(hours)?, digits(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= DAY).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const USUAL: Caps = Caps { upload: Some(1_000_000), download: None };

    fn at(day: u16, hour: u16, minute: u16) -> u16 {
        day * DAY + hour * 60 + minute
    }

    fn entry(text: &str) -> ScheduleEntry {
        text.parse().unwrap()
    }

    #[test]
    fn a_working_week() {
        let week = [entry("mon-fri 08:00-18:00 upload=2Mbit/s")];
        let upload = |minute| caps_at(USUAL, &week, minute).upload;
        assert_eq!(
            [at(0, 7, 59), at(0, 8, 0), at(4, 17, 59), at(4, 18, 0), at(5, 12, 0)].map(upload),
            [Some(1_000_000), Some(250_000), Some(250_000), Some(1_000_000), Some(1_000_000)]
        );
        assert_eq!(next_change(USUAL, &week, at(0, 8, 0)), Some(600));
        assert_eq!(next_change(USUAL, &week, at(4, 18, 0)), Some(62 * 60), "over the weekend");
        assert_eq!(next_change(USUAL, &[], 5), None);
        assert_eq!(next_change(USUAL, &[entry("download=1Mbit/s")], 5), None, "it never ends");
    }

    #[test]
    fn nights_go_on_after_midnight_and_the_first_entry_wins() {
        let week = [entry("sun 22:00-06:00 upload=none"), entry("daily 00:00-24:00 download=1Mbit/s")];
        let caps = |minute| caps_at(USUAL, &week, minute);
        assert_eq!(caps(at(6, 22, 0)), Caps { upload: None, download: None });
        assert_eq!(caps(at(0, 5, 59)), Caps { upload: None, download: None }, "Monday morning is still Sunday's night");
        assert_eq!(caps(at(0, 6, 0)), Caps { upload: USUAL.upload, download: Some(125_000) });
    }

    #[test]
    fn what_is_no_entry_is_refused_with_what_is_one() {
        for text in [
            "",
            "mon-fri",
            "mon-fry upload=1Mbit/s",
            "08:00-08:00 upload=1Mbit/s",
            "8-18 upload=1Mbit/s",
            "25:00-26:00 upload=1Mbit/s",
            "08:60-09:00 upload=1Mbit/s",
            "upload=1",
            "upload=1bit/s",
            "speed=1Mbit/s",
        ] {
            assert!(text.parse::<ScheduleEntry>().is_err(), "{text}");
        }
        assert!("mon-fri".parse::<ScheduleEntry>().unwrap_err().contains("2 Mbit/s"));
        assert_eq!(entry("fri-mon upload=none").days, [true, false, false, false, true, true, true]);
    }

    fn entries() -> impl Strategy<Value = Vec<ScheduleEntry>> {
        let cap = || proptest::option::of(proptest::option::of(RATE_MIN..RATE_MIN + 3));
        let entry = (any::<[bool; 7]>(), 0..DAY, 0..=DAY, cap(), cap())
            .prop_map(|(days, from, to, upload, download)| ScheduleEntry { days, from, to, upload, download });
        proptest::collection::vec(entry.prop_filter("a valid one", |entry| entry.check().is_ok()), 0..4)
    }

    proptest! {
        /// What is in force at each minute, said in another way: each entry painted over the week, the last one first.
        #[test]
        fn caps_are_those_of_the_first_entry_whose_time_it_is(schedule in entries()) {
            let mut week = vec![USUAL; usize::from(WEEK)];
            for entry in schedule.iter().rev() {
                for day in (0..7).filter(|day| entry.days[*day]) {
                    let begins = day * usize::from(DAY) + usize::from(entry.from);
                    let mut minute = begins;
                    loop {
                        week[minute % usize::from(WEEK)] = Caps {
                            upload: entry.upload.unwrap_or(USUAL.upload),
                            download: entry.download.unwrap_or(USUAL.download),
                        };
                        minute += 1;
                        if minute % usize::from(DAY) == usize::from(entry.to % DAY) {
                            break;
                        }
                    }
                }
            }
            for (minute, caps) in (0..).zip(week) {
                prop_assert_eq!(caps_at(USUAL, &schedule, minute), caps, "minute {}", minute);
            }
        }

        /// Until the next change nothing changes, and then something does.
        #[test]
        fn the_next_change_is_the_first(schedule in entries(), minute in 0..WEEK) {
            let now = caps_at(USUAL, &schedule, minute);
            let first = (1..WEEK).find(|ahead| caps_at(USUAL, &schedule, minute + ahead) != now);
            prop_assert_eq!(next_change(USUAL, &schedule, minute), first);
        }

        #[test]
        fn an_entry_reads_back_from_what_is_shown(schedule in entries()) {
            for entry in schedule {
                let mut again = ScheduleEntry::default();
                for (key, value) in entry.shown() {
                    again.set(key, &value).unwrap();
                }
                prop_assert_eq!(again, entry);
            }
        }
    }
}
