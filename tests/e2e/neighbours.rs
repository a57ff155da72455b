//! What plugins do to each other, and what they cannot.

use serde_json::json;

use crate::harness::{Bridge, Broker, Setup, on_each_broker, plugin_source};

on_each_broker!(
    commands_that_wait_for_each_other_are_refused_at_once,
    no_header_takes_the_requests_away,
    a_copy_of_a_plugin_takes_nothing_from_it,
    what_timers_put_out_is_bounded,
    a_hanging_plugin_can_be_mended_at_once,
    a_plugin_that_always_fails_is_in_the_log_once_a_second,
    what_is_published_at_once_is_counted_too,
    what_nobody_hears_is_bounded,
    timers_starve_no_mail,
    a_slow_listener_loses_its_own_and_nobody_elses,
    what_goes_through_the_broker_and_back_is_counted_together,
    nobody_waits_for_what_lies_before_a_slow_plugins_mail,
    a_call_overtakes_what_a_plugin_has_to_hear,
    whatever_nobody_asked_for_goes_back_to_one_beginning,
);

fn commands_that_wait_for_each_other_are_refused_at_once(broker: &Broker) {
    // Each asks the other within one chat message: the circle closes over two calls.
    let half = |own: &str, other: &str| {
        format!(
            r#"
-- @commands {own}
function on_command(cmd) return {{ response = cmd.name }} end
function on_chat(message)
  jarvis.sleep(0.3)
  local ok, result = pcall(jarvis.command, "{other}")
  return {{ ok = ok, result = ok and result.response or tostring(result) }}
end
"#
        )
    };
    let jarvis = Bridge::start(broker, &[("aa", &half("ca", "cb")), ("bb", &half("cb", "ca"))]);
    let envelope = jarvis.ask("chat/request", "go");
    assert_eq!(envelope["status"], "ok", "{envelope:#}");
    let results: Vec<_> =
        envelope["results"].as_array().unwrap().iter().map(|result| &result["data"]).collect();
    assert_eq!(results.len(), 2, "{envelope:#}");
    let refused = results.iter().filter(|data| data["ok"] == false).count();
    assert_eq!(refused, 1, "one of the two has its answer, the other is told why not: {envelope:#}");
    let told = results.iter().find(|data| data["ok"] == false).unwrap()["result"].as_str().unwrap();
    assert!(told.contains("waits for this very call"), "{told}");
}

fn no_header_takes_the_requests_away(broker: &Broker) {
    let greedy = "-- @subscribe jarvis/+/request/#\nfunction on_mqtt(m) end\n";
    let polite = "-- @commands ping\nfunction on_command(cmd) return { response = 'pong' } end\n";
    let jarvis = Bridge::start(broker, &[("greedy", greedy), ("polite", polite)]);
    assert_eq!(jarvis.run("ping", json!({}))["response"], "pong");
    let list = jarvis.ask("bridge/request/plugin/list", "");
    let greedy = list["data"].as_array().unwrap().iter().find(|plugin| plugin["id"] == "greedy").unwrap();
    assert_eq!(greedy["state"], "error");
    let error = greedy["last_error"].as_str().unwrap();
    assert!(error.contains("`@subscribe jarvis/+/request/#` lies inside"), "{error}");
}

fn a_copy_of_a_plugin_takes_nothing_from_it(broker: &Broker) {
    let code = "-- @commands weather\nfunction on_command(cmd) return { response = 'sun' } end\n";
    let jarvis = Bridge::start(broker, &[("weather", code)]);
    let copy = plugin_source("weather", &code.replace("sun", "copy"));
    std::fs::write(jarvis.setup().plugins().join("a_copy.lua"), copy).unwrap();
    jarvis.log.expect("a_copy.lua: `@id weather` is the id of `weather.lua` already");
    assert_eq!(jarvis.run("weather", json!({}))["response"], "sun");
    jarvis.write_plugin("weather", &code.replace("sun", "rain"));
    jarvis.log.expect("plugin reloaded");
    assert_eq!(jarvis.run("weather", json!({}))["response"], "rain");
    // Half a save, one as some editors do, and the good text again: it is the copy's at no time.
    let file = jarvis.setup().plugins().join("weather.lua");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "-- @id weather\n").unwrap();
    jarvis.log.expect("weather.lua: missing `@name`");
    assert_eq!(jarvis.run("weather", json!({}))["response"], "rain");
    std::fs::remove_file(&file).unwrap();
    jarvis.expect("jarvis/bridge/plugins", json!([{ "id": "a_copy", "state": "error" }, { "id": "weather", "state": "ready", "last_error": null }]));
    assert_eq!(jarvis.run("weather", json!({}))["response"], "rain");
    std::fs::write(&file, good.replace("rain", "snow")).unwrap();
    jarvis.log.expect_times("plugin reloaded", 2);
    assert_eq!(jarvis.run("weather", json!({}))["response"], "snow");
    // Once it has really gone the id is free.
    std::fs::remove_file(&file).unwrap();
    jarvis.log.expect("plugin unloaded plugin=weather");
    jarvis.log.expect_times("plugin loaded plugin=weather", 2);
    assert_eq!(jarvis.run("weather", json!({}))["response"], "copy");
}

