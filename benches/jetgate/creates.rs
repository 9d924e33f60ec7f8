//! Creates per second under a quota that has room for all.

use testbed::{ControlPlane, Nats, Resource};

use crate::bare;
use crate::figures::{Samples, Usage};
use crate::support::{LONG, Stage};

const OBJECTS: usize = 3_000;
const PAIRS: usize = 5;
/// What the bare client may have under way; the best is found first.
const AT_ONCE: [usize; 4] = [16, 32, 64, 100];

/// Creates a second between a tenth and nine tenths of all, by the audit log.
fn pace(plane: &ControlPlane, namespace: &str) -> Option<f64> {
    let audit = plane.audit(namespace).unwrap();
    let mut answered: Vec<_> = audit
        .posts(&Resource::workflows(), namespace)
        .filter(|post| post.code == 201)
        .map(|post| post.answered)
        .collect();
    if answered.len() < OBJECTS {
        return None;
    }
    answered.sort();
    let (from, to) = (OBJECTS / 10, OBJECTS * 9 / 10);
    let took = answered[to].duration_since(answered[from]).as_secs_f64();
    Some((to - from) as f64 / took)
}

async fn paced(plane: &ControlPlane, namespace: &str) -> f64 {
    // The log is written behind the answers.
    testbed::wait::until("the audit log to be complete", LONG, || async { pace(plane, namespace) }).await.unwrap()
}

async fn bare_pace(plane: &ControlPlane, at_once: usize) -> f64 {
    let namespace = plane.namespace("bare").await.unwrap();
    let key = Resource::workflows().quota_key();
    plane.quota(&namespace, "team", &[(&key, "1000000")]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = plane.kubeconfig_admin().unwrap();
    let (count, at_once) = (OBJECTS.to_string(), at_once.to_string());
    let process = bare::start(&["creates", kubeconfig.to_str().unwrap(), &namespace, &count, &at_once], folder.path());
    let status = process.wait_exit(LONG).await.unwrap();
    assert!(status.success(), "{}", process.last_log_lines(20));
    paced(plane, &namespace).await
}

async fn gated_pace(plane: &ControlPlane, nats: &Nats) -> (f64, f64, f64, Usage) {
    let mut stage = Stage::new(plane, nats, "creates", "1000000").await;
    stage.set("DELIVER_POLICY", "all");
    stage.unset("BACKPRESSURE_SIGNAL_MAX_AGE").unset("CREATE_TIMEOUT").unset("ACK_WAIT");
    stage.publish(0..OBJECTS).await;
    let sensor = stage.spawn();
    // Reading the audit log while it runs would take one of the cores.
    sensor.until_metric("sensor_messages_total", &["outcome=\"done\""], |done| done == OBJECTS as f64).await;
    let pace = paced(plane, &stage.namespace).await;
    let at_once = sensor.metric("sensor_concurrency_limit", &[]).await.unwrap_or(f64::NAN);
    let usage = Usage::of(sensor.process.pid());
    let refusals = plane.audit(&stage.namespace).unwrap().posts_with(&Resource::workflows(), &stage.namespace, 403);
    stage.until_drained().await;
    sensor.stop().await;
    (pace, at_once, refusals as f64, usage)
}

pub(crate) async fn run() {
    let plane = ControlPlane::start(testbed::ControlPlaneOptions::default()).await.unwrap();
    let plane = &plane;
    let nats = Nats::start_plain().await.unwrap();
    println!("creates per second under a quota with room for all, {OBJECTS} objects:");
    let mut best = (0, 0.0);
    let mut found = vec![Vec::new(); AT_ONCE.len()];
    bare_pace(plane, 32).await;
    for _ in 0..3 {
        for (paces, at_once) in found.iter_mut().zip(AT_ONCE) {
            paces.push(bare_pace(plane, at_once).await);
        }
    }
    for (paces, at_once) in found.into_iter().zip(AT_ONCE) {
        let samples: Samples = paces.into_iter().collect();
        println!("    bare with {at_once} at once: median {:.0} a second", samples.median());
        if samples.median() > best.1 {
            best = (at_once, samples.median());
        }
    }
    let (mut ratio, mut peak) = (Samples::default(), Samples::default());
    for number in 0..PAIRS {
        let before = bare_pace(plane, best.0).await;
        let (gated, at_once, refusals, usage) = gated_pace(plane, &nats).await;
        let after = bare_pace(plane, best.0).await;
        let bare = f64::midpoint(before, after);
        println!(
            "    pair {number}: jetgate {gated:.0}/s (concurrency at the end {at_once}, {refusals} refusals, CPU {:.2} s), bare {before:.0}/s and {after:.0}/s",
            usage.cpu.as_secs_f64()
        );
        ratio.push(gated / bare);
        peak.push(usage.peak_mib);
    }
    ratio.print(&format!("pace beside the bare client with {} at once", best.0), "0.95");
    peak.print("peak RSS, MiB", "15");
}
