//! Arguments in, exit code out; in a worker process, one plugin and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    jarvis_bridge::worker::enter();
    jarvis_bridge::cli::main()
}
