//! Plugins that do not end, or want too much.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{Bench, bombs, check_fails, load, outcome, with_stack};
use crate::{
    lua::{Link, Vm},
    model::{
        Limits,
        frame::{Call, Input, Load, LogLine, Outcome, Refusal, Request, Target},
    },
};

/// A plugin with 50 ms of CPU time.
fn hasty(source: &str) -> Bench {
    let plugin = load(source);
    let limits = Limits { cpu_ms: 50, ..plugin.limits.clone() };
    let bench = Bench::start(Load { limits, ..plugin });
    assert!(bench.loaded.result.is_ok(), "{:?}", bench.loaded.result);
    bench
}

/// The hook must be stopped for its CPU time, at this line where one is given, and the VM must go on.
fn check_stopped(source: &str, line: Option<u32>) {
    let begun = Instant::now();
    let bench = hasty(&format!("{source}\nfunction on_chat() return {{ok = true}} end"));
    let found = bench.command();
    assert!(begun.elapsed() < Duration::from_secs(20), "{source}");
    let place = line.map(|line| format!(" at weather.lua:{line}")).unwrap_or_default();
    let expect = format!(
        "timeout: plugin `weather`: on_command was stopped{place}: it used its 50 ms of CPU time (limits.hook_cpu_ms)"
    );
    let same = if line.is_some() { found == expect } else { found.starts_with("timeout: ") };
    assert!(same, "{source}\n  gave {found}\n  want {expect}");
    assert_eq!(outcome(&bench.hook("on_chat", "{}")), r#"{"ok":true}"#, "{source}");
}

#[test]
fn endless_loops_are_stopped_with_their_line() {
    with_stack(|| {
        check_stopped("function on_command()\n  while true do end\nend", Some(2));
        check_stopped("local function f()\n return f()\nend\nfunction on_command() return f() end", None);
        check_stopped(
            "function on_command()\n local t = {}\n for i = 1, math.huge do t[i % 10] = i end end",
            Some(3),
        );
    });
}

#[test]
fn no_protected_call_swallows_a_stop() {
    with_stack(|| {
        check_stopped(
            "function on_command() while true do pcall(function() while true do end end) end end",
            Some(1),
        );
        check_stopped("local function f() pcall(f) f() end function on_command() f() end", None);
        check_stopped("function on_command() for i = 1, 1e9 do pcall(error) end end", None);
        check_stopped(
            "function on_command() while true do xpcall(function() while true do end end, function() while true do end end) end end",
            Some(1),
        );
        check_stopped(
            "local function h() xpcall(error, h) while true do end end function on_command() xpcall(error, h) end",
            None,
        );
        check_stopped("function on_command() repeat local ok = pcall(string.rep) until ok end", None);
        check_stopped(
            "local p = pcall function on_command() p(p, p, function() while true do end end) while true do end end",
            Some(1),
        );
    });
}

#[test]
fn no_coroutine_escapes() {
    with_stack(|| {
        check_stopped(
            "local co = coroutine.wrap(function() while true do end end) function on_command() co() end",
            Some(1),
        );
        check_stopped(
            "function on_command() while true do coroutine.resume(coroutine.create(function() while true do end end)) end end",
            Some(1),
        );
        check_stopped(
            "function on_command() while true do pcall(coroutine.wrap(function() while true do end end)) end end",
            Some(1),
        );
        check_stopped(
            "local co = coroutine.create(function() while true do coroutine.yield() end end) function on_command() while true do coroutine.resume(co) end end",
            None,
        );
        check_stopped(
            "function on_command() while true do local c = coroutine.create(function() local x <close> = setmetatable({}, {__close = function() error('x') end}) coroutine.yield() end) coroutine.resume(c) coroutine.close(c) end end",
            None,
        );
    });
}

#[test]
fn no_metamethod_or_callback_escapes() {
    with_stack(|| {
        check_stopped(
            "local m = setmetatable({}, {__index = function() while true do end end}) function on_command() return m.x end",
            Some(1),
        );
        check_stopped(
            "local m = setmetatable({}, {__tostring = function() while true do end end}) function on_command() jarvis.log(m) end",
            Some(1),
        );
        check_stopped(
            "local m = setmetatable({}, {__eq = function() while true do end end}) function on_command() return m == setmetatable({}, getmetatable(m)) end",
            Some(1),
        );
        check_stopped(
            "local m = setmetatable({}, {__len = function() while true do end end}) function on_command() return table.concat(m) end",
            Some(1),
        );
        check_stopped(
            "function on_command() table.sort({3, 1, 2}, function() while true do end end) end",
            Some(1),
        );
        check_stopped(
            "function on_command() string.gsub('abc', '.', function() while true do end end) end",
            Some(1),
        );
        check_stopped(
            "function on_command() string.gsub('abc', '.', function() pcall(function() while true do end end) while true do end end) end",
            Some(1),
        );
        check_stopped(
            "function on_command() jarvis.state.update('count', function() while true do end end) end",
            Some(1),
        );
        check_stopped(
            "function on_command() for k in (function() while true do end end) do end end",
            Some(1),
        );
        check_stopped(
            "local m = setmetatable({}, {__close = function() end}) function on_command() local x <close> = m while true do end end",
            Some(1),
        );
    });
}

#[test]
fn long_library_calls_are_ordinary_errors() {
    with_stack(|| {
        check_fails(
            "table.move({}, 1, 1 << 60, 1, {})",
            "weather.lua:1: table.move: more than 1048576 values",
        );
        check_fails("table.concat({}, '', 1, 1 << 60)", "table.concat: more than 1048576 values");
        check_fails("table.unpack({}, 1, 1 << 60)", "table.unpack: more than 1048576 values");
        check_fails("return {('x'):rep(1 << 40)}", "weather.lua:1: string.rep: the result would be larger");
        check_fails("return {(' '):rep(1 << 62, '')}", "string.rep: the result would be larger");
        check_fails("table.concat({}, '', math.mininteger, math.maxinteger)", "table.concat: more than");
        // Whatever `__len` says, how often it is asked, and also where the metatable is hidden. Without a bound each of
        // these takes seconds, and not years, so that the test ends.
        for len in ["1 << 26", "n == 1 and 1 or 1 << 26"] {
            let liar = format!(
                "local n = 0 local t = setmetatable({{}}, {{__metatable = false, __index = type, __newindex = rawequal,
                 __len = function() n = n + 1 return {len} end}})"
            );
            for call in ["concat(t)", "unpack(t)", "insert(t, 1, 1)", "remove(t, 1)", "sort(t)"] {
                let found = Bench::of_body(&format!("{liar} table.{call} return {{asked = n}}")).command();
                let is_bounded = match len {
                    "1 << 26" => found.contains(": more than 1048576 values"),
                    // C asks for it anyway, and does not use it.
                    _ if call == "concat(t)" => found == r#"{"asked":2}"#,
                    _ => found == r#"{"asked":1}"#,
                };
                assert!(is_bounded, "{call} with {len}: {found}");
            }
        }
    });
}

