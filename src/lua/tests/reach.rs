//! What one plugin could change for itself that is not its own, or run where no limit is.

use super::{Bench, check, check_fails, outcome, with_stack};
use crate::model::frame::Outcome;

/// Ways to write to what is read-only; each must fail, also where the error is caught.
const WRITES: &[&str] = &[
    "string.rep = 1",
    "jarvis.state = {}",
    "jarvis.state.get = 1",
    "jarvis.log.info = 1",
    "jarvis.json.null = 1",
    "rawset(string, 'rep', 1)",
    "rawset(jarvis, 'state', 1)",
    "rawset(jarvis.state, 'get', 1)",
    "setmetatable(string, {})",
    "setmetatable(jarvis, nil)",
    "setmetatable(jarvis.json.array(), {})",
    "table.insert(string, 1)",
    "table.insert(string, 1, 1)",
    "table.remove(string, 1) string.x = 1",
    "table.move({1}, 1, 1, 1, string)",
    "table.sort(string) string[1] = 1",
    "getmetatable(jarvis).__index.x = 1",
    "getmetatable(string).__index.x = 1",
    "getmetatable('').__index = nil",
    "getmetatable('').__index.rep = 1",
    "getmetatable(jarvis.json.null).__tostring = nil",
    "getmetatable(jarvis.json.array()).__index = nil",
    "(''):x()",
    "('').x = 1",
    "for k, v in pairs(string) do if type(v) == 'table' then v.x = 1 end end error('none')",
    "for k, v in next, jarvis do v.x = 1 end error('none')",
    "for k, v in pairs(jarvis) do if type(v) == 'table' then v.x = 1 end end error('none')",
    "local n, s = pairs(jarvis) s.x = 1",
];

#[test]
fn nothing_read_only_can_be_written() {
    with_stack(|| {
        let intact = "return {string.rep('a', 2), ('b'):rep(2), jarvis.state.get('count'), string.x == nil, jarvis.x == nil,
            tostring(jarvis.json.null), #jarvis.json.array(), rawlen(string)}";
        for write in WRITES {
            check(
                &format!(
                    "local ok, e = pcall(function() {write} end) if ok then error('it was written') end {intact}"
                ),
                r#"["aa","bb",3,true,true,"null",0,0]"#,
            );
        }
    });
}

#[test]
fn changed_globals_change_nothing_of_ours() {
    with_stack(|| {
        let bench = Bench::new(
            "local real = {}
             for name, value in pairs(_G) do real[name] = value end
             for name, value in pairs(real) do
               if type(value) == 'function' then _G[name] = function() return 'mine' end end
             end
             _G.string, _G.table, _G.coroutine, _G.math = nil
             function on_command() while true do real.pcall(function() while true do end end) end end
             function on_chat()
               local ok, e = real.pcall(real.jarvis.state.get)
               local co = real.coroutine.wrap(function() return ('x'):rep(2) end)
               local smart = real.setmetatable({}, {})
               real.table.insert(smart, 1)
               real.table.insert(smart, 1, 2)
               real.table.sort(smart)
               return {ok = ok, e = e, co = co(), n = #('a b'):split(), t = real.tostring(1), r = real.table.remove(smart, 2)}
             end",
        );
        let Outcome::Failed(failure) = bench.hook("on_command", "{}").outcome else {
            panic!("it did not fail")
        };
        assert_eq!(failure.code.to_string(), "timeout", "{failure}");
        let found = outcome(&bench.hook("on_chat", "{}"));
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["e"], "weather.lua:9: jarvis.state.get wants a string as the key, got nil");
        assert_eq!((&found["co"], &found["n"], &found["t"]), (&"xx".into(), &2.into(), &"1".into()));
        assert_eq!(found["r"], 2);
    });
}

