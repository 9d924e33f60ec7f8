//! The referee counts right, also over a restart of the API server; the finisher keeps its pace.

use std::time::Duration;

use serde_json::json;
use testbed::{ControlPlane, ControlPlaneOptions, Finisher, Pace, Referee, Resource};

use crate::SOON;

const CAUSE: &str = "example.com/cause";

async fn make(plane: &ControlPlane, namespace: &str, name: &str, cause: &str) {
    let widgets = Resource::widgets();
    let mut object = widgets.object(name);
    object["metadata"]["annotations"] = json!({ CAUSE: cause });
    plane.create(&widgets, namespace, &object).await.unwrap();
}

#[tokio::test]
async fn the_verdict_names_what_is_lost_and_doubled() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("verdict").await.unwrap();
    let widgets = Resource::widgets();
    let referee = Referee::watch(plane, &widgets, &namespace).await.unwrap();
    make(plane, &namespace, "a", "1").await;
    make(plane, &namespace, "b", "2").await;
    // The second pair of eyes sees both, too.
    referee.until("a list of both", SOON, |tally| tally.most_listed() == 2).await.unwrap();
    plane.delete(&widgets, &namespace, "a").await.unwrap();
    make(plane, &namespace, "a", "1").await;
    referee.until_created(3, SOON).await.unwrap();
    let audit = plane.audit(&namespace).unwrap();
    let verdict = referee.verdict(&audit, CAUSE, ["1", "2", "3"]);
    assert_eq!(verdict.created, 3);
    assert_eq!(verdict.lost, ["3"]);
    assert_eq!(verdict.doubled, ["1", "a"]);
    assert_eq!(verdict.most_alive, 2);
    assert_eq!((verdict.posts, verdict.posts_201, verdict.refusals_403), (3, 3, 0));
    assert!(!verdict.is_clean());
    assert!(verdict.to_string().starts_with("3 created, 1 lost, 2 doubled, most alive at once 2"));
    let so_far = referee.verdict(&audit, CAUSE, ["1", "2"]);
    assert!(!so_far.is_clean_so_far(0), "{so_far}");
}

#[tokio::test]
async fn one_object_for_each_cause_and_no_other_is_clean() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("clean").await.unwrap();
    let widgets = Resource::widgets();
    let referee = Referee::watch(plane, &widgets, &namespace).await.unwrap();
    make(plane, &namespace, "a", "1").await;
    make(plane, &namespace, "b", "2").await;
    referee.until_created(2, SOON).await.unwrap();
    let judge = |causes: &[&str]| referee.verdict(&plane.audit(&namespace).unwrap(), CAUSE, causes.iter().copied());
    assert!(judge(&["1", "2"]).is_clean());
    // A cause too many: lost, or yet to come.
    let more = judge(&["1", "2", "3"]);
    assert!(!more.is_clean() && more.is_clean_so_far(0), "{more}");
    // As many objects as causes, but one of them under another annotation.
    let other = judge(&["1", "3"]);
    assert!(other.unexpected == ["2"] && !other.is_clean() && !other.is_clean_so_far(0), "{other}");
    // An object more than there are causes.
    assert!(!judge(&["1"]).is_clean());
    plane.create(&widgets, &namespace, &widgets.object("of-another")).await.unwrap();
    referee.until_created(3, SOON).await.unwrap();
    let beside = judge(&["1", "2"]);
    assert!(!beside.is_clean() && beside.is_clean_beside(1), "{beside}");
}

#[tokio::test]
async fn the_referee_goes_on_after_a_restart_and_finds_what_it_missed() {
    let plane = ControlPlane::start(ControlPlaneOptions {
        controller_manager: testbed::control_plane::ControllerManager::Absent,
        ..Default::default()
    })
    .await
    .unwrap();
    let namespace = plane.namespace("outage").await.unwrap();
    let widgets = Resource::widgets();
    let referee = Referee::watch(&plane, &widgets, &namespace).await.unwrap();
    make(&plane, &namespace, "before", "1").await;
    referee.until_created(1, SOON).await.unwrap();
    plane.apiserver().process().restart().await.unwrap();
    let lists = referee.tally().lists();
    referee.until("a list after the restart", SOON, |tally| tally.lists() > lists).await.unwrap();
    make(&plane, &namespace, "after", "2").await;
    plane.delete(&widgets, &namespace, "before").await.unwrap();
    referee.until_created(2, SOON).await.unwrap();
    referee.until_alive(1, SOON).await.unwrap();
    assert_eq!(referee.tally().names_alive().into_iter().collect::<Vec<_>>(), ["after"]);
    let audit = plane.audit(&namespace).unwrap();
    assert!(referee.verdict(&audit, CAUSE, ["1", "2"]).is_clean());
}

#[tokio::test]
async fn objects_are_finished_by_age_at_random_and_on_demand() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("finish").await.unwrap();
    let widgets = Resource::widgets();
    let referee = Referee::watch(plane, &widgets, &namespace).await.unwrap();
    let finisher = Finisher::start(plane, &widgets, &namespace, Pace::OnDemand).await.unwrap();
    for number in 0..10 {
        make(plane, &namespace, &format!("w{number}"), &format!("{number}")).await;
    }
    referee.until_alive(10, SOON).await.unwrap();
    assert!(finisher.finish_one().await.unwrap().is_some());
    referee.until_alive(9, SOON).await.unwrap();
    let pace = Pace::AtRandom { per_second: 50.0, seed: 7 };
    finisher.set_pace(pace).await.unwrap();
    referee.until_alive(0, SOON).await.unwrap();
    assert_eq!(finisher.finished().picked, 9, "the one that was told is not of its own pace");

    finisher.set_pace(Pace::After(Duration::from_millis(300))).await.unwrap();
    make(plane, &namespace, "old", "old").await;
    referee.until_created(11, SOON).await.unwrap();
    referee.until_alive(0, SOON).await.unwrap();
    let tally = referee.tally();
    let old = tally.objects().last().unwrap();
    assert!(old.gone_after.unwrap() - old.seen_after >= Duration::from_millis(200));

    finisher.set_pace(Pace::OnDemand).await.unwrap();
    assert_eq!(finisher.finish_one().await.unwrap(), None);
    for name in ["x", "y"] {
        make(plane, &namespace, name, name).await;
    }
    assert_eq!(finisher.finish_all().await.unwrap(), 2);
    referee.until_alive(0, SOON).await.unwrap();
    assert_eq!(referee.tally().most_alive(), 10);
}
