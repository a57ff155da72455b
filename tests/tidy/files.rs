//! What every file looks like.

use crate::source::{Source, Violation, assert_none};

/// Lines of a file, test modules not counted.
const LONGEST: usize = 450;
/// Words that say that something is not finished. Taken apart, so that this file does not say so itself.
const UNFINISHED: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("db", "g!"), concat!("XX", "X")];

#[test]
fn every_file_says_what_it_is_and_is_finished_and_short() {
    let directories = ["src", "tests", "examples", "benches"];
    let sources = directories.into_iter().flat_map(Source::all);
    assert_none(&sources.flat_map(|source| faults(&source)).collect::<Vec<_>>());
}

#[test]
fn nothing_is_unsafe() {
    assert_none(&Source::all("src").iter().flat_map(unsafe_code).collect::<Vec<_>>());
}

#[test]
fn what_is_wrong_is_found() {
    let check = |path: &str, text: &str, expect: &[&str]| {
        let source = Source::new(path, text);
        let mut found = faults(&source);
        found.extend(unsafe_code(&source));
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expect, "{text:.60}");
    };
    check("src/a.rs", "//! A file.\n\nfn a() {}\n", &[]);
    check(
        "src/a.rs",
        "use a;\n",
        &["src/a.rs:1: begins without a `//!` sentence that says what the file is"],
    );
    check(
        "src/a.rs",
        &format!("//! A.\n\n// {}: b\n", UNFINISHED[0]),
        &[&format!("src/a.rs:3: `{}` has no place here: finish it or file an issue", UNFINISHED[0])],
    );
    check(
        "src/a.rs",
        "//! A.\nfn a() { unsafe { b() } } // unsafe\n",
        &["src/a.rs:2: `unsafe` is forbidden in this crate"],
    );
    let long = format!("//! A.\n{}", "fn a() {}\n".repeat(450));
    check("src/a.rs", &long, &["src/a.rs:451: 451 lines, at most 450 (test modules aside): split the file"]);
    check("src/a/tests.rs", &long, &[]);
    check("src/a.rs", &format!("//! A.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn a() {}\n".repeat(450)), &[]);
}

fn faults(source: &Source) -> Vec<Violation> {
    let at = |line, rule: String| Violation { path: source.path.clone(), line, rule };
    let mut faults = Vec::new();
    if !source.text.starts_with("//! ") {
        faults.push(at(1, "begins without a `//!` sentence that says what the file is".into()));
    }
    for (line, text) in (1..).zip(source.text.lines()) {
        if let Some(word) = UNFINISHED.iter().find(|word| text.contains(**word)) {
            faults.push(at(line, format!("`{word}` has no place here: finish it or file an issue")));
        }
    }
    let lines = lines(source);
    if lines > LONGEST && !source.is_test() && source.path.starts_with("src/") {
        faults.push(at(
            lines,
            format!("{lines} lines, at most {LONGEST} (test modules aside): split the file"),
        ));
    }
    faults
}

fn unsafe_code(source: &Source) -> Vec<Violation> {
    source.words("unsafe").map(|at| source.violation(at, "`unsafe` is forbidden in this crate")).collect()
}

/// Lines up to the last one with code in it.
fn lines(source: &Source) -> usize {
    source.code.trim_end().lines().count()
}
