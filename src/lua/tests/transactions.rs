//! A hook takes effect as a whole or not at all.

use super::{Bench, effects, entries, load, outcome, raw, with_stack};
use crate::model::{
    frame::{Done, Input, Outcome, Snapshot, Target},
    message::EventInfo,
};

fn event(bench: &Bench, handler: u64, data: &str) -> Done {
    let event = EventInfo {
        name: "rain".into(),
        plugin: Some("sky".into()),
        id: "1".into(),
        timestamp: "2026-11-20T10:15:30Z".into(),
    };
    bench.call(Target::Handler(handler), Input::Event { data: raw(data).into(), event })
}

fn timer(bench: &Bench, timer: u64) -> Done {
    bench.call(Target::Timer(timer), Input::Nothing)
}

#[test]
fn reads_see_own_writes_and_a_success_keeps_them() {
    with_stack(|| {
        let bench = Bench::new(
            "function on_command(cmd)
               jarvis.state.set('a', {1})
               jarvis.state.incr('count', 2)
               jarvis.config.set('city', 'Nice')
               return {jarvis.state.get('a'), jarvis.state.get('count'), jarvis.config.get('city')}
             end
             function on_chat() return {jarvis.state.get('a'), jarvis.config.get('city')} end",
        );
        let done = bench.hook("on_command", "{}");
        assert_eq!(outcome(&done), r#"[[1],5,"Nice"]"#);
        assert_eq!(
            effects(&done),
            r#"[{"state":{"key":"a","value":[1]}},{"state":{"key":"count","value":5}},{"config":{"key":"city","value":"Nice"}}]"#
        );
        assert_eq!(outcome(&bench.hook("on_chat", "{}")), r#"[[1],"Nice"]"#);
    });
}

#[test]
fn a_failure_leaves_no_trace() {
    with_stack(|| {
        let look = "function on_chat()
               return {jarvis.state.keys(), jarvis.state.get('count'), jarvis.state.get('name'), jarvis.config.get('units'),
                       jarvis.timer.cancel('tick'), jarvis.events.off(1)}
             end";
        let change = "jarvis.state.set('new', 1) jarvis.state.set('count', 99) jarvis.state.set('count', 100)
               jarvis.state.delete('name') jarvis.state.set('name', 'Bob') jarvis.config.set('units', nil)
               jarvis.timer.cancel('tick') jarvis.timer.after(1, print, {name = 'tick'}) jarvis.timer.cancel('tick')
               jarvis.events.off(1) jarvis.events.on('x', print) jarvis.events.emit('x') jarvis.say('x')";
        for end in ["error('no')", "return nil, 'no'", "return {print}", "return 5", "while true do end"] {
            let bench = Bench::new(&format!(
                "jarvis.events.on('rain', function() return 1 end) jarvis.timer.every(5, print, {{name = 'tick'}})
                 {look} function on_command() {change} {end} end"
            ));
            let done = bench.hook("on_command", "{}");
            assert!(matches!(done.outcome, Outcome::Failed(_)), "{end}: {}", outcome(&done));
            assert_eq!(effects(&done), "[]", "{end}");
            assert_eq!(
                outcome(&bench.hook("on_chat", "{}")),
                r#"[["count","home","name"],3,"Ada","imperial",true,true]"#,
                "{end}"
            );
        }
    });
}

#[test]
fn the_quota_is_rolled_back_too() {
    with_stack(|| {
        let bench = Bench::of_body(
            "for i = 1, 5 do jarvis.state.set('k' .. i, ('x'):rep(200000)) end if cmd.fail then error('x') end",
        );
        for _ in 0..3 {
            let done = bench.hook("on_command", r#"{"fail":true}"#);
            assert!(outcome(&done).contains("weather.lua:1: x"), "{}", outcome(&done));
        }
        assert_eq!(outcome(&bench.hook("on_command", "{}")), "nil");
    });
}

#[test]
fn stored_tables_are_copies() {
    with_stack(|| {
        let bench = Bench::of_body(
            "local t = {1} jarvis.state.set('t', t) t[1] = 2 jarvis.state.get('t')[1] = 3 return jarvis.state.get('t')",
        );
        assert_eq!(bench.command(), "[1]");
    });
}

#[test]
fn handlers_get_events_and_timers_their_data() {
    with_stack(|| {
        let bench = Bench::new(
            "jarvis.events.on('rain', function(data, event) jarvis.state.set('last', {data, event.plugin, event.name}) end)
             jarvis.timer.after(1, function(data) jarvis.state.set('data', data) end, {data = {7}})
             jarvis.timer.every(1, function() jarvis.state.incr('ticks') end)",
        );
        for _ in 0..2 {
            let done = event(&bench, 1, "5");
            assert_eq!(effects(&done), r#"[{"state":{"key":"last","value":[5,"sky","rain"]}}]"#);
        }
        assert_eq!(effects(&timer(&bench, 2)), r#"[{"state":{"key":"data","value":[7]}}]"#);
        assert_eq!(effects(&timer(&bench, 3)), r#"[{"state":{"key":"ticks","value":1}}]"#);
        assert_eq!(effects(&timer(&bench, 3)), r#"[{"state":{"key":"ticks","value":2}}]"#);
    });
}

#[test]
fn what_is_called_once_is_gone_also_when_it_failed() {
    with_stack(|| {
        let bench = Bench::new(
            "jarvis.events.on('rain', function(data) if data.fail then error('x') end end, {once = true})
             jarvis.events.on('rain', function(data) end, {once = true})
             jarvis.timer.after(1, function() error('x') end, {name = 'tick'})
             jarvis.timer.after(1, function() end)",
        );
        for (target, expect) in [(1, "hook_error: "), (2, "nil")] {
            let first = outcome(&event(&bench, target, r#"{"fail":true}"#));
            assert!(first.starts_with(expect), "{first}");
            assert_eq!(outcome(&event(&bench, target, "{}")), "missing");
        }
        let failed = outcome(&timer(&bench, 3));
        assert!(failed.contains("the timer `tick` failed: weather.lua:3: x"), "{failed}");
        assert_eq!(outcome(&timer(&bench, 3)), "missing");
        assert_eq!(outcome(&timer(&bench, 4)), "nil");
        assert_eq!(outcome(&timer(&bench, 4)), "missing");
    });
}

#[test]
fn a_name_replaces_a_timer_also_from_its_own_call() {
    with_stack(|| {
        let bench = Bench::new(
            "local function tick() jarvis.timer.after('2m30s', tick, {name = 'off'}) end
             function on_command() tick() end",
        );
        let timer_effect =
            |n: u64| format!(r#"{{"timer":{{"timer":{n},"delay_ms":150000,"repeat":false}}}}"#);
        assert_eq!(effects(&bench.hook("on_command", "{}")), format!("[{}]", timer_effect(1)));
        let replaced = format!(r#"[{{"cancel_timer":{{"timer":1}}}},{}]"#, timer_effect(2));
        assert_eq!(effects(&bench.hook("on_command", "{}")), replaced);
        assert_eq!(outcome(&timer(&bench, 1)), "missing");
        // The bridge drops a timer that fired, so there is nothing to cancel.
        assert_eq!(effects(&timer(&bench, 2)), format!("[{}]", timer_effect(3)));
    });
}

#[test]
fn a_snapshot_lies_under_what_the_source_wrote() {
    with_stack(|| {
        let bench = Bench::new(
            "jarvis.state.set('boot', true) jarvis.state.delete('name')
             function on_command() return {jarvis.state.keys(), jarvis.state.get('count'), jarvis.config.get('city', 'none')} end",
        );
        bench.vm.restore(Snapshot {
            state: entries(&[("count", "41"), ("name", "\"Bob\"")]),
            config: entries(&[]),
            overrides: entries(&[]),
        });
        assert_eq!(bench.command(), r#"[["boot","count"],41,"none"]"#);
        bench.vm.restore(Snapshot { state: entries(&[("count", "42")]), ..Snapshot::default() });
        assert_eq!(bench.command(), r#"[["count"],42,"none"]"#);
    });
}

#[test]
fn loading_gives_hooks_and_effects_or_nothing() {
    with_stack(|| {
        let bench =
            Bench::new("function on_chat() end on_mqtt = 5 function health() end jarvis.state.set('a', 1)");
        assert_eq!(bench.loaded.hooks, ["on_chat", "health"]);
        assert_eq!(
            serde_json::to_string(&bench.loaded.result).unwrap(),
            r#"{"Ok":[{"state":{"key":"a","value":1}}]}"#
        );
        let bench = Bench::start(load("jarvis.state.set('a', 1)\nerror('no')"));
        let failure = bench.loaded.result.unwrap_err();
        assert_eq!(failure.message, "plugin `weather`: loading failed: weather.lua:2: no");
        assert!(bench.loaded.hooks.is_empty());
    });
}

#[test]
fn each_hook_returns_what_it_may() {
    with_stack(|| {
        let check = |hook: &str, value: &str, expect: &str| {
            let bench = Bench::new(&format!("function {hook}() return {value} end"));
            let found = outcome(&bench.hook(hook, "{}"));
            assert!(found.contains(expect), "{hook} {value}: {found}");
        };
        check("on_chat", "'text'", "invalid_result: plugin `weather`: on_chat must return a table");
        check("on_startup", "nil", "nil");
        check("on_mqtt", "5", "nil");
        check("filter_message", "false", "false");
        check("filter_message", "nil", "nil");
        check(
            "filter_message",
            "true",
            "invalid_result: plugin `weather`: filter_message must return the message",
        );
        check("filter_response", "{cancel = true}", r#"{"cancel":true}"#);
        check("health", "true", "true");
        check("health", "nil", "nil");
        check("health", "false, 'no sun'", "hook_error: no sun");
        check("health", "false", "hook_error: plugin `weather` says it is not well");
        check("health", "5", "invalid_result: ");
        check("migrate_config", "{a = 1}", r#"{"a":1}"#);
    });
}
