//! Makes text of a plugin safe to show: bounded, valid UTF-8, without characters that act instead of being seen.

use crate::model::is_deceptive;

/// The beginning of some bytes as text: at most `max` bytes of them are looked at.
pub(super) fn clean(bytes: &[u8], max: usize) -> String {
    let cut = bytes.len() > max;
    let head = &bytes[..bytes.len().min(max)];
    // A character that the cut went through is no fault of the text's.
    let head = match std::str::from_utf8(head) {
        Err(error) if cut && error.error_len().is_none() => &head[..error.valid_up_to()],
        _ => head,
    };
    let mut text: String =
        String::from_utf8_lossy(head).chars().map(|c| if is_deceptive(c) { ' ' } else { c }).collect();
    if cut {
        text.push('…');
    }
    text
}

/// What Lua calls the code of ours that runs before the plugin's.
pub(super) const PRELUDE: &str = "[jarvis]";

/// What stands in an error's text behind a line of ours, where it begins with one.
pub(super) fn strip_prelude(message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(PRELUDE.as_bytes())?.strip_prefix(b":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    rest.get(digits..)?.strip_prefix(b": ")
}

#[cfg(test)]
mod tests {
    use super::{clean, strip_prelude};

    #[test]
    fn a_line_of_ours_is_taken_off() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(strip_prelude(text.as_bytes()), expect.map(str::as_bytes), "{text}");
        };
        check("[jarvis]:12: invalid", Some("invalid"));
        check("[jarvis]", None);
        check("[jarvis]:12", None);
        check("weather.lua:1: [jarvis]:12: x", None);
    }

    #[test]
    fn text_is_cut_between_characters_and_has_no_control_characters() {
        let check = |bytes: &[u8], max, expect: &str| assert_eq!(clean(bytes, max), expect);
        check(b"plain", 10, "plain");
        check(b"a\x1b[31m\nb\0", 20, "a [31m b ");
        check("éé".as_bytes(), 3, "é…");
        check(b"\xff!", 9, "\u{fffd}!");
        check("\u{85}x".as_bytes(), 9, " x");
        check("a\u{202e}b\u{2028}c\u{2066}d".as_bytes(), 20, "a b c d");
    }
}
