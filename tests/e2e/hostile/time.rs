//! Loops that are stopped in place: the envelope names the line, and the same VM answers the next message.

use super::stage::{
    Case,
    End::{Answers, Bounded, Ended, Fails, Stopped, TimedOut},
    Trigger::{Event, Load, Message, Startup, Timer},
    case, run,
};

#[test]
fn plain_loops() {
    run(&[
        case("while_true", Stopped, "while true do end -- here"),
        case("repeat_until", Stopped, "repeat until false -- here"),
        case("goto_back", Stopped, "::again:: goto again -- here"),
        case("for_to_infinity", Stopped, "for i = 1, math.huge do end -- here"),
        case("for_all_integers", Stopped, "for i = math.mininteger, math.maxinteger do end -- here"),
        case("for_an_endless_iterator", Stopped, "for _ in function() return 1 end do end -- here"),
        case("tail_calls", Stopped, "local function f() return f() end return f() -- here"),
        case(
            "tail_calls_in_turn",
            Stopped,
            "local f, g function f() return g() end function g() return f() end return f() -- here",
        ),
        case(
            "growing_text",
            TimedOut,
            "local s = '' while true do s = s .. 'x' if #s > 5000 then s = '' end end -- here",
        ),
        case("vararg_growth", Ended, "local function f(...) return f(1, ...) end return f()"),
        case("api_calls", Stopped, "while true do jarvis.state.get('x') end -- here"),
        case(
            "json_both_ways",
            Stopped,
            "while true do jarvis.json.decode(jarvis.json.encode({ a = { 1, 2 } })) end -- here",
        ),
        case("uuids", Stopped, "while true do jarvis.uuid() end -- here"),
        case("clocks", Stopped, "while true do jarvis.time.iso() end -- here"),
        case("formats", Stopped, "while true do local s = ('%99d %s'):format(1, 'x') end -- here"),
    ]);
}

#[test]
fn loops_in_protected_calls() {
    run(&[
        case("pcall_loop", Stopped, "while true do pcall(function() while true do end end) end -- here"),
        case(
            "pcall_of_pcall",
            Stopped,
            "while true do pcall(pcall, pcall, function() while true do end end) end -- here",
        ),
        case("pcall_of_errors", Stopped, "while true do pcall(error) end -- here"),
        case(
            "pcall_tower",
            Stopped,
            "local function up(n) if n == 0 then while true do end end return pcall(up, n - 1) end while true do up(120) end -- here",
        ),
        case("pcall_chain", Bounded, "local function f() return pcall(f) end while true do f() end"),
        case(
            "xpcall_loop",
            Stopped,
            "while true do xpcall(function() while true do end end, function() while true do end end) end -- here",
        ),
        case(
            "xpcall_handler",
            Stopped,
            "while true do xpcall(error, function() while true do end end) end -- here",
        ),
        case(
            "xpcall_handler_of_handlers",
            Bounded,
            "local function h() return xpcall(error, h) end while true do h() end",
        ),
        case("xpcall_handles_with_error", Stopped, "while true do xpcall(error, error) end -- here"),
        case(
            "xpcall_handles_with_pcall",
            Stopped,
            "while true do xpcall(function() while true do end end, pcall, print) end -- here",
        ),
        case(
            "loop_after_catching",
            Stopped,
            "pcall(function() while true do end end) -- here\nwhile true do end",
        ),
        case(
            "own_pcall",
            Stopped,
            "local p = pcall while true do p(p, function() while true do end end) end -- here",
        ),
        case(
            "error_again",
            Stopped,
            "while true do local ok, e = pcall(function() while true do end end) pcall(error, e) end -- here",
        ),
    ]);
}