fn what_timers_put_out_is_bounded(broker: &Broker) {
    let flood = r#"
-- @commands ping
function on_startup()
  jarvis.timer.every(0.1, function() for i = 1, 50 do jarvis.events.emit("tick", { i = i }) end end)
end
function on_command(cmd) return { response = "pong" } end
"#;
    let jarvis = Setup::new(broker).plugin("flood", flood).start();
    jarvis.log.expect("may emit and publish 100 times a second");
    assert_eq!(jarvis.run("ping", json!({}))["response"], "pong");
}

fn a_hanging_plugin_can_be_mended_at_once(broker: &Broker) {
    let code = |hangs: &str| {
        format!("-- @commands work\nfunction on_command(cmd) {hangs} return {{ response = 'done' }} end\n")
    };
    let hangs = code("string.find(string.rep('a', 60), string.rep('a?', 60) .. string.rep('a', 60))");
    let other = "-- @commands other\nfunction on_command(cmd) return { response = 'one' } end\n";
    let jarvis = Bridge::start(broker, &[("hangs", &hangs), ("other", other)]);
    for _ in 0..12 {
        jarvis.publish("jarvis/command/request/work", "");
    }
    jarvis.expect("jarvis/command/response/work", json!({ "code": "timeout" }));
    jarvis.write_plugin("hangs", &code(""));
    jarvis.write_plugin("other", &other.replace("one", "two"));
    // What waited is answered by the mended version, and nobody else waits for that.
    jarvis.expect("jarvis/command/response/work", json!({ "response": "done" }));
    jarvis.log.expect("plugin reloaded plugin=other");
    assert_eq!(jarvis.run("other", json!({}))["response"], "two");
}

fn a_plugin_that_always_fails_is_in_the_log_once_a_second(broker: &Broker) {
    let fails = "-- @commands fail\nfunction on_command() error('the same again') end\n";
    let other = "-- @commands other\nfunction on_command() error('something else') end\n";
    let jarvis = Bridge::start(broker, &[("fails", fails), ("other", other)]);
    let start = std::time::Instant::now();
    for _ in 0..300 {
        jarvis.check("command/request/fail", "", json!({ "code": "hook_error", "error": "~the same again" }));
    }
    jarvis.check("command/request/other", "", json!({ "code": "hook_error" }));
    jarvis.log.expect("something else");
    jarvis.log.expect("the plugin failed as before, this many times more plugin=fails");
    let told = jarvis.log.text().lines().filter(|line| line.contains("the same again")).count();
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 2;
    assert!(told <= seconds, "{told} lines in {seconds} s");
}

fn what_is_published_at_once_is_counted_too(broker: &Broker) {
    let flood = r#"
-- @permissions mqtt.publish:out/#
-- @commands ping
jarvis.timer.every(0.1, function()
  for i = 1, 50 do jarvis.mqtt.publish("out/x", "x", { now = true }) end
end)
function on_command(cmd) return { response = "pong" } end
"#;
    let jarvis = Bridge::start(broker, &[("flood", flood)]);
    jarvis.log.expect("may emit and publish 100 times a second");
    assert_eq!(jarvis.run("ping", json!({}))["response"], "pong");
}

fn what_nobody_hears_is_bounded(broker: &Broker) {
    let emitter = r#"
-- @commands burst
function on_command()
  for i = 1, 15 do jarvis.events.emit("big", string.rep("x", 200000)) end
  return {}
end
"#;
    // It hears one event in the time in which its neighbour emits all of them.
    let listener = "-- @commands ping
jarvis.events.on('big', function() jarvis.sleep(2) end)
function on_command() return { response = 'pong' } end\n";
    let jarvis = Bridge::start(broker, &[("emitter", emitter), ("listener", listener)]);
    for _ in 0..32 {
        jarvis.check("command/request/burst", "", json!({ "status": "ok" }));
    }
    jarvis.log.expect("events and messages for it are dropped plugin=listener");
}

fn timers_starve_no_mail(broker: &Broker) {
    // Honest pollers, each of which waits for a moment: there is always one that is due.
    let poller = r#"
local function poll() jarvis.sleep(0.05) end
for i = 1, 16 do jarvis.timer.every(0.1, poll) end
function on_chat(message) return nil end
"#;
    let good = "function on_chat(message) return { response = 'hello' } end";
    let jarvis = Bridge::start(broker, &[("poller", poller), ("good", good)]);
    for _ in 0..3 {
        jarvis.check("chat/request", "hi", json!({ "status": "ok", "response": "hello" }));
    }
}