#[test]
fn no_finalizer_is_ever_set() {
    with_stack(|| {
        for body in [
            "setmetatable({}, {__gc = function() end})",
            "setmetatable({}, {__gc = true})",
            "local m = {} rawset(m, '__gc', print) setmetatable({}, m)",
            "local m = {__gc = print} setmetatable(m, m)",
            "local m = setmetatable({__gc = print}, {__metatable = false}) setmetatable({}, m)",
        ] {
            check_fails(body, "weather.lua:1: `__gc` cannot be set in plugins");
        }
        // Lua marks an object for its finalizer when the metatable is set, and at no other time.
        for body in [
            "local m = {} setmetatable({}, m) m.__gc = function() ran = true end",
            "local m = setmetatable({}, {__index = {__gc = function() ran = true end}}) setmetatable({}, m)",
            "local m = {} setmetatable({}, m) rawset(m, '__gc', function() ran = true end)",
        ] {
            check(
                &format!(
                    "{body} for i = 1, 200 do local s = ('x'):rep(100000) .. i end return {{ran == nil}}"
                ),
                "[true]",
            );
        }
    });
}

#[test]
fn closing_variables_and_weak_tables_work() {
    with_stack(|| {
        check(
            "local log = {} do local x <close> = setmetatable({}, {__close = function(_, e) log[#log + 1] = 'closed' end}) end return log",
            r#"["closed"]"#,
        );
        check(
            "local log = {} pcall(function() local x <close> = setmetatable({}, {__close = function(_, e) log[#log + 1] = e end}) error('x', 0) end) return log",
            r#"["x"]"#,
        );
        check(
            "local w = setmetatable({}, {__mode = 'k'}) w[{}] = 1 for i = 1, 200 do local s = ('x'):rep(100000) .. i end return {next(w) == nil}",
            "[true]",
        );
    });
}

#[test]
fn no_metamethod_runs_outside_of_a_limit() {
    with_stack(|| {
        // Each counts in a global; reading results, arguments and errors must not make it count.
        let wild = "calls = 0 local m = {__metatable = false, __name = 'n'}
            for _, n in ipairs{'__index', '__newindex', '__pairs', '__len', '__call', '__tostring', '__eq', '__lt', '__concat', '__close'} do
              m[n] = function() calls = calls + 1 return nil end
            end
            local function wild(t) return setmetatable(t or {}, m) end";
        for body in [
            "return wild{a = wild{1}}",
            "return nil, wild()",
            "return nil, wild{message = 'x', code = 'c'}",
            "error(wild())",
            "error(wild{message = wild(), code = wild()})",
            "return {jarvis.json.encode(wild{1})}",
            "jarvis.state.set('k', wild{a = 1})",
            "jarvis.events.emit('e', wild{1})",
            "jarvis.log('x', wild{a = 1})",
            "jarvis.mqtt.publish('lights/a/set', wild{1}, wild{qos = 0})",
            "jarvis.http.get('http://api.example.com/', wild{query = wild{a = 1}, headers = wild{b = 'x'}})",
            "jarvis.http.request(wild{url = 'http://api.example.com/', method = 'GET'})",
            "jarvis.command('x', wild{a = 1})",
            "pcall(jarvis.command, 'x', wild{wild, wild()})",
            "pcall(jarvis.state.get, wild())",
            "pcall(jarvis.timer.after, wild(), print, wild{})",
            "pcall(jarvis.events.on, 'e', wild())",
            "local x = wild() error(x)",
        ] {
            let bench = Bench::new(&format!(
                "{wild} function on_command(cmd) {body} end function on_chat() return {{calls}} end"
            ));
            bench.answers([Ok(r#"{"status":200,"headers":{},"body":""}"#)]);
            bench.hook("on_command", "{}");
            assert_eq!(outcome(&bench.hook("on_chat", "{}")), "[0]", "{body}");
        }
    });
}

#[test]
fn hooks_that_are_no_functions_are_missing() {
    with_stack(|| {
        for value in [
            "5",
            "{}",
            "'x'",
            "setmetatable({}, {__call = function() return {} end})",
            "jarvis",
            "jarvis.log",
        ] {
            let bench = Bench::new(&format!("on_command = {value}"));
            assert_eq!(outcome(&bench.hook("on_command", "{}")), "missing", "{value}");
        }
        // A library's function is a function.
        assert!(Bench::new("on_command = error").command().starts_with("hook_error: "));
    });
}
