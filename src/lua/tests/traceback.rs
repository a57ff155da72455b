//! Failures bear the calls that led to them.

use super::{Bench, load, with_stack};
use crate::model::{Failure, Limits, frame::Load, frame::Outcome};

/// Calls `on_command`, which must fail.
fn failure(source: &str) -> Failure {
    let plugin = load(source);
    let limits = Limits { cpu_ms: 50, ..plugin.limits.clone() };
    let bench = Bench::start(Load { limits, ..plugin });
    assert!(bench.loaded.result.is_ok(), "{:?}", bench.loaded.result);
    match bench.hook("on_command", "{}").outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{source} gave {other:?}"),
    }
}

fn check(source: &str, expect: &[&str]) {
    let found = failure(source);
    assert_eq!(found.traceback, expect.join("\n"), "{source}\n  gave {found}");
}

#[test]
fn errors_bear_the_calls_that_led_to_them() {
    with_stack(|| {
        check(
            "local function inner(x)\n  return x.y.z + 1\nend\nfunction outer()\n  local r = inner({})\n  return r\nend\nfunction on_command()\n  local r = outer()\n  return r\nend",
            &[
                "weather.lua:2: in upvalue 'inner'",
                "weather.lua:5: in function 'outer'",
                "weather.lua:9: in function 'on_command'",
            ],
        );
        check(
            "function on_command()\n  error('no')\nend",
            &["[C]: in function 'error'", "weather.lua:2: in function 'on_command'"],
        );
        check(
            "function on_command()\n  local s = string.rep('x', 1e9)\nend",
            &["[C]: in function 'string.rep'", "weather.lua:2: in function 'on_command'"],
        );
        check(
            "function on_command()\n  jarvis.state.get()\nend",
            &["[C]: in function 'jarvis.state.get'", "weather.lua:2: in function 'on_command'"],
        );
        check(
            "local t = {}\nfunction t.sort()\n  table.sort({2, 1}, function(a, b) return a.x end)\nend\nfunction on_command()\n  t.sort()\nend",
            &[
                "weather.lua:3: in function <weather.lua:3>",
                "[C]: in function 'table.sort'",
                "weather.lua:3: in field 'sort'",
                "weather.lua:6: in function 'on_command'",
            ],
        );
        check(
            "local m = setmetatable({}, {__index = function() error('x') end})\nfunction on_command()\n  return {m.a}\nend",
            &[
                "[C]: in function 'error'",
                "weather.lua:1: in metamethod 'index'",
                "weather.lua:3: in function 'on_command'",
            ],
        );
        // The plugin's own words reach who asked; who looks after the plugin learns the rest.
        let chosen = failure("function on_command()\n  error{message = 'no milk'}\nend");
        assert_eq!(chosen.message, "no milk");
        assert_eq!(chosen.traceback, "[C]: in function 'error'\nweather.lua:2: in function 'on_command'");
        check("function on_command() return nil, 'no milk' end", &[]);
        check("function on_command() return {print} end", &[]);
    });
}

/// mlua puts a traceback with frames of ours behind the texts of some errors, where nobody should read it.
#[test]
fn no_text_has_a_traceback_in_it() {
    with_stack(|| {
        for source in [
            "local function f() return coroutine.wrap(function() return f() end)() end\n\
             function on_command() f() end",
            "local function f() return coroutine.wrap(function() return f() end)() end\n\
             function on_command() local _, why = pcall(f) error(why, 0) end",
            "local function f() local ok, why = coroutine.resume(coroutine.create(f)) error(why, 0) end\n\
             function on_command() f() end",
            "local function f() return ('x'):gsub('x', f) end\nfunction on_command() f() end",
            "local t = {} setmetatable(t, { __index = function(_, key) return t[key .. 'x'] end })\n\
             function on_command() return t.x end",
            "local t = {} setmetatable(t, { __lt = function() return t < t end })\n\
             function on_command() table.sort({ t, t, t }) end",
            "local t = {} setmetatable(t, { __tostring = function() return tostring(t) end })\n\
             function on_command() jarvis.log.info(tostring(t)) end",
        ] {
            let message = failure(source).message;
            assert!(message.contains("overflow"), "{source}\n  gave {message}");
            for ours in ["[jarvis]", "[C]", "traceback", "runtime error"] {
                assert!(!message.contains(ours), "{source}\n  gave {message}");
            }
        }
    });
}

#[test]
fn stops_bear_the_calls_that_led_to_them() {
    with_stack(|| {
        check(
            "local function spin()\n  while true do end\nend\nfunction on_command()\n  pcall(spin)\nend",
            &[
                "weather.lua:2: in function <weather.lua:1>",
                "[C]: in function 'pcall'",
                "weather.lua:5: in function 'on_command'",
            ],
        );
        // A coroutine has a stack of its own, and below it lie the calls that resumed it.
        check(
            "local co = coroutine.wrap(function()\n  while true do end\nend)\nfunction on_command()\n  co()\nend",
            &["weather.lua:2: in function <weather.lua:1>", "weather.lua:5: in function 'on_command'"],
        );
        let found = failure("function on_command()\n  local t = {}\n  while true do t[#t + 1] = {} end\nend");
        assert_eq!(found.code.to_string(), "memory_limit");
        assert_eq!(found.traceback, "weather.lua:3: in function 'on_command'");
    });
}

