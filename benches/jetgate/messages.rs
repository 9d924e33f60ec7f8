//! Messages per second through gate, pull and confirmed ack, where the effect costs nothing.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use testbed::{ControlPlane, Nats};

use crate::bare;
use crate::figures::{Samples, Usage};
use crate::support::Stage;

const MESSAGES: u64 = 150_000;
const BYTES: usize = 128;
const PAIRS: usize = 7;
/// What the start and the end of a run do is not its pace.
const FROM: f64 = 0.1;
const TO: f64 = 0.95;

/// The pace of one run.
struct Pace {
    per_second: f64,
    cpu_us: f64,
    server_cpu_us: f64,
    peak_mib: f64,
}

async fn publish(nats: &Nats, stream: &str) {
    let js = jetstream::new(nats.connect().await.unwrap());
    js.create_stream(jetstream::stream::Config {
        name: stream.to_owned(),
        subjects: vec![format!("{stream}.>")],
        ..Default::default()
    })
    .await
    .unwrap();
    let payload = bytes::Bytes::from(vec![b'x'; BYTES]);
    let mut acks = std::collections::VecDeque::new();
    for _ in 0..MESSAGES {
        acks.push_back(js.publish(format!("{stream}.event"), payload.clone()).await.unwrap());
        if acks.len() >= 4000 {
            acks.pop_front().unwrap().await.unwrap();
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
}

/// Watches the consumer's ack floor, which nobody's own count can flatter.
async fn pace(nats: &Nats, stream: &str, consumer: &str, pid: i32) -> Pace {
    let js = jetstream::new(nats.connect().await.unwrap());
    let (from, to) = ((MESSAGES as f64 * FROM) as u64, (MESSAGES as f64 * TO) as u64);
    let mut begun: Option<(Instant, u64, Usage, Usage)> = None;
    let server = nats.process().pid();
    let limit = Instant::now() + Duration::from_secs(120);
    loop {
        assert!(Instant::now() < limit, "no end of {consumer} on {stream}");
        let info = async {
            let mut consumer: jetstream::consumer::PullConsumer =
                js.get_stream_no_info(stream).await.ok()?.get_consumer(consumer).await.ok()?;
            consumer.info().await.ok().map(|info| info.ack_floor.stream_sequence)
        };
        let floor = info.await.unwrap_or(0);
        let now = Instant::now();
        match &begun {
            None if floor >= from => begun = Some((now, floor, Usage::of(pid), Usage::of(server))),
            Some((at, first, used, server_used)) if floor >= to => {
                let seconds = now.duration_since(*at).as_secs_f64();
                let count = (floor - first) as f64;
                let (usage, server_usage) = (Usage::of(pid), Usage::of(server));
                return Pace {
                    per_second: count / seconds,
                    cpu_us: (usage.cpu.saturating_sub(used.cpu)).as_secs_f64() * 1e6 / count,
                    server_cpu_us: (server_usage.cpu.saturating_sub(server_used.cpu)).as_secs_f64() * 1e6 / count,
                    peak_mib: usage.peak_mib,
                };
            }
            None | Some(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn gated(plane: &ControlPlane, nats: &Nats, stream: &str, in_flight: usize) -> Pace {
    let mut stage = Stage::new(plane, nats, "messages", "1000000").await;
    let text = format!(
        "name: {}\nstream: {stream}\nsubject: {stream}.>\ntrigger:\n  name: nothing\n  log: {{silent: true}}\n",
        stage.sensor
    );
    stage.file(&text);
    stage.set("DELIVER_POLICY", "all").set("MAX_IN_FLIGHT", &in_flight.to_string());
    // The settings of users, not those of tests.
    stage.unset("BACKPRESSURE_SIGNAL_MAX_AGE").unset("CREATE_TIMEOUT").unset("ACK_WAIT");
    let sensor = stage.spawn();
    let pace = pace(nats, stream, &stage.sensor, sensor.process.pid()).await;
    sensor.stop().await;
    pace
}

async fn bare(nats: &Nats, stream: &str, in_flight: usize, how: &str, number: usize) -> Pace {
    let js = jetstream::new(nats.connect().await.unwrap());
    let name = format!("bare-{how}-{number}");
    let config = jetstream::consumer::pull::Config {
        durable_name: Some(name.clone()),
        max_ack_pending: 4 * in_flight as i64,
        ack_wait: Duration::from_secs(30),
        ..Default::default()
    };
    js.get_stream(stream).await.unwrap().create_consumer(config).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let process = bare::start(&["acks", how, &nats.url(), stream, &name, &in_flight.to_string()], folder.path());
    let pace = pace(nats, stream, &name, process.pid()).await;
    process.kill().await.unwrap();
    pace
}

pub(crate) async fn run(in_flight: usize) {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stream = format!("BENCH{in_flight}");
    publish(&nats, &stream).await;
    println!("messages per second, silent log trigger, {in_flight} in flight, {MESSAGES} messages of {BYTES} B:");
    let (mut ratio, mut cpu, mut ours, mut theirs, mut peak) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default(), Samples::default());
    let mut server = Samples::default();
    for number in 0..PAIRS {
        // The faster way to write the bare client is the one to be measured against.
        let joined = bare(&nats, &stream, in_flight, "joined", number).await;
        let gated = gated(plane, &nats, &stream, in_flight).await;
        let spawned = bare(&nats, &stream, in_flight, "spawned", number).await;
        let best = if joined.per_second > spawned.per_second { &joined } else { &spawned };
        println!(
            "    pair {number}: jetgate {:.0}/s ({:.1} us, server {:.1} us), bare joined {:.0}/s ({:.1} us, server {:.1} us), bare spawned {:.0}/s ({:.1} us, server {:.1})",
            gated.per_second,
            gated.cpu_us,
            gated.server_cpu_us,
            joined.per_second,
            joined.cpu_us,
            joined.server_cpu_us,
            spawned.per_second,
            spawned.cpu_us,
            spawned.server_cpu_us
        );
        ratio.push(gated.per_second / best.per_second);
        cpu.push(gated.cpu_us / best.cpu_us);
        server.push(gated.server_cpu_us / best.server_cpu_us);
        ours.push(gated.per_second);
        theirs.push(best.per_second);
        peak.push(gated.peak_mib);
    }
    ratio.print("pace beside the faster bare client", "1.0");
    cpu.print("CPU time a message beside it", "");
    server.print("the server's CPU time a message beside it", "");
    ours.print("messages a second", "");
    theirs.print("messages a second, bare", "");
    peak.print("peak RSS, MiB", "15");
}
