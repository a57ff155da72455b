//! What lies in the plugin directory under the name of a plugin: handled, or refused with a reason, and looking at
//! it never waits.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
};

use serde_json::{Value, json};

use super::stage::{GOOD, Stage, is_forged};
use crate::harness::{Broker, Setup, plugin_source};

const CODE: &str = "function on_command(cmd) if cmd.name == 'ask' then return {} end end\n";

fn setup() -> Setup {
    Setup::new(&Broker::Embedded).plugin("good", GOOD)
}

/// What the bridge says of a file: by its plugin's id, or by the file's name where it is refused.
fn find<'list>(list: &'list Value, name: &str) -> Option<&'list Value> {
    let is_it = |plugin: &&Value| plugin["id"] == name || plugin["name"] == format!("{name}.lua");
    list["data"].as_array().unwrap().iter().find(is_it)
}

#[track_caller]
fn refused(list: &Value, name: &str, why: &str) -> Option<String> {
    let Some(plugin) = find(list, name) else { return Some(format!("{name}: is not in the list")) };
    let error = plugin["last_error"].as_str().unwrap_or_default();
    let good = plugin["state"] == "error" && error.contains(why) && !is_forged(error);
    (!good).then(|| format!("{name}: wants `{why}`\n    in {plugin}"))
}

