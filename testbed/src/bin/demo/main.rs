//! `make demo`: the main job on a real API server, etcd, quota controller and nats-server, with faults, judged by a
//! referee that knows nothing of jetgate. The sensor is the built program, started like anybody would.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "it reads the clock and speaks to a person; nothing here is part of the product"
)]

mod failure;
mod faults;
mod judgement;
mod options;
mod screen;
mod sensor;
mod sight;
mod stage;
mod story;

use std::process::ExitCode;

use clap::Parser as _;
use testbed::ControlPlane;
use tokio::signal::unix::{SignalKind, signal};

use failure::Result;
use options::Options;
use screen::Screen;

const BROKEN: u8 = 1;
const COULD_NOT_RUN: u8 = 2;
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if options.keep {
        testbed::workdir::keep_folders();
    }
    // Before the time of the demo begins: what is made once.
    if let Err(error) = ControlPlane::prepare().await {
        eprintln!("the demo could not run: {error}");
        return ExitCode::from(COULD_NOT_RUN);
    }
    let screen = Screen::new(options.json);
    tokio::select! {
        // Whatever was started is dropped with the story, and what cannot be dropped goes with this process.
        what = interrupted() => {
            screen.say(&format!("{what}: everything that was started is stopped and removed"));
            ExitCode::from(INTERRUPTED)
        }
        ended = Box::pin(run(&options, &screen)) => match ended {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(BROKEN),
            Err(failure) => {
                screen.bad(&format!("the demo could not run: {failure}"));
                ExitCode::from(COULD_NOT_RUN)
            }
        },
    }
}

/// Whether every promise was kept.
async fn run(options: &Options, screen: &Screen) -> Result<bool> {
    let stage = Box::pin(stage::Stage::build(options, screen)).await?;
    // A story that stops half-way is judged all the same: what was lost until then is the more interesting half.
    let told = Box::pin(story::tell(&stage, screen)).await;
    let judgement = judgement::judge(&stage, told).await?;
    let kept = judgement.is_kept();
    let logs = if kept { None } else { stage.save_logs().ok() };
    judgement.print(screen, options.json)?;
    if let Some(folder) = logs {
        screen.bad(&format!("the logs of all processes are kept in {}", folder.display()));
    }
    Ok(kept)
}

async fn interrupted() -> &'static str {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Then the default action ends this process, and the watchdog the others.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "told to stop",
    }
}
