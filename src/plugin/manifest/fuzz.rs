//! What holds for every header.

use std::time::{Duration, Instant};

use super::{Fault, is_command_name, parse, permissions};
use crate::model::{
    Filter, PluginId,
    dice::{Dice, SHORT},
    is_deceptive,
    message::is_event_name,
};

const LINES: [&str; 12] =
    ["-- ", "--", "--- ", "-- @", "\n", "\r\n", "\n\n", "--[[", "]]", "--[==[", "]==]", "return "];
const KEYS: [&str; 20] = [
    "id",
    "name",
    "version",
    "author",
    "description",
    "license",
    "priority",
    "commands",
    "subscribe",
    "emits",
    "permissions",
    "config",
    "timeout",
    "memory",
    "requires",
    "param",
    "desc",
    "Id",
    "i\u{e9}",
    "",
];
const VALUES: [&str; 40] = [
    "weather",
    "Weather",
    "1.0.0",
    "1.0.0-a+b",
    "99999999999999999999.0.0",
    "-10",
    "9223372036854775808",
    "2s",
    "500ms",
    "0",
    "8 MiB",
    "1e9",
    "a, b/c",
    "/a",
    ",",
    ",,",
    "a/+",
    "#",
    "a/#/b",
    "http:x.com",
    "http:[::1]:80",
    "mqtt.publish:a/#",
    "mqtt.publish:{config.light}/set",
    "{config.",
    "{config.x}",
    "city = \"Lyon\"",
    "a = 'it\\'s'",
    "a = [1, {\"b\": null}]",
    "a = ",
    "= 1",
    "a = [[[[[[",
    "a = \"\\ud800\"",
    "../x",
    "CON",
    "\u{430}",
    "\u{202e}",
    "\0",
    "\u{1b}[31m",
    "\t",
    "request",
];

/// A line such as `-- @key value`, most of the time.
fn line(dice: &mut Dice<'_>) -> String {
    match dice.below(8) {
        0 => dice.text(&LINES, 6),
        1 => dice.text(&VALUES, 6) + "\n",
        _ => format!("-- @{} {}\n", dice.one_of(&KEYS), dice.text(&VALUES, 3)),
    }
}

/// A header that is good but for what the dice put into it.
fn header(dice: &mut Dice<'_>) -> String {
    let mut text = String::new();
    for good in [
        "-- @id weather\n",
        "-- @name Weather\n",
        "-- @version 1.2.0\n",
        "-- @author Ada\n",
        "-- @description X\n",
    ] {
        match dice.below(16) {
            0 => text += &line(dice),
            1 => {}
            _ => text += good,
        }
    }
    for _ in 0..dice.below(8) {
        text += &line(dice);
    }
    text
}

#[track_caller]
fn is_for_the_author(fault: &Fault, lines: usize) {
    assert_eq!(fault.file, "x.lua");
    assert!(!fault.message.is_empty() && fault.message.len() < 2_000, "{fault}");
    assert!(!fault.message.chars().any(is_deceptive), "{fault:?}");
    assert!(fault.line.is_none_or(|line| (1..=lines).contains(&(line as usize))), "{fault} of {lines} lines");
}

fn check(text: &str) {
    let parsed = parse("x.lua", text);
    let lines = text.lines().count();
    parsed.warnings.iter().for_each(|warning| is_for_the_author(warning, lines));
    let manifest = match parsed.manifest {
        Ok(manifest) => manifest,
        Err(faults) => {
            assert!(!faults.is_empty());
            return faults.iter().for_each(|fault| is_for_the_author(fault, lines));
        }
    };
    assert!(PluginId::parse(manifest.id.as_str()).is_ok());
    assert!(manifest.commands.iter().all(|name| is_command_name(name)), "{text}");
    assert!(manifest.emits.iter().all(|name| is_event_name(name)), "{text}");
    assert!(manifest.subscribe.iter().all(|filter| Filter::parse(filter.as_str()).is_ok()), "{text}");
    assert!(manifest.permissions.iter().all(|raw| permissions::check(&raw.text).is_ok()), "{text}");
    for text in [&manifest.name, &manifest.author, &manifest.description] {
        assert!(!text.is_empty() && text.len() <= 4096);
        assert!(!text.chars().any(|c| is_deceptive(c) && c != '\t'), "{text:?}");
    }
    assert!(
        manifest.timeout_ms.is_none_or(|timeout| timeout > 0)
            && manifest.memory.is_none_or(|memory| memory > 0)
    );
    if let Err(faults) = manifest.permissions(&manifest.config) {
        faults.iter().for_each(|fault| is_for_the_author(fault, lines));
    }
}

#[test]
fn fuzz_headers() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        match dice.below(8) {
            0 => check(&String::from_utf8_lossy(bytes)),
            1 => {
                let header = header(dice).into_bytes();
                check(&String::from_utf8_lossy(&dice.damaged(header)));
            }
            _ => check(&header(dice)),
        }
    });
}

/// A long header of anything is read in a time that no quadratic reading could keep.
#[test]
fn fuzz_headers_of_any_length() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        let piece = if dice.toss() { line(dice) } else { dice.text(&LINES, 4) + &dice.text(&VALUES, 2) };
        if piece.is_empty() {
            return;
        }
        let text = piece.repeat((1 << 18) / piece.len());
        let begun = Instant::now();
        check(&text);
        assert!(begun.elapsed() < Duration::from_secs(10), "{piece:?} took {:?}", begun.elapsed());
    });
}
