//! Plugins that want more memory than they may have, by every way there is. Each gets an error, and goes on.

use std::time::{Duration, Instant};

use super::{Bench, load, outcome, raw, with_stack};
use crate::model::frame::{Effect, Input, Outcome, Target};

/// Bodies of `on_command` that must end for want of memory.
const BOMBS: &[&str] = &[
    "local t = {} while true do t[#t + 1] = {} end",
    "local t = {} for i = 1, 1e9 do t['k' .. i] = i end",
    "local t = {} for i = 1, 1e9 do t[i * 1.5] = i end",
    "local s = 'x' while true do s = s .. s end",
    "local t = {} while true do t[#t + 1] = tostring(#t):rep(1000) end",
    "local t = {} for i = 1, 1e9 do t[i] = function() return i, t end end",
    "local t = {} for i = 1, 1e9 do t[i] = coroutine.create(print) end",
    "local t = {} for i = 1, 1e9 do t[i] = coroutine.wrap(function() coroutine.yield() end) t[i]() end",
    "local f = print for i = 1, 1e9 do local g = f f = function() return g end end",
    "local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end",
    "local t = {'x'} while true do t[#t + 1] = table.concat(t) end",
    "local s = 'x' while true do s = s:gsub('.', '%0%0') end",
    "local s = 'x' while true do s = s:gsub('.', function(c) return c .. c end) end",
    "local s = 'x' while true do s = ('%s%s'):format(s, s) end",
    "local s = 'x' while true do s = (s .. s):upper():reverse() end",
    "local t = {} while true do t[#t + 1] = utf8.char(0x10ffff, #t + 1) end",
    "local t = {} while true do t = {t, table.unpack(t)} t[#t + 1] = {table.unpack(t)} end",
    "local t = {} for i = 1, 1e9 do t = setmetatable({}, {__index = t}) end",
    "local function f() return f() + 1 end f()",
    "local function f() local t = {} return f(t), t end f()",
    "local t = {} while true do t[#t + 1] = jarvis.json.decode('[[],[],{\"a\":[]},[]]') end",
    "local t = {} while true do t[#t + 1] = jarvis.json.encode({('x'):rep(100000), #t}) end",
    "local t = {} while true do t[#t + 1] = jarvis.uuid() end",
    "local t = {} while true do t[#t + 1] = jarvis.state.get('home') end",
    "local t = {} while true do t[#t + 1] = jarvis.time.parts() end",
    "local t = {} while true do t[#t + 1] = ('a b c'):split() end",
    "jarvis.json.decode('[' .. ('[],'):rep(1000000) .. '[]]')",
    "('x '):rep(4000000):split()",
    "local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) end",
    "local t = {} while true do xpcall(error, function() t[#t + 1] = {} end) end",
    "local t = {} coroutine.wrap(function() while true do t[#t + 1] = {} end end)()",
    "local t = {} table.sort({3, 2, 1}, function() while true do t[#t + 1] = {} end end)",
    "local t = setmetatable({}, {__index = function(t) while true do t[#t + 1] = {} end end}) return t.x",
    "keep = {} while true do keep[#keep + 1] = {} end",
    "_G[1] = {} while true do _G[#_G + 1] = {} end",
];

/// Bodies that must end with an ordinary error: what they want is counted elsewhere.
const REFUSED: &[(&str, &str)] = &[
    ("return jarvis.json.decode(('['):rep(100000))", "recursion limit exceeded"),
    ("return jarvis.json.decode(('{\"a\":'):rep(100000))", "recursion limit exceeded"),
    ("return {('x'):rep(1 << 30)}", "the result would be larger than the memory"),
    ("local t = {} t[1] = t jarvis.state.set('t', t)", "contains itself"),
    ("local t = {} for i = 1, 31 do t = {t, t} end jarvis.json.encode(t)", "more than 20000 values"),
    ("local t = {} for i = 1, 31 do t = {t, t} end jarvis.events.emit('e', t)", "more than 20000 values"),
    ("jarvis.state.set('k', ('\\1'):rep(1000000))", "larger than 262144 bytes"),
    ("for i = 1, 1e9 do jarvis.state.set('k' .. i, ('x'):rep(200000)) end", "(limits.state)"),
    ("for i = 1, 1e9 do jarvis.events.emit('e', ('x'):rep(200000)) end", "more than 4 MiB"),
    ("for i = 1, 1e9 do jarvis.events.emit('e') end", "(limits.outputs)"),
    ("for i = 1, 1e9 do jarvis.events.on('e', function() end) end", "(limits.handlers)"),
    ("for i = 1, 1e9 do jarvis.timer.after(1, print, {data = ('x'):rep(200000)}) end", "more than 1 MiB"),
    (
        "local t = {} for i = 1, 1e9 do t[#t + 1] = select('#', table.unpack({}, 1, 1000000 + i)) end",
        "too many results",
    ),
    ("error(('x'):rep(8000000))", "xxx"),
    (
        "error(setmetatable({('x'):rep(8000000)}, {__name = ('n'):rep(1000000)}))",
        "error object is a table value",
    ),
    ("jarvis.http.post('http://api.example.com/', ('x'):rep(2000000))", "wants a body of at most 1 MiB"),
];

