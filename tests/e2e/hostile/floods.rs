//! More of everything than is allowed, names that are none, and circles: one plugin's flood reaches its own
//! limits and nobody else.

use serde_json::{Value, json};

use super::stage::{
    End::{Answers, Bounded, Fails, TimedOut},
    GOOD, Stage,
    Trigger::{Event, Load, Message, Startup, Timer},
    case, run,
};
use crate::harness::{Broker, Setup};

const ALL: &str = "@permissions mqtt.publish:#, mqtt.subscribe:#, http:127.0.0.1";

#[test]
fn floods_of_one_call() {
    let over = |limit: &'static str| Fails("hook_error", limit);
    let tricks = [
        ("publishes", over("limits.outputs"), "for i = 1, 65 do jarvis.mqtt.publish('out/x', i) end"),
        (
            "both",
            over("limits.outputs"),
            "for i = 1, 33 do jarvis.mqtt.publish('out/x', i) jarvis.events.emit('x', {}) end",
        ),
        (
            "publishes_now",
            over("limits."),
            "for i = 1, 2000 do jarvis.mqtt.publish('out/x', i, { now = true }) end",
        ),
        ("says", over("limits.outputs"), "for i = 1, 65 do jarvis.say('x') end"),
        ("emits_in_pcall", TimedOut, "while true do pcall(jarvis.events.emit, 'x', {}) end"),
        (
            "emits_in_coroutines",
            over("limits.outputs"),
            "for i = 1, 65 do coroutine.wrap(function() jarvis.events.emit('x', {}) end)() end",
        ),
        ("requests", over("limits.http"), "for i = 1, 100 do jarvis.http.get('http://127.0.0.1:9/') end"),
        ("gets", over("limits.requests"), "for i = 1, 2000 do jarvis.mqtt.get('hit/x') end"),
        ("sleeps", over("limits.requests"), "for i = 1, 2000 do jarvis.sleep(0) end"),
        ("sleeps_long", over("timer.after"), "jarvis.sleep(3600)"),
        ("sleeps_back", Bounded, "jarvis.sleep(-1)"),
        ("sleeps_for_ever", over(""), "jarvis.sleep(math.huge)"),
        ("sleeps_no_number", over(""), "jarvis.sleep(0/0)"),
        ("handlers", over("limits.handlers"), "for i = 1, 65 do jarvis.events.on('x' .. i, print) end"),
        (
            "subscriptions",
            over("limits.handlers"),
            "for i = 1, 65 do jarvis.mqtt.subscribe('x/' .. i, print) end",
        ),
        (
            "handlers_both",
            over("limits.handlers"),
            "for i = 1, 40 do jarvis.events.on('x', print) jarvis.mqtt.subscribe('x/' .. i, print) end",
        ),
        (
            "handlers_on_and_off",
            Bounded,
            "for i = 1, 100000 do jarvis.events.off(jarvis.events.on('x', print)) end return {}",
        ),
        ("timers", over("limits.timers"), "for i = 1, 65 do jarvis.timer.after(60, print) end"),
        (
            "timers_named",
            Bounded,
            "for i = 1, 100000 do jarvis.timer.after(60, print, { name = 'x' }) end return {}",
        ),
        (
            "timers_cancelled",
            Bounded,
            "for i = 1, 100000 do jarvis.timer.cancel(jarvis.timer.after(60, print)) end return {}",
        ),
        ("timer_every_nothing", over("0.1"), "jarvis.timer.every(0, print)"),
        ("timer_back", over(""), "jarvis.timer.after(-5, print)"),
        ("timer_for_ever", over(""), "jarvis.timer.after(math.huge, print)"),
        ("timer_no_number", over(""), "jarvis.timer.after(0/0, print)"),
        ("timer_of_ages", over(""), "jarvis.timer.after('99999999999999999999d', print)"),
        ("state_keys", Bounded, "for i = 1, 100000 do jarvis.state.set('k' .. i, i) end return {}"),
        ("state_one_key", Bounded, "for i = 1, 100000 do jarvis.state.set('k', i) end return {}"),
        (
            "state_come_and_go",
            Bounded,
            "for i = 1, 100000 do jarvis.state.set('k' .. i, i) jarvis.state.delete('k' .. i) end return {}",
        ),
        (
            "state_counts_over",
            Bounded,
            "jarvis.state.set('n', math.maxinteger) jarvis.state.incr('n') return {}",
        ),
        ("state_counts_nothing", Bounded, "jarvis.state.incr('n', 0/0) return {}"),
        ("logs", Bounded, "for i = 1, 100000 do jarvis.log('x') end return {}"),
        ("prints", Bounded, "for i = 1, 100000 do print('x') end return {}"),
        ("logs_for_ever", TimedOut, "while true do jarvis.log.error('x') end"),
        (
            "commands",
            Fails("hook_error", "limits.requests"),
            "for i = 1, 2000 do pcall(jarvis.command, 'nobody') end jarvis.command('nobody')",
        ),
        ("command_itself", Bounded, "return jarvis.command('flood_command_itself')"),
        ("uuids", Bounded, "for i = 1, 10000 do jarvis.uuid() end return {}"),
        ("dates", Bounded, "for i = 1, 1000 do pcall(jarvis.time.date, ('%c'):rep(100)) end return {}"),
    ];
    run(&tricks.map(|(name, end, body)| case(&format!("flood_{name}"), end, body).header(ALL)));
}

