//! Which room may use which, as docs/architecture.md says it, and which room alone knows a library.

use crate::source::{Source, Violation, assert_none};

/// A room and the rooms it may use besides itself. What is not here may not be.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("mqtt", &["model"]),
    ("store", &["model"]),
    ("telemetry", &["model"]),
    ("lua", &["model"]),
    ("worker", &["model"]),
    ("effects", &["model", "store", "mqtt"]),
    ("plugin", &["model", "worker", "effects", "store"]),
    ("bridge", &["model", "plugin", "store", "mqtt", "effects"]),
    // `telemetry` says what a log level is.
    ("config", &["model", "telemetry"]),
    ("app", &["model", "mqtt", "store", "telemetry", "worker", "effects", "plugin", "bridge", "config"]),
    ("cli", &["app", "bridge", "config", "model", "mqtt", "plugin", "telemetry"]),
    ("main", &["cli", "worker"]),
    ("lib", &[]),
];

/// Files that may use more than the rest of their room.
const MORE: &[(&str, &[&str])] = &[("src/worker/child.rs", &["lua"])];

/// Libraries that only one place may know.
const FENCED: &[(&str, &str)] = &[
    ("mlua", "src/lua/"),
    ("rumqttc", "src/mqtt/"),
    ("mqtt5", "src/mqtt/"),
    ("rusqlite", "src/store/"),
    ("clap", "src/cli/"),
    ("reqwest", "src/effects/http/"),
    ("landlock", "src/worker/lockdown/"),
    ("seccompiler", "src/worker/lockdown/"),
    ("nix", "src/worker/"),
];

#[test]
fn rooms_use_only_what_they_may() {
    let sources = Source::all("src");
    assert!(sources.len() > 100, "only {} files were found", sources.len());
    assert_none(&sources.iter().flat_map(imports_beyond_the_table).collect::<Vec<_>>());
}

#[test]
fn each_fenced_library_is_known_in_one_place() {
    let sources = Source::all("src");
    assert_none(&sources.iter().flat_map(libraries_outside_their_fence).collect::<Vec<_>>());
    for (library, fence) in FENCED {
        let inside =
            |source: &Source| source.path.starts_with(fence) && source.words(library).next().is_some();
        assert!(sources.iter().any(inside), "nothing in {fence} uses `{library}`: take it out of the table");
    }
}

#[test]
fn what_is_forbidden_is_found() {
    let check = |path: &str, text: &str, expect: &[&str]| {
        let source = Source::new(path, text);
        let mut found = imports_beyond_the_table(&source);
        found.extend(libraries_outside_their_fence(&source));
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expect, "{text}");
    };
    check(
        "src/store/mod.rs",
        "use crate::model::Topic;\nuse super::mqtt;",
        &["src/store/mod.rs:2: `store` must not use `mqtt`; it may use model"],
    );
    check(
        "src/bridge/chat.rs",
        "use crate::{\n    model::{Topic, worker},\n    worker::Link,\n    plugin::lua,\n};",
        &[
            "src/bridge/chat.rs:3: `bridge` must not use `worker`; it may use model, plugin, store, mqtt, effects",
        ],
    );
    check(
        "src/model/topic.rs",
        "fn a() { crate :: config::b(); super::super::cli::c(); super::id::d() }",
        &[
            "src/model/topic.rs:1: `model` must not use `config`; it may use nothing else",
            "src/model/topic.rs:1: `model` must not use `cli`; it may use nothing else",
        ],
    );
    check("src/worker/child.rs", "use crate::lua::Vm;", &[]);
    check(
        "src/worker/link.rs",
        "use crate::lua::Vm;",
        &["src/worker/link.rs:1: `worker` must not use `lua`; it may use model"],
    );
    check(
        "src/main.rs",
        "fn main() { jarvis_bridge::app::x() }",
        &["src/main.rs:1: `main` must not use `app`; it may use cli, worker"],
    );
    check(
        "src/web/mod.rs",
        "",
        &["src/web/mod.rs:1: the room `web` is not in the table of tests/tidy/rooms.rs"],
    );
    check(
        "src/plugin/x.rs",
        "// crate::cli\nlet a = \"mlua::Lua\";\n#[cfg(test)]\nmod tests { use crate::cli; }",
        &[],
    );
    check(
        "src/plugin/x.rs",
        "use mlua::Lua;\nfn a(b: &::rusqlite::Connection) {}",
        &[
            "src/plugin/x.rs:1: `mlua` may be known in src/lua/ only",
            "src/plugin/x.rs:2: `rusqlite` may be known in src/store/ only",
        ],
    );
    check("src/lua/vm.rs", "use mlua::Lua;", &[]);
}

