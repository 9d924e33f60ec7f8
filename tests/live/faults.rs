//! What stands between the sensor and NATS or the API server breaks: nothing is lost, doubled or stuck, and the gate
//! stays what it is.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use http::StatusCode;
use testbed::control_plane::Login;
use testbed::http_proxy::{Action, Matching};
use testbed::{
    ControlPlane, ControlPlaneOptions, Direction, FaultProxy, Finisher, HttpFaultProxy, Nats, Pace, Resource, wait,
};

use crate::support::{LONG, Sensor, Stage};

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

async fn finisher(stage: &Stage<'_>, pace: Pace) -> Finisher {
    Finisher::start(stage.plane, &Resource::workflows(), &stage.namespace, pace).await.unwrap()
}

/// The connection is cut again and again, each time after a random number of bytes in a random direction: in the middle
/// of pulls, deliveries, acknowledgements, reports and writes of books and record.
#[tokio::test(flavor = "multi_thread")]
async fn cuts_of_the_nats_connection_lose_and_double_nothing() {
    const CUTS: usize = 1_000;
    const PER_CUT: usize = 5;
    const LIMIT: usize = 300;
    let seed = 20_260_101;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let tcp = FaultProxy::start(nats.address()).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "cuts", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    stage.nats_url = tcp.url("nats");
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::After(Duration::ZERO)).await;
    let sensor = stage.start().await;
    let mut random = Random(seed);
    let begun = std::time::Instant::now();
    for cut in 0..CUTS {
        let from = cut * PER_CUT;
        let connections = tcp.connections();
        let direction = if random.below(2) == 0 { Direction::ToServer } else { Direction::ToClient };
        let bytes = 1 + random.below(6_000);
        tcp.cut_after_bytes(direction, bytes);
        stage.publish(from..from + PER_CUT).await;
        wait::until_true("the sensor connects again", LONG, || async { tcp.connections() > connections })
            .await
            .unwrap_or_else(|error| panic!("cut {cut}, seed {seed}: {error}\n{}", sensor.process.last_log_lines(20)));
    }
    tcp.pass();
    let messages = CUTS * PER_CUT;
    println!("{CUTS} cuts in {:?}: {}", begun.elapsed(), referee.tally());
    // However many are left, one after another comes.
    let mut created = 0;
    while created < messages {
        referee
            .until("another object created", LONG, |tally| tally.created() > created)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
        created = referee.tally().created();
    }
    println!("all of them in {:?}", begun.elapsed());
    let verdict = stage.until_exact(&referee, &sensor, messages).await;
    assert!(verdict.most_alive <= LIMIT, "{verdict}");
    assert_eq!(sensor.metric("sensor_possible_duplicates_total", &[]).await.unwrap_or(0.0), 0.0);
    let again = stage.handed_out().await - messages as u64;
    let reconnects = sensor.metric("sensor_nats_reconnects_total", &[]).await;
    println!(
        "{} connections cut, {reconnects:?} reconnects, {again} handed out again, {verdict}",
        tcp.connections() - 1
    );
    assert!(again > 0, "the cuts hit nothing");
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