#[test]
fn none_is_that_of_an_earlier_call() {
    with_stack(|| {
        let plugin = load(
            "function on_command() local x <close> = setmetatable({}, {__close = function() while true do end end}) error('x') end
             function on_chat() local s = ('x'):rep(6000000) return {s .. s .. s} end",
        );
        let limits = Limits { cpu_ms: 50, ..plugin.limits.clone() };
        let bench = Bench::start(Load { limits, ..plugin });
        // It is stopped after an error was raised, and a full heap within one instruction has no traceback.
        for (hook, code) in [("on_command", "timeout"), ("on_chat", "memory_limit")] {
            let Outcome::Failed(failure) = bench.hook(hook, "{}").outcome else { panic!("it did not fail") };
            assert_eq!(failure.code.to_string(), code, "{failure}");
            assert_eq!(failure.traceback.is_empty(), hook == "on_chat", "{}", failure.traceback);
        }
    });
}

#[test]
fn the_top_level_has_one_too() {
    with_stack(|| {
        let bench = Bench::start(load("local function f()\n  error('no')\nend\nf()"));
        let failure = bench.loaded.result.unwrap_err();
        assert_eq!(
            failure.traceback,
            "[C]: in function 'error'\nweather.lua:2: in local 'f'\nweather.lua:4: in main chunk"
        );
        assert_eq!(Bench::start(load("x = = 1")).loaded.result.unwrap_err().traceback, "");
    });
}

#[test]
fn a_traceback_is_bounded() {
    with_stack(|| {
        let deep = failure(
            "local function f(n)\n  if n == 0 then error('x') end\n  f(n - 1)\nend\nfunction on_command() f(5000) end",
        );
        let lines: Vec<&str> = deep.traceback.lines().collect();
        assert_eq!((lines.len(), lines.last()), (21, Some(&"...")), "{}", deep.traceback);
        let name = "n".repeat(5000);
        let long = failure(&format!(
            "local function {name}(n)\n  if n == 0 then error('x') end\n  {name}(n - 1)\nend\nfunction on_command() {name}(50) end"
        ));
        assert!(long.traceback.len() <= 2048 + 4, "{}", long.traceback.len());
        assert!(long.traceback.contains(&"n".repeat(60)) && !long.traceback.contains(&"n".repeat(61)));
        let tower = failure(
            "local function f(n)\n  if n == 0 then while true do end end\n  pcall(f, n - 1)\nend\nfunction on_command() f(150) end",
        );
        assert_eq!(tower.traceback.lines().count(), 21, "{}", tower.traceback);
        // No control character of a name gets out.
        let odd = failure(
            "local t = {['a\\n\\27b'] = function() error('x') end}\nfunction on_command() t['a\\n\\27b']() end",
        );
        assert!(odd.traceback.contains("in field 'a  b'"), "{}", odd.traceback);
    });
}

#[test]
fn no_code_of_the_plugins_runs_for_one() {
    with_stack(|| {
        let bench = Bench::new(
            "calls = 0\nlocal m = {__tostring = function() calls = calls + 1 return 'x' end, __name = 'n', __index = function() calls = calls + 1 end}\n\
             function on_command() error(setmetatable({}, m)) end\nfunction on_chat() return {calls} end",
        );
        let Outcome::Failed(failure) = bench.hook("on_command", "{}").outcome else {
            panic!("it did not fail")
        };
        assert!(failure.traceback.starts_with("[C]: in function 'error'"), "{}", failure.traceback);
        assert_eq!(super::outcome(&bench.hook("on_chat", "{}")), "[0]");
        // An error in a handler of the plugin's, at the end of the C stack, of the heap: none loops in ours.
        for body in [
            "xpcall(error, function(e) error(e) end) error('after')",
            "local function f() local ok, e = pcall(f) error(e, 0) end f()",
            "local function f() return setmetatable({}, {__index = function(t, k) return f()[k] end}) end return {f().x}",
            "local x <close> = setmetatable({}, {__close = function() error('second') end}) error('first')",
        ] {
            let bench = Bench::of_body(body);
            let Outcome::Failed(failure) = bench.hook("on_command", "{}").outcome else { panic!("{body}") };
            assert!(!failure.traceback.contains("[jarvis]"), "{body}: {}", failure.traceback);
            assert!(!failure.traceback.contains('?'), "{body}: {}", failure.traceback);
        }
    });
}

#[test]
fn the_end_of_the_stack_is_an_ordinary_error() {
    with_stack(|| {
        // With less memory or smaller frames the heap is full first.
        let locals: Vec<String> = (0..190).map(|number| format!("v{number}")).collect();
        let locals = locals.join(", ");
        let plugin = load(&format!(
            "local function f() local {locals} = 1 return f() + 1 end\nfunction on_command() f() end"
        ));
        let limits = Limits { memory: 64 << 20, cpu_ms: 5000, ..plugin.limits.clone() };
        let bench = Bench::start(Load { limits, ..plugin });
        let Outcome::Failed(failure) = bench.hook("on_command", "{}").outcome else {
            panic!("it did not fail")
        };
        assert!(failure.message.contains("stack overflow"), "{failure}");
        assert!(failure.traceback.starts_with("weather.lua:1: in upvalue 'f'"), "{}", failure.traceback);
    });
}
