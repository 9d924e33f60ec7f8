//! The control plane: up, replenishing, restarted, shared, with tokens that expire.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use testbed::{ControlPlane, ControlPlaneOptions, Login, Resource, wait};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_control_plane_of_its_own_starts_and_replenishes() {
    let start = Instant::now();
    let plane = ControlPlane::start(ControlPlaneOptions::default())
        .await
        .unwrap();
    eprintln!("started in {:?}", start.elapsed());
    let namespace = plane.namespace("replenish").await.unwrap();
    eprintln!("namespace at {:?}", start.elapsed());
    let widgets = Resource::widgets();
    let key = widgets.quota_key();
    plane.quota(&namespace, "q", &[(&key, "2")]).await.unwrap();
    eprintln!("quota at {:?}", start.elapsed());
    for name in ["a", "b"] {
        plane
            .create(&widgets, &namespace, &widgets.object(name))
            .await
            .unwrap();
    }
    let refused = plane
        .create(&widgets, &namespace, &widgets.object("c"))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("exceeded quota: q"),
        "{refused}"
    );
    plane.delete(&widgets, &namespace, "a").await.unwrap();
    wait::until_true("a free slot", SOON, || async {
        plane.used(&namespace, "q", &key).await.unwrap().as_deref() == Some("1")
    })
    .await
    .unwrap();
    plane
        .create(&widgets, &namespace, &widgets.object("c"))
        .await
        .unwrap();

    let audit = plane.audit().unwrap();
    let codes = audit.post_codes(&widgets, &namespace);
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [(201, 3), (403, 1)]);
    let created = audit.created(&widgets, &namespace);
    assert_eq!(created.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    let _ = Login::Admin;
}
