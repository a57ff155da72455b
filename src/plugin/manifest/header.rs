//! Finds the `-- @key value` lines at the beginning of a Lua file. Knows no key.

/// One such line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'text> {
    /// Counted from 1.
    pub(super) line: u32,
    /// Without the `@`.
    pub(super) key: &'text str,
    /// What follows the key, without spaces around it.
    pub(super) value: &'text str,
}

/// Gives the entries of the first run of comments and empty lines. Long comments (`--[[ … ]]`) are passed
/// over: what looks like a key inside is text.
pub(super) fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut lines = (1..).zip(text.lines());
    std::iter::from_fn(move || {
        loop {
            let (line, text) = lines.next()?;
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let comment = text.strip_prefix("--")?;
            if let Some(end) = end_of_long_comment(comment) {
                skip_until(&end, comment, &mut lines)?;
            } else if let Some(entry) = entry(line, comment) {
                return Some(entry);
            }
        }
    })
}

/// What closes a long comment, where what follows `--` opens one: `]]`, `]=]` and so on (Lua 5.4 §3.1).
fn end_of_long_comment(comment: &str) -> Option<String> {
    let inner = comment.strip_prefix('[')?;
    let level = inner.len() - inner.trim_start_matches('=').len();
    inner[level..].starts_with('[').then(|| format!("]{}]", "=".repeat(level)))
}

/// Reads on to the end of a long comment; nothing where the file ends before or code follows on its line.
fn skip_until<'text>(
    end: &str,
    first: &'text str,
    lines: &mut impl Iterator<Item = (u32, &'text str)>,
) -> Option<()> {
    // The opening bracket cannot be taken for the closing one: that begins with `]`.
    let mut text = first;
    loop {
        if let Some((_, after)) = text.split_once(end) {
            return after.trim().is_empty().then_some(());
        }
        text = lines.next()?.1;
    }
}

fn entry(line: u32, comment: &str) -> Option<Entry<'_>> {
    let annotation = comment.trim_start_matches('-').trim().strip_prefix('@')?;
    let (key, value) = annotation.split_once(char::is_whitespace).unwrap_or((annotation, ""));
    key.starts_with(char::is_alphabetic).then_some(Entry { line, key, value: value.trim() })
}

#[cfg(test)]
mod tests {
    use super::entries;

    #[test]
    fn only_the_first_comments_count() {
        let check = |text: &str, expect: &[(u32, &str, &str)]| {
            let found: Vec<_> = entries(text).map(|entry| (entry.line, entry.key, entry.value)).collect();
            assert_eq!(found, expect, "{text}");
        };
        check("", &[]);
        check("-- @id a\n-- @name B c\n", &[(1, "id", "a"), (2, "name", "B c")]);
        check(
            "--@id a\n---  @name\tB  \r\n  -- @version 1",
            &[(1, "id", "a"), (2, "name", "B"), (3, "version", "1")],
        );
        check("\n\n-- words\n\n-- @id a", &[(5, "id", "a")]);
        check("-- @id\n--\n--- \n-- @ b\n-- me@home @x\n-- @2", &[(1, "id", "")]);
        check("-- @id a\nlocal x -- @name B\n-- @name B", &[(1, "id", "a")]);
        check("local x\n-- @id a", &[]);
        check("--[[ words\n-- @id a\n]]\n-- @id b", &[(4, "id", "b")]);
        check("--[[ one line ]]\n-- @id b", &[(2, "id", "b")]);
        check("--[==[ ]] ]=]\n@id a ]==]\n-- @id b", &[(3, "id", "b")]);
        check("--[[ ]] local x\n-- @id b", &[]);
        check("--[[ never closed\n-- @id b", &[]);
        check("--[=x\n---[[\n-- @id b", &[(3, "id", "b")]);
    }
}
