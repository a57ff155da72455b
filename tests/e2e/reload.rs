//! Saving, adding and deleting plugin files while the bridge runs, as editors really do it.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Setup, assert_json, on_each_broker, plugin_source};

on_each_broker!(
    saved_in_place,
    saved_by_write_and_rename,
    several_files_at_once,
    files_come_and_go,
    a_file_that_is_back_within_a_second_never_went,
    a_renamed_file_is_the_same_plugin,
    a_new_id_is_another_plugin,
    what_is_no_plugin_is_left_alone,
    links_are_followed_inside_the_directory_and_swapped_as_one,
    more_plugins_than_may_run_are_refused_by_name,
    a_broken_save_keeps_the_old_version,
    a_start_that_fails_keeps_the_old_version,
    the_old_version_leaves_and_the_new_one_finds_its_state,
    handlers_and_timers_are_the_new_versions,
    every_command_during_fifty_reloads_is_answered_once,
    without_watching_only_the_operation_reloads,
    unloading_tells_the_plugin,
    what_waits_is_for_the_handler_that_listens_to_the_same,
);

fn answers(text: &str) -> String {
    format!("-- @commands ask\nfunction on_command(cmd) return {{ response = '{text}' }} end\n")
}

fn ask(jarvis: &Bridge) -> Value {
    jarvis.ask("command/request/ask", "")["response"].clone()
}

/// Waits for an announcement about a plugin.
fn heard(jarvis: &Bridge, kind: &str, id: &str) -> Value {
    jarvis.expect("jarvis/bridge/event", json!({ "type": kind, "data": { "id": id } }))
}

fn saved_in_place(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("p", &answers("one"))]);
    assert_eq!(ask(&jarvis), "one");
    for text in ["two", "three"] {
        jarvis.write_plugin("p", &answers(text));
        heard(&jarvis, "plugin_reloaded", "p");
        assert_eq!(ask(&jarvis), text);
    }
    // Saving what was there already is no change.
    jarvis.write_plugin("p", &answers("three"));
    jarvis.write_plugin("other", &answers("x").replace("ask", "other"));
    heard(&jarvis, "plugin_loaded", "other");
    jarvis.settle();
    assert!(jarvis.waiting("jarvis/bridge/event").is_empty());
}

fn saved_by_write_and_rename(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("p", &answers("one"))]);
    let directory = jarvis.setup().plugins();
    // As vim does: the old file becomes the backup, the new one is written in its place, the backup goes.
    fs::rename(directory.join("p.lua"), directory.join("p.lua~")).unwrap();
    fs::write(directory.join("p.lua"), plugin_source("p", &answers("two"))).unwrap();
    fs::remove_file(directory.join("p.lua~")).unwrap();
    heard(&jarvis, "plugin_reloaded", "p");
    assert_eq!(ask(&jarvis), "two");
    // As most others do: a temporary file is moved over the old one.
    for (temporary, text) in [(".p.lua.swp", "three"), ("p.lua.tmp", "four"), ("4913", "five")] {
        fs::write(directory.join(temporary), plugin_source("p", &answers(text))).unwrap();
        fs::rename(directory.join(temporary), directory.join("p.lua")).unwrap();
        heard(&jarvis, "plugin_reloaded", "p");
        assert_eq!(ask(&jarvis), text);
    }
}

fn several_files_at_once(broker: &Broker) {
    let code = |n: usize, text: &str| answers(text).replace("ask", &format!("ask{n}"));
    let setup = (0..8).fold(Setup::new(broker), |setup, n| setup.plugin(&format!("p{n}"), &code(n, "old")));
    let jarvis = setup.start();
    (0..8).for_each(|n| jarvis.write_plugin(&format!("p{n}"), &code(n, "new")));
    for n in 0..8 {
        heard(&jarvis, "plugin_reloaded", &format!("p{n}"));
    }
    for n in 0..8 {
        assert_eq!(jarvis.ask(&format!("command/request/ask{n}"), "")["response"], "new");
    }
}

