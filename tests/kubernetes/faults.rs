//! What goes wrong on the way.

use crate::*;

#[tokio::test]
async fn a_token_that_expired_is_read_again() {
    let plane = plane().await;
    let namespace = plane.namespace("token").await.unwrap();
    let rules = json!([{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}]);
    let account = plane.service_account(&namespace, "short", &rules).await.unwrap();
    let file = plane.kubeconfig_admin().unwrap().with_file_name(format!("token-{namespace}"));
    let sign = |seconds| plane.sign_token(&account, Duration::from_secs(seconds)).unwrap();
    std::fs::write(&file, sign(2)).unwrap();
    let cluster = connect(plane.kubeconfig(&Login::TokenFile(file.clone())).unwrap()).await;
    let find = async || cluster.find(&widgets(), &namespace, "w", SOON).await;
    assert_eq!(find().await.unwrap(), None);

    let unauthorized = async || match find().await {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.status().map(|status| status.code), Some(401), "{error:?}");
            true
        }
    };
    wait::until_true("the end of the token", Duration::from_secs(30), unauthorized).await.unwrap();
    // Still the old token in the file: no renewal helps, and none is tried more than once a second.
    assert!(unauthorized().await);
    std::fs::write(&file, sign(3600)).unwrap();
    let begun = Instant::now();
    wait::until_true("the new token", SOON, async || find().await.is_ok()).await.unwrap();
    eprintln!("back after {:?}", begun.elapsed());
}

#[tokio::test]
async fn cut_and_refused_connections_are_told_apart_from_answers() {
    let plane = plane().await;
    let namespace = plane.namespace("cut").await.unwrap();
    let proxy = FaultProxy::start(plane.apiserver().address()).await.unwrap();
    let cluster = connect(plane.kubeconfig_at(&Login::Admin, &proxy.url("https")).unwrap()).await;
    create(&cluster, &namespace, "first").await.unwrap();

    // The reply is lost, the effect is not; and nothing is sent twice.
    let sprung = proxy.drop_reply();
    let lost = create(&cluster, &namespace, "lost").await;
    assert!(matches!(lost, Err(CallError::Connection(_))), "{lost:?}");
    sprung.sprung(SOON).await.unwrap();
    assert!(cluster.find(&widgets(), &namespace, "lost", SOON).await.unwrap().is_some());

    let mut events = cluster.watch(&widgets(), &namespace, 0, WATCH).await.unwrap();
    events.next().await.unwrap().unwrap();
    events.next().await.unwrap().unwrap();
    proxy.cut();
    let end: Vec<_> = events.collect().await;
    assert!(matches!(end.as_slice(), [.., Err(CallError::Connection(_))]), "{end:?}");

    proxy.refuse().await.unwrap();
    let begun = Instant::now();
    let refused = create(&cluster, &namespace, "refused").await;
    assert!(matches!(refused, Err(CallError::Connection(_))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    proxy.accept().await.unwrap();
    create(&cluster, &namespace, "accepted").await.unwrap();

    // What was swallowed on the way is gone with its connection, and so are the idle ones beside it.
    proxy.blackhole(Direction::ToServer);
    let swallowed = cluster.create(&widgets(), &namespace, &widget("swallowed"), Duration::from_millis(300)).await;
    assert!(matches!(swallowed, Err(CallError::Timeout(_))), "{swallowed:?}");
    proxy.pass();
    create(&cluster, &namespace, "after").await.unwrap();
    assert_eq!(cluster.find(&widgets(), &namespace, "swallowed", SOON).await.unwrap(), None);
    let twice: Vec<_> = plane
        .audit(&namespace)
        .unwrap()
        .created(&Resource::widgets(), &namespace)
        .into_iter()
        .filter(|(_, times)| *times != 1)
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test]
async fn a_stopped_api_server_is_noticed_and_a_restarted_one_has_forgotten() {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    let cluster = admin(&plane).await;
    let namespace = plane.namespace("stopped").await.unwrap();
    let old = create(&cluster, &namespace, "old").await.unwrap();

    let mut events = cluster.watch(&widgets(), &namespace, 0, Duration::from_secs(1)).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap(), ObjectEvent::Applied(old.clone()));
    let begun = Instant::now();
    plane.apiserver().process().stop().unwrap();
    let stopped = cluster.create(&widgets(), &namespace, &widget("stopped"), Duration::from_secs(1)).await;
    assert!(matches!(stopped, Err(CallError::Timeout(_))), "{stopped:?}");
    assert!((1.0..1.5).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    let found = cluster.find(&widgets(), &namespace, "old", Duration::from_millis(300)).await;
    assert!(matches!(found, Err(CallError::Timeout(_))), "{found:?}");
    // A second of watch and two of margin.
    let events: Vec<_> = tokio::time::timeout(Duration::from_secs(4), events.collect()).await.unwrap();
    assert!(matches!(events.as_slice(), [.., Err(CallError::Timeout(_))]), "{events:?}");
    plane.apiserver().process().cont().unwrap();
    assert!(cluster.find(&widgets(), &namespace, "old", SOON).await.unwrap().is_some(), "on new connections");
    plane.delete(&Resource::widgets(), &namespace, "old").await.unwrap();
    plane.compact_etcd().await.unwrap();
    plane.apiserver().process().restart().await.unwrap();
    let expired = async || {
        let mut events = match cluster.watch(&widgets(), &namespace, old.resource_version, WATCH).await {
            Ok(events) => events,
            Err(CallError::Expired) => return true,
            Err(_) => return false,
        };
        matches!(events.next().await, Some(Err(CallError::Expired)))
    };
    wait::until_true("410", SOON, expired).await.unwrap();
}

/// Runs itself in a process with `HTTPS_PROXY`, which kube would take for the API server's proxy.
#[tokio::test]
async fn a_proxy_for_the_web_is_not_for_the_api_server() {
    if let Ok(kubeconfig) = std::env::var("JETGATE_TEST_KUBECONFIG") {
        let cluster = connect(kubeconfig.into()).await;
        assert!(cluster.discover("example.com/v1", "Widget").await.is_ok());
        return;
    }
    let plane = plane().await;
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::a_proxy_for_the_web_is_not_for_the_api_server"])
        .env("JETGATE_TEST_KUBECONFIG", plane.kubeconfig_admin().unwrap())
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert!(
        child.status.success() && String::from_utf8_lossy(&child.stdout).contains("1 passed"),
        "{}",
        String::from_utf8_lossy(&child.stdout)
    );
}