#[test]
fn memory_bombs_end_and_the_plugin_goes_on() {
    with_stack(|| {
        let check = |body: &str| {
            let bench = bombs::start(body);
            let found = bench.command();
            assert!(
                found.starts_with("memory_limit: ") && found.contains("limits.memory"),
                "{body} gave {found}"
            );
            let after = bench.hook("on_chat", "{}");
            assert_eq!(outcome(&after), r#"{"ok":true}"#, "{body}");
            assert!(after.memory < 4 << 20, "{body} left {}", after.memory);
        };
        check("local t = {} for i = 1, 1e9 do t[i] = {} end");
        check("local s = 'x' while true do s = s .. s end");
        check("local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) end");
        check("local t = {} while true do t[#t + 1] = ('x'):rep(1e6) .. #t end");
        check("local t = {} for i = 1, 1e9 do t[i] = jarvis.json.decode('[[],[],[],[],[],[]]') end");
        check("local t = {} for i = 1, 1e9 do t[i] = jarvis.uuid() end");
        // Lua's own bound on the depth of calls lies beyond 16 MiB.
        check("local function f() return f() + 1 end f()");
    });
}

#[test]
fn garbage_is_no_memory_in_use() {
    with_stack(|| {
        let bench = Bench::of_body(
            "local b = ('x'):rep(1e6) for i = 1, 100 do local s = b .. i end return {done = true}",
        );
        assert_eq!(bench.command(), r#"{"done":true}"#);
    });
}

#[test]
fn wall_and_total_time_are_limits_of_their_own() {
    with_stack(|| {
        let stopped = |limits: fn(Limits) -> Limits, expect: &str| {
            let plugin = load("function on_command() while true do end end");
            let limits = limits(plugin.limits.clone());
            let found = Bench::start(Load { limits, ..plugin }).command();
            assert!(found.starts_with("timeout: ") && found.contains(expect), "{found}");
        };
        stopped(|limits| Limits { wall_ms: 50, ..limits }, "it ran for 50 ms (limits.hook_wall_ms)");
        stopped(|limits| Limits { total_ms: 50, ..limits }, "it took 50 ms (limits.hook_total_ms)");
    });
}

#[test]
fn waits_count_for_the_total_only() {
    struct SlowBridge(Duration);
    impl Link for SlowBridge {
        fn ask(&self, _: Request) -> Result<Box<RawValue>, Refusal> {
            std::thread::sleep(self.0);
            Ok(RawValue::NULL.to_owned())
        }

        fn log(&self, _: LogLine) {}
    }
    with_stack(|| {
        let call = |total_ms| {
            let plugin = load("function on_command() jarvis.sleep(1) for i = 1, 1000 do end return {} end");
            let limits = Limits { cpu_ms: 100, wall_ms: 100, total_ms, ..plugin.limits.clone() };
            let bridge = Rc::new(SlowBridge(Duration::from_millis(300)));
            let (vm, source) = Vm::build(Load { limits, ..plugin }, bridge).unwrap();
            vm.load(&source);
            let target = Target::Hook("on_command".into());
            outcome(&vm.call(&Call { number: 1, target, input: Input::Nothing, cut: None, left: None }))
        };
        assert_eq!(call(60_000), "{}");
        assert!(call(200).contains("with its waits it took 200 ms (limits.hook_total_ms)"));
    });
}

#[test]
fn the_source_itself_is_limited() {
    with_stack(|| {
        let bench = Bench::start(load("\nwhile true do end"));
        let failure = bench.loaded.result.unwrap_err();
        assert!(failure.message.contains("loading was stopped at weather.lua:2"), "{failure}");
        let bench = Bench::start(load("function x( return end"));
        let failure = bench.loaded.result.unwrap_err();
        assert!(failure.message.contains("loading failed: weather.lua:1:"), "{failure}");
    });
}

#[test]
fn outputs_are_counted_per_call() {
    with_stack(|| {
        let bench = Bench::of_body("for i = 1, cmd.n do jarvis.events.emit('e', i) end");
        let call = |n: u32| bench.hook("on_command", &format!(r#"{{"n":{n}}}"#));
        assert_eq!(call(64).effects.len(), 64);
        let done = call(65);
        assert!(outcome(&done).contains("at most 64 emits and publishes in one hook call (limits.outputs)"));
        assert!(done.effects.is_empty());
        assert_eq!(call(64).effects.len(), 64);
    });
}

#[test]
fn state_handlers_and_timers_have_quotas() {
    with_stack(|| {
        check_fails("for i = 1, 10 do jarvis.state.set('k' .. i, ('x'):rep(200000)) end", "(limits.state)");
        check_fails(
            "for i = 1, 10 do jarvis.config.set('k' .. i, ('x'):rep(200000)) end",
            "jarvis.config would have",
        );
        check_fails("for i = 1, 65 do jarvis.events.on('e', print) end", "(limits.handlers)");
        check_fails("for i = 1, 65 do jarvis.timer.after(1, print) end", "(limits.timers)");
        check_fails("for i = 1, 1e9 do jarvis.timer.after(1, print, {name = 'x'}) end", "4 MiB");
        check_fails(
            "for i = 1, 1e9 do local k = ('\"'):rep(200) .. i jarvis.state.set(k, 1) jarvis.state.delete(k) end",
            "4 MiB",
        );
        check_fails("for i = 1, 1e9 do jarvis.events.off(jarvis.events.on('e', print)) end", "4 MiB");
        // The same key again and again takes no more room.
        let bench = Bench::of_body("for i = 1, 1000 do jarvis.state.set('k', ('x'):rep(10000)) end");
        let done = bench.hook("on_command", "{}");
        assert!(matches!(done.outcome, Outcome::Nothing), "{}", outcome(&done));
        assert_eq!(done.effects.len(), 1);
    });
}

#[test]
fn a_flood_of_logs_is_cut_and_counted() {
    with_stack(|| {
        let bench = Bench::of_body("for i = 1, 200 do print(i) end");
        bench.hook("on_command", "{}");
        let logs = bench.bridge.logs.borrow();
        // A second may pass in between on a slow machine, so only the bounds are sure.
        assert!((51..=103).contains(&logs.len()), "{}", logs.len());
        assert!(logs.iter().any(|line| line.message.contains("log lines were dropped: at most 50 a second")));
    });
}