fn a_slow_listener_loses_its_own_and_nobody_elses(broker: &Broker) {
    let slow = r#"
-- @commands lag
jarvis.events.on("*", function() for i = 1, 10 do jarvis.sleep(5) end end)
function on_command() return {} end
"#;
    let good = r#"
-- @commands good
local n = 0
function on_command() n = n + 1 jarvis.events.emit("motion", { n = n }) return { n = n } end
"#;
    let setup = Setup::new(broker).plugin("slow", slow).plugin("good", good).set("LIMITS__BACKLOG", "100");
    let jarvis = setup.start();
    for n in 1..=300 {
        // What it caused waits for the listener, and so does its envelope's acknowledgement, but no answer.
        assert_eq!(jarvis.run("good", json!({})), json!({ "n": n }));
    }
    let expected = json!({
        "status": "error", "code": "unavailable", "error": "~plugin `slow` is too slow: 100 messages wait for it already",
    });
    jarvis.check("command/request", "lag", expected);
    let health = jarvis.ask("bridge/request/health", "")["data"]["plugins"].clone();
    assert_eq!((&health["slow"]["waiting"], &health["good"]["waiting"]), (&json!(100), &json!(0)));
    assert!(health["slow"]["dropped"].as_u64().unwrap() > 100, "{health:#}");
    jarvis.log.expect("the plugin is too slow: events and messages for it are dropped plugin=slow");
}

fn what_goes_through_the_broker_and_back_is_counted_together(broker: &Broker) {
    // Each message becomes sixteen, eight times over: more than four thousand million.
    let bomb = r#"
-- @permissions mqtt.subscribe:x/#, mqtt.publish:x/#
jarvis.mqtt.subscribe("x/#", function() for i = 1, 16 do jarvis.mqtt.publish("x/y", "z") end end)
"#;
    let good = "-- @commands good\nlocal n = 0\nfunction on_command() n = n + 1 return { n = n } end";
    let setup = Setup::new(broker).plugin("bomb", bomb).plugin("good", good);
    let jarvis = setup.set("BREAKER__KILLS", "1000").start();
    jarvis.publish("x/first", "a");
    for n in 1..=300 {
        assert_eq!(jarvis.run("good", json!({})), json!({ "n": n }));
    }
    jarvis.log.expect("one message may cause 1,000 emits and publishes in all");
    jarvis.settle();
    // What was refused has been undone, what was not is a thousand at most.
    let heard = jarvis.waiting("x/y").len();
    assert!((900..=1_000).contains(&heard), "{heard}");
}

fn nobody_waits_for_what_lies_before_a_slow_plugins_mail(broker: &Broker) {
    // Each nap keeps it busy for most of what a call may take; thirty of them lie before the chat.
    let slow = r#"
-- @commands nap
-- @permissions mqtt.publish:out/#
function on_command() jarvis.sleep(1.5) return {} end
function on_chat() jarvis.mqtt.publish("out/late", "x") return nil end
function filter_message(m) return nil end
"#;
    let good = "function on_chat(m) return { response = 'hello' } end";
    let setup = Setup::new(broker).plugin("slow", slow).plugin("good", good);
    let jarvis = setup.set("LIMITS__HOOK_TOTAL_MS", "2000").start();
    (0..30).for_each(|_| jarvis.publish("jarvis/command/request/nap", ""));
    let envelope = jarvis.check("chat/request", "hi", json!({ "status": "ok", "response": "hello" }));
    let results = envelope["results"].as_array().unwrap();
    let slow: Vec<_> = results.iter().filter(|result| result["plugin"] == "slow").collect();
    assert!(!slow.is_empty() && slow.iter().all(|result| result["code"] == "timeout"), "{envelope:#}");
    jarvis.settle();
    assert!(jarvis.waiting("out/late").is_empty(), "what nobody waits for has not begun");
}

fn a_call_overtakes_what_a_plugin_has_to_hear(broker: &Broker) {
    // To hear all takes longer than this test waits.
    let slow = r#"
function filter_message(m) return { content = "filtered" } end
jarvis.events.on("*", function() jarvis.sleep(1) end)
"#;
    let good = r#"
-- @commands ring
function on_command() for i = 1, 40 do jarvis.events.emit("ring") end return {} end
function on_chat(m) return { response = m.content } end
"#;
    let jarvis = Bridge::start(broker, &[("slow", slow), ("good", good)]);
    jarvis.run("ring", json!({}));
    jarvis.check("chat/request", "Hello", json!({ "status": "ok", "response": "filtered" }));
}

fn whatever_nobody_asked_for_goes_back_to_one_beginning(broker: &Broker) {
    let code = r#"
-- @permissions mqtt.publish:out/#
local function both(name)
    jarvis.mqtt.publish("out/" .. name .. "/now", "x", { now = true })
    jarvis.mqtt.publish("out/" .. name .. "/then", "x")
end
function on_startup() jarvis.timer.every(0.1, function() both("timer") end) end
function on_command() both("command") return {} end
"#;
    let jarvis = Bridge::start(broker, &[("speaks", code)]);
    jarvis.run("speak", json!({}));
    let origin = |topic: &str| {
        let properties = jarvis.next(topic).properties.user_properties;
        properties.into_iter().find(|(name, _)| name == "jarvis-origin").expect(topic).1
    };
    let [timer, command] = ["out/timer", "out/command"].map(|topic| {
        let now = origin(&format!("{topic}/now"));
        assert_eq!(now, origin(&format!("{topic}/then")));
        now
    });
    assert_ne!(timer, command);
}
