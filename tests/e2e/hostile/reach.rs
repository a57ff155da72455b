//! What a plugin reaches for and must not get: the host, other plugins, the libraries, the bridge's own code.

use serde_json::json;

use super::stage::{
    Case,
    End::{Answers, Fails},
    GOOD, Stage,
    Trigger::Load,
    case, run,
};
use crate::harness::{Broker, Setup, plugin_source};

#[test]
fn what_plain_lua_has_and_plugins_have_not() {
    let absent = [
        "os.exit()",
        "os.execute('id')",
        "os.getenv('HOME')",
        "io.open('/etc/passwd')",
        "io.popen('id')",
        "load('return 1')()",
        "loadstring('return 1')()",
        "loadfile('/etc/passwd')",
        "dofile('/etc/passwd')",
        "require('os')",
        "package.loadlib('x', 'y')",
        "debug.getregistry()",
        "debug.sethook()",
        "debug.getinfo(1)",
        "warn('@on')",
        "string.dump(print)",
        "jit.off()",
        "newproxy(true)",
        "getfenv()",
        "setfenv(1, {})",
        "module('x')",
        "unpack({})",
        "bit32.band(1, 2)",
        "table.foreach({}, print)",
    ];
    let cases: Vec<Case> = (0..)
        .zip(absent)
        .map(|(number, body)| case(&format!("absent{number}"), Fails("hook_error", "nil value"), body))
        .collect();
    run(&cases);
}

#[test]
fn libraries_are_read_only() {
    let tricks = [
        ("string_field", "is read-only", "string.upper = print"),
        ("string_new_field", "is read-only", "string.mine = print"),
        ("string_rawset", "is read-only", "rawset(string, 'upper', print)"),
        ("string_metatable", "protected metatable", "setmetatable(string, {})"),
        ("string_insert", "is read-only", "table.insert(string, 'x')"),
        ("text_metatable", "index a boolean", "getmetatable('').__index = {}"),
        ("text_metatable_rawset", "table expected", "rawset(getmetatable(''), '__index', {})"),
        ("text_metatable_set", "table expected", "setmetatable('', {})"),
        ("table_field", "is read-only", "table.concat = print"),
        ("math_field", "is read-only", "math.huge = 1"),
        ("math_rawset", "is read-only", "rawset(math, 'pi', 3)"),
        ("utf8_field", "is read-only", "utf8.len = nil"),
        ("coroutine_field", "is read-only", "coroutine.resume = print"),
        ("coroutine_rawset", "is read-only", "rawset(coroutine, 'resume', print)"),
        ("jarvis_field", "is read-only", "jarvis.http = nil"),
        ("jarvis_new_field", "is read-only", "jarvis.mine = 1"),
        ("jarvis_rawset", "is read-only", "rawset(jarvis, 'http', nil)"),
        ("jarvis_deep", "is read-only", "jarvis.state.get = print"),
        ("jarvis_deep_rawset", "is read-only", "rawset(jarvis.state, 'get', print)"),
        ("jarvis_metatable", "protected metatable", "setmetatable(jarvis, {})"),
        ("jarvis_log", "is read-only", "jarvis.log.info = print"),
        ("jarvis_plugin", "is read-only", "jarvis.plugin.id = 'good'"),
        ("jarvis_move", "is read-only", "table.move({ print }, 1, 1, 1, jarvis)"),
        ("jarvis_null", "table expected", "setmetatable(jarvis.json.null, {})"),
        ("json_array", "index a boolean", "getmetatable(jarvis.json.array()).__index = print"),
        ("gc_function", "__gc", "setmetatable({}, { __gc = function() while true do end end })"),
        ("gc_false", "__gc", "setmetatable({}, { __gc = false })"),
        ("gc_true", "__gc", "setmetatable({}, { __gc = true })"),
        ("gc_table", "__gc", "setmetatable({}, { __gc = setmetatable({}, { __call = print }) })"),
        ("gc_by_own_pcall", "__gc", "assert(pcall(setmetatable, {}, { __gc = print }))"),
        ("collect", "collectgarbage", "collectgarbage()"),
        ("collect_stop", "collectgarbage", "collectgarbage('stop')"),
        ("collect_tuned", "collectgarbage", "collectgarbage('generational')"),
    ];
    run(&tricks.map(|(name, part, body)| case(&format!("only_{name}"), Fails("hook_error", part), body)));
}

