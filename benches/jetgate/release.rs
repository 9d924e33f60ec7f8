//! From an object's end to the next create: DELETE answered to POST on the wire, beside what a bare watch needs to hear
//! of the same deletion.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, WatchEvent, WatchParams};
use testbed::{ControlPlane, Nats, Resource};

use crate::figures::Samples;
use crate::support::{LONG, Stage};

const HARD: usize = 71;
const RELEASES: usize = 300;

/// When our own watches heard of what.
#[derive(Default)]
struct Heard {
    deleted: BTreeMap<String, Timestamp>,
    /// Each fall of `used`: when, and to what.
    falls: Vec<(Timestamp, u64)>,
}

fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}

pub(crate) async fn run() {
    let plane = ControlPlane::start(testbed::ControlPlaneOptions::default()).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(&plane, &nats, "release", &HARD.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    stage.unset("BACKPRESSURE_SIGNAL_MAX_AGE").unset("CREATE_TIMEOUT").unset("ACK_WAIT");
    let sensor = stage.start().await;
    stage.publish(0..HARD + RELEASES + 50).await;
    let referee = stage.referee().await;
    referee.until_created(HARD, LONG).await.unwrap();
    sensor.until_reason(Some("at_limit")).await;

    let workflows = Resource::workflows();
    let key = workflows.quota_key();
    let heard = Arc::new(Mutex::new(Heard::default()));
    let client = plane.client().await.unwrap();
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), &stage.namespace, &workflows.api_resource());
    let quotas: Api<ResourceQuota> = Api::namespaced(client, &stage.namespace);
    let watching = {
        let (heard, objects) = (Arc::clone(&heard), objects.clone());
        let from = objects.list_metadata(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        tokio::spawn(async move {
            let mut watch =
                Box::pin(objects.watch_metadata(&WatchParams::default().timeout(290), &from).await.unwrap());
            while let Some(event) = watch.next().await {
                let now = Timestamp::now();
                if let Ok(WatchEvent::Deleted(object)) = event {
                    heard.lock().unwrap().deleted.insert(object.metadata.name.unwrap(), now);
                }
            }
        })
    };
    let watching_quotas = {
        let heard = Arc::clone(&heard);
        let from = quotas.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        tokio::spawn(async move {
            let mut watch = Box::pin(quotas.watch(&WatchParams::default().timeout(290), &from).await.unwrap());
            let mut last = HARD as u64;
            while let Some(event) = watch.next().await {
                let now = Timestamp::now();
                let Ok(WatchEvent::Modified(quota)) = event else { continue };
                let used = quota.status.and_then(|status| status.used?.get(&key)?.0.parse().ok()).unwrap_or(last);
                if used < last {
                    heard.lock().unwrap().falls.push((now, used));
                }
                last = used;
            }
        })
    };

    let mut victims: Vec<String> = plane.names(&workflows, &stage.namespace).await.unwrap();
    let mut seen: std::collections::BTreeSet<String> = victims.iter().cloned().collect();
    let mut ended = Vec::new();
    for number in 0..RELEASES {
        let name = victims[number].clone();
        objects.delete(&name, &DeleteParams::default()).await.unwrap();
        ended.push(name);
        referee.until_created(HARD + number + 1, LONG).await.unwrap();
        for name in referee.tally().names_alive() {
            if seen.insert(name.to_owned()) {
                victims.push(name.to_owned());
            }
        }
        // Of each release its own event: the next one begins when the quota shows the slot taken again.
        let full = HARD.to_string();
        testbed::wait::until_true("the slot to be taken again", LONG, || async {
            let used = stage.plane.used(&stage.namespace, "team", &workflows.quota_key()).await;
            used.is_ok_and(|used| used.as_deref() == Some(full.as_str()))
        })
        .await
        .unwrap();
    }
    let audit = testbed::wait::until("the audit log to be complete", LONG, || async {
        let audit = plane.audit(&stage.namespace).unwrap();
        (audit.posts_with(&workflows, &stage.namespace, 201) >= HARD + RELEASES).then_some(audit)
    })
    .await
    .unwrap();
    sensor.stop().await;
    watching.abort();
    watching_quotas.abort();

    let deletes: BTreeMap<&str, Timestamp> = audit
        .requests()
        .iter()
        .filter(|request| {
            request.verb == "delete" && request.namespace == stage.namespace && request.resource == workflows.plural
        })
        .map(|request| (request.name.as_str(), request.answered))
        .collect();
    let mut posts: Vec<Timestamp> =
        audit.posts(&workflows, &stage.namespace).filter(|post| post.code == 201).map(|post| post.received).collect();
    posts.sort();
    let heard = heard.lock().unwrap();
    let (mut ours, mut watch, mut objects_watch, mut ratio, mut more) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default(), Samples::default());
    for (number, name) in ended.iter().enumerate() {
        let Some(&deleted) = deletes.get(name.as_str()) else { continue };
        let next = posts[HARD + number];
        let Some((fell, _)) = heard.falls.iter().find(|(at, _)| *at > deleted) else { continue };
        let Some(gone) = heard.deleted.get(name) else { continue };
        let bare = milliseconds(deleted, *fell).max(milliseconds(deleted, *gone));
        let gated = milliseconds(deleted, next);
        ours.push(gated);
        watch.push(bare);
        objects_watch.push(milliseconds(deleted, *gone));
        ratio.push(gated / bare);
        more.push(gated - bare);
    }
    println!("DELETE answered to the next create on the wire, {HARD} slots, {RELEASES} releases one by one:");
    ratio.print("beside a bare watch that hears of the room", "1.5");
    println!("  {:<52} {:.3}", "median beside median", ours.median() / watch.median());
    println!(
        "  {:<52} {:.3}",
        "median beside that of a watch of objects alone",
        ours.median() / objects_watch.median()
    );
    ours.print("jetgate, ms", "");
    watch.print("bare watch of quota and objects, ms", "");
    objects_watch.print("bare watch of objects alone, ms", "");
    more.print("jetgate after the watch, ms", "");
    println!("  refusals (403): {}", audit.posts_with(&workflows, &stage.namespace, 403));
}
