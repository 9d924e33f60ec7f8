//! What happens, in this order: the burst, the limit, the release of the rest, the end; and the faults between.

use std::time::Duration;

use testbed::Pace;
use tokio::sync::watch;

use crate::failure::Result;
use crate::faults;
use crate::options::Fault;
use crate::screen::{self, Screen};
use crate::sight::{self, Sight};
use crate::stage::Stage;

/// A wait that would never end is ended by whoever looks.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// What is left when the story is told.
pub(crate) struct Told {
    pub(crate) last: Sight,
    /// From the start of the demo to the first message.
    pub(crate) began: Duration,
    /// From the first message to the last acknowledgement.
    pub(crate) took: Duration,
    /// Why it was not told to its end.
    pub(crate) stuck: Option<String>,
    /// Why the sensor's end was not a good one.
    pub(crate) bad_end: Option<String>,
}

/// Tells it to its end, or to where it gets stuck.
pub(crate) async fn tell(stage: &Stage, screen: &Screen) -> Told {
    let (sights, seen) = watch::channel(sight::once(stage, Sight::default()).await);
    let began = screen.elapsed();
    let stuck = {
        let looking = std::pin::pin!(sight::look(stage, screen, &sights));
        let acting = Box::pin(act(stage, screen, seen));
        tokio::select! {
            wrong = looking => wrong.err(),
            ended = acting => ended.err(),
        }
    };
    let took = screen.elapsed().saturating_sub(began);
    let last = sight::once(stage, sights.borrow().clone()).await;
    screen.row(&last, true);
    screen.event("the sensor is told to stop (SIGTERM)");
    let bad_end = stage.sensor.stop().await.err();
    Told { last, began, took, stuck: stuck.map(|failure| failure.to_string()), bad_end }
}

async fn act(stage: &Stage, screen: &Screen, mut seen: watch::Receiver<Sight>) -> Result<()> {
    let options = &stage.options;
    let (messages, limit) = (options.count(), options.limit());
    let first = messages.min(limit);
    let mut dice = Dice(options.seed);
    screen.event(&format!("{} published at once; no Workflow finishes yet", screen::messages(options.messages)));
    stage.publish().await?;
    if options.breaks(Fault::Api) {
        stage.referee.until_created(dice.share(first, 20, 60), FOREVER).await?;
        faults::api_server(stage, screen, &mut seen, first).await?;
    }
    until_created(&mut seen, stage, first).await?;
    if messages > limit {
        let sight = seen.wait_for(|sight| sight.is_blocked_by("at_limit")).await?.clone();
        screen.row(&sight, true);
        let waiting = screen::messages(u64::try_from(messages - first).unwrap_or(u64::MAX));
        screen.event(&format!("the limit is reached: {limit} alive, {waiting} waiting in JetStream"));
    }
    if options.breaks(Fault::Nats) {
        faults::nats(stage, screen, &mut seen).await?;
    }
    let per_second = rate(limit, options.job_seconds);
    let how = if per_second >= 1.0 {
        format!("{per_second:.0} a second")
    } else {
        format!("one each {:.0} s", 1.0 / per_second)
    };
    screen.event(&format!("Workflows begin to finish and are deleted, {how}, and the rest is created as room appears"));
    stage.finisher.set_pace(Pace::AtRandom { per_second, seed: options.seed }).await?;
    if options.breaks(Fault::Sensor) {
        // At least one of those that waited, so that it is in the middle of its work.
        let rest = (messages - first).min(1 + dice.share(messages - first, 0, 50));
        stage.referee.until_created(first + rest, FOREVER).await?;
        faults::sensor(stage, screen, &mut seen).await?;
    }
    until_created(&mut seen, stage, messages).await?;
    seen.wait_for(|sight| sight.waiting == Some(0)).await?;
    let sight = seen.borrow().clone();
    screen.row(&sight, true);
    screen.event("everything is created and acknowledged");
    Ok(())
}

/// Waits until so many were seen, and shown.
async fn until_created(seen: &mut watch::Receiver<Sight>, stage: &Stage, count: usize) -> Result<()> {
    stage.referee.until_created(count, FOREVER).await?;
    seen.wait_for(|sight| sight.created >= count).await?;
    Ok(())
}

/// With as many alive as may be, each then lives so long on average.
fn rate(limit: usize, job: Duration) -> f64 {
    f64::from(u32::try_from(limit).unwrap_or(u32::MAX)) / job.as_secs_f64()
}

/// SplitMix64: the same faults for the same seed.
struct Dice(u64);

impl Dice {
    /// Between `from` and `to` per cent of a count.
    fn share(&mut self, count: usize, from: u64, to: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let per_cent = from + (z ^ (z >> 31)) % (to - from + 1);
        usize::try_from(u64::try_from(count).unwrap_or(0) * per_cent / 100).unwrap_or(0)
    }
}
