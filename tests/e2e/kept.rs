//! What plugins keep: settings and state, their commits, their quota, their way over a restart.

use serde_json::json;

use crate::harness::{Bridge, Broker, Setup, assert_json, on_each_broker};

on_each_broker!(
    config_is_the_operators_until_the_plugin_sets_its_own,
    config_reads_secrets_and_fills_permissions,
    state_is_kept,
    state_survives_a_restart_and_a_kill,
    state_has_a_quota,
);

/// Calls the global function that bears the command's name.
const BY_NAME: &str = "function on_command(cmd) return _G[cmd.name](cmd.args) end\n";

fn by_name(code: &str) -> String {
    format!("{code}\n{BY_NAME}")
}

fn config_is_the_operators_until_the_plugin_sets_its_own(broker: &Broker) {
    let code = r#"
-- @config city = "Lyon"
-- @config retries = 3
-- @config kept = "default"
function show()
    local get = jarvis.config.get
    return {
        city = get("city"), retries = get("retries"), kept = get("kept"), extra = get("extra"),
        missing = get("missing", "fallback"), nothing = get("nothing") == nil,
    }
end
function set(args) jarvis.config.set("city", args.city) return show() end
function unset() jarvis.config.set("city", nil) return show() end
function fail() jarvis.config.set("city", "lost") error("no") end
"#;
    let setup = Setup::new(broker)
        .plugin("weather", &by_name(code))
        .configuration("[plugins.weather]\ncity = \"Paris\"\nretries = 5\nextra = [1, { a = true }]\n");
    let jarvis = setup.start();
    let city = |jarvis: &Bridge| jarvis.run("show", json!({}))["city"].as_str().unwrap().to_owned();
    let expected = json!({
        "city": "Paris", "retries": 5, "kept": "default", "extra": [1, { "a": true }], "missing": "fallback",
        "nothing": true,
    });
    assert_eq!(jarvis.run("show", json!({})), expected);
    assert_json(&jarvis.run("set", json!({ "city": "Nantes" })), &json!({ "city": "Nantes" }));
    assert_json(&jarvis.ask("command/request", "fail"), &json!({ "status": "error" }));
    assert_eq!(city(&jarvis), "Nantes", "what failed has not been set");
    let jarvis = jarvis.restart();
    assert_eq!(city(&jarvis), "Nantes");
    assert_json(&jarvis.run("unset", json!({})), &json!({ "city": "Paris" }));
    assert_eq!(city(&jarvis.restart()), "Paris");
}

fn config_reads_secrets_and_fills_permissions(broker: &Broker) {
    let code = r#"
-- @config lamp = "hall"
-- @permissions mqtt.publish:lights/{config.lamp}/set
function show() return { key = jarvis.config.get("api_key") } end
function light(args) jarvis.mqtt.publish("lights/" .. args.lamp .. "/set", "ON") return {} end
"#;
    let setup = Setup::new(broker).plugin("lamps", &by_name(code));
    std::fs::write(setup.path().join("key"), "s3cret\n").unwrap();
    let setup = setup.configuration("[plugins.lamps]\nlamp = \"porch\"\napi_key_file = \"key\"\n");
    let jarvis = setup.start();
    assert_eq!(jarvis.run("show", json!({})), json!({ "key": "s3cret" }));
    jarvis.run("light", json!({ "lamp": "porch" }));
    assert_eq!(jarvis.next("lights/porch/set").text(), "ON");
    let expected = json!({
        "error": "~plugin `lamps` may not publish to `lights/hall/set`: add `mqtt.publish:lights/hall/set` to its @permissions",
    });
    jarvis.check("command/request/light", json!({ "lamp": "hall" }), expected);
    // No secret leaves the bridge by itself.
    let info = jarvis.next("jarvis/bridge/info");
    assert!(info.text().contains("lamps") && !info.text().contains("s3cret"), "{}", info.text());
}

const STATE: &str = r#"
function set(args) jarvis.state.set(args.key, args.value) return { value = jarvis.state.get(args.key) } end
function get(args) return { value = jarvis.state.get(args.key, args.default) } end
function delete(args) jarvis.state.delete(args.key) return {} end
function keys(args) return { keys = jarvis.state.keys(args.prefix) } end
function incr(args) return { n = jarvis.state.incr(args.key, args.by) } end
function update(args)
    return { value = jarvis.state.update(args.key, function(old) return { old = old, new = args.value } end) }
end
function fail(args) jarvis.state.set(args.key, "lost") jarvis.state.incr("n") error("no") end
"#;

