//! What a call costs beside bare mlua. Prints figures; the bound is only there to catch a slip by an order.

use std::time::Instant;

use super::{Bench, with_stack};

#[test]
fn a_trivial_call_is_cheap() {
    with_stack(|| {
        let bench = Bench::new("function on_command(cmd) return {response = cmd.name} end");
        let input = r#"{"id":"0197","name":"weather","args":{"city":"Lyon","days":3}}"#;
        let rounds = 2000;
        let begun = Instant::now();
        for _ in 0..rounds {
            bench.hook("on_command", input);
        }
        let each = begun.elapsed() / rounds;
        eprintln!("{each:?} a call");
        assert!(each.as_millis() < 5, "{each:?}");
    });
}
