//! What the documentation shows is tried: its plugins load, its JSON parses, its settings, commands and files exist.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::{
    markdown::{Block, Page},
    source::{Source, root},
};

/// Put before a snippet that is no whole plugin.
const HEADER: &str = "\
-- @id snippet
-- @name Snippet
-- @version 1.0.0
-- @author The documentation
-- @description A part of a plugin
-- @config city = \"Lyon\"
-- @permissions http:api.example.com, mqtt.publish:zigbee2mqtt/#, mqtt.subscribe:zigbee2mqtt/#
";

#[test]
fn every_plugin_and_snippet_loads() {
    let pages = Page::all();
    let blocks: Vec<Block> = pages.iter().flat_map(|page| page.blocks("lua")).collect();
    assert!(blocks.len() > 5, "only {} Lua blocks were found", blocks.len());
    for block in blocks {
        let plugin = Plugin::of(&block);
        for (hook, payload) in hooks_to_try(&block) {
            let called = plugin.call(hook, payload);
            let (out, log) = (text(&called.stdout), text(&called.stderr));
            assert!(called.status.success(), "{}: {hook}: {out}{log}", block.place);
            assert!(!log.contains("WARN") && !log.contains("ERROR"), "{}: {hook}: {log}", block.place);
        }
    }
}

/// Loading comes before any call. What asks another machine is loaded and not called.
fn hooks_to_try(block: &Block) -> Vec<(&'static str, &'static str)> {
    let calls = [("on_chat", "Hello there"), ("on_command", "x"), ("on_automation", "motion")];
    let defined = |hook: &str| block.text.contains(&format!("function {hook}("));
    calls
        .into_iter()
        .filter(|(hook, _)| defined(hook) && !block.text.contains("jarvis.http"))
        .chain([("on_startup", "")])
        .collect()
}

#[test]
fn the_first_plugin_of_the_readme_answers() {
    let block = Page::read("README.md").blocks("lua").remove(0);
    assert!(block.text.lines().count() <= 10, "{}: the first plugin has ten lines", block.place);
    let declared = block.text.lines().find_map(|line| line.strip_prefix("-- @commands ")).unwrap();
    let called = Plugin::of(&block).call("on_command", declared.split(',').next().unwrap());
    let envelope: Value = serde_json::from_slice(&called.stdout).unwrap();
    assert_eq!(envelope["status"], "ok", "{envelope:#}");
    assert!(envelope["response"].is_string(), "{envelope:#}");
}

#[test]
fn all_json_parses() {
    for block in Page::all().iter().flat_map(|page| page.blocks("json")) {
        for value in serde_json::Deserializer::from_str(&block.text).into_iter::<Value>() {
            assert!(value.is_ok(), "{}: {}", block.place, value.unwrap_err());
        }
    }
}

#[test]
fn every_setting_exists() {
    let defaults = defaults();
    for page in Page::all() {
        for (line, code) in page.inline_code() {
            for key in settings_in(&code, &defaults) {
                assert!(is_setting(&key, &defaults), "{}:{line}: there is no setting `{key}`", page.path);
            }
        }
        for name in variables_in(&page.text) {
            assert!(is_setting(&name, &defaults), "{}: no setting is set by `{name}`", page.path);
        }
        for block in page.blocks("toml") {
            let table: toml::Table =
                block.text.parse().unwrap_or_else(|error| panic!("{}: {error}", block.place));
            let mut keys = table.iter().flat_map(|(section, keys)| {
                keys.as_table().unwrap().keys().map(move |key| format!("{section}.{key}"))
            });
            let unknown = keys.find(|key| !is_setting(key, &defaults));
            assert!(unknown.is_none(), "{}: there is no setting {unknown:?}", block.place);
        }
    }
}

#[test]
fn every_subcommand_exists() {
    let help = bridge().arg("--help").output().unwrap();
    let help = text(&help.stdout);
    let mut found = 0;
    for page in Page::all() {
        let inline = page.inline_code().into_iter().map(|(_, code)| code);
        let blocks = page.blocks("sh").into_iter().map(|block| block.text);
        for called in
            inline.chain(blocks).flat_map(|code| code.lines().filter_map(subcommand).collect::<Vec<_>>())
        {
            found += 1;
            let known = help.contains(&format!("\n  {called} "));
            assert!(known || called.starts_with('-'), "{}: there is no `jarvis-bridge {called}`", page.path);
        }
    }
    assert!(found > 5, "only {found} calls of the program were found");
}

#[test]
fn every_link_leads_to_a_file() {
    for page in Page::all() {
        let here = root().join(&page.path);
        for (line, target) in page.links() {
            let exists = here.parent().is_some_and(|directory| directory.join(&target).exists());
            assert!(exists, "{}:{line}: `{target}` does not exist", page.path);
        }
    }
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let sources: Vec<Source> = ["src", "tests"].into_iter().flat_map(Source::all).collect();
    let page = Page::read("docs/security.md");
    let code = page.inline_code();
    let named: Vec<&(usize, String)> = code.iter().filter(|(_, code)| code.contains("::")).collect();
    assert!(named.len() > 50, "only {} tests are named", named.len());
    for (line, path) in named {
        let (module, name) = path.rsplit_once("::").unwrap();
        let module = module.split("::").find(|part| *part != "tests").unwrap_or_default();
        let here = |source: &Source| {
            let is_module = source.path.contains(&format!("/{module}/"));
            let is_file = source.path.ends_with(&format!("/{module}.rs"));
            (is_module || is_file) && source.text.contains(&format!("fn {name}("))
        };
        assert!(sources.iter().any(here), "{}:{line}: there is no test `{path}`", page.path);
    }
}