/// Calls each function with each of these, and fails with the first that is taken.
fn refuses_all(call: &str, values: &str) -> String {
    format!(
        "for i, value in ipairs({{ {values} }}) do\n  if pcall(function() {call} end) then error('took number ' .. i, 0) end\nend\nreturn {{}}"
    )
}

#[test]
fn names_that_are_none() {
    let events = "'', ' ', 'a b', 'a/b', '+', '#', '*', 'a*', '$x', 'a\\0b', 'a\\nb', 'ä', '\\xff', ('x'):rep(65), 42, {}, true, print";
    let patterns = "'', ' ', 'a b', '+', '#', 'a/b/c', '/a', 'a/', '*/a', 'a\\0', 'a\\n', 'ä', ('x'):rep(200), {}, true, print";
    let keys = "'', 'a\\0b', 'a\\nb', 'a\\27b', '\\xff', ('x'):rep(10000), {}, true, print";
    let topics = "'', '#', '+', 'a/+/b', 'a/#', '$SYS/x', '$share/g/x', 'a\\0b', 'a\\nb', '\\xff', ('x'):rep(65536), ('a/'):rep(201), \
                  'jarvis/bridge/state', 'jarvis/bridge/request/restart', 'jarvis/command/response/x', 'jarvis/chat/response', {}, true, print";
    let filters = "'', 'a/#/b', 'a+', '#a', 'a/b#', '$SYS/#', 'a\\0b', '\\xff', ('x'):rep(65536), ('+/'):rep(201), 'jarvis/+/request/#', \
                   'jarvis/command/request/x', {}, true, print";
    let requests = "'CON NECT', 'GET\\r\\nX: y', 'GET ', '', ('G'):rep(1000), 'get\\0', 'CONNECT', 'TRACE'";
    run(&[
        case("bad_events", Answers("{}"), &refuses_all("jarvis.events.emit(value, {})", events)),
        case("bad_patterns", Answers("{}"), &refuses_all("jarvis.events.on(value, print)", patterns)),
        case("bad_keys", Answers("{}"), &refuses_all("jarvis.state.set(value, 1)", keys)),
        case("bad_config_keys", Answers("{}"), &refuses_all("jarvis.config.set(value, 1)", keys)),
        case("bad_topics", Answers("{}"), &refuses_all("jarvis.mqtt.publish(value, 'x')", topics))
            .header(ALL),
        case(
            "bad_topics_now",
            Answers("{}"),
            &refuses_all("jarvis.mqtt.publish(value, 'x', { now = true })", topics),
        )
        .header(ALL),
        case("bad_filters", Answers("{}"), &refuses_all("jarvis.mqtt.subscribe(value, print)", filters))
            .header(ALL),
        case(
            "bad_methods",
            Answers("{}"),
            &refuses_all("jarvis.http.request({ url = 'http://127.0.0.1:9/', method = value })", requests),
        )
        .header(ALL),
        case(
            "bad_qos",
            Answers("{}"),
            &refuses_all("jarvis.mqtt.publish('a', 'x', { qos = value })", "-1, 3, 0.5, 'x', {}, 1e300"),
        )
        .header(ALL),
        case(
            "bad_payloads",
            Answers("{}"),
            &refuses_all(
                "jarvis.mqtt.publish('a', value)",
                "print, coroutine.create(print), { print }, 0/0, { [1.5] = 1 }",
            ),
        )
        .header(ALL),
        case(
            "bad_dates",
            Answers("{}"),
            &refuses_all("jarvis.time.date(value)", "'%', '%Q', '%9999999d', ('%c'):rep(1000), {}, print"),
        ),
        case(
            "bad_times",
            Bounded,
            &refuses_all(
                "jarvis.time.iso(value)",
                "1e308, -1e308, 0/0, math.maxinteger, math.mininteger, 'x', {}",
            ),
        ),
        case(
            "bad_hours",
            Answers("{}"),
            &refuses_all(
                "jarvis.time.between(value, '10:00')",
                "'', '25:00', '10:61', 'x', '-1:00', ('1'):rep(1000), {}, 5",
            ),
        ),
        case(
            "bad_names_of_commands",
            Bounded,
            &refuses_all(
                "assert(jarvis.command(value))",
                "'', 'a b', '#', '../x', 'a\\0b', ('x'):rep(200), {}, print",
            ),
        ),
        case("bad_header_event", Fails("hook_error", ""), "jarvis.events.emit('x y', {})").on(Event),
        case("bad_topic_in_timer", Fails("hook_error", ""), "jarvis.mqtt.publish('a/+', 'x')")
            .header(ALL)
            .on(Timer),
        case("bad_topic_in_message", Fails("hook_error", ""), "jarvis.mqtt.publish('a/+', 'x')")
            .header(ALL)
            .on(Message),
        case(
            "flood_at_the_top",
            Fails("hook_error", "limits.outputs"),
            "for i = 1, 65 do jarvis.events.emit('x', {}) end",
        )
        .on(Load),
        case(
            "flood_in_startup",
            Fails("hook_error", "limits.handlers"),
            "for i = 1, 65 do jarvis.events.on('x', print) end",
        )
        .on(Startup),
    ]);
}