/// Blocked for longer than ack wait, lease, watch timeout and token life, with every connection cut meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_block_with_cuts_and_expiring_tokens_resumes() {
    const MESSAGES: usize = 12;
    const LIMIT: usize = 4;
    const LIFE: Duration = Duration::from_secs(6);
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let to_nats = FaultProxy::start(nats.address()).await.unwrap();
    let to_api = FaultProxy::start(plane.apiserver().address()).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "long-block", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    stage.nats_url = to_nats.url("nats");
    let account = stage.account().await;
    let file = stage.folder().join("token");
    let first = plane.sign_token(&account, LIFE).unwrap();
    std::fs::write(&file, &first).unwrap();
    stage.kubeconfig = plane.kubeconfig_at(&Login::TokenFile(file.clone()), &to_api.url("https")).unwrap();
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    stage.publish(0..MESSAGES).await;
    referee.until_created(LIMIT, LONG).await.unwrap();
    sensor.until_reason(Some("at_limit")).await;
    // As a kubelet does it: a new token well before the old one ends, put in place at once.
    let blocked =
        || async { sensor.metric("sensor_quota_blocked_seconds_total", &["reason=\"at_limit\""]).await.unwrap() };
    let mut renewals = 0;
    while blocked().await < 24.0 {
        let token = plane.sign_token(&account, LIFE).unwrap();
        let next = stage.folder().join("token.next");
        std::fs::write(&next, token).unwrap();
        std::fs::rename(&next, &file).unwrap();
        renewals += 1;
        to_nats.cut();
        to_api.cut();
        let seen = blocked().await;
        let goes_on = wait::until_true("blocked for another while", LONG, || async { blocked().await >= seen + 2.0 });
        goes_on.await.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
        assert_eq!(sensor.metric("sensor_quota_blocked", &[]).await, Some(1.0));
    }
    let refused = plane.client_at(&Login::Token(first), &plane.url()).await.unwrap();
    let answer = refused.apiserver_version().await;
    assert!(answer.is_err(), "the first token is over: {answer:?}");
    assert_eq!(referee.tally().created(), LIMIT, "nothing was created meanwhile");
    let finisher = finisher(&stage, Pace::After(Duration::ZERO)).await;
    // Tokens go on ending.
    std::fs::write(&file, plane.sign_token(&account, Duration::from_secs(600)).unwrap()).unwrap();
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    println!("{renewals} token renewals with cuts, {verdict}");
    assert!(verdict.most_alive <= LIMIT, "{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

/// At the limit with a backlog; `fault` happens; still at the limit, and each release lets exactly one more go.
async fn still_blocked_after(
    what: &str,
    stage: &Stage<'_>,
    sensor: &Sensor,
    referee: &testbed::Referee,
    finisher: &Finisher,
    (limit, messages): (usize, usize),
) {
    sensor.until_reason(Some("at_limit")).await;
    let created = referee.tally().created();
    assert_eq!(referee.tally().alive(), limit, "{what}");
    finisher.finish_one().await.unwrap().unwrap();
    referee
        .until_created(created + 1, LONG)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}\n{}", sensor.process.last_log_lines(30)));
    sensor.until_reason(Some("at_limit")).await;
    let verdict = stage.verdict(referee, messages).await;
    assert!(verdict.is_clean_so_far(0), "{what}: {verdict}");
    assert_eq!(verdict.created, created + 1, "{what}");
    assert_eq!(verdict.most_alive, limit, "{what}: {verdict}");
    println!("after {what}: {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_survives_every_fault_of_nats() {
    const LIMIT: usize = 4;
    const MESSAGES: usize = 16;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let tcp = FaultProxy::start(nats.address()).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "nats-faults", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    stage.nats_url = tcp.url("nats");
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::OnDemand).await;

    // Down when the sensor starts: it lives, is not ready, and says what it waits for.
    nats.process().kill().await.unwrap();
    let sensor = stage.spawn();
    wait::until_true("the sensor says that it waits for NATS", LONG, || async {
        !sensor.lines("waiting for NATS").is_empty()
    })
    .await
    .unwrap();
    assert_eq!(sensor.get("/livez").await.unwrap().0, 200);
    let (code, text) = sensor.get("/readyz").await.unwrap();
    assert_eq!(code, 503);
    assert!(text.contains("nats"), "{text}");
    nats.process().start_again().await.unwrap();
    sensor.until_ready().await;
    stage.publish(0..MESSAGES).await;
    referee.until_created(LIMIT, LONG).await.unwrap();
    still_blocked_after("a start without NATS", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    let reconnects = || async { sensor.metric("sensor_nats_reconnects_total", &[]).await.unwrap() };
    let before = reconnects().await;
    tcp.cut();
    sensor.until_metric("sensor_nats_reconnects_total", &[], |count| count > before).await;
    still_blocked_after("a cut", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    let before = reconnects().await;
    nats.process().kill().await.unwrap();
    sensor.until_reason(Some("nats_down")).await;
    assert_eq!(sensor.get("/livez").await.unwrap().0, 200);
    nats.process().start_again().await.unwrap();
    sensor.until_metric("sensor_nats_reconnects_total", &[], |count| count > before).await;
    still_blocked_after("a killed server", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    // Stopped for longer than two pings.
    nats.process().stop().unwrap();
    sensor.until_reason(Some("nats_down")).await;
    nats.process().cont().unwrap();
    sensor.until_metric("sensor_nats_connected", &[], |up| up == 1.0).await;
    still_blocked_after("a stopped server", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    for direction in [Direction::ToServer, Direction::ToClient] {
        tcp.blackhole(direction);
        sensor.until_reason(Some("nats_down")).await;
        tcp.pass();
        sensor.until_metric("sensor_nats_connected", &[], |up| up == 1.0).await;
        still_blocked_after(
            &format!("a black hole {direction:?}"),
            &stage,
            &sensor,
            &referee,
            &finisher,
            (LIMIT, MESSAGES),
        )
        .await;
    }

    tcp.refuse().await.unwrap();
    tcp.cut();
    sensor.until_reason(Some("nats_down")).await;
    tcp.accept().await.unwrap();
    sensor.until_metric("sensor_nats_connected", &[], |up| up == 1.0).await;
    still_blocked_after("refused connections", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    finisher.set_pace(Pace::After(Duration::ZERO)).await.unwrap();
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    assert_eq!(verdict.most_alive, LIMIT, "{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_survives_every_fault_of_the_api_server() {
    const LIMIT: usize = 4;
    const MESSAGES: usize = 16;
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let tcp = FaultProxy::start(plane.apiserver().address()).await.unwrap();
    let mut stage = Stage::new(&plane, &nats, "api-faults", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    stage.kubeconfig = plane.kubeconfig_at(&Login::Admin, &tcp.url("https")).unwrap();

    // Down when the sensor starts.
    tcp.refuse().await.unwrap();
    let sensor = stage.spawn();
    wait::until_true("the sensor says that it waits for the API server", LONG, || async {
        !sensor.lines("waiting for the API server").is_empty()
    })
    .await
    .unwrap();
    assert_eq!(sensor.get("/livez").await.unwrap().0, 200);
    let (code, text) = sensor.get("/readyz").await.unwrap();
    assert_eq!(code, 503);
    assert!(text.contains("kubernetes"), "{text}");
    tcp.accept().await.unwrap();
    sensor.until_ready().await;
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::OnDemand).await;
    stage.publish(0..MESSAGES).await;
    referee.until_created(LIMIT, LONG).await.unwrap();
    still_blocked_after("a start without the API server", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES))
        .await;

    tcp.cut();
    still_blocked_after("cut connections", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    // Half-open: nothing comes any more, and nothing says so.
    tcp.blackhole(Direction::ToClient);
    sensor.until_reason(Some("api_down")).await;
    assert_eq!(sensor.metric("sensor_quota_blocked", &[]).await, Some(1.0), "no credit without a view");
    tcp.cut();
    tcp.pass();
    still_blocked_after("half-open connections", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    plane.apiserver().process().kill().await.unwrap();
    sensor.until_reason(Some("api_down")).await;
    assert_eq!(sensor.get("/livez").await.unwrap().0, 200);
    plane.apiserver().process().start_again().await.unwrap();
    still_blocked_after("a killed API server", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    // Longer than Lease and grants last, and the reason stays what it is.
    plane.apiserver().process().stop().unwrap();
    sensor.until_reason(Some("api_down")).await;
    let seconds =
        || async { sensor.metric("sensor_quota_blocked_seconds_total", &["reason=\"api_down\""]).await.unwrap() };
    let said = seconds().await;
    wait::until_true("the reason stays", LONG, || async { seconds().await > said + 5.0 })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    plane.apiserver().process().cont().unwrap();
    still_blocked_after("a stopped API server", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    plane.etcd().stop().unwrap();
    sensor.until_reason(Some("api_down")).await;
    plane.etcd().cont().unwrap();
    still_blocked_after("a stopped etcd", &stage, &sensor, &referee, &finisher, (LIMIT, MESSAGES)).await;

    finisher.set_pace(Pace::After(Duration::ZERO)).await.unwrap();
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    assert_eq!(verdict.most_alive, LIMIT, "{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
}

/// A message's task panics when its object is made and nobody has heard of it: the number counts until the leader knows,
/// and the message is found to be done.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_loses_neither_its_number_nor_its_message() {
    const LIMIT: usize = 5;
    const MESSAGES: usize = 20;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "panic", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Jetgate-Test", "panic");
    let subject = format!("{}.order", stage.stream);
    for id in 0..LIMIT {
        let payload = serde_json::json!({"id": format!("{id}")}).to_string();
        let ack = stage.jetstream().publish_with_headers(subject.clone(), headers.clone(), payload.into()).await;
        ack.unwrap().await.unwrap();
    }
    stage.publish(LIMIT..MESSAGES).await;
    referee.until_created(LIMIT, LONG).await.unwrap();
    // Those that were in hand beside the first one are given back, and created when they come again.
    let said = wait::until_true("a panic is said", LONG, || async { !sensor.lines("task panicked").is_empty() });
    said.await.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    sensor.until_reason(Some("at_limit")).await;
    wait::until_true("nothing is in hand any more", LONG, || async {
        let state = sensor.state().await;
        state["messages_in_hand"] == 0 && state["credits"]["in_hand"] == 0
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    let finisher =
        Finisher::start(plane, &Resource::workflows(), &stage.namespace, Pace::After(Duration::ZERO)).await.unwrap();
    stage.until_exact_under(LIMIT, &referee, &sensor, MESSAGES).await;
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

/// A burst of 429s halves the creates that may be under way. Those that were refused are tried again later, and then
/// need their place like every other.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_burst_of_refusals_no_more_creates_are_under_way_than_the_cut_allows() {
    // What the limiter starts with, and what it allows at most when it is cut once and then has a full window answered.
    const FIRST: u64 = 32;
    const CUT: u64 = 20;
    const MESSAGES: usize = 100;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let http = HttpFaultProxy::start(plane).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "burst-of-429", "200").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").behind(&http).await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    let posts = || Matching::post(&format!("/namespaces/{}/workflows", stage.namespace));
    // Long enough for all messages to be in hand when the refusals come.
    let slow = http.rule(posts(), Action::DelayBefore(Duration::from_millis(300)));
    let refusal = Action::status(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", "too many requests");
    let refused = http.rule(posts().times(FIRST), refusal);
    let later = http.rule(posts().skip(FIRST), Action::Count);
    stage.publish(0..MESSAGES).await;
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    println!("{} refused, then at most {} at once: {verdict}", refused.hits(), later.most_at_once());
    assert_eq!((slow.most_at_once(), refused.hits()), (FIRST, FIRST));
    assert!(later.most_at_once() <= CUT, "{} creates at once", later.most_at_once());
    assert_eq!(sensor.stop().await, Some(0));
}

/// A sensor that was stopped for longer than the ack wait finds deliveries that others have by now: it leaves them alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_that_was_stopped_does_not_return_what_others_have() {
    const MESSAGES: usize = 5;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "stopped", "20").await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    let advisory = format!("$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.{}.{}", stage.stream, stage.sensor);
    let mut naks = stage.nats.subscribe(advisory).await.unwrap();
    stage.nats.flush().await.unwrap();
    let stream = stage.jetstream().get_stream(&stage.stream).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer(&stage.sensor).await.unwrap();
    // Into a pull of the stopped sensor, which waits for a second at most.
    let mut published = 0;
    loop {
        sensor.process.stop().unwrap();
        stage.publish(published..published + MESSAGES).await;
        published += MESSAGES;
        if stage.waiting().await == (0, MESSAGES as u64) {
            break;
        }
        sensor.process.cont().unwrap();
        referee.until_created(published, LONG).await.unwrap();
        stage.until_drained().await;
    }
    // Another replica gets them when the ack wait is over.
    let mut fetched =
        consumer.batch().max_messages(MESSAGES).expires(Duration::from_secs(60)).messages().await.unwrap();
    for _ in 0..MESSAGES {
        let message = fetched.next().await.unwrap().unwrap();
        assert_eq!(message.info().unwrap().delivered, 2);
    }
    let ended = || async { sensor.metric("sensor_messages_total", &[]).await.unwrap_or(0.0) };
    sensor.process.cont().unwrap();
    wait::until_true("the sensor has seen its old deliveries", LONG, || async { ended().await >= published as f64 })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    stage.nats.flush().await.unwrap();
    let naked = naks.next().now_or_never().flatten();
    assert!(naked.is_none(), "{}", String::from_utf8_lossy(&naked.unwrap().payload));
    let verdict = stage.until_exact(&referee, &sensor, published).await;
    println!("{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
}