#[test]
fn loops_in_coroutines() {
    run(&[
        case("made_before", Stopped, "while true do coroutine.resume(before) end -- here")
            .top("before = coroutine.create(function() while true do end end) -- here"),
        case("half_run_before", Stopped, "coroutine.resume(half)")
            .top("half = coroutine.create(function() coroutine.yield() while true do end end) coroutine.resume(half) -- here"),
        case("wrapped", Stopped, "while true do coroutine.wrap(function() while true do end end)() end -- here"),
        case("resumed", Stopped, "while true do coroutine.resume(coroutine.create(function() while true do end end)) end -- here"),
        case("ping_pong", Stopped, "local next = coroutine.wrap(function() while true do coroutine.yield() end end) while true do next() end -- here"),
        case("coroutine_tower", Stopped, "local function up(n) if n == 0 then while true do end end return coroutine.wrap(up)(n - 1) end while true do pcall(up, 50) end -- here"),
        case("coroutine_chain", Bounded, "local function up() return coroutine.wrap(up)() end while true do pcall(up) end"),
        case("yields_in_pcall", Stopped, "local c = coroutine.wrap(function() while true do pcall(coroutine.yield) end end) while true do c() end -- here"),
        case("iterates_yields", Stopped, "for _ in coroutine.wrap(function() while true do coroutine.yield(1) end end) do end -- here"),
        case("closes_and_makes", Stopped, "while true do local c = coroutine.create(function() coroutine.yield() end) coroutine.resume(c) coroutine.close(c) end -- here"),
        case("yields_the_hook", Fails("hook_error", "yield"), "coroutine.yield(1)"),
        case("resumes_itself", Fails("hook_error", "non-suspended"), "local ok, e = coroutine.resume(coroutine.running()) error(e)"),
    ]);
}

/// Each metamethod of Lua 5.4 §2.4 that can be a function, and what calls it.
const METAMETHODS: [(&str, &str); 25] = [
    ("add", "x + 1"),
    ("sub", "x - 1"),
    ("mul", "x * 1"),
    ("div", "x / 1"),
    ("mod", "x % 1"),
    ("pow", "x ^ 1"),
    ("unm", "-x"),
    ("idiv", "x // 1"),
    ("band", "x & 1"),
    ("bor", "x | 1"),
    ("bxor", "x ~ 1"),
    ("bnot", "~x"),
    ("shl", "x << 1"),
    ("shr", "x >> 1"),
    ("concat", "x .. ''"),
    ("len", "#x"),
    ("eq", "x == setmetatable({}, {})"),
    ("lt", "x < x"),
    ("le", "x <= x"),
    ("index", "x.y"),
    ("newindex", "rawequal(1, (function() x.y = 1 end)())"),
    ("call", "x()"),
    ("tostring", "tostring(x)"),
    ("pairs", "pairs(x)"),
    ("close", "(function() local y <close> = x end)()"),
];

#[test]
fn loops_in_metamethods() {
    let cases: Vec<Case> = METAMETHODS
        .iter()
        .map(|(name, use_it)| {
            let body = format!(
                "local x = setmetatable({{}}, {{ __{name} = function() while true do end end }}) -- here\nlocal _ = {use_it}"
            );
            case(&format!("meta_{name}"), Stopped, &body)
        })
        .collect();
    run(&cases);
}

