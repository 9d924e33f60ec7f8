//! How long 1,000 jobs take on 71 slots, beside list scheduling of the same jobs.

use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, WatchEvent, WatchParams};
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use serde_json::json;
use testbed::{ControlPlane, Nats, Resource};

use crate::figures::Samples;
use crate::support::{LONG, Stage};

const JOBS: usize = 1_000;
const HARD: usize = 75;
const SLOTS: usize = 71;
/// So that all of it takes about half a minute.
const MEAN: f64 = 2.1;
const RUNS: u64 = 3;

/// Exponential lengths in seconds.
fn lengths(seed: u64) -> Vec<f64> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..JOBS).map(|_| (-MEAN * (1.0 - rng.random_range(0.0..1.0_f64)).ln()).max(0.05)).collect()
}

/// In order of arrival, each on the slot that is free first.
fn list_schedule(lengths: impl Iterator<Item = f64>) -> f64 {
    let mut free: BinaryHeap<std::cmp::Reverse<u64>> = (0..SLOTS).map(|_| std::cmp::Reverse(0)).collect();
    let mut end = 0;
    for length in lengths {
        let std::cmp::Reverse(at) = free.pop().unwrap();
        let done = at + (length * 1e6) as u64;
        end = end.max(done);
        free.push(std::cmp::Reverse(done));
    }
    end as f64 / 1e6
}

pub(crate) async fn run() {
    println!("makespan of {JOBS} jobs (exponential, mean {MEAN} s) on {SLOTS} slots:");
    let (mut ratio, mut held) = (Samples::default(), Samples::default());
    for seed in 1..=RUNS {
        let plane = ControlPlane::start(testbed::ControlPlaneOptions::default()).await.unwrap();
        let nats = Nats::start_plain().await.unwrap();
        let mut stage = Stage::new(&plane, &nats, "makespan", &HARD.to_string()).await;
        stage.unset("BACKPRESSURE_SIGNAL_MAX_AGE").unset("CREATE_TIMEOUT").unset("ACK_WAIT");
        let lengths = lengths(seed);
        let ideal = list_schedule(lengths.iter().copied());
        let sensor = stage.start().await;

        // The stand-in for the controller of the kind: each object ends when its time is over.
        let workflows = Resource::workflows();
        let objects: Api<DynamicObject> =
            Api::namespaced_with(plane.client().await.unwrap(), &stage.namespace, &workflows.api_resource());
        let from = objects.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        let working = {
            let (objects, lengths) = (objects.clone(), lengths.clone());
            tokio::spawn(async move {
                let mut watch = Box::pin(objects.watch(&WatchParams::default().timeout(290), &from).await.unwrap());
                let mut left = JOBS;
                while let Some(event) = watch.next().await {
                    match event {
                        Ok(WatchEvent::Added(object)) => {
                            let id: usize = object.data["spec"]["arguments"]["parameters"][0]["value"]
                                .as_str()
                                .unwrap()
                                .parse()
                                .unwrap();
                            let (objects, length) = (objects.clone(), lengths[id]);
                            tokio::spawn(async move {
                                tokio::time::sleep(Duration::from_secs_f64(length)).await;
                                let name = object.metadata.name.unwrap();
                                objects.delete(&name, &DeleteParams::default()).await.unwrap();
                            });
                        }
                        Ok(WatchEvent::Deleted(_)) => {
                            left -= 1;
                            if left == 0 {
                                return;
                            }
                        }
                        _ => {}
                    }
                }
            })
        };
        let js = stage.jetstream();
        let mut acks = Vec::new();
        for id in 0..JOBS {
            let payload = json!({"id": id.to_string()}).to_string();
            acks.push(js.publish(format!("{}.order", stage.stream), payload.into()).await.unwrap());
        }
        for ack in acks {
            ack.await.unwrap();
        }
        tokio::time::timeout(LONG, working).await.expect("the jobs to end").unwrap();
        let audit = testbed::wait::until("the audit log to be complete", LONG, || async {
            let audit = plane.audit(&stage.namespace).unwrap();
            let ended = audit
                .requests()
                .iter()
                .filter(|request| {
                    request.verb == "delete"
                        && request.namespace == stage.namespace
                        && request.resource == workflows.plural
                })
                .count();
            (ended >= JOBS).then_some(audit)
        })
        .await
        .unwrap();
        sensor.stop().await;
        let mut posts: Vec<_> = audit.posts(&workflows, &stage.namespace).filter(|post| post.code == 201).collect();
        posts.sort_by_key(|post| post.received);
        let deletes: BTreeMap<&str, _> = audit
            .requests()
            .iter()
            .filter(|request| {
                request.verb == "delete" && request.namespace == stage.namespace && request.resource == workflows.plural
            })
            .map(|request| (request.name.as_str(), request.answered))
            .collect();
        let end = deletes.values().max().unwrap();
        let makespan = end.duration_since(posts[0].received).as_secs_f64();
        // What the slots were really taken for: the stand-in needs time to see and to delete, too.
        let taken = posts.iter().map(|post| deletes[post.name.as_str()].duration_since(post.received).as_secs_f64());
        let ideal_taken = list_schedule(taken);
        println!(
            "    run {seed}: {makespan:.2} s, list scheduling {ideal:.2} s, of the times really taken {ideal_taken:.2} s, {} refusals",
            audit.posts_with(&workflows, &stage.namespace, 403)
        );
        ratio.push(makespan / ideal);
        held.push(makespan / ideal_taken);
    }
    ratio.print("beside list scheduling of the same lengths", "1.02");
    held.print("beside list scheduling of the times really taken", "");
}
