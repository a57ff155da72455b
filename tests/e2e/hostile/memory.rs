//! Memory bombs: the one who lays them gets an error and a fresh VM, the bridge's own memory stays where it was.

use std::time::{Duration, Instant};

use serde_json::json;

use super::stage::{
    End::{Answers, Bounded, Ended, Exhausted, Fails},
    GOOD, Stage,
    Trigger::{Event, Load, Message, Startup, Timer},
    case, memory, run, start,
};
use crate::harness::{Broker, Setup, say, workers_of};

#[test]
fn heaps_that_fill_up() {
    let tricks = [
        ("tables", Exhausted, "local t = {} while true do t[#t + 1] = {} end"),
        ("numbers", Exhausted, "local t = {} while true do t[#t + 1] = #t end"),
        ("keys", Ended, "local t = {} for i = 1, math.huge do t['k' .. i] = i end"),
        ("texts", Exhausted, "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end"),
        ("doubling_text", Exhausted, "local s = 'x' while true do s = s .. s end"),
        ("one_text", Exhausted, "local s = ('x'):rep(9000000) return { n = #(s .. s) }"),
        ("closures", Exhausted, "local t = {} while true do t[#t + 1] = function() return t end end"),
        (
            "coroutines",
            Exhausted,
            "local t = {} while true do t[#t + 1] = coroutine.create(function() end) end",
        ),
        (
            "running_coroutines",
            Exhausted,
            "local t = {} while true do local c = coroutine.wrap(function() coroutine.yield() end) c() t[#t + 1] = c end",
        ),
        ("metatables", Exhausted, "local t = {} while true do t = setmetatable({}, { __index = t }) end"),
        ("list_of_lists", Exhausted, "local t = {} while true do t = { t } end"),
        (
            "weak_keys",
            Ended,
            "local t = setmetatable({}, { __mode = 'k' }) while true do t[{}] = ('x'):rep(100) end",
        ),
        (
            "concat",
            Exhausted,
            "local t = {} for i = 1, 1000 do t[i] = ('x'):rep(20000) end return { n = #table.concat(t) }",
        ),
        (
            "concat_by_separator",
            Exhausted,
            "local t = {} for i = 1, 2000 do t[i] = '' end return { n = #table.concat(t, ('x'):rep(10000)) }",
        ),
        (
            "format",
            Exhausted,
            "local s = ('x'):rep(3000000) return { n = #('%s%s%s%s%s%s'):format(s, s, s, s, s, s) }",
        ),
        ("quoted", Exhausted, "local s = ('\\0'):rep(5000000) return { n = #('%q'):format(s) }"),
        ("gsub", Exhausted, "return { n = #(('x'):rep(4000):gsub('x', ('y'):rep(10000))) }"),
        (
            "reverse",
            Exhausted,
            "local t = {} local s = ('x'):rep(1000000) while true do t[#t + 1] = s:reverse() .. #t end",
        ),
        (
            "chars",
            Exhausted,
            "local t = {} while true do t[#t + 1] = utf8.char(0x10000 + #t) .. ('x'):rep(50) end",
        ),
        (
            "recursion_keeps",
            Ended,
            "local function f(...) local a, b, c, d = {}, {}, {}, {} return f(...) + 1 end f()",
        ),
        (
            "packed",
            Exhausted,
            "local t = {} while true do t[#t + 1] = table.pack(table.unpack({}, 1, 200)) end",
        ),
        (
            "json_encoded",
            Exhausted,
            "local t = {} while true do t[#t + 1] = jarvis.json.encode({ #t, ('x'):rep(10000) }) end",
        ),
        (
            "json_decoded",
            Exhausted,
            "local t = {} while true do t[#t + 1] = jarvis.json.decode('[[[[1,2,3]]]]') end",
        ),
        ("splits", Ended, "local t = {} while true do t[#t + 1] = ('a,b,c,d'):split(',') end"),
    ];
    run(&tricks.map(|(name, end, body)| case(&format!("bomb_{name}"), end, body)));
}