fn stage(plugins: &[(&str, &str)]) -> Stage {
    let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    Stage::of(plugins.iter().fold(setup, |setup, (id, code)| setup.plugin(id, code)))
}

/// What a plugin writes into the log cannot look like a line of ours, and is bounded for it alone.
#[test]
fn a_shouter_silences_nobody_and_forges_nothing() {
    let shouter = "
-- @commands shout
function on_command()
    jarvis.log('a\\nFORGED error\\r\\27[2J\\0b')
    jarvis.log('x', { field = 'a\\nFORGED field' })
    print('a\\nFORGED print')
    for i = 1, 10000 do jarvis.log('SHOUT') end
    error('a\\nFORGED failure', 0)
end
";
    let whisper = "-- @commands whisper\nfunction on_command() jarvis.log('WHISPER') return {} end";
    let mut stage = stage(&[("shouter", shouter), ("whisperer", whisper)]);
    for _ in 0..3 {
        assert_eq!(stage.attack("shout", json!({})).unwrap()["code"], "hook_error");
        assert_eq!(stage.jarvis.run("whisper", json!({})), json!({}));
    }
    stage.jarvis.log.expect_times("WHISPER", 3);
    stage.jarvis.log.expect("log lines were dropped");
    let log = stage.jarvis.log.text();
    assert!(!log.lines().any(|line| line.trim_start().starts_with("FORGED")), "a line is forged");
    assert!(!log.contains('\0') && !log.contains('\u{1b}'), "control characters reach the terminal");
    let shouts = log.lines().filter(|line| line.contains("SHOUT")).count();
    assert!(shouts <= 50 * 4, "{shouts} lines of one plugin");
    stage.unharmed();
}

/// A chain of events ends after eight, and whoever goes round in it is named.
#[test]
fn circles_of_events_are_cut() {
    let echo = "jarvis.events.on('echo', function() jarvis.events.emit('echo', {}) end)";
    let ping = "jarvis.events.on('ping', function() jarvis.events.emit('pong', {}) end)";
    let pong = "jarvis.events.on('pong', function() jarvis.events.emit('ping', {}) end)";
    let mut stage = stage(&[("echoer", echo), ("pinger", ping), ("ponger", pong)]);
    for name in ["echo", "ping"] {
        let answer = stage.jarvis.ask(&format!("event/request/{name}"), "{}");
        assert_eq!(answer["data"]["delivered"], 1, "{answer:#}");
    }
    let echoes = stage.jarvis.log.expect("echoer");
    stage.jarvis.log.expect_times("a chain of events is cut", 2);
    let log = stage.jarvis.log.text();
    let cuts: Vec<&str> = log.lines().filter(|line| line.contains("a chain of events is cut")).collect();
    assert!(cuts.iter().any(|line| line.contains("echoer")), "{echoes} {cuts:#?}");
    let both = cuts.iter().any(|line| line.contains("pinger") && line.contains("ponger"));
    assert!(both, "the members of the circle are not named: {cuts:#?}");
    stage.jarvis.settle();
    assert!(stage.jarvis.waiting("jarvis/event/echoer/echo").len() <= 9);
    stage.unharmed();
}

/// Each event makes as many as it may: what one message causes in all is bounded, too.
#[test]
fn an_avalanche_of_events_ends() {
    let avalanche =
        "jarvis.events.on('snow', function() for i = 1, 64 do jarvis.events.emit('snow', { i = i }) end end)";
    let mut stage = stage(&[("avalanche", avalanche)]);
    stage.jarvis.ask("event/request/snow", "{}");
    stage.jarvis.log.expect("1,000 emits and publishes");
    stage.unharmed();
    stage.jarvis.settle();
    let flakes = stage.jarvis.waiting("jarvis/event/avalanche/snow").len();
    assert!(flakes <= 1_000, "{flakes} events of one message");
}