/// What is harmless, and what shall stay possible.
#[test]
fn what_comes_of_odd_globals() {
    let tricks = [
        (
            "gc_later",
            Answers("{}"),
            "local m = {} setmetatable({}, m) m.__gc = function() while true do end end for i = 1, 100000 do local _ = {} end return {}",
        ),
        (
            "gc_inherited",
            Answers("{}"),
            "setmetatable({}, setmetatable({}, { __index = { __gc = function() while true do end end } })) for i = 1, 100000 do local _ = {} end return {}",
        ),
        (
            "no_pcall",
            Answers("{}"),
            "pcall, xpcall, error, tostring, type, setmetatable, print = nil return {}",
        ),
        (
            "error_loops",
            Fails("hook_error", "sad"),
            "local fail = error function error() while true do end end fail('sad')",
        ),
        (
            "tostring_loops",
            Fails("hook_error", "table"),
            "function tostring() while true do end end error({})",
        ),
        ("no_jarvis", Answers("{}"), "jarvis = nil string = nil table = nil math = nil return {}"),
        (
            "own_jarvis",
            Answers("{}"),
            "jarvis = setmetatable({}, { __index = function() while true do end end }) return {}",
        ),
        (
            "wiped_globals",
            Answers("{}"),
            "local all = _G for name in next, all do if name ~= 'on_command' then all[name] = nil end end return {}",
        ),
        (
            "metatable_of_globals",
            Answers("{}"),
            "setmetatable(_G, { __index = function() while true do end end, __newindex = function() while true do end end }) return {}",
        ),
        ("globals_is_itself", Fails("invalid_result", ""), "return _G"),
        ("returns_jarvis", Fails("invalid_result", "`jarvis` itself"), "return jarvis"),
        (
            "lists_jarvis",
            Answers(r#"{ "n": "*" }"#),
            "local n = 0 for _ in pairs(jarvis) do n = n + 1 end return { n = n }",
        ),
        ("no_type_of_thread", Fails("hook_error", ""), "debug = nil return coroutine.running().x"),
        ("wrap_is_no_secret", Fails("hook_error", ""), "return { x = coroutine.wrap(coroutine.wrap)(1) }"),
        (
            "other_environment",
            Answers("{}"),
            "local _ENV = setmetatable({}, { __index = function() while true do end end }) return {}",
        ),
        ("no_environment", Answers("{}"), "_ENV = nil return {}"),
        (
            "sees_no_source",
            Answers(r#"{ "x": null }"#),
            "return { x = arg or debug or _PROMPT or script or mlua or rust }",
        ),
        ("marks_a_list", Answers("[]"), "local t = jarvis.json.array() t[1] = nil return t"),
        ("seed", Answers("{}"), "math.randomseed(42) math.randomseed() return {}"),
    ];
    run(&tricks.map(|(name, end, body)| case(name, end, body)));
}

/// Looking hooks up runs no metamethod, and what is no function is no hook.
#[test]
fn hooks_are_plain_functions() {
    let plugin = |name: &str, code: &str| {
        (format!("{name}.lua"), plugin_source(name, &format!("-- @commands {name}\n{code}")))
    };
    let loops = "setmetatable({}, { __call = function() while true do end end })";
    let plugins = [
        plugin(
            "callable",
            &format!("on_command = {loops}\non_chat = {loops}\non_startup = {loops}\non_shutdown = {loops}"),
        ),
        plugin("number", "on_command = 42\non_chat = true\non_startup = 'x'"),
        plugin("from_index", "setmetatable(_G, { __index = function() while true do end end })"),
        plugin(
            "from_globals",
            "setmetatable(_G, { __index = { on_chat = function() while true do end end } })",
        ),
        plugin("native", "on_command = print\non_chat = math.floor\non_startup = string.len"),
        plugin("thread", "on_command = coroutine.create(function() end)\nhealth = coroutine.running()"),
    ];
    let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    let setup = plugins.iter().fold(setup, |setup, (file, source)| setup.file(file, source));
    let mut stage = Stage::of(setup);
    for name in ["callable", "number", "from_index", "from_globals", "thread"] {
        let info = stage.info(name);
        let hooks = info["hooks"].as_array().unwrap();
        assert!(info["state"] == "error" || hooks.is_empty(), "{info:#}");
        assert!(!info["last_error"].as_str().unwrap_or_default().contains("limits."), "{info:#}");
    }
    stage.jarvis.publish("jarvis/chat/request", "hello");
    stage.jarvis.expect("jarvis/chat/response", json!({ "response": null }));
    for name in ["callable", "number", "from_index", "from_globals", "native", "thread"] {
        let answer = stage.attack(name, json!({})).unwrap();
        assert_ne!(answer["code"], "timeout", "{answer:#}");
    }
    stage.unharmed();
}

/// What one plugin does to its own world is not seen in another's.
#[test]
fn plugins_share_nothing() {
    let spoil = "
shared = 1
math.randomseed(42)
pcall(function() string.trim = nil end)
pcall(rawset, string, 'spoilt', true)
pcall(function() getmetatable('').spoilt = true end)
pcall(rawset, _G, 'count', 1)
_G.tostring = function() return 'spoilt' end
_G.on_command = function() return { spoilt = true } end
jarvis.state.set('n', 'spoilt')
jarvis.config.set('n', 'spoilt')
";
    let look = "
function on_command()
  return {
    clean = shared == nil and string.spoilt == nil and ('x').spoilt == nil and tostring(1) == '1' and count == nil,
    trims = (' x '):trim(), state = jarvis.state.get('n'), config = jarvis.config.get('n'),
  }
end
";
    let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    let setup = setup.plugin("a_spoiler", &format!("-- @commands spoil\n{spoil}"));
    let setup = setup.plugin("looks", &format!("-- @commands look\n{look}"));
    let mut stage = Stage::of(setup);
    assert_eq!(stage.jarvis.run("spoil", json!({})), json!({ "spoilt": true }));
    assert_eq!(stage.jarvis.run("look", json!({})), json!({ "clean": true, "trims": "x" }));
    stage.unharmed();
}

/// What looks like a way out of the text that is Lua.
#[test]
fn sources_that_are_no_text() {
    run(&[
        case("bytecode_in_text", Answers("{}"), "local x = '\u{1b}Lua' return {}"),
        case("unfinished_text", Fails("hook_error", "unfinished"), "local x = [[ never").on(Load),
        case(
            "deep_nesting",
            Fails("hook_error", ""),
            &format!("local x = {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        )
        .on(Load),
        case(
            "deep_tables",
            Fails("hook_error", ""),
            &format!("local x = {}1{}", "{".repeat(100_000), "}".repeat(100_000)),
        )
        .on(Load),
        case(
            "many_locals",
            Fails("hook_error", "local"),
            &(0..300).map(|n| format!("local a{n} = 1\n")).collect::<String>(),
        )
        .on(Load),
        case(
            "long_concat",
            Fails("hook_error", "long_concat.lua"),
            &format!("local x = 'a'{}", " .. 'a'".repeat(240)),
        )
        .on(Load),
        case("goto_nowhere", Fails("hook_error", "goto"), "goto nowhere").on(Load),
    ]);
}