fn state_is_kept(broker: &Broker) {
    let (one, other) = (
        by_name(STATE),
        "-- @commands other_keys\nfunction on_command(cmd) return cmd.name == 'other_keys' and { keys = jarvis.state.keys() } or nil end",
    );
    let jarvis = Bridge::start(broker, &[("one", &one), ("other", other)]);
    for value in [
        json!(1),
        json!(1.5),
        json!("ä"),
        json!(true),
        json!(false),
        json!([1, { "a": [] }]),
        json!({ "deep": { "er": [1] } }),
    ] {
        assert_eq!(jarvis.run("set", json!({ "key": "k", "value": value })), json!({ "value": value }));
        assert_eq!(
            jarvis.run("get", json!({ "key": "k" })),
            json!({ "value": value }),
            "in a later call too"
        );
    }
    assert_eq!(jarvis.run("get", json!({ "key": "none", "default": "d" })), json!({ "value": "d" }));
    assert_eq!(jarvis.run("get", json!({ "key": "none" })), json!({}));
    assert_eq!(jarvis.run("incr", json!({ "key": "n" })), json!({ "n": 1 }));
    assert_eq!(jarvis.run("incr", json!({ "key": "n", "by": 4 })), json!({ "n": 5 }));
    assert_eq!(jarvis.run("incr", json!({ "key": "n", "by": -0.5 })), json!({ "n": 4.5 }));
    assert_eq!(jarvis.run("update", json!({ "key": "u", "value": 1 })), json!({ "value": { "new": 1 } }));
    let expected = json!({ "value": { "old": { "new": 1 }, "new": 2 } });
    assert_eq!(jarvis.run("update", json!({ "key": "u", "value": 2 })), expected);
    jarvis.run("set", json!({ "key": "room/hall", "value": 1 }));
    jarvis.run("set", json!({ "key": "room/attic", "value": 1 }));
    assert_eq!(jarvis.run("keys", json!({})), json!({ "keys": ["k", "n", "room/attic", "room/hall", "u"] }));
    assert_eq!(
        jarvis.run("keys", json!({ "prefix": "room/" })),
        json!({ "keys": ["room/attic", "room/hall"] })
    );
    assert_eq!(jarvis.run("keys", json!({ "prefix": "none" })), json!({ "keys": [] }));
    assert_eq!(jarvis.run("other_keys", json!({})), json!({ "keys": [] }), "each plugin has its own");
    jarvis.run("delete", json!({ "key": "k" }));
    jarvis.run("set", json!({ "key": "u" }));
    assert_eq!(
        jarvis.run("keys", json!({})),
        json!({ "keys": ["n", "room/attic", "room/hall"] }),
        "nil deletes"
    );
    assert_json(
        &jarvis.ask("command/request/fail", json!({ "key": "room/hall" })),
        &json!({ "status": "error" }),
    );
    assert_eq!(jarvis.run("get", json!({ "key": "room/hall" })), json!({ "value": 1 }), "rolled back");
    assert_eq!(jarvis.run("get", json!({ "key": "n" })), json!({ "value": 4.5 }));
}

fn state_survives_a_restart_and_a_kill(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("one", &by_name(STATE))]);
    jarvis.run("incr", json!({ "key": "n" }));
    jarvis.run("set", json!({ "key": "list", "value": [1, "two"] }));
    let jarvis = jarvis.restart();
    assert_eq!(jarvis.run("incr", json!({ "key": "n" })), json!({ "n": 2 }));
    // What was answered is committed. The last request may come again, as it was perhaps not acknowledged.
    let (setup, _) = jarvis.kill();
    let jarvis = setup.start();
    let n = jarvis.run("get", json!({ "key": "n" }))["value"].as_u64().unwrap();
    assert!((2..=3).contains(&n), "{n}");
    assert_eq!(jarvis.run("get", json!({ "key": "list" })), json!({ "value": [1, "two"] }));
}

fn state_has_a_quota(broker: &Broker) {
    let setup = Setup::new(broker).plugin("one", &by_name(STATE)).set("LIMITS__STATE", "1000");
    let jarvis = setup.start();
    jarvis.run("set", json!({ "key": "a", "value": "x".repeat(900) }));
    let expected = json!({ "status": "error", "code": "hook_error", "error": "~with `b` jarvis.state would have 1106 bytes, at most 1000 are allowed (limits.state)" });
    jarvis.check("command/request/set", json!({ "key": "b", "value": "x".repeat(200) }), expected);
    jarvis.run("set", json!({ "key": "a", "value": "short" }));
    jarvis.run("set", json!({ "key": "b", "value": "x".repeat(200) }));
}
