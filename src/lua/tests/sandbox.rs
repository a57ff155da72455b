//! What plugins do not have and cannot change.

use super::{Bench, check, check_fails, load, outcome, with_stack};

#[test]
fn what_is_blocked_is_absent() {
    with_stack(|| {
        for name in [
            "os",
            "io",
            "load",
            "loadstring",
            "loadfile",
            "dofile",
            "require",
            "package",
            "debug",
            "warn",
            "string.dump",
        ] {
            check(&format!("return {{{name} == nil}}"), "[true]");
        }
        check("return {rawget(_G, 'os') == nil}", "[true]");
        for name in ["cron", "sun", "ha", "automation", "plugins"] {
            check(&format!("return {{jarvis.{name} == nil}}"), "[true]");
        }
        check("return {jarvis.mqtt.request == nil}", "[true]");
    });
}

#[test]
fn using_a_blocked_global_says_what_serves_instead() {
    with_stack(|| {
        check_fails(
            "return {os.time()}",
            "weather.lua:1: attempt to index a nil value (global 'os'); `os` does not exist in plugins: use jarvis.time",
        );
        check_fails("load('x')()", "`load` does not exist in plugins");
        check_fails("local m = require 'm'", "`require` does not exist in plugins: a plugin is one file");
        check("if os then return {1} end return {2}", "[2]");
    });
}

