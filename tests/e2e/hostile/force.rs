//! What no limit inside the VM reaches: single instructions and loops of C that go on for minutes. The worker is
//! killed, the request is answered, a fresh worker goes on. One plugin for each kill: three of them would switch
//! a plugin off.

use super::stage::{
    End::{Answers, Bounded, Ended, Fails, Killed, TimedOut},
    Trigger::{Event, Load, Message, Startup, Timer},
    case, run,
};

#[test]
fn single_instructions() {
    run(&[
        // All keys land on one chain when the table grows, and each is looked for along all before it.
        case(
            "colliding_integers",
            Killed,
            "local t = {} for i = 1, 70000 do t[i * (2^17 - 1) | 0] = true end",
        ),
        case("colliding_more", Killed, "local t = {} for i = 1, 140000 do t[i * ((1 << 18) - 1)] = true end"),
        case(
            "colliding_in_pcall",
            Killed,
            "while true do pcall(function() local t = {} for i = 1, 70000 do t[i * ((1 << 17) - 1)] = true end end) end",
        ),
        case(
            "colliding_in_coroutine",
            Killed,
            "coroutine.wrap(function() local t = {} for i = 1, 140000 do t[i * ((1 << 18) - 1)] = true end end)()",
        ),
        case("is_its_own_call", Ended, "local m = {} local c = setmetatable({}, m) m.__call = c c()"),
        case(
            "calls_in_a_ring",
            Ended,
            "local m, n = {}, {} local c, d = setmetatable({}, m), setmetatable({}, n) m.__call = d n.__call = c c()",
        ),
        case(
            "is_its_own_call_in_pcall",
            Ended,
            "local m = {} local c = setmetatable({}, m) m.__call = c while true do pcall(c) end",
        ),
        case(
            "fails_on_a_deep_stack",
            Ended,
            "local function deep(n) if n == 0 then while true do pcall(error) end end return (deep(n - 1)) end deep(60000)",
        ),
        case(
            "fails_on_the_deepest_stack",
            Ended,
            "local function deep() return (deep()) end while true do pcall(deep) end",
        ),
        case(
            "index_chain",
            Bounded,
            "local t = {} for i = 1, 1900 do t = setmetatable({}, { __index = t }) end while true do local _ = t.x end",
        ),
        case(
            "compares_long_texts",
            TimedOut,
            "local a, b = ('x'):rep(3000000) .. 'a', ('x'):rep(3000000) .. 'b' while true do local _ = a < b end",
        ),
        case("joins_long_texts", Ended, "local a = ('x'):rep(2000000) while true do local _ = a .. a end"),
    ]);
}

#[test]
fn patterns() {
    let tricks = [
        ("optional", "(('a'):rep(40)):find(('a?'):rep(40) .. ('a'):rep(40))"),
        ("lazy", "(('a'):rep(2000)):find(('.-'):rep(12) .. 'b')"),
        ("greedy", "(('a'):rep(2000)):find(('.*'):rep(12) .. 'b')"),
        ("captures", "(('a'):rep(3000)):match('(.*)(.*)(.*)(.*)b')"),
        ("balanced", "(('('):rep(400000)):find('%b()')"),
        ("frontier", "(('a'):rep(200000)):find('%f[' .. ('b'):rep(200000) .. ']')"),
        ("huge_set", "(('a'):rep(200000)):find('[' .. ('b'):rep(200000) .. ']')"),
        ("huge_negated_set", "(('a'):rep(200000)):find('[^' .. ('b'):rep(200000) .. 'a]')"),
        ("back_reference", "(('a'):rep(60000)):find('(.-)%1b')"),
        ("unanchored", "(('x'):rep(1000000)):gsub('.-b', '')"),
        ("matches", "for _ in (('x'):rep(1000000)):gmatch('.-b') do end"),
        ("plain_search", "(('a'):rep(4000000)):find(('a'):rep(2000000) .. 'b', 1, true)"),
        ("in_pcall", "while true do pcall(string.find, ('a'):rep(40), ('a?'):rep(40) .. ('a'):rep(40)) end"),
        (
            "in_coroutine",
            "coroutine.wrap(function() return ('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(40)) end)()",
        ),
    ];
    run(&tricks.map(|(name, body)| case(&format!("pattern_{name}"), TimedOut, body)));
}