fn files_come_and_go(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[]);
    jarvis.check("command/request/ask", "", json!({ "code": "unknown_command" }));
    jarvis.write_plugin("p", &answers("here"));
    heard(&jarvis, "plugin_loaded", "p");
    assert_eq!(ask(&jarvis), "here");
    fs::remove_file(jarvis.setup().plugins().join("p.lua")).unwrap();
    heard(&jarvis, "plugin_unloaded", "p");
    jarvis.check("command/request/ask", "", json!({ "code": "unknown_command" }));
    jarvis.expect("jarvis/bridge/plugins", json!([]));
    jarvis.write_plugin("p", &answers("back"));
    heard(&jarvis, "plugin_loaded", "p");
    assert_eq!(ask(&jarvis), "back");
}

fn a_file_that_is_back_within_a_second_never_went(broker: &Broker) {
    let count = "-- @commands ask\nlocal n = 0\nfunction on_command() n = n + 1 return { n = n } end";
    let jarvis = Bridge::start(broker, &[("p", count)]);
    assert_eq!(jarvis.run("ask", json!({})), json!({ "n": 1 }));
    fs::remove_file(jarvis.setup().plugins().join("p.lua")).unwrap();
    // Another file's load shows that the directory has been looked at meanwhile.
    jarvis.write_plugin("other", "function on_command() end");
    heard(&jarvis, "plugin_loaded", "other");
    jarvis.write_plugin("p", count);
    jarvis.write_plugin("third", "function on_command() end");
    heard(&jarvis, "plugin_loaded", "third");
    assert_eq!(jarvis.run("ask", json!({})), json!({ "n": 2 }), "the same worker");
}

fn a_renamed_file_is_the_same_plugin(broker: &Broker) {
    let code = "-- @commands ask\nfunction on_command() return { n = jarvis.state.incr('n') } end";
    let jarvis = Bridge::start(broker, &[("p", code)]);
    assert_eq!(jarvis.run("ask", json!({})), json!({ "n": 1 }));
    let directory = jarvis.setup().plugins();
    fs::rename(directory.join("p.lua"), directory.join("renamed.lua")).unwrap();
    heard(&jarvis, "plugin_unloaded", "p");
    heard(&jarvis, "plugin_loaded", "p");
    let info = jarvis.ask("bridge/request/plugin/info", "p");
    assert_json(&info["data"], &json!({ "state": "ready", "file": "renamed.lua" }));
    assert_eq!(jarvis.run("ask", json!({})), json!({ "n": 2 }), "it keeps its state");
}

fn a_new_id_is_another_plugin(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("p", &answers("one"))]);
    let file = jarvis.setup().plugins().join("p.lua");
    fs::write(file, plugin_source("q", &answers("two"))).unwrap();
    heard(&jarvis, "plugin_loaded", "q");
    assert_eq!(ask(&jarvis), "two");
    let list = jarvis.ask("bridge/request/plugin/list", "");
    assert_json(&list["data"], &json!([{ "id": "q", "state": "ready" }]));
    assert_eq!(jarvis.expect("jarvis/bridge/event", json!({ "type": "plugin_unloaded" }))["data"]["id"], "p");
}

fn what_is_no_plugin_is_left_alone(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[]);
    let directory = jarvis.setup().plugins();
    for name in ["notes.txt", ".hidden.lua", "p.lua~", "p.lua.bak", "#p.lua#"] {
        fs::write(directory.join(name), plugin_source("p", &answers("wrong"))).unwrap();
    }
    fs::create_dir(directory.join("folder")).unwrap();
    jarvis.write_plugin("right", &answers("right"));
    heard(&jarvis, "plugin_loaded", "right");
    let list = jarvis.ask("bridge/request/plugin/list", "");
    assert_json(&list["data"], &json!([{ "id": "right" }]));
}

