//! The `jetgate` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    jetgate::cli::main()
}
