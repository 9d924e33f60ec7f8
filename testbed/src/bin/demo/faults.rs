//! The three faults, each with how the sensor came back from it.

use std::time::{Duration, Instant};

use testbed::wait;
use tokio::sync::watch;

use crate::failure::Result;
use crate::screen::{Screen, messages};
use crate::sight::{Gate, Sight};
use crate::stage::{CREATE_TIMEOUT, Stage};

const COMES_BACK_WITHIN: Duration = Duration::from_secs(60);

/// Cuts every connection of the sensor to the API server, with whatever requests are under way on them.
pub(crate) async fn api_server(
    stage: &Stage,
    screen: &Screen,
    seen: &mut watch::Receiver<Sight>,
    first: usize,
) -> Result<()> {
    let (open, taken) = (stage.proxy.open(), stage.proxy.connections());
    stage.proxy.cut();
    let begun = Instant::now();
    let created = stage.referee.tally().created();
    show(screen, seen);
    screen.fault(&format!(
        "API server: the sensor's {open} connections are cut (RST) in the middle of the burst, {created} created so far"
    ));
    wait::until_true("the sensor to connect to the API server again", COMES_BACK_WITHIN, || async {
        stage.proxy.connections() > taken && stage.proxy.open() > 0
    })
    .await?;
    let connected = begun.elapsed();
    // What was under way shows up at once; so the proof is that all that has room comes to be.
    seen.wait_for(|sight| sight.created >= first).await?;
    show(screen, seen);
    screen.recovered(&format!(
        "API server: connected again after {}, all that has room ({first}) is created after {}",
        seconds(connected),
        seconds(begun.elapsed())
    ));
    Ok(())
}

/// SIGKILL for nats-server, and a new start on its port and its store.
pub(crate) async fn nats(stage: &Stage, screen: &Screen, seen: &mut watch::Receiver<Sight>) -> Result<()> {
    let (gate, reconnects) = {
        let sight = seen.borrow();
        (sight.gate.clone(), sight.nats_reconnects)
    };
    let begun = Instant::now();
    stage.nats.process().kill().await?;
    show(screen, seen);
    screen.fault("NATS: nats-server is killed (SIGKILL) and started again");
    seen.wait_for(|sight| !sight.nats_connected).await?;
    stage.nats.process().start_again().await?;
    let up = begun.elapsed();
    seen.wait_for(|sight| sight.nats_connected && sight.nats_reconnects > reconnects).await?;
    let connected = begun.elapsed();
    seen.wait_for(|sight| sight.waiting.is_some()).await?;
    let sight = seen.borrow().clone();
    screen.row(&sight, true);
    let state = match (&gate, &sight.gate) {
        (Gate::Blocked(before), Gate::Blocked(now)) if before == now => {
            format!("the gate is blocked as before ({now})")
        }
        (_, now) => format!("the gate is {now}"),
    };
    let waiting = sight.waiting.unwrap_or_default();
    let unmade = u64::try_from(stage.options.count().saturating_sub(sight.created)).unwrap_or(0);
    // A killed server forgets the acknowledgements of its last moments, confirmed ones too.
    let forgotten = match waiting.saturating_sub(unmade) {
        0 => String::new(),
        count => format!(", {count} of them done already (the killed server forgot that)"),
    };
    screen.recovered(&format!(
        "NATS: up after {}, the sensor is connected after {}; {state}, {} unacknowledged{forgotten}",
        seconds(up),
        seconds(connected),
        messages(waiting)
    ));
    // Nobody knows what the killed server handed out, so messages wait for CREATE_TIMEOUT before they are looked up.
    // Room that appears meanwhile would be filled in one go; let people see it filled as it appears.
    wait::until_true("the pause after a killed server", COMES_BACK_WITHIN, || async {
        begun.elapsed() > connected + CREATE_TIMEOUT + Duration::from_millis(500)
    })
    .await?;
    Ok(())
}

/// SIGKILL for the sensor, and a new one in its place.
pub(crate) async fn sensor(stage: &Stage, screen: &Screen, seen: &mut watch::Receiver<Sight>) -> Result<()> {
    let count = stage.options.count();
    let begun = Instant::now();
    stage.sensor.kill().await?;
    show(screen, seen);
    screen.fault("sensor: it is killed (SIGKILL) in the middle of its work and started again");
    stage.sensor.start_again().await?;
    let ready = begun.elapsed();
    // It has a limit once somebody leads; by then what the killed one had sent has landed, and is not taken for its own.
    let new = stage.sensor.pid();
    let sight = seen.wait_for(|sight| sight.sensor == new && sight.limit.is_some()).await?.clone();
    let leads = begun.elapsed();
    seen.wait_for(|now| now.created > sight.created || now.created >= count).await?;
    show(screen, seen);
    let next = if sight.created < count {
        format!("creates again after {}", seconds(begun.elapsed()))
    } else {
        format!("everything is created already, {} unacknowledged", messages(sight.waiting.unwrap_or_default()))
    };
    screen.recovered(&format!("sensor: ready after {}, has credits after {}, {next}", seconds(ready), seconds(leads)));
    Ok(())
}

fn show(screen: &Screen, seen: &watch::Receiver<Sight>) {
    let sight = seen.borrow().clone();
    screen.row(&sight, true);
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
