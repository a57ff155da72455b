//! Rust files as these tests look at them: without comments, texts and test modules, each line still in its place.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One Rust file.
pub(crate) struct Source {
    /// From the repository's root, with `/`.
    pub(crate) path: String,
    /// As it was written.
    pub(crate) text: String,
    /// The same with spaces where comments, texts and test modules were.
    pub(crate) code: String,
}

/// A broken rule and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) path: String,
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = without_test_modules(&blank(text));
        Self { path: path.into(), text: text.into(), code }
    }

    /// Every Rust file below a directory of the repository, in order.
    pub(crate) fn all(directory: &str) -> Vec<Self> {
        let mut paths = Vec::new();
        collect(&root().join(directory), &mut paths);
        paths.sort();
        let read = |path: PathBuf| {
            let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            Self::new(&relative, &fs::read_to_string(path).unwrap())
        };
        paths.into_iter().map(read).collect()
    }

    /// Whether the whole file is a test module of the file beside it.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    pub(crate) fn violation(&self, at: usize, rule: impl Into<String>) -> Violation {
        let line = 1 + self.code[..at].matches('\n').count();
        Violation { path: self.path.clone(), line, rule: rule.into() }
    }

    /// Where a word stands in the code, as a whole word.
    pub(crate) fn words<'code>(&'code self, word: &'code str) -> impl Iterator<Item = usize> + 'code {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        self.code.match_indices(word).map(|(at, _)| at).filter(move |at| {
            let (before, after) = (&self.code[..*at], &self.code[at + word.len()..]);
            !before.ends_with(is_part) && !after.starts_with(is_part)
        })
    }
}

/// Fails with every violation on a line of its own.
pub(crate) fn assert_none(violations: &[Violation]) {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    // A directory that is not there yet has no files.
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Puts spaces in the place of comments and of what stands in texts and characters; line breaks stay.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment_length(rest),
            '"' => text_length(rest),
            'r' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_text_length(rest),
            '\'' => character_length(rest),
            _ => 0,
        };
        let taken = if skipped == 0 { first.len_utf8() } else { skipped };
        let (head, tail) = rest.split_at(taken);
        if skipped == 0 {
            code.push_str(head);
        } else {
            code.extend(head.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = tail;
    }
    code
}

/// Block comments can be nested.
fn comment_length(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while let Some(next) = text[at..].find(['/', '*']) {
        at += next;
        match text.get(at..at + 2) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn text_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#`; 0 where the `r` begins something else.
fn raw_text_length(text: &str) -> usize {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = hashes + 2;
    text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len())
}

/// `'x'`, `'\n'`; 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => text.char_indices().skip(3).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        Some(_) => characters.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// Puts spaces in the place of `#[cfg(test)] mod … { … }`.
fn without_test_modules(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (head, tail) = rest.split_at(at);
        kept.push_str(head);
        let length = module_length(&tail[MARK.len()..]).map_or(MARK.len(), |length| MARK.len() + length);
        kept.extend(tail[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &tail[length..];
    }
    kept + rest
}

/// The length of a module with its body that begins here; nothing where something else does.
fn module_length(code: &str) -> Option<usize> {
    code.trim_start().strip_prefix("mod ")?;
    let open = code.find('{').filter(|open| !code[..*open].contains(';'))?;
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(open + at + 1);
        }
    }
    None
}

#[test]
fn only_code_is_looked_at() {
    let check = |text: &str, expect: &str| {
        let code = Source::new("src/x.rs", text).code;
        assert_eq!(code.split_whitespace().collect::<Vec<_>>().join(" "), expect, "{text}");
        assert_eq!(code.matches('\n').count(), text.matches('\n').count());
    };
    check("a // crate::b\nc", "a c");
    check("a /* b /* c */ d\n */ e", "a e");
    check(r#"a("crate::b \" c"); d"#, "a( ); d");
    check("a(r#\"crate::b \" c\"#, 'x', '\"', '\\'', '\\u{e9}') d", "a( , , , , ) d");
    check("fn a<'b>(c: &'b str, r: u8) {}", "fn a<'b>(c: &'b str, r: u8) {}");
    check("a\n#[cfg(test)]\nmod tests {\n use crate::b; { }\n}\nc", "a c");
    check("#[cfg(test)]\nmod tests;\nfn a() { b }", "mod tests; fn a() { b }");
}