fn ready(list: &Value, name: &str) -> Option<String> {
    let state = find(list, name).map(|plugin| &plugin["state"]);
    (state != Some(&json!("ready"))).then(|| format!("{name}: is not ready: {:?}", find(list, name)))
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// Everything that a directory entry can be besides a file.
fn put_odd_entries(plugins: &Path, outside: &Path) {
    let at = |name: &str| plugins.join(name);
    fs::write(outside.join("secret.lua"), plugin_source("secret", CODE)).unwrap();
    symlink(outside.join("secret.lua"), at("link_out.lua")).unwrap();
    symlink("../outside/secret.lua", at("link_up.lua")).unwrap();
    symlink("/etc/passwd", at("link_passwd.lua")).unwrap();
    symlink("/dev/zero", at("link_zero.lua")).unwrap();
    symlink("/dev/stdin", at("link_stdin.lua")).unwrap();
    symlink("/proc/self/environ", at("link_environ.lua")).unwrap();
    symlink("nowhere.lua", at("link_dangling.lua")).unwrap();
    symlink("link_loop.lua", at("link_loop.lua")).unwrap();
    symlink(outside, at("link_directory.lua")).unwrap();
    fifo(&at("pipe.lua"));
    fs::create_dir(at("directory.lua")).unwrap();
    fs::write(at("directory.lua/init.lua"), plugin_source("inside", CODE)).unwrap();
    fs::File::create(at("sparse.lua")).unwrap().set_len(1 << 40).unwrap();
    fs::write(at("large.lua"), plugin_source("large", &format!("--{}", " ".repeat(1024 * 1024)))).unwrap();
}

#[test]
fn entries_that_are_no_files() {
    let setup = setup();
    let outside = setup.path().join("outside");
    fs::create_dir(&outside).unwrap();
    put_odd_entries(&setup.plugins(), &outside);
    let _socket = UnixListener::bind(setup.plugins().join("socket.lua")).unwrap();
    let mut stage = Stage::of(setup);
    let list = stage.jarvis.ask("bridge/request/plugin/list", "");
    let faults: Vec<String> = [
        ("link_out", "link"),
        ("link_up", "link"),
        ("link_passwd", "link"),
        ("link_zero", "link"),
        ("link_stdin", "link"),
        ("link_environ", "link"),
        ("link_dangling", "link"),
        ("link_loop", "link"),
        ("link_directory", "link"),
        ("pipe", "not a regular file"),
        ("socket", "not a regular file"),
        ("directory", "not a regular file"),
        ("sparse", "1 MiB"),
        ("large", "1 MiB"),
    ]
    .iter()
    .filter_map(|(name, why)| refused(&list, name, why))
    .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(find(&list, "secret").is_none() && find(&list, "inside").is_none());
    stage.unharmed();
}

/// While it runs, files turn into something else, and back.
#[test]
fn files_that_become_something_else() {
    let mut stage = Stage::of(setup().plugin("asked", &format!("-- @commands ask\n{CODE}")));
    let file = stage.jarvis.setup().plugins().join("asked.lua");
    for (kind, why) in [
        ("fifo", "not a regular file"),
        ("link", "link"),
        ("directory", "not a regular file"),
        ("sparse", "1 MiB"),
    ] {
        fs::remove_file(&file).unwrap();
        match kind {
            "fifo" => fifo(&file),
            "link" => symlink("/dev/zero", &file).unwrap(),
            "directory" => fs::create_dir(&file).unwrap(),
            _ => fs::File::create(&file).unwrap().set_len(1 << 40).unwrap(),
        }
        stage
            .jarvis
            .log
            .expect(&format!("asked.lua: {}", if kind == "sparse" { "is larger" } else { "is " }));
        stage.ask_good();
        // What ran goes on: a file that cannot be read is no reason to lose a plugin.
        assert_eq!(stage.jarvis.run("ask", json!({})), json!({}), "{kind}: {why}");
        if kind == "directory" {
            fs::remove_dir(&file).unwrap()
        } else {
            fs::remove_file(&file).unwrap()
        }
        stage.jarvis.write_plugin("asked", &format!("-- @commands ask\n-- {kind}\n{CODE}"));
        stage.jarvis.log.expect("plugin reloaded");
    }
    stage.unharmed();
}

/// The bytes of files that are text, or nearly.
fn contents() -> Vec<(&'static str, Vec<u8>, Result<(), &'static str>)> {
    let source = |id: &str| plugin_source(id, CODE);
    let with = |id: &str, line: &str| {
        format!("-- @id {id}\n-- @name N\n-- @version 1.0.0\n-- @author A\n-- @description D\n{line}\n{CODE}")
            .into_bytes()
    };
    let without = |id: &str, key: &str| {
        let text = source(id);
        text.lines()
            .filter(|line| !line.contains(key))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
            .into_bytes()
    };
    let lua_bytecode = b"\x1bLua\x54\x00\x19\x93\r\n\x1a\n\x04\x08\x08xV".to_vec();
    vec![
        ("bom", format!("\u{feff}{}", source("bom")).into(), Ok(())),
        ("crlf", source("crlf").replace('\n', "\r\n").into(), Ok(())),
        ("shebang", format!("#!/usr/bin/lua\n{}", source("shebang")).into(), Ok(())),
        ("bom_shebang", format!("\u{feff}#!/usr/bin/lua\r\n{}", source("bom_shebang")).into(), Ok(())),
        ("no_newline", source("no_newline").trim_end().into(), Ok(())),
        ("comments_first", format!("-- hello\n\n{}", source("comments_first")).into(), Ok(())),
        (
            "long_comment_first",
            format!("--[[ hello\n@id x ]]\n{}", source("long_comment_first")).into(),
            Ok(()),
        ),
        (
            "latin1",
            source("latin1").replace("Somebody", "Ren\u{e9}").chars().map(|c| c as u8).collect(),
            Err("UTF-8"),
        ),
        ("utf16", source("utf16").encode_utf16().flat_map(u16::to_le_bytes).collect(), Err("")),
        ("nul_in_code", format!("{}local x = 1\0 + 1\n", source("nul_in_code")).into(), Err("")),
        (
            "nul_in_header",
            source("nul_in_header").replace("Somebody", "Some\0body").into(),
            Err("control character"),
        ),
        ("cr_only", source("cr_only").replace('\n', "\r").into(), Err("")),
        ("empty", Vec::new(), Err("@id")),
        ("spaces", b"   \n\n\t\n".to_vec(), Err("@id")),
        ("binary", (0..=255).collect(), Err("UTF-8")),
        ("bytecode", lua_bytecode.clone(), Err("bytecode")),
        ("bytecode_bom", [b"\xef\xbb\xbf".as_slice(), &lua_bytecode].concat(), Err("bytecode")),
        ("bytecode_shebang", [b"#!/usr/bin/lua\n".as_slice(), &lua_bytecode].concat(), Err("bytecode")),
        ("bytecode_header", [source("bytecode_header").as_bytes(), &lua_bytecode].concat(), Err("")),
        ("header_late", format!("local x = 1\n{}", source("header_late")).into(), Err("@id")),
        ("header_in_text", format!("local x = [[\n{}]]\n", source("header_in_text")).into(), Err("@id")),
        ("header_in_comment", format!("--[[\n{}\n]]\n", source("header_in_comment")).into(), Err("@id")),
        ("no_id", without("no_id", "@id"), Err("@id")),
        ("no_name", without("no_name", "@name"), Err("@name")),
        ("no_version", without("no_version", "@version"), Err("@version")),
        ("no_author", without("no_author", "@author"), Err("@author")),
        ("no_description", without("no_description", "@description"), Err("@description")),
        ("id_twice", with("id_twice", "-- @id other"), Err("@id")),
        (
            "bad_version",
            String::from_utf8(without("bad_version", "@version"))
                .unwrap()
                .replacen("-- @name", "-- @version one\n-- @name", 1)
                .into(),
            Err("@version"),
        ),
        (
            "huge_version",
            String::from_utf8(without("huge_version", "@version"))
                .unwrap()
                .replacen("-- @name", "-- @version 99999999999999999999.0.0\n-- @name", 1)
                .into(),
            Err("@version"),
        ),
        (
            "many_commands",
            with(
                "many_commands",
                &format!("-- @commands {}", (0..500).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",")),
            ),
            Err("many_commands.lua:6"),
        ),
        (
            "very_many_commands",
            with(
                "very_many_commands",
                &(0..10_000).map(|n| format!("-- @commands c{n}\n")).collect::<String>(),
            ),
            Err("very_many_commands.lua"),
        ),
        (
            "long_line",
            with("long_line", &format!("-- @commands {}", "x".repeat(100_000))),
            Err("long_line.lua:6"),
        ),
        (
            "long_description",
            without("long_description", "@description")
                .into_iter()
                .chain(format!("\n-- @id x {}", "x".repeat(100_000)).into_bytes())
                .collect(),
            Err("@description"),
        ),
        ("bad_command", with("bad_command", "-- @commands a b, /c, #, ../d"), Err("bad_command.lua:6")),
        ("bad_subscribe", with("bad_subscribe", "-- @subscribe a/#/b"), Err("bad_subscribe.lua:6")),
        (
            "takes_requests",
            with("takes_requests", "-- @subscribe jarvis/+/request/#"),
            Err("takes_requests.lua:6"),
        ),
        ("bad_emits", with("bad_emits", "-- @emits a b"), Err("bad_emits.lua:6")),
        ("bad_config", with("bad_config", "-- @config x = {{{{"), Err("bad_config.lua:6")),
        (
            "deep_config",
            with("deep_config", &format!("-- @config x = {}1{}", "[".repeat(1_500), "]".repeat(1_500))),
            Err("deep_config.lua:6"),
        ),
        (
            "bad_priority",
            with("bad_priority", "-- @priority 99999999999999999999"),
            Err("bad_priority.lua:6"),
        ),
        ("bad_timeout", with("bad_timeout", "-- @timeout -1s"), Err("bad_timeout.lua:6")),
        ("nan_timeout", with("nan_timeout", "-- @timeout nan"), Err("nan_timeout.lua:6")),
        ("huge_timeout", with("huge_timeout", "-- @timeout 1h"), Err("huge_timeout.lua:6")),
        ("huge_memory", with("huge_memory", "-- @memory 99 GiB"), Ok(())),
        ("no_memory", with("no_memory", "-- @memory 0"), Err("no_memory.lua:6")),
        (
            "bidi_name",
            String::from_utf8(without("bidi_name", "@name"))
                .unwrap()
                .replacen("-- @version", "-- @name \u{202e}gnihtemos\u{200b}\n-- @version", 1)
                .into(),
            Err("bidi_name.lua:2"),
        ),
    ]
}