/// Where the loops of C in `table.*` and `string.*` are not cut short by a bound.
#[test]
fn library_loops() {
    let huge = "huge = setmetatable({}, { __len = function() return 1 << 61 end, __index = type, __newindex = type })";
    let tricks = [
        ("rep_nothing", Answers(r#"{ "x": "" }"#), "return { x = (''):rep(1 << 62) }"),
        ("rep_nothing_with_nothing", Answers(r#"{ "x": "" }"#), "return { x = (''):rep(1 << 62, '') }"),
        ("rep_huge", Fails("hook_error", "string.rep"), "return { x = ('x'):rep(1 << 40) }"),
        (
            "rep_overflowing",
            Fails("hook_error", "string.rep"),
            "return { x = ('xx'):rep(math.maxinteger, 'yy') }",
        ),
        ("rep_float", Fails("hook_error", ""), "return { x = ('x'):rep(1e300) }"),
        ("move_huge", Fails("hook_error", "table.move"), "table.move({}, 1, math.maxinteger - 1, 1, {})"),
        ("move_from_below", Fails("hook_error", "table.move"), "table.move({}, math.mininteger, -1, 1, {})"),
        ("move_by_c", Fails("hook_error", "table.move"), "table.move(huge, 1, 1 << 61, 1, huge)"),
        ("concat_huge", Fails("hook_error", "table.concat"), "table.concat({}, '', 1, math.maxinteger)"),
        ("concat_by_c", Fails("hook_error", "table.concat"), "table.concat(huge)"),
        ("unpack_huge", Fails("hook_error", ""), "table.unpack({}, 1, 1 << 40)"),
        ("unpack_wide", Bounded, "while true do pcall(table.unpack, {}, 1, 900000) end"),
        ("insert_by_c", Fails("hook_error", "limits.memory"), "table.insert(huge, 1, 'x')"),
        ("remove_by_c", Fails("hook_error", "limits.memory"), "table.remove(huge, 1)"),
        (
            "sort_by_c",
            Fails("hook_error", "limits.memory"),
            "table.sort(setmetatable({}, { __len = function() return 1 << 30 end, __index = type, __newindex = type }))",
        ),
        (
            "sort_in_disorder",
            Bounded,
            "local t = {} for i = 1, 1000 do t[i] = i end table.sort(t, function() return true end)",
        ),
        ("format_wide", Fails("hook_error", "format"), "return { x = ('%999999999d'):format(1) }"),
        ("format_many", Fails("hook_error", ""), "return { x = (('%s'):rep(100000)):format(1) }"),
        ("gsub_grows", Ended, "local s = 'x' while true do s = s:gsub('.', '%0%0%0%0') end"),
        (
            "gsub_by_table",
            Ended,
            "local s = ('x'):rep(1000) while true do s = s:gsub('x', { x = ('x'):rep(10000) }) end",
        ),
        (
            "split_to_letters",
            Fails("hook_error", "string.split wants"),
            "while true do local t = (('x'):rep(1000000)):split('') end",
        ),
        (
            "split_commas",
            Ended,
            "local all = {} while true do all[#all + 1] = ((','):rep(1000000)):split(',') end",
        ),
        ("trim_spaces", Bounded, "while true do ((' '):rep(4000000) .. 'x'):trim() end"),
        (
            "byte_all",
            Fails("hook_error", "stack overflow"),
            "while true do pcall(string.byte, ('x'):rep(900000), 1, -1) end",
        ),
        ("char_many", Bounded, "while true do pcall(string.char, table.unpack({}, 1, 10000)) end"),
        ("utf8_long", TimedOut, "local s = ('x'):rep(8000000) while true do utf8.len(s) end"),
        ("pack_wide", Bounded, "while true do pcall(string.pack, ('i16'):rep(100000), 1) end"),
        ("upper_long", Ended, "local s = ('x'):rep(5000000) while true do local _ = s:upper() end"),
        ("reverse_long", Ended, "local s = ('x'):rep(5000000) while true do local _ = s:reverse() end"),
        (
            "tonumber_long",
            Bounded,
            "local s = ('9'):rep(8000000) while true do tonumber(s) tonumber(s, 36) end",
        ),
        (
            "json_deep",
            Answers(r#"{ "value": null, "why": "~recursion" }"#),
            "local value, why = jarvis.json.decode(('['):rep(1000000)) return { value = value, why = why }",
        ),
        (
            "json_long",
            Ended,
            "local s = '[' .. ('0,'):rep(2000000) .. '0]' while true do jarvis.json.decode(s) end",
        ),
    ];
    run(&tricks.map(|(name, end, body)| case(name, end, body).top(huge)));
}

#[test]
fn closing_and_handling() {
    let top = "
function loop() while true do end end
closer = setmetatable({}, { __close = function() while true do end end })
hanger = setmetatable({}, { __close = function() ('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(40)) end })
";
    let tricks = [
        ("closes_when_stopped", TimedOut, "local x <close> = closer while true do end"),
        (
            "closes_when_stopped_twice",
            TimedOut,
            "local x <close> = closer local y <close> = closer while true do end",
        ),
        (
            "closes_in_pcall",
            TimedOut,
            "while true do pcall(function() local x <close> = closer while true do end end) end",
        ),
        (
            "closes_in_coroutine",
            TimedOut,
            "coroutine.wrap(function() local x <close> = closer while true do end end)()",
        ),
        (
            "closes_coroutine",
            TimedOut,
            "local c = coroutine.create(function() local x <close> = closer coroutine.yield() end) coroutine.resume(c) coroutine.close(c)",
        ),
        (
            "closes_failed_coroutine",
            TimedOut,
            "coroutine.wrap(function() local x <close> = closer error('x') end)()",
        ),
        ("closes_loop", TimedOut, "for _ in next, {}, nil, closer do end"),
        ("closes_endless_loop", TimedOut, "for _ in loop, nil, nil, closer do end"),
        ("closes_after_error", TimedOut, "local x <close> = closer error('x')"),
        ("closes_by_pattern", TimedOut, "local x <close> = hanger while true do end"),
        (
            "closes_recursively",
            Bounded,
            "local function f() local x <close> = setmetatable({}, { __close = f }) while true do end end f()",
        ),
        ("handler_is_xpcall", Bounded, "while true do xpcall(error, xpcall, error) end"),
        ("handler_fails", Bounded, "while true do xpcall(error, function() error('x') end) end"),
        (
            "handler_overflows",
            Bounded,
            "local function f() return f() + 1 end while true do xpcall(f, f) end",
        ),
        (
            "handler_hangs",
            TimedOut,
            "xpcall(error, function() ('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(40)) end)",
        ),
        ("recursion", Ended, "local function f() return f() + 1 end while true do pcall(f) end"),
        (
            "recursion_by_c",
            Bounded,
            "local function f() return (('x'):gsub('x', f)) end while true do pcall(f) end",
        ),
        (
            "recursion_by_index",
            Bounded,
            "local t = setmetatable({}, { __index = function(t, k) return t[k .. 'x'] end }) while true do pcall(function() return t.x end) end",
        ),
        (
            "recursion_by_tostring",
            Bounded,
            "local t t = setmetatable({}, { __tostring = function() return tostring(t) end }) while true do pcall(tostring, t) end",
        ),
        (
            "recursion_by_sort",
            Bounded,
            "local function f() table.sort({ 1, 2, 3 }, f) end while true do pcall(f) end",
        ),
    ];
    run(&tricks.map(|(name, end, body)| case(name, end, body).top(top)));
}

#[test]
fn hangs_outside_commands() {
    let hang = "('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(40))";
    run(&[
        case("hangs_at_the_top", TimedOut, hang).on(Load),
        case("hangs_in_startup", TimedOut, hang).on(Startup),
        case("hangs_in_event", Killed, hang).on(Event),
        case("hangs_in_timer", Killed, hang).on(Timer),
        case("hangs_in_message", Killed, hang).on(Message),
        case(
            "collides_at_the_top",
            TimedOut,
            "local t = {} for i = 1, 140000 do t[i * ((1 << 18) - 1)] = true end",
        )
        .on(Load),
        case(
            "collides_in_event",
            Killed,
            "local t = {} for i = 1, 140000 do t[i * ((1 << 18) - 1)] = true end",
        )
        .on(Event),
    ]);
}