/// A full heap is an error, and an error can be caught and met again for ever.
#[test]
fn bombs_that_are_caught() {
    run(&[
        case(
            "caught",
            Exhausted,
            "local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) end",
        ),
        case(
            "caught_by_handler",
            Exhausted,
            "local t = {} while true do xpcall(function() while true do t[#t + 1] = {} end end, function() t[#t + 1] = {} end) end",
        ),
        case(
            "caught_in_coroutine",
            Exhausted,
            "local t = {} while true do coroutine.resume(coroutine.create(function() while true do t[#t + 1] = {} end end)) end",
        ),
        case(
            "caught_one_by_one",
            Ended,
            "local t = {} while true do pcall(function() t[#t + 1] = ('x'):rep(100000) .. #t end) end",
        ),
        case("caught_large_texts", Ended, "local t = {} while true do pcall(string.rep, 'x', 15000000) end"),
        case(
            "closed",
            Ended,
            "local t = {} local x <close> = setmetatable({}, { __close = function() while true do t[#t + 1] = {} end end }) while true do t[#t + 1] = {} end",
        ),
        case(
            "kept_between_calls",
            Bounded,
            "kept = kept or {} for i = 1, 100000 do kept[#kept + 1] = i end return {}",
        ),
        case("raised", Ended, "local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end")
            .header("@memory 64 MiB"),
        case(
            "raised_beyond_all",
            Ended,
            "local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end",
        )
        .header("@memory 99 GiB"),
        case(
            "churns_near_the_limit",
            Ended,
            "local keep = {} for i = 1, 60000 do keep[i] = { i, i } end while true do local t = { {}, {}, {}, ('x'):rep(10000) } end",
        ),
        case("lowered", Exhausted, "local t = {} while true do t[#t + 1] = {} end").header("@memory 1 MiB"),
        case("too_little_to_live", Fails("memory_limit", "limits.memory"), "")
            .header("@memory 1 kB")
            .on(Load),
        case(
            "fills_to_the_brim",
            Bounded,
            "local t = {} pcall(function() while true do t[#t + 1] = ('x'):rep(1000) .. #t end end) return {}",
        ),
    ]);
}

#[test]
fn bombs_outside_commands() {
    let bomb = "local t = {} while true do t[#t + 1] = {} end";
    run(&[
        case("bomb_at_the_top", Exhausted, bomb).on(Load),
        case("bomb_in_startup", Exhausted, bomb).on(Startup),
        case("bomb_in_event", Exhausted, bomb).on(Event),
        case("bomb_in_timer", Exhausted, bomb).on(Timer),
        case("bomb_in_message", Exhausted, bomb).on(Message),
    ]);
}