#[test]
fn contents_that_are_hardly_a_plugin() {
    let setup = setup();
    for (name, bytes, _) in contents() {
        fs::write(setup.plugins().join(format!("{name}.lua")), bytes).unwrap();
    }
    let mut stage = Stage::of(setup);
    let list = stage.jarvis.ask("bridge/request/plugin/list", "");
    let check = |(name, _, end): &(&str, Vec<u8>, Result<(), &str>)| match end {
        Ok(()) => ready(&list, name),
        Err(why) => refused(&list, name, why),
    };
    let faults: Vec<String> = contents().iter().filter_map(check).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    stage.unharmed();
}

/// Ids that would lead out of their place in a topic, in the store, in the log.
#[test]
fn ids_that_are_none() {
    let ids = [
        "../../etc/passwd",
        "a/b",
        "a b",
        "A",
        "Good",
        "gööd",
        "1a",
        "-a",
        "_a",
        "",
        "a.b",
        "a+b",
        "#",
        "$SYS",
        "request",
        "response",
        "a\u{0}b",
        "a\u{202e}b",
        "g\u{43e}od",
        "%s%n",
        "'; drop table state; --",
        &"x".repeat(65),
        &"x".repeat(5_000),
    ];
    let mut setup = setup();
    for (number, id) in ids.iter().enumerate() {
        setup = setup.file(
            &format!("file{number}.lua"),
            &plugin_source(id, &format!("-- @commands c{number}\n{CODE}")),
        );
    }
    // Whoever comes later with the id of another is refused, also by the case of its file's name.
    setup =
        setup.file("zgood.lua", &plugin_source("good", CODE)).file("GOOD.lua", &plugin_source("good", CODE));
    let stage = Stage::of(setup);
    let list = stage.jarvis.ask("bridge/request/plugin/list", "");
    let refused = |file: &str| {
        let plugins = list["data"].as_array().unwrap();
        plugins.iter().any(|plugin| plugin["name"] == file && plugin["state"] == "error")
    };
    let same: Vec<usize> = (0..ids.len()).filter(|number| !refused(&format!("file{number}.lua"))).collect();
    assert!(
        same.is_empty(),
        "not refused: {:?}\n{list:#}",
        same.iter().map(|number| ids[*number]).collect::<Vec<_>>()
    );
    for file in ["good.lua", "zgood.lua"] {
        stage.jarvis.log.expect(&format!("{file}: `@id good` is the id of `GOOD.lua` already"));
    }
    for plugin in list["data"].as_array().unwrap() {
        assert!(!plugin.to_string().contains("\\u0000"), "{plugin}");
    }
    stage.jarvis.settle();
}

