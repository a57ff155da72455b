//! Every function of the `jarvis` table.

use super::{Bench, check, check_effects, check_fails, effects, outcome, with_stack};
use crate::model::{
    frame::{Input, Level, Operation, Refusal, Target},
    message::{MqttMessage, Payload, Properties},
};

/// The operations that the body asks for, as JSON.
fn asked(body: &str, answers: &[Result<&'static str, Refusal>]) -> (String, String) {
    let bench = Bench::of_body(body);
    bench.answers(answers.iter().cloned());
    let outcome = bench.command();
    let operations = serde_json::to_string(&*bench.bridge.operations.borrow()).unwrap();
    (operations, outcome)
}

#[test]
fn log_and_print() {
    with_stack(|| {
        let bench = Bench::of_body(
            r#"jarvis.log("hello", {n = 1}) jarvis.log.debug("d") jarvis.log.info("i") jarvis.log.warn("w")
               jarvis.log.error("e") jarvis.log(nil) jarvis.log({a = {}}) print(1, "x", nil, true)
               jarvis.log("a\27[31m\nb") jarvis.log("bad", {print}) jarvis.log(setmetatable({}, {__tostring = function() return "own" end}))"#,
        );
        assert_eq!(bench.command(), "nil");
        let logs = bench.bridge.logs.borrow();
        let lines: Vec<&str> = logs.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(
            lines[..9],
            ["hello", "d", "i", "w", "e", "nil", r#"{"a":{}}"#, "1 x nil true", "a [31m b"]
        );
        assert!(lines[9].starts_with("bad [its fields: `[1]` is a function"), "{}", lines[9]);
        assert_eq!(lines[10], "own");
        assert_eq!(logs[0].fields.as_ref().unwrap().get(), r#"{"n":1}"#);
        let levels: Vec<Level> = logs.iter().map(|line| line.level).take(5).collect();
        assert_eq!(levels, [Level::Info, Level::Debug, Level::Info, Level::Warn, Level::Error]);
        let long = Bench::of_body("jarvis.log(('x'):rep(100000))");
        long.command();
        assert!(long.bridge.logs.borrow()[0].message.len() <= 4100);
    });
}

#[test]
fn http_builds_requests() {
    with_stack(|| {
        let check = |body: &str, expect: &str| {
            let (operations, outcome) = asked(body, &[Err(Refusal::Failure("down".into()))]);
            assert_eq!(operations, expect, "{body} gave {outcome}");
        };
        check(
            "jarvis.http.get('http://h/p', {query = {q = 'a b', n = 2, tag = {'x', 'y'}}, timeout = '1.5s', headers = {['X-A'] = 'b'}})",
            r#"[{"http":{"method":"GET","url":"http://h/p?n=2&q=a%20b&tag=x&tag=y","headers":[["X-A","b"]],"body":null,"timeout_ms":1500}}]"#,
        );
        check(
            "jarvis.http.post('http://h', {a = 1})",
            r#"[{"http":{"method":"POST","url":"http://h","headers":[["content-type","application/json"]],"body":"{\"a\":1}","timeout_ms":null}}]"#,
        );
        check(
            "jarvis.http.post('http://h', 'raw', {headers = {['Content-Type'] = 'text/x'}, timeout = 2})",
            r#"[{"http":{"method":"POST","url":"http://h","headers":[["Content-Type","text/x"]],"body":"raw","timeout_ms":2000}}]"#,
        );
        check(
            "jarvis.http.post('http://h', nil, {form = {a = '1&2', b = true}})",
            r#"[{"http":{"method":"POST","url":"http://h","headers":[["content-type","application/x-www-form-urlencoded"]],"body":"a=1%262&b=true","timeout_ms":null}}]"#,
        );
        check(
            "jarvis.http.request{method = 'put', url = 'http://h', json = jarvis.json.array()}",
            r#"[{"http":{"method":"PUT","url":"http://h","headers":[["content-type","application/json"]],"body":"[]","timeout_ms":null}}]"#,
        );
    });
}

#[test]
fn http_gives_responses_and_failures() {
    with_stack(|| {
        let answer = r#"{"status":404,"headers":{"content-type":"application/json"},"body":"{\"a\":[1]}"}"#;
        let (_, outcome) = asked(
            "local r = jarvis.http.get('http://h') return {r.status, r.ok, r.body, r.json().a[1], r:json().a[1], r.headers['content-type']}",
            &[Ok(answer)],
        );
        assert_eq!(outcome, r#"[404,false,"{\"a\":[1]}",1,1,"application/json"]"#);
        let (_, outcome) =
            asked("return {jarvis.http.get('http://h')[1]}", &[Err(Refusal::Failure("down".into()))]);
        assert!(outcome.contains("attempt to index a nil value"), "{outcome}");
        let (_, outcome) =
            asked("return jarvis.http.get('http://h')", &[Err(Refusal::Failure("down".into()))]);
        assert_eq!(outcome, "hook_error: down");
        let (_, outcome) =
            asked("\njarvis.http.get('http://h')", &[Err(Refusal::Mistake("add `http:h`".into()))]);
        assert!(outcome.ends_with("weather.lua:2: add `http:h`"), "{outcome}");
    });
}

#[test]
fn http_mistakes_raise() {
    with_stack(|| {
        check_fails("jarvis.http.get()", "weather.lua:1: jarvis.http wants a string as the URL, got nil");
        check_fails("jarvis.http.get('http://h', {queue = true})", "does not know the option `queue` yet");
        check_fails(
            "jarvis.http.get('http://h', {retries = 1})",
            "has no option `retries`, only headers, timeout",
        );
        check_fails("jarvis.http.get('http://h', {body = 'x'})", "has no option `body`");
        check_fails("jarvis.http.post('http://h', 'x', {json = {}})", "wants one body");
        check_fails("jarvis.http.get('http://h', {headers = {['a b'] = 'x'}})", "header `a b`");
        check_fails("jarvis.http.get('http://h', {headers = {a = 'x\\r\\nb: c'}})", "forbidden character");
        check_fails("jarvis.http.get('http://h/ x')", "without spaces");
        check_fails("jarvis.http.post('http://h', ('x'):rep(2e6))", "at most 1 MiB");
        check_fails("jarvis.http.post('http://h', 5)", "wants a string or table as the body, got number");
        check_fails("jarvis.http.request('http://h')", "jarvis.http.request wants a table");
        check_fails("jarvis.http.get('http://h', {timeout = 'soon'})", "cannot read `soon`");
    });
}

#[test]
fn config() {
    with_stack(|| {
        check(
            "return {jarvis.config.get('city'), jarvis.config.get('units'), jarvis.config.get('x', 5)}",
            r#"["Lyon","imperial",5]"#,
        );
        check("jarvis.config.set('units', nil) return {jarvis.config.get('units')}", r#"["metric"]"#);
        check("jarvis.config.set('on', false) return {jarvis.config.get('on', true)}", "[false]");
        check_effects("jarvis.config.set('units')", r#"[{"config":{"key":"units","value":null}}]"#);
        check_fails(
            "jarvis.config.set('x', print)",
            "jarvis.config.set `x` is a function, which cannot be sent",
        );
        check_fails("jarvis.config.get('')", "wants a key of 1 to 256 bytes, got 0");
    });
}

#[test]
fn state() {
    with_stack(|| {
        check(
            "return {jarvis.state.get('count'), jarvis.state.get('none', 'd'), jarvis.state.get('none') == nil}",
            r#"[3,"d",true]"#,
        );
        check("local home = jarvis.state.get('home') return {home.lat, home.tags}", "[45.75,[]]");
        check("return {select('#', jarvis.state.get('none'))}", "[1]");
        check("return jarvis.state.keys()", r#"["count","home","name"]"#);
        check("return jarvis.state.keys('na')", r#"["name"]"#);
        check("return jarvis.state.keys('zz')", "[]");
        check(
            "return {jarvis.state.incr('count'), jarvis.state.incr('count', -5), jarvis.state.incr('new', 0.5)}",
            "[4,-1,0.5]",
        );
        check(
            "jarvis.state.set('m', math.maxinteger) return {jarvis.state.incr('m')}",
            "[9.223372036854776e+18]",
        );
        check(
            "return {jarvis.state.update('count', function(n) return n * 2 end), jarvis.state.get('count')}",
            "[6,6]",
        );
        check(
            "jarvis.state.update('count', function() end) return {jarvis.state.get('count', 'gone')}",
            r#"["gone"]"#,
        );
        check_effects(
            "jarvis.state.set('name', nil) jarvis.state.delete('none')",
            r#"[{"state":{"key":"name","value":null}}]"#,
        );
        check_fails("jarvis.state.incr('name')", "cannot count `name`: it holds no number");
        check_fails("jarvis.state.incr('count', 'x')", "wants a number");
        check_fails("jarvis.state.update('count')", "weather.lua:1: jarvis.state.update wants a function");
        check_fails("jarvis.state.set('k', {print})", "jarvis.state.set `k`: `[1]` is a function");
        check_fails("jarvis.state.set(('k'):rep(257), 1)", "got 257");
        check_fails("jarvis.state.set('\\xff', 1)", "wants UTF-8 text as the key");
    });
}

#[test]
fn events() {
    with_stack(|| {
        check_effects(
            "jarvis.events.emit('door.open', {n = 1}) jarvis.events.emit('x')",
            r#"[{"emit":{"name":"door.open","data":{"n":1}}},{"emit":{"name":"x","data":null}}]"#,
        );
        check_effects(
            "local a = jarvis.events.on('rain', print) local b = jarvis.events.on('sky/*', print, {priority = -5, once = true}) jarvis.events.off(a)",
            r#"[{"on":{"handler":1,"pattern":"rain","priority":0,"once":false}},{"on":{"handler":2,"pattern":"sky/*","priority":-5,"once":true}},{"off":{"handler":1}}]"#,
        );
        check(
            "local a = jarvis.events.on('e', print) return {math.type(a), jarvis.events.off(a), jarvis.events.off(a), jarvis.mqtt.unsubscribe(jarvis.events.on('e', print))}",
            r#"["integer",true,false,false]"#,
        );
        check_fails("jarvis.events.emit('a b')", "cannot emit `a b`");
        check_fails("jarvis.events.on('a*b', print)", "cannot listen to `a*b`");
        check_fails("jarvis.events.on('a', 'f')", "wants a function as what to call, got string");
        check_fails("jarvis.events.on('a', print, {prio = 1})", "has no option `prio`, only priority, once");
        check_fails("jarvis.events.off('a')", "wants the id");
    });
}

#[test]
fn mqtt_publishes_within_permissions() {
    with_stack(|| {
        check_effects(
            "jarvis.mqtt.publish('lights/hall/set', {on = true}) jarvis.mqtt.publish('lights/a/set', 'ON', {qos = 0, retain = true}) jarvis.mqtt.publish('lights/b/set', 21.5)",
            r#"[{"publish":{"topic":"lights/hall/set","payload":"{\"on\":true}","qos":1,"retain":false}},{"publish":{"topic":"lights/a/set","payload":"ON","qos":0,"retain":true}},{"publish":{"topic":"lights/b/set","payload":"21.5","qos":1,"retain":false}}]"#,
        );
        check_effects(
            "jarvis.mqtt.publish('lights/a/set', '\\xff\\0')",
            r#"[{"publish":{"topic":"lights/a/set","payload":[255,0],"qos":1,"retain":false}}]"#,
        );
        let (operations, _) = asked("jarvis.mqtt.publish('lights/a/set', '', {now = true})", &[]);
        assert_eq!(
            operations,
            r#"[{"publish":{"topic":"lights/a/set","payload":"","qos":1,"retain":false}}]"#
        );
        check_fails(
            "jarvis.mqtt.publish('door/set', 1)",
            "weather.lua:1: plugin `weather` may not publish to `door/set`: add `mqtt.publish:door/set` to its @permissions",
        );
        check_fails("jarvis.mqtt.publish('lights/+/set', 1)", "wildcards");
        check_fails("jarvis.mqtt.publish('lights/a/set')", "wants a payload");
        check_fails("jarvis.mqtt.publish('lights/a/set', 1, {qos = 2})", "wants 0 or 1 as the option `qos`");
        check_fails(
            "jarvis.mqtt.publish('lights/a/set', 1, {retain = 1})",
            "wants true or false as the option `retain`",
        );
        check_fails("jarvis.mqtt.publish('lights/a/set', print)", "cannot send a function");
        check_fails("jarvis.mqtt.publish('lights/a/set', ('x'):rep(300000))", "(limits.result)");
        check_fails("jarvis.mqtt.publish('lights/a/set', ('\\xff'):rep(100000))", "(limits.result)");
    });
}

#[test]
fn mqtt_keeps_the_bridges_own_topics_closed() {
    with_stack(|| {
        let plugin = super::load("");
        let everything = ["mqtt.publish:#", "mqtt.subscribe:#"];
        let bench = |body: &str| {
            Bench::start(crate::model::frame::Load {
                permissions: everything.iter().map(|p| crate::model::Permission::parse(p).unwrap()).collect(),
                source: format!("function on_command() {body} end"),
                ..super::load(&plugin.source)
            })
        };
        let refused = |body: &str, expect: &str| {
            let found = bench(body).command();
            assert!(found.contains(expect), "{body}: {found}");
        };
        refused(
            "jarvis.mqtt.publish('jarvis/bridge/state', 1)",
            "only the bridge publishes to `jarvis/bridge/#`",
        );
        refused(
            "jarvis.mqtt.publish('jarvis/chat/response', 1)",
            "only the bridge publishes to `jarvis/+/response/#`",
        );
        refused("jarvis.mqtt.subscribe('jarvis/chat/request', print)", "is for the bridge");
        refused("jarvis.mqtt.subscribe('jarvis/+/request/#', print)", "is for the bridge");
        assert_eq!(bench("jarvis.mqtt.publish('jarvis/command/request/x', 1)").command(), "nil");
        assert_eq!(bench("jarvis.mqtt.subscribe('jarvis/event/#', print)").command(), "nil");
    });
}

#[test]
fn mqtt_subscriptions_get_messages() {
    with_stack(|| {
        check_effects(
            "jarvis.mqtt.subscribe('sensors/+/temp', print, {qos = 0, retained = false}) jarvis.mqtt.subscribe('sensors/#', print)",
            r#"[{"subscribe":{"handler":1,"filter":"sensors/+/temp","qos":0,"retained":false}},{"subscribe":{"handler":2,"filter":"sensors/#","qos":1,"retained":true}}]"#,
        );
        check_fails(
            "jarvis.mqtt.subscribe('doors/#', print)",
            "may not subscribe to `doors/#`: add `mqtt.subscribe:doors/#` to its @permissions",
        );
        check_fails("jarvis.mqtt.subscribe('sensors/a#', print)", "`#` must be the whole last level");
        check(
            "local id = jarvis.mqtt.subscribe('sensors/a', print) return {jarvis.events.off(id), jarvis.mqtt.unsubscribe(id)}",
            "[false,true]",
        );
        let bench = Bench::new(
            "jarvis.mqtt.subscribe('sensors/#', function(m) jarvis.state.set('m', m) jarvis.state.set('bytes', #m.payload) end)",
        );
        let message = |payload: &[u8]| MqttMessage {
            topic: "sensors/hall/temp".into(),
            payload: Payload::from_bytes(payload),
            levels: vec!["hall/temp".into()],
            qos: 1,
            retained: true,
            properties: Properties {
                content_type: Some("application/json".into()),
                correlation_data: Some(Payload::Text("c".into())),
                user: vec![("k".into(), "v".into())],
                ..Properties::default()
            },
        };
        let done =
            bench.call(Target::Handler(1), Input::Message(std::sync::Arc::new(message(br#"{"t":21.5}"#))));
        let stored: serde_json::Value = serde_json::from_str(&effects(&done)).unwrap();
        let expect = serde_json::json!({
            "topic": "sensors/hall/temp", "payload": "{\"t\":21.5}", "json": {"t": 21.5}, "levels": ["hall/temp"], "qos": 1,
            "retained": true,
            "properties": {"content_type": "application/json", "correlation_data": "c", "user": {"k": "v"}}
        });
        assert_eq!(stored[0]["state"]["value"], expect);
        assert_eq!(stored[1]["state"]["value"], 10);
        let done = bench.call(Target::Handler(1), Input::Message(std::sync::Arc::new(message(b"\xff\x00"))));
        assert!(outcome(&done).contains("`payload` is a string that is not UTF-8"), "{}", outcome(&done));
    });
}

#[test]
fn mqtt_get() {
    with_stack(|| {
        let (operations, outcome) = asked(
            "return {jarvis.mqtt.get('sensors/a'), #jarvis.mqtt.get('sensors/b'), jarvis.mqtt.get('sensors/c') == nil}",
            &[Ok("\"21\""), Ok("[255,0]"), Ok("null")],
        );
        assert_eq!(operations, r#"[{"get":"sensors/a"},{"get":"sensors/b"},{"get":"sensors/c"}]"#);
        assert_eq!(outcome, r#"["21",2,true]"#);
    });
}

#[test]
fn timers() {
    with_stack(|| {
        check_effects(
            "local a = jarvis.timer.after(1.5, print) local b = jarvis.timer.every('10m', print, {name = 'n', data = {1}}) jarvis.timer.cancel(a) jarvis.timer.cancel('n')",
            r#"[{"timer":{"timer":1,"delay_ms":1500,"repeat":false}},{"timer":{"timer":2,"delay_ms":600000,"repeat":true}},{"cancel_timer":{"timer":1}},{"cancel_timer":{"timer":2}}]"#,
        );
        check("return {jarvis.timer.cancel('none'), jarvis.timer.cancel(99)}", "[false,false]");
        check_fails("jarvis.timer.after(1, 'tick')", "do not exist yet");
        check_fails("jarvis.timer.after(-1, print)", "wants the delay of 0 seconds to 10 years");
        check_fails("jarvis.timer.after(0/0, print)", "wants the delay of 0 seconds");
        check_fails("jarvis.timer.every(0, print)", "at least 0.1 seconds");
        check_fails("jarvis.timer.after('soon', print)", "cannot read `soon` as the delay");
        check_fails("jarvis.timer.after({}, print)", "got table");
        check_fails("jarvis.timer.after(1, print, {data = print})", "the timer's data is a function");
        check_fails("jarvis.timer.cancel({})", "wants the id or the name");
    });
}

#[test]
fn sleep_say_command_and_uuid() {
    with_stack(|| {
        assert_eq!(
            asked("jarvis.sleep(0.25) jarvis.sleep('1s')", &[]).0,
            r#"[{"sleep":250},{"sleep":1000}]"#
        );
        check_fails("jarvis.sleep(5.1)", "jarvis.timer.after");
        check_effects(
            "jarvis.say('Hi') jarvis.say('Hi', {user = 'ada', site = 'hall', conversation_id = 'c'})",
            r#"[{"say":{"text":"Hi"}},{"say":{"text":"Hi","conversation_id":"c","user":"ada","site":"hall"}}]"#,
        );
        check_fails("jarvis.say('')", "wants a text");
        check_fails("jarvis.say('x', {to = 'a'})", "has no option `to`");
        let (operations, outcome) =
            asked("return jarvis.command('light', {on = true})", &[Ok(r#"{"response":"ok"}"#)]);
        assert_eq!(operations, r#"[{"command":{"name":"light","args":{"on":true}}}]"#);
        assert_eq!(outcome, r#"{"response":"ok"}"#);
        assert_eq!(
            asked("return jarvis.command('x')", &[Err(Refusal::Failure("nobody".into()))]).1,
            "hook_error: nobody"
        );
        check_fails("jarvis.command('x', 'text')", "wants a table as the command's arguments");
        check(
            "local a, b = jarvis.uuid(), jarvis.uuid() return {#a, a ~= b, a:sub(15, 15)}",
            r#"[36,true,"7"]"#,
        );
    });
}

#[test]
fn json() {
    with_stack(|| {
        check(
            "return {jarvis.json.encode({a = {1, 2.5}}), jarvis.json.encode(jarvis.json.null), jarvis.json.encode('x')}",
            r#"["{\"a\":[1,2.5]}","null","\"x\""]"#,
        );
        check(
            "return {jarvis.json.decode('[1,{\"a\":null}]'), jarvis.json.decode('null') == nil}",
            "[[1,{}],true]",
        );
        check(
            "local v, why = jarvis.json.decode('{x') return {v == nil, why}",
            r#"[true,"not JSON: key must be a string at line 1 column 2"]"#,
        );
        check("return {jarvis.json.decode(('['):rep(1000)) == nil}", "[true]");
        check("return {jarvis.json.decode('[null,1]')[1] == jarvis.json.null}", "[true]");
        check_fails("jarvis.json.decode({})", "wants a string as its text, got table");
        check_fails("jarvis.json.encode(print)", "jarvis.json.encode: the value is a function");
        check_fails("jarvis.json.array(setmetatable({}, {}))", "cannot mark a table that has a metatable");
    });
}

#[test]
fn time() {
    with_stack(|| {
        check(
            "return {jarvis.time.iso(0), jarvis.time.iso(1752570930.25)}",
            r#"["1970-01-01T01:00:00+01:00","2025-07-15T11:15:30.250+02:00"]"#,
        );
        check(
            "return {jarvis.time.date('%Y-%m-%d %H:%M %A', 1752570930)}",
            r#"["2025-07-15 11:15 Tuesday"]"#,
        );
        check(
            "local p = jarvis.time.parts(1752570930) return {p.year, p.month, p.day, p.hour, p.min, p.sec, p.wday, p.yday, p.isdst, p.weekday, p.offset}",
            r#"[2025,7,15,11,15,30,3,196,true,"tuesday",7200]"#,
        );
        check(
            "return {math.type(jarvis.time.now()), jarvis.time.ms() // 1000 - jarvis.time.now() <= 1, jarvis.time.between('00:00', '23:59:59') ~= nil}",
            r#"["integer",true,true]"#,
        );
        check_fails("jarvis.time.date('%Q')", "cannot read its format");
        check_fails("jarvis.time.iso(1e18)", "years 0 to 9999");
        check_fails("jarvis.time.iso(0/0 * 1e300)", "weather.lua:1: jarvis.time.iso");
        check_fails("jarvis.time.between('25:00', '1')", "cannot read `25:00` as a time of day");
    });
}

#[test]
fn strings() {
    with_stack(|| {
        check(r#"return {string.trim("  a b\n"), ("x "):trim(), string.trim(5)}"#, r#"["a b","x","5"]"#);
        check(
            r#"return {("a,b,,c"):split(","), ("a b  c "):split(), ("a,b,c"):split(",", 2), (""):split(",")}"#,
            r#"[["a","b","","c"],["a","b","c"],["a","b,c"],[""]]"#,
        );
        check(
            r#"return {("abc"):starts_with("ab"), ("abc"):ends_with("bc"), ("abc"):ends_with("x")}"#,
            "[true,true,false]",
        );
        check_fails("('a'):split('')", "wants a separator of 1 to 64 bytes");
        check_fails("('a'):starts_with()", "bad argument #2 to 'starts_with' (string expected, got nil)");
    });
}

#[test]
fn the_documents_own_filter_works() {
    with_stack(|| {
        let bench = Bench::new(
            r#"function filter_message(message)
                 message.content = string.lower(message.content)
                 message.content = string.gsub(message.content, "%s+", " ")
                 message.content = string.trim(message.content)
                 return message
               end"#,
        );
        let done = bench.hook("filter_message", r#"{"content":"  Hello   World ","tags":[]}"#);
        let result: serde_json::Value = serde_json::from_str(&outcome(&done)).unwrap();
        assert_eq!(result, serde_json::json!({"content": "hello world", "tags": []}));
    });
}

#[test]
fn requests_are_numbered_and_name_their_call() {
    with_stack(|| {
        let bench = Bench::of_body("jarvis.sleep(0) jarvis.sleep(0)");
        bench.command();
        assert!(matches!(bench.bridge.operations.borrow()[..], [Operation::Sleep(0), Operation::Sleep(0)]));
    });
}