#[test]
fn circles_of_messages_commands_and_notifications_end() {
    let there = "-- @subscribe loop/a\n-- @permissions mqtt.publish:loop/#\nfunction on_mqtt(m) jarvis.mqtt.publish('loop/b', m.payload) end";
    let back = "-- @subscribe loop/b\n-- @permissions mqtt.publish:loop/#\nfunction on_mqtt(m) jarvis.mqtt.publish('loop/a', m.payload) end";
    let asks = "-- @commands ask\n-- @permissions mqtt.publish:jarvis/command/request/#\nfunction on_command() jarvis.mqtt.publish('jarvis/command/request/ask', '{}') return {} end";
    let calls = |own: &str, other: &str| {
        format!(
            "-- @commands {own}\nfunction on_command() return {{ inner = select(2, pcall(jarvis.command, '{other}')) and 1 }} end"
        )
    };
    let says = "-- @commands say\nfunction filter_response(r) jarvis.say(r.content .. '!') end\nfunction on_command() jarvis.say('x') return { response = 'x' } end";
    let all = "-- @permissions mqtt.subscribe:#, mqtt.publish:loop/#\njarvis.mqtt.subscribe('#', function(m) jarvis.mqtt.publish('loop/all', 'x') end)";
    let mut stage = stage(&[
        ("hears_all", all),
        ("there", there),
        ("back", back),
        ("asks", asks),
        ("calls_a", &calls("a", "b")),
        ("calls_b", &calls("b", "a")),
        ("says", says),
    ]);
    stage.jarvis.publish("loop/a", "round");
    stage.jarvis.publish("jarvis/command/request/ask", "{}");
    assert_eq!(stage.attack("a", json!({})).unwrap()["status"], "ok");
    assert_eq!(stage.attack("say", json!({})).unwrap()["status"], "ok");
    stage.jarvis.log.expect_times("8", 3);
    stage.unharmed();
    stage.jarvis.settle();
    for topic in ["loop/a", "loop/b", "jarvis/command/request/ask", "jarvis/chat/notification"] {
        let rounds = stage.jarvis.waiting(topic).len();
        assert!(rounds <= 12, "{rounds} on {topic}");
    }
}

/// Timers that start themselves again at once: 100 outputs a second, and everybody else goes on.
#[test]
fn timers_that_never_rest() {
    let spins = "local function spin() jarvis.timer.after(0, spin) end spin()";
    let emits = "local function spin() jarvis.timer.after(0, spin) jarvis.events.emit('tick', {}) end spin()";
    let hogs = "for i = 1, 64 do jarvis.timer.every(0.1, function() for i = 1, 100000 do end end) end";
    let mut stage = stage(&[("spins", spins), ("emits", emits), ("hogs", hogs)]);
    let line = stage.jarvis.log.expect("100 times a second");
    assert!(line.contains("emits"), "{line}");
    for _ in 0..50 {
        stage.ask_good();
    }
    stage.unharmed();
}

/// A hook that waits for the world for a second, while another plugin is asked as fast as it answers.
#[test]
fn a_long_wait_holds_up_nobody() {
    let waits = "-- @commands wait\nfunction on_command() jarvis.sleep(2) return {} end";
    let mut stage = stage(&[("waits", waits)]);
    stage.jarvis.publish("jarvis/command/request/wait", "{}");
    for _ in 0..500 {
        stage.ask_good();
    }
    let early = stage.jarvis.waiting("jarvis/command/response/wait");
    assert!(early.is_empty(), "500 answers of another plugin took longer than a wait of two seconds");
    assert_eq!(stage.jarvis.next("jarvis/command/response/wait").json()["status"], "ok");
    stage.unharmed();
}

/// What a full mailbox cannot take waits elsewhere: each request is answered, once and in order.
#[test]
fn a_full_mailbox_loses_nothing() {
    let slow =
        "-- @commands work\nfunction on_command(cmd) jarvis.sleep(0.001) return { n = cmd.args.n } end";
    let mut stage = stage(&[("slow", slow)]);
    let count = 1_000;
    for n in 0..count {
        stage.jarvis.publish("jarvis/command/request/work", json!({ "n": n }));
        if n % 50 == 0 {
            stage.ask_good();
        }
    }
    for n in 0..count {
        let answer: Value = stage.jarvis.next("jarvis/command/response/work").json();
        assert_eq!((&answer["status"], &answer["data"]["n"]), (&json!("ok"), &json!(n)), "{answer:#}");
    }
    stage.unharmed();
}