/// Functions of C that call back.
#[test]
fn loops_in_callbacks_of_c() {
    let top = "function loop() while true do end end -- here";
    let tricks = [
        ("sort_compares", "table.sort({ 1, 2, 3 }, loop)"),
        ("sort_lt", "local m = { __lt = loop } table.sort({ setmetatable({}, m), setmetatable({}, m) })"),
        ("gsub_calls", "('x'):gsub('x', loop)"),
        ("gsub_indexes", "('x'):gsub('x', setmetatable({}, { __index = loop }))"),
        (
            "concat_indexes",
            "table.concat(setmetatable({}, { __index = loop, __len = function() return 5 end }))",
        ),
        ("concat_length", "table.concat(setmetatable({}, { __len = loop }))"),
        (
            "unpack_indexes",
            "table.unpack(setmetatable({}, { __index = loop, __len = function() return 5 end }))",
        ),
        ("insert_length", "table.insert(setmetatable({}, { __len = loop }), 1)"),
        ("insert_newindexes", "table.insert(setmetatable({}, { __newindex = loop }), 1)"),
        (
            "remove_indexes",
            "table.remove(setmetatable({}, { __index = loop, __len = function() return 5 end }))",
        ),
        ("move_indexes", "table.move(setmetatable({}, { __index = loop }), 1, 5, 1, {})"),
        ("format_texts", "('%s'):format(setmetatable({}, { __tostring = loop }))"),
        ("print_texts", "print(setmetatable({}, { __tostring = loop }))"),
        ("log_texts", "jarvis.log(setmetatable({}, { __tostring = loop }))"),
        ("log_warns", "jarvis.log.warn(setmetatable({}, { __tostring = loop }))"),
        ("updates_state", "jarvis.state.update('x', loop)"),
        (
            "ipairs_goes_on",
            "for _ in ipairs(setmetatable({}, { __index = function() return 1 end })) do end -- here",
        ),
        ("select_all", "while true do select('#', table.unpack({}, 1, 200)) end -- here"),
    ];
    run(&tricks.map(|(name, body)| case(name, Stopped, body).top(top)));
}