fn imports_beyond_the_table(source: &Source) -> Vec<Violation> {
    if source.is_test() {
        return Vec::new();
    }
    let room = room_of(&source.path);
    let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        let rule = format!("the room `{room}` is not in the table of tests/tidy/rooms.rs");
        return vec![source.violation(0, rule)];
    };
    let more = MORE.iter().find(|(path, _)| *path == source.path).map_or(&[][..], |(_, more)| more);
    let allowed = if may.is_empty() { "nothing else".into() } else { may.join(", ") };
    imports(source)
        .into_iter()
        .filter(|(_, used)| used != room && !may.contains(&used.as_str()) && !more.contains(&used.as_str()))
        // What the crate's root has besides rooms are macros, and there are none.
        .map(|(at, used)| {
            source.violation(at, format!("`{room}` must not use `{used}`; it may use {allowed}"))
        })
        .collect()
}

fn libraries_outside_their_fence(source: &Source) -> Vec<Violation> {
    let outside = FENCED.iter().filter(|(_, fence)| !source.path.starts_with(fence));
    outside
        .flat_map(|(library, fence)| {
            let rule = move || format!("`{library}` may be known in {fence} only");
            source
                .words(library)
                .filter(|at| is_crate(source, *at))
                .map(move |at| source.violation(at, rule()))
        })
        .collect()
}

/// Whether a word is the beginning of a path or the whole of a `use`, and not a field or a module of that name.
fn is_crate(source: &Source, at: usize) -> bool {
    let before = source.code[..at].trim_end();
    let after = source.code[at..].trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').trim_start();
    after.starts_with("::") || before.ends_with("use") && after.starts_with([';', ' '])
}

/// `src/plugin/actor.rs` → `plugin`, `src/app.rs` → `app`.
fn room_of(path: &str) -> &str {
    let path = path.strip_prefix("src/").unwrap_or(path);
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// Every room that the code names, and where: `crate::x`, `crate::{x, y}`, `super::super::x` up to the root, and
/// in `main.rs`, which is a crate of its own, `jarvis_bridge::x`.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let roots = ["crate", "jarvis_bridge"]
        .into_iter()
        .flat_map(|root| source.words(root).map(move |at| at + root.len()).collect::<Vec<_>>());
    for after in roots.chain(supers(source)) {
        names(source, after, &mut found);
    }
    found
}

/// Where chains of `super::` end that lead to the crate's root.
fn supers(source: &Source) -> Vec<usize> {
    let inner = source.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let depth = inner.split('/').count();
    let mut ends = Vec::new();
    let mut next = 0;
    for at in source.words("super") {
        if at < next {
            continue;
        }
        let mut end = at + "super".len();
        let mut steps = 1;
        while let Some(step) = after_colons(source, end).filter(|at| source.code[*at..].starts_with("super"))
        {
            (steps, end) = (steps + 1, step + "super".len());
        }
        next = end;
        if steps >= depth {
            ends.push(end);
        }
    }
    ends
}

/// What follows `::` here.
fn after_colons(source: &Source, at: usize) -> Option<usize> {
    let rest = source.code[at..].trim_start().strip_prefix("::")?.trim_start();
    Some(source.code.len() - rest.len())
}

/// The first name behind a root, or the first names in its braces.
fn names(source: &Source, root: usize, found: &mut Vec<(usize, String)>) {
    let Some(at) = after_colons(source, root) else { return };
    let Some(list) = source.code[at..].strip_prefix('{') else {
        found.extend(name(source, at));
        return;
    };
    let begin = source.code.len() - list.len();
    let mut depth = 0;
    let mut expected = true;
    for (offset, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            _ if expected && !c.is_whitespace() => {
                found.extend(name(source, begin + offset));
                expected = false;
            }
            _ => {}
        }
    }
}

fn name(source: &Source, at: usize) -> Option<(usize, String)> {
    let rest = &source.code[at..];
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (end > 0).then(|| (at, rest[..end].to_owned()))
}