/// As Kubernetes mounts and changes a ConfigMap.
fn links_are_followed_inside_the_directory_and_swapped_as_one(broker: &Broker) {
    use std::os::unix::fs::symlink;
    let jarvis = Bridge::start(broker, &[]);
    let directory = jarvis.setup().plugins();
    let version = |name: &str, text: &str| {
        fs::create_dir(directory.join(name)).unwrap();
        fs::write(directory.join(name).join("p.lua"), plugin_source("p", &answers(text))).unwrap();
        symlink(name, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    version("..2026_01", "one");
    symlink("..data/p.lua", directory.join("p.lua")).unwrap();
    heard(&jarvis, "plugin_loaded", "p");
    assert_eq!(ask(&jarvis), "one");
    version("..2026_02", "two");
    heard(&jarvis, "plugin_reloaded", "p");
    assert_eq!(ask(&jarvis), "two");

    let outside = directory.parent().unwrap().join("outside.lua");
    fs::write(&outside, plugin_source("outside", &answers("out").replace("ask", "out"))).unwrap();
    symlink("../outside.lua", directory.join("outside.lua")).unwrap();
    let event = heard(&jarvis, "plugin_error", "outside");
    let error = event["data"]["error"].as_str().unwrap();
    assert!(
        error.starts_with("outside.lua: is a symbolic link that leads out of the plugin directory"),
        "{error}"
    );
    assert_eq!(ask(&jarvis), "two");
}

fn more_plugins_than_may_run_are_refused_by_name(broker: &Broker) {
    let code = |id: &str| answers(id).replace("ask", id);
    let plugins = ["b", "c", "d"].map(|id| (id, code(id)));
    let setup = plugins.iter().fold(Setup::new(broker), |setup, (id, code)| setup.plugin(id, code));
    let jarvis = setup.set("LIMITS__PLUGINS", "2").start();
    assert_eq!(jarvis.ask("command/request/c", "")["response"], "c");
    let refused = jarvis.ask("command/request/d", "");
    assert_eq!((&refused["status"], &refused["code"]), (&json!("error"), &json!("unavailable")));
    assert!(refused["error"].as_str().unwrap().contains("(`limits.plugins`)"), "{refused:#}");
    // One that runs keeps its place beside one that comes before it by name.
    jarvis.write_plugin("a", &code("a"));
    heard(&jarvis, "plugin_error", "a");
    assert_eq!(jarvis.ask("command/request/c", "")["response"], "c");
    fs::remove_file(jarvis.setup().plugins().join("c.lua")).unwrap();
    heard(&jarvis, "plugin_loaded", "a");
    assert_eq!(jarvis.ask("command/request/a", "")["response"], "a");
}

fn a_broken_save_keeps_the_old_version(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("p", &answers("old"))]);
    let breaks = [
        ("function on_command(\n", "~p.lua:"),
        ("error('no milk')", "~p.lua:6: no milk"),
        ("-- @priority high\n", "~p.lua:6: "),
        ("while true do end", "~p.lua:6"),
        ("function on_startup() error('not today') end", "~p.lua:6: not today"),
    ];
    for (n, (code, error)) in breaks.iter().enumerate() {
        jarvis.write_plugin("p", code);
        let event = json!({ "type": "plugin_error", "data": { "id": "p", "error": error } });
        let error = jarvis.expect("jarvis/bridge/event", event)["data"]["error"].as_str().unwrap().to_owned();
        jarvis.log.expect(&error);
        assert_eq!(ask(&jarvis), if n == 0 { "old".to_owned() } else { format!("mended {}", n - 1) });
        let info = jarvis.ask("bridge/request/plugin/info", "p");
        assert_json(&info["data"], &json!({ "state": "ready", "last_error": format!("~{error}") }));
        jarvis
            .expect("jarvis/bridge/plugin/p", json!({ "state": "ready", "last_error": format!("~{error}") }));

        jarvis.write_plugin("p", &answers(&format!("mended {n}")));
        heard(&jarvis, "plugin_reloaded", "p");
        assert_eq!(ask(&jarvis), format!("mended {n}"));
        jarvis.expect("jarvis/bridge/plugin/p", json!({ "state": "ready", "last_error": null }));
    }
    // An empty or headless file is a broken save too, not a plugin that went.
    fs::write(jarvis.setup().plugins().join("p.lua"), "").unwrap();
    jarvis.expect(
        "jarvis/bridge/event",
        json!({ "type": "plugin_error", "data": { "id": "p", "error": "~`@id`" } }),
    );
    assert_eq!(ask(&jarvis), "mended 4");
}