/// What looks at an error or a result must not run the plugin's code outside its limits.
#[test]
fn loops_where_errors_and_results_are_looked_at() {
    let top = "function loop() while true do end end\ntrap = { __tostring = loop, __index = loop, __pairs = loop, __len = loop, __name = 'x', __eq = loop, __concat = loop, __call = loop }";
    let tricks = [
        ("error_object", Fails("hook_error", "table"), "error(setmetatable({}, trap))"),
        (
            "error_object_in_coroutine",
            Fails("hook_error", "table"),
            "coroutine.wrap(function() error(setmetatable({}, trap)) end)()",
        ),
        ("error_message_object", Fails("hook_error", "table"), "error({ message = setmetatable({}, trap) })"),
        (
            "error_code_object",
            Fails("hook_error", "sad"),
            "error({ message = 'sad', code = setmetatable({}, trap) })",
        ),
        ("error_nil", Fails("hook_error", "nil"), "error(nil)"),
        ("error_function", Fails("hook_error", "function"), "error(loop)"),
        ("error_number", Fails("hook_error", "42"), "error(42)"),
        ("error_true", Fails("hook_error", "boolean"), "error(true)"),
        ("reason_object", Fails("hook_error", "table"), "return nil, setmetatable({}, trap)"),
        ("result_object", Answers("{}"), "return setmetatable({}, trap)"),
        (
            "result_deep_inside",
            Answers(r#"{ "a": [{ "b": 1 }] }"#),
            "return { a = { setmetatable({ b = 1 }, trap) } }",
        ),
        (
            "result_response",
            Fails("invalid_result", ""),
            "return { response = setmetatable({ loop }, trap) }",
        ),
        ("args_to_api", Fails("hook_error", ""), "jarvis.state.set(setmetatable({}, trap), 1)"),
        ("emit_object", Answers("{}"), "jarvis.events.emit('x', setmetatable({}, trap)) return {}"),
        (
            "encode_object",
            Answers(r#"{ "text": "{}" }"#),
            "return { text = jarvis.json.encode(setmetatable({}, trap)) }",
        ),
        (
            "options_object",
            Fails("hook_error", ""),
            "jarvis.http.get('http://x.test/', setmetatable({}, trap))",
        ),
        ("timer_of_object", Fails("hook_error", ""), "jarvis.timer.after(setmetatable({}, trap), loop)"),
        ("handler_object", Fails("hook_error", "function"), "jarvis.events.on('x', setmetatable({}, trap))"),
    ];
    run(&tricks.map(|(name, end, body)| case(name, end, body).top(top)));
}

#[test]
fn loops_outside_commands() {
    run(&[
        case("at_the_top", Stopped, "while true do end -- here").on(Load),
        case(
            "at_the_top_in_pcall",
            Stopped,
            "while true do pcall(function() while true do end end) end -- here",
        )
        .on(Load),
        case(
            "at_the_top_in_coroutine",
            Stopped,
            "coroutine.wrap(function() while true do end end)() -- here",
        )
        .on(Load),
        case("in_startup", Stopped, "while true do end -- here").on(Startup),
        case(
            "in_startup_pcall",
            Stopped,
            "while true do pcall(function() while true do end end) end -- here",
        )
        .on(Startup),
        case("in_event", Stopped, "while true do end -- here").on(Event),
        case("in_event_pcall", Stopped, "while true do pcall(function() while true do end end) end -- here")
            .on(Event),
        case("in_timer", Stopped, "while true do end -- here").on(Timer),
        case("in_timer_pcall", Stopped, "while true do pcall(function() while true do end end) end -- here")
            .on(Timer),
        case("in_message", Stopped, "while true do end -- here").on(Message),
        case(
            "in_message_pcall",
            Stopped,
            "while true do pcall(function() while true do end end) end -- here",
        )
        .on(Message),
        case("yields_at_the_top", Fails("hook_error", "yield"), "coroutine.yield()").on(Load),
        case(
            "error_object_at_the_top",
            Fails("hook_error", "table"),
            "error(setmetatable({}, { __tostring = function() while true do end end }))",
        )
        .on(Load),
        case("error_nil_at_the_top", Fails("hook_error", "nil"), "error()").on(Load),
        case("bad_result_of_startup", Fails("invalid_result", "f"), "return { f = print }").on(Startup),
        case("reason_of_startup", Fails("hook_error", "no milk"), "return nil, 'no milk'").on(Startup),
        case("syntax", Fails("hook_error", "syntax.lua:16"), "this is no lua").on(Load),
    ]);
}

/// Whoever makes a plain mistake is told where.
#[test]
fn plain_mistakes_name_their_line() {
    let tricks = [
        ("index_nil", "index a nil", "local x\nlocal y = x.y -- here"),
        ("index_deep", "index a nil", "local t = {}\nreturn t.a.b -- here"),
        ("call_nil", "call a nil", "nobody() -- here"),
        ("call_text", "call a string", "local s = 'x'\ns() -- here"),
        ("add_nil", "arithmetic on a nil", "local x\nlocal y = x + 1 -- here"),
        ("add_text", "attempt to add", "local y = 'x' + 1 -- here"),
        ("join_table", "concatenate a table", "local y = 'x' .. {} -- here"),
        ("compare", "compare", "local y = 1 < 'x' -- here"),
        ("length", "length", "local x\nlocal y = #x -- here"),
        ("divide", "divide by zero", "local y = 1 // 0 -- here"),
        ("modulo", "n%0", "local y = 1 % 0 -- here"),
        ("no_integer", "no integer representation", "local y = 1.5 | 1 -- here"),
        ("bad_argument", "bad argument", "local y = ('x'):rep({}) -- here"),
        ("bad_pattern", "malformed pattern", "local y = ('x'):find('[') -- here"),
        ("bad_format", "invalid conversion", "local y = ('%y'):format(1) -- here"),
        ("for_text", "'for'", "for i = 'x', 2 do end -- here"),
        ("for_no_step", "'for'", "for i = 1, 2, 0 do end -- here"),
        ("nil_key", "nil", "local t = {}\nt[nil] = 1 -- here"),
        ("nan_key", "NaN", "local t = {}\nt[0 / 0] = 1 -- here"),
        ("bad_sort", "compare", "table.sort({ 1, 'x' }) -- here"),
        ("no_next", "next", "next({}, 'x') -- here"),
        ("own_error", "by hand", "error('by hand') -- here"),
        ("asserts", "by hand", "assert(false, 'mistake.lua: by hand')"),
        ("in_coroutine", "by hand", "coroutine.wrap(function() error('by hand') end)() -- here"),
        ("in_function", "by hand", "local function f()\nerror('by hand') -- here\nend\nf()"),
    ];
    run(&tricks.map(|(name, part, body)| case(&format!("mistake_{name}"), Fails("hook_error", part), body)));
}