#[test]
fn continuous_integration_runs_what_the_readme_says() {
    let commands = Page::read("README.md").blocks("sh");
    let test = commands.iter().find(|block| block.text.starts_with("cargo test")).unwrap();
    let script = fs::read_to_string(root().join(".ci/run")).unwrap();
    let calls = |line: &str| line.trim_end().ends_with(test.text.trim());
    assert!(
        script.lines().any(calls),
        ".ci/run does not call `{}`, which {} names",
        test.text.trim(),
        test.place
    );
}

#[test]
fn what_is_wrong_is_found() {
    let defaults = defaults();
    let wrong = |code: &str| settings_in(code, &defaults).iter().any(|key| !is_setting(key, &defaults));
    assert!(wrong("mqtt.ulr") && wrong("set limits.hook = 3"));
    assert!(
        !wrong("mqtt.url") && !wrong("jarvis.mqtt.publish") && !wrong("mqtt.publish:a/b") && !wrong("a.b")
    );
    assert!(!wrong("limits.*") && !wrong("plugins.weather"));
    assert!(is_setting("JARVIS__MQTT__URL", &defaults) && !is_setting("JARVIS__MQTT__ULR", &defaults));
    assert_eq!(subcommand("$ jarvis-bridge call on_chat 'x'").as_deref(), Some("call"));
    assert_eq!(subcommand("cargo run --release -- demo").as_deref(), Some("demo"));
    assert_eq!(subcommand("jarvis-bridge"), None);
    let block = Block { language: "lua".into(), text: "local x = = 1\n".into(), place: String::new() };
    assert!(!Plugin::of(&block).call("on_startup", "").status.success());
    let block = Block { language: "lua".into(), text: "os.exit()\n".into(), place: String::new() };
    assert!(!Plugin::of(&block).call("on_startup", "").status.success());
}

/// A plugin alone in a directory of its own.
struct Plugin {
    id: String,
    directory: tempfile::TempDir,
}

impl Plugin {
    fn of(block: &Block) -> Self {
        let whole = block.text.starts_with("-- @id ");
        let source = if whole { block.text.clone() } else { format!("{HEADER}\n{}", block.text) };
        let id =
            source.lines().next().and_then(|line| line.strip_prefix("-- @id ")).unwrap().trim().to_owned();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("plugin.lua"), source).unwrap();
        Self { id, directory }
    }

    fn call(&self, hook: &str, payload: &str) -> Output {
        let (here, data) = (self.directory.path(), self.directory.path().join("data"));
        bridge()
            .args(["call", hook, payload, "--json", "--plugin", &self.id, "--plugins"])
            .arg(here)
            .arg("--data-dir")
            .arg(data)
            .output()
            .unwrap()
    }
}

/// The program, out of reach of whatever is configured on this machine.
fn bridge() -> Command {
    let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_jarvis-bridge")));
    command.env_clear().env("JARVIS_CONFIG", Path::new("/dev/null"));
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn defaults() -> toml::Table {
    fs::read_to_string(root().join("config/default.toml")).unwrap().parse().unwrap()
}

/// Whether a key, or the variable of one, has a default. The keys of plugins are their own matter.
fn is_setting(key: &str, defaults: &toml::Table) -> bool {
    let parts: Vec<String> = match key.strip_prefix("JARVIS__") {
        Some(parts) => parts.split("__").map(str::to_ascii_lowercase).collect(),
        None => key.split('.').map(str::to_owned).collect(),
    };
    match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["plugins", ..] => true,
        [section, key] => defaults.get(section).and_then(|section| section.get(key)).is_some(),
        _ => false,
    }
}

/// What looks like `section.key` of a section that exists. A word that goes on before or behind, as
/// `jarvis.mqtt.get` or the permission `mqtt.publish:…`, is something else.
fn settings_in(code: &str, defaults: &toml::Table) -> Vec<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let is_key = |word: &&str| {
        let (section, key) = word.split_once('.').unwrap_or_default();
        defaults.contains_key(section) && !key.is_empty() && !key.contains('.')
    };
    let permission = |word: &str| ["mqtt.publish", "mqtt.subscribe"].contains(&word);
    let words = code.split(|c: char| !is_word(c)).filter(is_key).filter(|word| !permission(word));
    words.map(str::to_owned).collect()
}

/// The variables of the environment that a text names. The pattern for all of them is none.
fn variables_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named = words.filter(|word| word.starts_with("JARVIS__") && !word.starts_with("JARVIS__SECTION"));
    named.map(str::to_owned).collect()
}

/// The subcommand that a piece of text calls.
fn subcommand(text: &str) -> Option<String> {
    let text = text.trim_start_matches("$ ").trim();
    let after = text
        .strip_prefix("jarvis-bridge ")
        .or_else(|| text.strip_prefix("cargo run ").and_then(|rest| Some(rest.split_once("-- ")?.1)))?;
    let word = after.split_whitespace().next()?;
    word.starts_with(|c: char| c.is_ascii_lowercase() || c == '-').then(|| word.to_owned())
}