#[test]
fn libraries_are_listed_but_read_only() {
    with_stack(|| {
        check_fails("string.trim = 1", "weather.lua:1: `string` is read-only");
        check_fails("jarvis.state.get = 1", "`jarvis.state` is read-only");
        check_fails("jarvis.x = 1", "`jarvis` is read-only");
        check_fails("jarvis.plugin.id = 'other'", "`jarvis.plugin` is read-only");
        check_fails("jarvis.log.info = 1", "`jarvis.log` is read-only");
        check_fails("rawset(table, 'x', 1)", "weather.lua:1: `table` is read-only");
        check_fails("setmetatable(math, {})", "cannot change a protected metatable");
        check_fails("table.insert(jarvis, 1)", "`jarvis` is read-only");
        check_fails("getmetatable('').__index = nil", "attempt to index a boolean value");
        check("return {getmetatable(''), getmetatable(string), getmetatable(jarvis)}", "[false,false,false]");
        check(
            "local n = {} for k in pairs(jarvis.json) do n[#n+1] = k end table.sort(n) return n",
            r#"["array","decode","encode","null"]"#,
        );
        check("local n = 0 for k, v in pairs(string) do n = n + 1 end return {n > 15}", "[true]");
        check("return jarvis.plugin and {jarvis.plugin.id, jarvis.plugin.version}", r#"["weather","1.2.0"]"#);
    });
}

#[test]
fn iterating_a_library_gives_no_way_to_it() {
    with_stack(|| {
        check(
            "local f, s, k = pairs(string) return {type(f), s == nil, k == nil}",
            r#"["function",true,true]"#,
        );
        check("for k, v in next, string do return {k} end return {}", "{}");
    });
}

#[test]
fn finalizers_bytecode_and_collection_are_refused() {
    with_stack(|| {
        check_fails("setmetatable({}, {__gc = function() end})", "weather.lua:1: `__gc` cannot be set");
        check_fails("setmetatable({}, {__gc = false})", "`__gc` cannot be set");
        check_fails("collectgarbage()", "weather.lua:1: plugins may only ask collectgarbage(\"count\")");
        check("return {collectgarbage('count') > 10}", "[true]");
        let bench = Bench::start(load("\x1bLua\x54\x00"));
        let failure = bench.loaded.result.unwrap_err();
        assert!(failure.message.contains("attempt to load a binary chunk"), "{failure}");
    });
}

#[test]
fn ordinary_lua_works() {
    with_stack(|| {
        check("return {pcall(error, 'x')}", r#"[false,"x"]"#);
        check("return {pcall(error, {a = 1})}", r#"[false,{"a":1}]"#);
        check("return {select('#', pcall(function() return nil, nil end))}", "[3]");
        check(
            "return {xpcall(function() error('a', 0) end, function(m) return m .. 'b' end)}",
            r#"[false,"ab"]"#,
        );
        check("return {xpcall(function(...) return ... end, print, 1, 2)}", "[true,1,2]");
        check("return {(xpcall(error, error, 'x'))}", "[false]");
        check("return {setmetatable({}, {__index = {a = 7}}).a, rawset({}, 'k', 2).k}", "[7,2]");
        check(
            "return {('x'):rep(3, '-'), string.rep('ab', 2), (''):rep(1 << 62), ('x'):rep(-1)}",
            r#"["x-x-x","abab","",""]"#,
        );
        check(
            "return {table.concat({1, 2, 3}, ','), table.concat({1, 2, 3}, ',', 2, 3), table.concat({})}",
            r#"["1,2,3","2,3",""]"#,
        );
        check("return {table.unpack({1, 2, 3})}", "[1,2,3]");
        check("return {table.unpack({1, 2, 3}, 2)}", "[2,3]");
        check("return table.move({1, 2, 3}, 2, 3, 1)", "[2,3,3]");
        check("return {getmetatable(setmetatable({}, {__metatable = 'm'}))}", r#"["m"]"#);
        check("return {(#'é'), utf8.len('é'), math.type(1), ('%d'):format(3)}", r#"[2,1,"integer","3"]"#);
        check("return {tostring(jarvis.json.null), type(jarvis.json.null)}", r#"["null","userdata"]"#);
        check("x = 1 return {_G.x, _VERSION}", r#"[1,"Lua 5.4"]"#);
    });
}

#[test]
fn tables_with_metatables_are_lists_like_others() {
    with_stack(|| {
        let check = |body: &str, expect: &str| {
            let list = "local function list(t) return setmetatable(t, {__metatable = false}) end";
            super::check(&format!("{list} {body}"), expect);
        };
        check("local t = list{1, 2} table.insert(t, 3) table.insert(t, 1, 0) return t", "[0,1,2,3]");
        check(
            "local t = list{1} table.insert(t, 2, 'b') table.insert(t, '1', 'a') return t",
            r#"["a",1,"b"]"#,
        );
        check("local t = list{1, 2, 3} return {table.remove(t), table.remove(t, 1), #t, t[1]}", "[3,1,1,2]");
        check(
            "local t = list{} return {table.remove(t) == nil, table.remove(t, 0) == nil, #t}",
            "[true,true,0]",
        );
        check("local t = list{1, 2} return {table.remove(t, 3) == nil, #t}", "[true,2]");
        check("local t = list{3, 1, 2} table.sort(t) return t", "[1,2,3]");
        check("local t = list{3, 1, 2} table.sort(t, function(a, b) return a > b end) return t", "[3,2,1]");
        check("return {table.concat(list{1, 2, 3}, '-'), table.unpack(list{4, 5})}", r#"["1-2-3",4,5]"#);
        check(
            "local log = {} local t = setmetatable({}, {__newindex = function(t, k, v) rawset(t, k, v * 2) end})
             table.insert(t, 1) table.insert(t, 2) return t",
            "[2,4]",
        );
        check_fails("table.insert(setmetatable({}, {}), 5, 1)", "weather.lua:1: bad argument #2 to 'insert'");
        check_fails("table.insert(setmetatable({}, {}), 1, 2, 3)", "wrong number of arguments to 'insert'");
        check_fails("table.remove(setmetatable({}, {}), 7)", "weather.lua:1: bad argument #2 to 'remove'");
        check_fails("table.sort(setmetatable({}, {__len = function() return 'x' end}))", "is not an integer");
        check_fails("table.insert({}, 5, 1)", "weather.lua:1: bad argument #2 to 'insert'");
        super::check("return {('').rep('', 3, 5), table.remove({1, 2, 3}, 1)}", r#"["55",1]"#);
        super::check("return {select('#', table.insert({}, 1)), select('#', table.sort({}))}", "[0,0]");
    });
}

#[test]
fn coroutines_work_across_protected_calls() {
    with_stack(|| {
        check(
            "local co = coroutine.wrap(function(a)
               local ok, b = pcall(function() return coroutine.yield(a + 1) end)
               local ok2, e = xpcall(function() coroutine.yield(b + 1) error('end', 0) end, function(m) return m end)
               return {ok, ok2, e}
             end)
             local first, second = co(1), co(10)
             local last = co()
             return {first, second, last}",
            r#"[2,11,[true,false,"end"]]"#,
        );
        check(
            "local co = coroutine.create(function() error('x', 0) end) return {coroutine.resume(co)}",
            r#"[false,"x"]"#,
        );
        check(
            "local co = coroutine.create(function() coroutine.yield() end) coroutine.resume(co) return {coroutine.close(co), coroutine.status(co)}",
            r#"[true,"dead"]"#,
        );
        check(
            "local c = coroutine.create(function() local x <close> = setmetatable({}, {__close = function() error('c', 0) end}) coroutine.yield() end) coroutine.resume(c) return {coroutine.close(c)}",
            r#"[false,"c"]"#,
        );
        check_fails(
            "local f = coroutine.wrap(function() error('inside') end)\nf()",
            "weather.lua:2: weather.lua:1: inside",
        );
        check_fails("coroutine.wrap(3)", "weather.lua:1: bad argument #1");
        check_fails("local f = coroutine.wrap(function() end) f() f()", "cannot resume dead coroutine");
    });
}

#[test]
fn errors_name_the_plugins_own_line() {
    with_stack(|| {
        check_fails("\n\nlocal x = nil + 1", "weather.lua:3: attempt to perform arithmetic on a nil value");
        check_fails("\nerror('mine')", "weather.lua:2: mine");
        check_fails(
            "\n\nreturn jarvis.state.get(5) or 1",
            "weather.lua:3: jarvis.state.get wants a string as the key, got number",
        );
        check_fails(
            "\nlocal ok, e = pcall(jarvis.state.get)\nerror(e, 0)",
            "weather.lua:2: jarvis.state.get wants a string",
        );
        check_fails(
            "\ntable.concat(nil)",
            "weather.lua:2: bad argument #1 to 'table.concat' (table expected",
        );
        check_fails(
            "\nlocal ok, e = pcall(table.sort, {3, 2, 1, 5, 4, 7}, function() return true end)\nerror(e, 0)",
            "failed: invalid order function for sorting",
        );
        check_fails(
            "\ntable.concat(setmetatable({}, {__len = function() return 1 end, __index = function()\n error('mine') end}))",
            "failed: weather.lua:3: mine",
        );
        check_fails("\ntable.concat({{}})", "weather.lua:2: invalid value (table) at index 1");
        check_fails(
            "\ntable.insert(nil, 1)",
            "weather.lua:2: bad argument #1 to 'insert' (table expected, got nil)",
        );
        check_fails("\nlocal s = (nil .. 'x')", "weather.lua:2: attempt to concatenate a nil value");
        check_fails("\nsetmetatable(1, {})", "weather.lua:2: bad argument #1");
        check_fails("\ntable.sort({1, 'x'})", "failed: weather.lua:2: attempt to compare");
        check_fails("\nnext({}, 'x')", "failed: weather.lua:2: invalid key to 'next'");
        check_fails(
            "\ncoroutine.yield()",
            "failed: weather.lua:2: attempt to yield from outside a coroutine",
        );
        check_fails("\nerror('mine', 0)", "failed: mine");
        check_fails(
            "\nlocal s = ('x'):rep(-1, {}) .. ('%d'):format('x')",
            "failed: weather.lua:2: bad argument #",
        );
        check_fails(
            "local co = coroutine.wrap(function()\n jarvis.state.get() end) co()",
            "weather.lua:2: jarvis.state.get wants",
        );
        check_fails(
            "\nlocal s = string.trim(nil)",
            "weather.lua:2: bad argument #1 to 'trim' (string expected, got nil)",
        );
    });
}

#[test]
fn error_objects_are_read_by_type_only() {
    with_stack(|| {
        let check = |body: &str, expect: &str| assert_eq!(Bench::of_body(body).command(), expect, "{body}");
        check("error{message = 'no milk', code = 'no_milk'}", "no_milk: no milk");
        check("error{message = 'no milk'}", "hook_error: no milk");
        check("return nil, 'no milk\\n'", "hook_error: no milk ");
        check("return nil, {message = 'm', code = 'c'}", "c: m");
        check(
            "error(setmetatable({}, {__tostring = function() while true do end end}))",
            "hook_error: plugin `weather`: on_command failed: error object is a table value",
        );
        check(
            "error(setmetatable({}, {__index = function() while true do end end}))",
            "hook_error: plugin `weather`: on_command failed: error object is a table value",
        );
        check("error()", "hook_error: plugin `weather`: on_command failed: error object is a nil value");
        check(
            "error(print)",
            "hook_error: plugin `weather`: on_command failed: error object is a function value",
        );
        check("error(12)", "hook_error: plugin `weather`: on_command failed: 12");
        check("error('a\\27[31m\\nb', 0)", "hook_error: plugin `weather`: on_command failed: a [31m b");
        let long = Bench::of_body("error(('x'):rep(1000000), 0)").command();
        assert!(long.len() < 2200, "{}", long.len());
    });
}

#[test]
fn hooks_are_looked_up_raw() {
    with_stack(|| {
        let bench = Bench::new("setmetatable(_G, {__index = function() while true do end end}) on_chat = 5");
        assert_eq!(outcome(&bench.hook("on_command", "{}")), "missing");
        assert_eq!(outcome(&bench.hook("on_chat", "{}")), "missing");
    });
}