fn a_start_that_fails_keeps_the_old_version(broker: &Broker) {
    let old = "-- @commands ask\n-- @permissions mqtt.publish:out/#
        function on_command() return { n = jarvis.state.get('n', 0) } end
        function on_shutdown() jarvis.mqtt.publish('out/left', 'old') end";
    let jarvis = Bridge::start(broker, &[("p", old)]);
    let fails = "-- @commands ask\n-- @permissions mqtt.publish:out/#
        function on_startup() jarvis.state.set('n', 99) jarvis.mqtt.publish('out/started', 'new') error('no') end";
    jarvis.write_plugin("p", fails);
    heard(&jarvis, "plugin_error", "p");
    assert_eq!(jarvis.run("ask", json!({})), json!({ "n": 0 }), "what the failed start wrote is dropped");
    jarvis.settle();
    assert!(jarvis.waiting("out/started").is_empty());
    assert!(jarvis.waiting("out/left").is_empty(), "the old one was never shut down");
}

fn the_old_version_leaves_and_the_new_one_finds_its_state(broker: &Broker) {
    let code = |version: u64| {
        format!(
            "-- @commands ask\n-- @permissions mqtt.publish:out/#
            function on_startup()
                jarvis.mqtt.publish('out/life', 'start {version}, left ' .. jarvis.state.get('left', 0))
                return {{ ready = true }}
            end
            function on_shutdown() jarvis.state.set('left', {version}) jarvis.mqtt.publish('out/life', 'stop {version}') end
            function on_command() return {{ n = jarvis.state.incr('n'), left = jarvis.state.get('left'), version = {version} }} end"
        )
    };
    let jarvis = Bridge::start(broker, &[]);
    jarvis.write_plugin("p", &code(1));
    let life = || jarvis.next("out/life").text().to_owned();
    assert_eq!(life(), "start 1, left 0");
    assert_eq!(jarvis.run("ask", json!({})), json!({ "n": 1, "version": 1 }));
    jarvis.write_plugin("p", &code(2));
    heard(&jarvis, "plugin_reloaded", "p");
    // The new one starts on the state as it is; when that went well, the old one leaves.
    let mut lives = [life(), life()];
    lives.sort();
    assert_eq!(lives, ["start 2, left 0", "stop 1"]);
    assert_eq!(jarvis.run("ask", json!({})), json!({ "n": 2, "left": 1, "version": 2 }));
    jarvis.ask("bridge/request/plugin/reload", "p");
    let mut lives = [life(), life()];
    lives.sort();
    assert_eq!(lives, ["start 2, left 1", "stop 2"]);
    let _again = jarvis.restart();
}

fn handlers_and_timers_are_the_new_versions(broker: &Broker) {
    let code = |version: u64| {
        format!(
            "-- @permissions mqtt.subscribe:in/#
            jarvis.events.on('rain', function() jarvis.events.emit('heard', {{ version = {version} }}) end)
            jarvis.mqtt.subscribe('in/x', function() jarvis.events.emit('heard', {{ version = {version} }}) end)
            jarvis.timer.every(0.1, function() jarvis.events.emit('tick', {{ version = {version} }}) end)"
        )
    };
    let jarvis = Bridge::start(broker, &[("p", &code(1))]);
    jarvis.expect("jarvis/event/p/tick", json!({ "data": { "version": 1 } }));
    jarvis.write_plugin("p", &code(2));
    heard(&jarvis, "plugin_reloaded", "p");
    jarvis.settle();
    jarvis.waiting("jarvis/event/p/tick");
    jarvis.check("event/request/rain", "", json!({ "data": { "delivered": 1 } }));
    jarvis.publish("in/x", "1");
    for _ in 0..2 {
        assert_json(&jarvis.next("jarvis/event/p/heard").json(), &json!({ "data": { "version": 2 } }));
    }
    for _ in 0..3 {
        assert_json(&jarvis.next("jarvis/event/p/tick").json(), &json!({ "data": { "version": 2 } }));
    }
    jarvis.settle();
    assert!(jarvis.waiting("jarvis/event/p/heard").is_empty());
    fs::remove_file(jarvis.setup().plugins().join("p.lua")).unwrap();
    heard(&jarvis, "plugin_unloaded", "p");
    jarvis.check("event/request/rain", "", json!({ "data": { "delivered": 0 } }));
}

