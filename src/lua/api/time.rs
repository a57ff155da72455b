//! `jarvis.time`: clocks and dates in the house's time zone.

use std::fmt::Write as _;

use chrono::{
    DateTime, Datelike, NaiveTime, Offset as _, SecondsFormat, Timelike, Utc,
    format::{Item, StrftimeItems},
};
use chrono_tz::{OffsetComponents, Tz};
use mlua::Value;

use super::{Answer, Entry, Invocation, Problem, Reply};

/// Bytes of a format.
const MAX_FORMAT: usize = 256;

pub(super) const FUNCTIONS: &[Entry] = &[
    ("jarvis.time.now", now),
    ("jarvis.time.ms", ms),
    ("jarvis.time.iso", iso),
    ("jarvis.time.date", date),
    ("jarvis.time.parts", parts),
    ("jarvis.time.between", between),
];

fn now(_: &Invocation<'_>) -> Answer {
    Ok(Reply::Value(Value::Integer(Utc::now().timestamp())))
}

fn ms(_: &Invocation<'_>) -> Answer {
    Ok(Reply::Value(Value::Integer(Utc::now().timestamp_millis())))
}

fn iso(call: &Invocation<'_>) -> Answer {
    let text = moment(call, 0)?.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    string(call, &text)
}

fn date(call: &Invocation<'_>) -> Answer {
    let format = call.text(0, "the format")?;
    let moment = moment(call, 1)?;
    let bad = |call: &Invocation<'_>| {
        call.mistake("cannot read its format: use strftime's signs, as in \"%Y-%m-%d %H:%M\"")
    };
    let items: Vec<Item<'_>> = StrftimeItems::new(&format).collect();
    if format.len() > MAX_FORMAT || items.contains(&Item::Error) {
        return Err(bad(call));
    }
    let mut text = String::new();
    write!(text, "{}", moment.format_with_items(items.iter())).map_err(|_| bad(call))?;
    string(call, &text)
}

/// The fields that `os.date("*t")` has, and the day's name.
fn parts(call: &Invocation<'_>) -> Answer {
    let moment = moment(call, 0)?;
    let table = call.lua.create_table()?;
    table.raw_set("year", moment.year())?;
    table.raw_set("month", moment.month())?;
    table.raw_set("day", moment.day())?;
    table.raw_set("hour", moment.hour())?;
    table.raw_set("min", moment.minute())?;
    table.raw_set("sec", moment.second())?;
    table.raw_set("wday", moment.weekday().number_from_sunday())?;
    table.raw_set("yday", moment.ordinal())?;
    table.raw_set("isdst", !moment.offset().dst_offset().is_zero())?;
    table.raw_set("weekday", moment.format("%A").to_string().to_lowercase())?;
    table.raw_set("offset", moment.offset().fix().local_minus_utc())?;
    Ok(Reply::Value(Value::Table(table)))
}

/// Whether it is now between two times of day, the first included; over midnight where the first is later.
fn between(call: &Invocation<'_>) -> Answer {
    let (from, to) = (time_of_day(call, 0)?, time_of_day(call, 1)?);
    let now = Utc::now().with_timezone(&call.host.zone).time();
    Ok(Reply::Value(Value::Boolean(is_between(now, from, to))))
}

fn is_between(now: NaiveTime, from: NaiveTime, to: NaiveTime) -> bool {
    if from <= to { from <= now && now < to } else { from <= now || now < to }
}

fn time_of_day(call: &Invocation<'_>, index: usize) -> Result<NaiveTime, Problem> {
    let text = call.text(index, "a time of day")?;
    let read =
        NaiveTime::parse_from_str(&text, "%H:%M").or_else(|_| NaiveTime::parse_from_str(&text, "%H:%M:%S"));
    read.map_err(|_| {
        let text: String = text.chars().take(40).collect();
        call.mistake(&format!("cannot read `{text}` as a time of day: write \"22:30\""))
    })
}

/// A moment given in seconds since 1970, or now.
fn moment(call: &Invocation<'_>, index: usize) -> Result<DateTime<Tz>, Problem> {
    let moment = match call.value(index) {
        Value::Nil => Some(Utc::now()),
        Value::Integer(seconds) => DateTime::from_timestamp(*seconds, 0),
        #[expect(clippy::cast_possible_truncation, reason = "a float beyond i64 saturates and is refused")]
        Value::Number(seconds) if seconds.is_finite() => {
            DateTime::from_timestamp_micros((seconds * 1e6) as i64)
        }
        _ => return Err(call.mistake("wants seconds since 1970, as jarvis.time.now() gives them")),
    };
    // Beyond the year 9999 formats have no place for the year.
    moment
        .filter(|moment| (0..=9999).contains(&moment.year()))
        .map(|moment| moment.with_timezone(&call.host.zone))
        .ok_or_else(|| call.mistake("wants a moment in the years 0 to 9999"))
}

fn string(call: &Invocation<'_>, text: &str) -> Answer {
    Ok(Reply::Value(Value::String(call.lua.create_string(text)?)))
}

#[cfg(test)]
mod tests {
    use chrono::NaiveTime;

    use super::is_between;

    #[test]
    fn times_of_day_wrap_around_midnight() {
        let at = |text| NaiveTime::parse_from_str(text, "%H:%M").unwrap();
        let check =
            |now, from, to, expect| assert_eq!(is_between(at(now), at(from), at(to)), expect, "{now}");
        check("12:00", "08:00", "18:00", true);
        check("08:00", "08:00", "18:00", true);
        check("18:00", "08:00", "18:00", false);
        check("23:00", "22:00", "06:30", true);
        check("06:29", "22:00", "06:30", true);
        check("06:30", "22:00", "06:30", false);
        check("12:00", "12:00", "12:00", false);
    }
}