/// More than a bomb of 16 MiB and its clean-up take beside other work.
const BOUND: Duration = Duration::from_secs(90);

/// A plugin whose `on_command` has this body, and whose `on_chat` shows that it goes on.
pub(super) fn start(body: &str) -> Bench {
    let plugin =
        load(&format!("function on_command() {body} end function on_chat() return {{ok = true}} end"));
    // Memory shall run out first, also on a slow machine.
    let limits = crate::model::Limits { cpu_ms: 30_000, wall_ms: 60_000, ..plugin.limits.clone() };
    let bench = Bench::start(crate::model::frame::Load { limits, ..plugin });
    assert!(bench.loaded.result.is_ok(), "{body}: {:?}", bench.loaded.result);
    bench
}

#[test]
fn every_bomb_ends_and_the_next_call_works() {
    with_stack(|| {
        for body in BOMBS {
            let begun = Instant::now();
            let bench = start(body);
            let found = bench.command();
            assert!(
                found.starts_with("memory_limit: ") && found.contains("(limits.memory)"),
                "{body} gave {found:.300}"
            );
            assert!(begun.elapsed() < BOUND, "{body}: {:?}", begun.elapsed());
            // What globals hold stays, until the bridge gives the plugin a fresh VM for its failure.
            if body.contains("keep") || body.contains("_G") {
                continue;
            }
            let after = bench.hook("on_chat", "{}");
            assert_eq!(outcome(&after), r#"{"ok":true}"#, "{body}");
            assert!(after.memory < 4 << 20, "{body} left {}", after.memory);
        }
    });
}

#[test]
fn what_is_counted_elsewhere_is_an_ordinary_error() {
    with_stack(|| {
        for (body, expect) in REFUSED {
            let bench =
                start(&format!("local a, b = (function() {body} end)() if b then error(b, 0) end return a"));
            let found = bench.command();
            let is_ordinary = found.starts_with("hook_error: ") || found.starts_with("invalid_result: ");
            assert!(is_ordinary && found.contains(expect) && found.len() < 3000, "{body} gave {found:.300}");
            assert_eq!(outcome(&bench.hook("on_chat", "{}")), r#"{"ok":true}"#, "{body}");
        }
    });
}

#[test]
fn a_full_heap_fails_every_call_with_its_name_until_it_is_replaced() {
    with_stack(|| {
        let bench = Bench::new(
            "keep = {}
             function on_command() while true do keep[#keep + 1] = {} end end
             function on_chat() local t = {} for i = 1, 1000 do t[i] = {} end return {ok = true} end
             jarvis.events.on('e', function() local t = {} for i = 1, 1000 do t[i] = {} end end)
             jarvis.timer.every(1, function() local t = {} for i = 1, 1000 do t[i] = {} end end)",
        );
        let effects = bench.loaded.result.as_deref().unwrap();
        assert!(matches!(effects, [Effect::On { handler: 1, .. }, Effect::Timer { timer: 2, .. }]));
        // The bridge reads each of these as the wish for a fresh VM, whatever was called.
        let targets = [
            Target::Hook("on_command".into()),
            Target::Hook("on_chat".into()),
            Target::Handler(1),
            Target::Timer(2),
        ];
        for target in targets {
            let Outcome::Failed(failure) = bench.call(target.clone(), Input::Value(raw("1"))).outcome else {
                panic!("{target:?} did not fail")
            };
            assert_eq!(failure.code.to_string(), "memory_limit", "{target:?}: {failure}");
        }
    });
}

#[test]
fn half_a_heap_of_large_texts_can_be_used_again_and_again() {
    with_stack(|| {
        let bench = start("local t = {} for i = 1, 8 do t[i] = ('x'):rep(1000000) .. i end return {#t}");
        for number in 1..=10 {
            assert_eq!(bench.command(), "[8]", "call {number}");
        }
    });
}