fn every_command_during_fifty_reloads_is_answered_once(broker: &Broker) {
    let code = |version: u64| {
        format!(
            "-- @commands ask\nfunction on_command(cmd) return {{ n = jarvis.state.incr('n'), tag = cmd.args.tag, version = {version} }} end"
        )
    };
    let jarvis = Bridge::start(broker, &[("p", &code(0))]);
    let mut sent = 0_u64;
    for version in 1..=50 {
        jarvis.write_plugin("p", &code(version));
        // Commands keep coming until this version is in force.
        loop {
            for _ in 0..4 {
                sent += 1;
                jarvis.publish("jarvis/command/request/ask", json!({ "tag": sent }));
            }
            let answer = jarvis.run("ask", json!({ "tag": 0 }));
            if answer["version"] == version {
                break;
            }
        }
    }
    let mut last = 0;
    for tag in 1..=sent {
        let answer = jarvis.next("jarvis/command/response/ask").json();
        assert_json(&answer, &json!({ "status": "ok", "data": { "tag": tag } }));
        let version = answer["data"]["version"].as_u64().unwrap();
        assert!(version >= last, "{version} answers after {last}");
        last = version;
    }
    jarvis.settle();
    assert!(jarvis.waiting("jarvis/command/response/ask").is_empty(), "each is answered once");
}

fn without_watching_only_the_operation_reloads(broker: &Broker) {
    let jarvis = Setup::new(broker).plugin("p", &answers("old")).set("RELOAD__WATCH", "false").start();
    jarvis.write_plugin("p", &answers("new"));
    assert_eq!(ask(&jarvis), "old");
    jarvis.check(
        "bridge/request/plugin/reload",
        "p",
        json!({ "status": "ok", "data": { "state": "ready" } }),
    );
    assert_eq!(ask(&jarvis), "new");
    jarvis.write_plugin("p", "function on_command( end");
    let expected = json!({ "status": "error", "code": "hook_error", "error": "~p.lua:6:" });
    jarvis.check("bridge/request/plugin/reload", "p", expected);
    assert_eq!(ask(&jarvis), "new");
}

fn unloading_tells_the_plugin(broker: &Broker) {
    let code = "-- @permissions mqtt.publish:out/#
        function on_shutdown() jarvis.mqtt.publish('out/left', 'bye') return { ok = true } end";
    let jarvis = Bridge::start(broker, &[("p", code)]);
    fs::remove_file(jarvis.setup().plugins().join("p.lua")).unwrap();
    assert_eq!(jarvis.next("out/left").text(), "bye");
    heard(&jarvis, "plugin_unloaded", "p");
    while !jarvis.next("jarvis/bridge/plugin/p").payload.is_empty() {}
}

fn what_waits_is_for_the_handler_that_listens_to_the_same(broker: &Broker) {
    let source = |first: &str, second: &str| {
        format!(
            r#"
-- @permissions mqtt.subscribe:s/#, mqtt.publish:out/#
local function listen(name)
    jarvis.mqtt.subscribe("s/" .. name, function(m)
        if m.payload == "hang" then string.find(string.rep("a", 60), string.rep("a?", 60) .. string.rep("a", 60)) end
        jarvis.mqtt.publish("out/" .. name, m.topic .. m.payload)
    end)
end
listen("{first}")
listen("{second}")
"#
        )
    };
    let jarvis = Bridge::start(broker, &[("house", &source("lamp", "door"))]);
    jarvis.publish("s/lamp", "hang");
    for number in 1..=15 {
        jarvis.publish("s/lamp", number.to_string().as_str());
    }
    // It is saved while what waits cannot go on: the first message has to be killed.
    jarvis.write_plugin("house", &source("door", "lamp"));
    let lamp: Vec<String> = (1..=15).map(|_| jarvis.next("out/lamp").text().to_owned()).collect();
    assert_eq!(lamp, (1..=15).map(|number| format!("s/lamp{number}")).collect::<Vec<_>>());
    jarvis.settle();
    assert!(jarvis.waiting("out/door").is_empty(), "the door's function has heard of no lamp");
}