/// Names of files that are no good as names.
#[test]
fn names_of_files_that_are_none() {
    let setup = setup();
    let plugins = setup.plugins();
    let long = format!("{}.lua", "x".repeat(250));
    let names = [
        "a\nb.lua",
        "a\u{1b}[2Jb.lua",
        "a\u{202e}b.lua",
        " .lua",
        "..lua",
        ".hidden.lua",
        "-rf.lua",
        "$(id).lua",
        "a b.lua",
        "ä.lua",
        "x.lua.lua",
        "X.LUA",
        "x.lua~",
        &long,
    ];
    for (number, name) in names.iter().enumerate() {
        fs::write(plugins.join(name), plugin_source(&format!("named{number}"), CODE)).unwrap();
    }
    let not_utf8: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe.lua");
    fs::write(plugins.join(not_utf8), plugin_source("not_utf8", CODE)).unwrap();
    let mut stage = Stage::of(setup);
    let list = stage.jarvis.ask("bridge/request/plugin/list", "");
    for plugin in list["data"].as_array().unwrap() {
        for text in [&plugin["id"], &plugin["name"], &plugin["last_error"]] {
            assert!(!is_forged(text.as_str().unwrap_or_default()), "{plugin}");
        }
    }
    let log = stage.jarvis.log.text();
    assert!(!log.contains('\u{1b}'), "control characters reach the terminal");
    stage.unharmed();
}

/// More files than are looked at, and more bytes: the rest is refused, and what is looked at works.
#[test]
fn a_directory_that_is_full() {
    let setup = setup();
    for number in 0..1_100 {
        fs::write(setup.plugins().join(format!("x{number:04}.lua")), "-- no plugin\n").unwrap();
    }
    for number in 0..80 {
        let text = format!("-- no plugin\n{}", " ".repeat(1_000_000));
        fs::write(setup.plugins().join(format!("y{number:04}.lua")), text).unwrap();
    }
    let mut stage = Stage::of(setup);
    let list = stage.jarvis.ask("bridge/request/plugin/list", "");
    assert!(list["data"].as_array().unwrap().len() <= 1_200, "the list has everything in it");
    stage.jarvis.log.expect("1000");
    stage.unharmed();
}

/// Files that come and go as fast as they can be written.
#[test]
fn a_directory_that_never_rests() {
    let mut stage = Stage::of(setup());
    let plugins = stage.jarvis.setup().plugins();
    for number in 0..300 {
        let file = plugins.join(format!("restless{}.lua", number % 7));
        match number % 3 {
            0 => fs::write(&file, plugin_source(&format!("restless{}", number % 7), CODE)).unwrap(),
            1 => fs::write(&file, "this is no lua").unwrap(),
            _ => drop(fs::remove_file(&file)),
        }
        if number % 20 == 0 {
            stage.ask_good();
        }
    }
    fs::write(plugins.join("last.lua"), plugin_source("last", CODE)).unwrap();
    stage.jarvis.expect("jarvis/bridge/event", json!({ "type": "plugin_loaded", "data": { "id": "last" } }));
    stage.unharmed();
}