/// What the bridge holds for a plugin is bounded, too.
#[test]
fn what_the_bridge_would_hold() {
    run(&[
        case("long_error", Bounded, "error(('x'):rep(12000000))"),
        case(
            "long_error_object",
            Bounded,
            "error({ message = ('x'):rep(6000000), code = ('y'):rep(6000000) })",
        ),
        case("long_reason", Bounded, "return nil, ('x'):rep(12000000)"),
        case("long_result", Fails("too_large", "limits.result"), "return { x = ('x'):rep(4000000) }"),
        case("long_key", Fails("too_large", "limits.result"), "return { [('x'):rep(4000000)] = 1 }"),
        case(
            "many_long_results",
            Fails("too_large", "limits.result"),
            "local s = ('x'):rep(1000) local t = {} for i = 1, 10000 do t[i] = s end return t",
        ),
        case("escaped_result", Fails("too_large", "limits.result"), "return { x = ('\\1'):rep(100000) }"),
        case("long_log", Bounded, "for i = 1, 50 do jarvis.log(('x'):rep(4000000)) end return {}"),
        case(
            "long_log_fields",
            Bounded,
            "for i = 1, 50 do jarvis.log('x', { y = ('x'):rep(1000000) }) end return {}",
        ),
        case("long_print", Bounded, "print(('x'):rep(4000000), ('y'):rep(4000000)) return {}"),
        case(
            "long_emit",
            Fails("hook_error", "limits.result"),
            "jarvis.events.emit('x', { y = ('x'):rep(1000000) })",
        ),
        case(
            "long_emits",
            Fails("hook_error", ""),
            "for i = 1, 64 do jarvis.events.emit('x', { y = ('x'):rep(250000) }) end",
        ),
        case(
            "long_publishes",
            Bounded,
            "for i = 1, 64 do jarvis.mqtt.publish('out/x', ('x'):rep(250000)) end",
        )
        .header("@permissions mqtt.publish:out/#"),
        case("long_publish", Fails("hook_error", ""), "jarvis.mqtt.publish('out/x', ('x'):rep(3000000))")
            .header("@permissions mqtt.publish:out/#"),
        case("long_say", Fails("hook_error", ""), "jarvis.say(('x'):rep(3000000))"),
        case("long_state", Fails("hook_error", "limits."), "jarvis.state.set('x', ('x'):rep(2000000))"),
        case(
            "many_states",
            Fails("hook_error", "limits.state"),
            "for i = 1, 100 do jarvis.state.set('k' .. i, ('x'):rep(20000)) end",
        ),
        case(
            "rewrites_state",
            Bounded,
            "for i = 1, 1000 do jarvis.state.set('x', ('x'):rep(200000)) end return {}",
        ),
        case("long_state_key", Fails("hook_error", ""), "jarvis.state.set(('k'):rep(2000000), 1)"),
        case(
            "long_config",
            Fails("hook_error", ""),
            "for i = 1, 100 do jarvis.config.set('k' .. i, ('x'):rep(20000)) end",
        ),
        case("long_pattern", Fails("hook_error", ""), "jarvis.events.on(('x'):rep(1000000), print)"),
        case("long_filter", Fails("hook_error", ""), "jarvis.mqtt.subscribe(('x'):rep(70000), print)")
            .header("@permissions mqtt.subscribe:#"),
        case(
            "long_timer_data",
            Fails("hook_error", ""),
            "for i = 1, 64 do jarvis.timer.after(60, print, { data = ('x'):rep(250000) }) end",
        ),
        case(
            "long_timer_name",
            Fails("hook_error", ""),
            "jarvis.timer.after(60, print, { name = ('x'):rep(1000000) })",
        ),
        case(
            "long_http_body",
            Fails("hook_error", ""),
            "jarvis.http.post('http://127.0.0.1:9/', ('x'):rep(3000000))",
        )
        .header("@permissions http:127.0.0.1"),
        case(
            "long_http_headers",
            Fails("hook_error", ""),
            "jarvis.http.get('http://127.0.0.1:9/', { headers = { a = ('x'):rep(3000000) } })",
        )
        .header("@permissions http:127.0.0.1"),
        case("long_command", Bounded, "jarvis.command('count' .. ('x'):rep(1000000)) return {}"),
        case("long_command_args", Bounded, "jarvis.command('nobody', { x = ('x'):rep(1000000) }) return {}"),
        case(
            "shared_subtables",
            Fails("too_large", "limits.nodes"),
            "local t = {} for i = 1, 30 do t = { t, t } end return t",
        ),
        case(
            "shared_subtables_encoded",
            Bounded,
            "local t = {} for i = 1, 30 do t = { t, t } end return { x = #jarvis.json.encode(t) }",
        ),
        case(
            "shared_subtables_kept",
            Fails("hook_error", "limits.nodes"),
            "local t = {} for i = 1, 30 do t = { t, t } end jarvis.state.set('x', t)",
        ),
        case(
            "shared_subtables_emitted",
            Fails("hook_error", "limits.nodes"),
            "local t = {} for i = 1, 30 do t = { t, t } end jarvis.events.emit('x', t)",
        ),
        case(
            "counts_memory",
            Answers(r#"{ "few": true }"#),
            "return { few = collectgarbage('count') < 16384 }",
        ),
    ]);
}

/// A listener that does not listen, and another plugin that tells it more than anybody can keep.
#[test]
fn events_for_one_who_is_busy() {
    let deaf = "jarvis.events.on('long', function() jarvis.sleep(2) end)";
    let tells = "
-- @commands tell
function on_command(cmd)
    if cmd.name ~= 'tell' then return nil end
    for i = 1, 30 do jarvis.events.emit('long', { text = ('x'):rep(240000) }) end
    return {}
end
";
    let setup =
        Setup::new(&Broker::Embedded).plugin("good", GOOD).plugin("deaf", deaf).plugin("tells", tells);
    let mut stage = Stage::of(setup);
    for _ in 0..40 {
        stage.jarvis.publish("jarvis/command/request/tell", json!({}));
    }
    for _ in 0..20 {
        stage.ask_good();
        drop(stage.jarvis.waiting("jarvis/event/tells/long"));
    }
    stage.unharmed();
}

/// Each of many plugins returns as much as it may: the envelope of them all must still reach whoever asked.
#[test]
fn results_that_are_too_much_together() {
    let large = "function on_chat(m) return { text = ('x'):rep(250000) } end";
    let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    let setup = (0..40).fold(setup, |setup, number| setup.plugin(&format!("large{number}"), large));
    let mut stage = Stage::of(setup);
    let envelope = stage.jarvis.ask("chat/request", "hello");
    let results = envelope["results"].as_array().unwrap();
    assert!(results.len() == 40 && results.iter().all(|result| result["status"] == "ok"));
    stage.unharmed();
}

/// Fifty in a row: the same bomb in ten plugins, five times each, so that no circuit breaker spares the bridge.
#[test]
fn fifty_bombs_leave_the_bridges_memory_where_it_was() {
    let names: Vec<String> = (0..10).map(|number| format!("bomber{number}")).collect();
    let bombs = [
        "local t = {} while true do t[#t + 1] = {} end",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
    ];
    let cases: Vec<_> =
        names.iter().zip(bombs.iter().cycle()).map(|(name, bomb)| case(name, Exhausted, bomb)).collect();
    let mut stage = start(&cases);
    let mut round = |count: usize| {
        for name in names.iter().cycle().take(count) {
            let answer = stage.attack(name, json!({})).unwrap();
            assert_eq!(answer["code"], "memory_limit", "{answer:#}");
            let answer = stage.attack(name, json!({ "probe": true })).unwrap();
            assert_eq!(answer["data"]["calls"], 1, "{answer:#}");
        }
        // Nobody waits for one that was replaced: it may take a moment to go.
        let deadline = Instant::now() + Duration::from_secs(20);
        let workers = loop {
            let workers = workers_of(&stage.jarvis);
            if workers.len() == names.len() + 1 {
                break workers;
            }
            assert!(Instant::now() < deadline, "{} workers of {} plugins", workers.len(), names.len() + 1);
        };
        let workers = workers.iter().map(|id| memory(*id, "VmRSS")).sum::<u64>();
        (memory(stage.jarvis.process_id(), "VmRSS"), workers)
    };
    round(20);
    let (before, workers_before) = round(10);
    let (after, workers_after) = round(50);
    say(&format!(
        "fifty memory bombs: the bridge {before} kB before and {after} kB after, its workers {workers_before} kB and \
         {workers_after} kB in all"
    ));
    stage.unharmed();
    assert!(after * 10 <= before * 11, "the bridge grew from {before} to {after} kB");
    assert!(
        workers_after * 10 <= workers_before * 11,
        "the workers grew from {workers_before} to {workers_after} kB"
    );
}
