//! Commands for people.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where people are spoken to")]

mod nats;
mod outside;
mod place;
mod sensor;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::api::SettingsArgs;

/// The exit code of settings, files or arguments that a person must change.
const BAD_INPUT: u8 = 2;

/// Lets work leave NATS JetStream only when Kubernetes has room for its effect.
#[derive(Debug, Parser)]
#[command(name = "jetgate", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a sensor: pull while there is room, create, acknowledge.
    Sensor(SettingsArgs),
    /// Read the settings and the sensor file as `sensor` would, say what is wrong with them, and end.
    Check(SettingsArgs),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and clap knows which stream is theirs.
            let code = u8::try_from(error.exit_code()).unwrap_or(BAD_INPUT);
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE };
        }
    };
    match cli.command {
        Command::Sensor(args) => sensor::run(&args),
        Command::Check(args) => sensor::check(&args),
    }
}

/// An error with its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}
