use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jetgate::jetstream::{Ack, Acker, PullEnd, PullError, PullEvent, Puller, consumer_facts, ensure_consumer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use testbed::nats::{Nats, NatsCluster, NatsOptions};
use testbed::proxy::{Direction, FaultProxy};

use crate::{
    DURABLE, LIMIT, STREAM, connect_to, consumer_spec, next, next_message, prepare, prepared, send, soon, stream_spec,
    until_up,
};

const EXPIRES: Duration = Duration::from_secs(1);

fn puller(connection: &jetgate::jetstream::Connection) -> Puller {
    Puller::new(connection.clone(), STREAM, DURABLE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brings_what_was_asked_for_and_gives_the_rest_back() {
    let (_nats, connection) = prepared().await;
    send(&connection, 5).await;
    let mut puller = puller(&connection);
    puller.pull(3, EXPIRES).await.unwrap();
    for sequence in 1..=3 {
        let delivery = next_message(&mut puller).await;
        assert_eq!((delivery.sequence, delivery.delivered, delivery.above_credit), (sequence, 1, false));
        assert_eq!((&*delivery.stream, delivery.subject.as_str(), delivery.epoch), (STREAM, "orders.new", 1));
        assert!(delivery.store_time_ns > 1_700_000_000_000_000_000);
        assert!(delivery.headers.is_empty());
    }
    assert_eq!(puller.outstanding(), 0);
    puller.pull(6, EXPIRES).await.unwrap();
    assert_eq!(next_message(&mut puller).await.pending, 1);
    assert_eq!(next_message(&mut puller).await.pending, 0);
    assert_eq!(puller.outstanding(), 4);
    assert!(matches!(next(&mut puller).await, PullEvent::GivenBack(4)));
    assert_eq!(puller.outstanding(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_consumer_is_not_drained() {
    let (_nats, connection) = prepared().await;
    send(&connection, 1).await;
    let jetstream = async_nats::jetstream::new(connection.client().clone());
    let stream = jetstream.get_stream(STREAM).await.unwrap();
    let until = async_nats::datetime::parse_rfc3339("2200-01-01T00:00:00Z").unwrap();
    stream.pause_consumer(DURABLE, until).await.unwrap();
    let mut puller = puller(&connection);
    puller.pull(2, Duration::from_millis(200)).await.unwrap();
    assert!(matches!(next(&mut puller).await, PullEvent::GivenBack(2)));
    let facts = consumer_facts(&connection, STREAM, DURABLE).await.unwrap();
    assert!(facts.paused);
    assert_eq!(facts.num_pending, 1);
}

/// T3: a pull that outlives its connection must not count twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_outlives_its_connection_is_above_credit() {
    let nats = Nats::start_plain().await.unwrap();
    let proxy = FaultProxy::start(nats.address()).await.unwrap();
    let connection = connect_to(proxy.url("nats")).await;
    let other = connect_to(nats.url()).await;
    prepare(&other).await;
    let mut puller = puller(&connection);
    // Long enough to be alive at the server when the connection is new.
    puller.pull(10, Duration::from_secs(20)).await.unwrap();
    soon("the pull at the server", async {
        while consumer_facts(&other, STREAM, DURABLE).await.unwrap().num_waiting != 1 {}
    })
    .await;
    proxy.cut();
    let event = next(&mut puller).await;
    assert!(matches!(event, PullEvent::AllDead { credits: 10, why: PullEnd::ConnectionChanged }), "{event:?}");
    let mut state = connection.state();
    soon("the reconnect", state.wait_for(|state| state.up && state.epoch == 2)).await.unwrap();
    assert_eq!(connection.state().borrow().forgetful_epoch, 1, "the same server has forgotten nothing");
    soon("the next pull", async {
        while let Err(error) = puller.pull(10, Duration::from_secs(2)).await {
            assert!(matches!(error, PullError::Disconnected), "{error}");
        }
    })
    .await;
    send(&other, 20).await;
    let (mut within, mut above) = (0, 0);
    let acker = Acker::new(connection.clone());
    while puller.outstanding() > 0 {
        match next(&mut puller).await {
            PullEvent::Message(delivery) if delivery.above_credit => {
                above += 1;
                acker.ack(&delivery.reply, Ack::Nak(Duration::from_secs(60))).await.unwrap();
            }
            PullEvent::Message(_) => within += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(within, 10, "and {above} above credit");
    assert!(above <= 10, "{above}");
}

/// More than a thousand random pulls while the connection is cut again and again: what comes within credit is never
/// more than what was asked for, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credits_are_exact_over_random_pulls_and_cuts() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let nats = Nats::start_plain().await.unwrap();
    let proxy = FaultProxy::start(nats.address()).await.unwrap();
    let direct = connect_to(nats.url()).await;
    prepare(&direct).await;
    let connection = connect_to(proxy.url("nats")).await;
    let total = 3_000;
    let publisher = tokio::spawn({
        let direct = direct.clone();
        async move { send(&direct, total).await }
    });
    let mut puller = puller(&connection);
    // Acks go past the proxy, so that this test is about pulls.
    let acker = Acker::new(direct.clone());
    let (mut pulls, mut cuts, mut asked, mut taken, mut back) = (0u64, 0, 0u64, 0u64, 0u64);
    let mut seen = BTreeSet::new();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < LIMIT * 4, "{} of {total} after {pulls} pulls and {cuts} cuts", seen.len());
        if pulls >= 1_000 && pulls % 10 == 0 && publisher.is_finished() {
            // What was on its way in a cut connection comes again only after the ack wait of 30 s.
            let facts = consumer_facts(&direct, STREAM, DURABLE).await.unwrap();
            if facts.num_pending == 0 && seen.len() + usize::try_from(facts.num_ack_pending).unwrap() == total {
                break;
            }
        }
        if random.random_range(0..20) == 0 {
            proxy.cut();
            cuts += 1;
        }
        if puller.outstanding() < 20 {
            let batch = random.random_range(1..10);
            let expires = Duration::from_millis(random.random_range(50..400));
            match puller.pull(batch, expires).await {
                Ok(()) => {
                    pulls += 1;
                    asked += batch;
                }
                Err(PullError::Disconnected) => until_up(&connection).await,
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..random.random_range(0..6) {
            let Ok(event) = tokio::time::timeout(Duration::from_millis(20), puller.next()).await else { break };
            match event {
                PullEvent::Message(delivery) if delivery.above_credit => {
                    assert!(cuts > 0, "without a cut nothing comes above credit");
                    acker.ack(&delivery.reply, Ack::Nak(Duration::ZERO)).await.unwrap();
                }
                PullEvent::Message(delivery) => {
                    taken += 1;
                    seen.insert(delivery.sequence);
                    acker.ack(&delivery.reply, Ack::Ack).await.unwrap();
                }
                PullEvent::GivenBack(credits) | PullEvent::AllDead { credits, why: PullEnd::ConnectionChanged } => {
                    back += credits
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(asked, taken + back + puller.outstanding());
        }
    }
    publisher.await.unwrap();
    println!("{pulls} pulls, {cuts} cuts, {taken} taken, {back} given back, {} seen", seen.len());
    assert!(cuts > 20 && total - seen.len() < total / 10);
}

/// T8: a consumer that is deleted ends the pulls, and is told from one that is drained.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_consumer_is_said_and_can_be_made_again_at_a_sequence() {
    let (_nats, connection) = prepared().await;
    send(&connection, 4).await;
    let mut puller = puller(&connection);
    puller.pull(6, EXPIRES).await.unwrap();
    for _ in 0..4 {
        next_message(&mut puller).await;
    }
    let jetstream = async_nats::jetstream::new(connection.client().clone());
    jetstream.delete_consumer_from_stream(DURABLE, STREAM).await.unwrap();
    let event = next(&mut puller).await;
    assert!(matches!(event, PullEvent::AllDead { credits: 2, why: PullEnd::ConsumerDeleted }), "{event:?}");
    puller.pull(3, EXPIRES).await.unwrap();
    let event = next(&mut puller).await;
    assert!(matches!(event, PullEvent::Refused { credits: 3, why: PullEnd::NoConsumer }), "{event:?}");
    let spec = jetgate::jetstream::ConsumerSpec { start: jetgate::jetstream::Start::Sequence(3), ..consumer_spec() };
    assert!(ensure_consumer(&connection, &spec).await.unwrap().made);
    puller.pull(3, EXPIRES).await.unwrap();
    assert_eq!(next_message(&mut puller).await.sequence, 3);
    assert_eq!(next_message(&mut puller).await.sequence, 4);
}

/// T6: no hang over a restart of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_go_on_after_the_server_was_killed() {
    let (nats, connection) = prepared().await;
    send(&connection, 1).await;
    let mut puller = puller(&connection);
    puller.pull(5, EXPIRES).await.unwrap();
    assert_eq!(next_message(&mut puller).await.sequence, 1);
    nats.process().restart().await.unwrap();
    let event = next(&mut puller).await;
    assert!(matches!(event, PullEvent::AllDead { credits: 4, why: PullEnd::ConnectionChanged }), "{event:?}");
    until_up(&connection).await;
    let state = connection.state().borrow().clone();
    assert!(state.epoch >= 2 && state.forgetful_epoch == state.epoch, "{state:?}");
    send(&connection, 1).await;
    puller.pull(5, EXPIRES).await.unwrap();
    let delivery = next_message(&mut puller).await;
    assert_eq!(delivery.epoch, state.epoch);
}

/// A stalled connection: the status does not come, and what comes at last is above credit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_without_an_answer_ends_by_our_own_clock() {
    let nats = Nats::start_plain().await.unwrap();
    let proxy = FaultProxy::start(nats.address()).await.unwrap();
    let direct = connect_to(nats.url()).await;
    prepare(&direct).await;
    let connection = connect_to(proxy.url("nats")).await;
    let mut puller = puller(&connection);
    puller.pull(1, EXPIRES).await.unwrap();
    assert!(matches!(next(&mut puller).await, PullEvent::GivenBack(1)));
    proxy.stall(Direction::ToServer);
    puller.pull(4, Duration::from_millis(300)).await.unwrap();
    let event = next(&mut puller).await;
    assert!(matches!(event, PullEvent::AllDead { credits: 4, why: PullEnd::Silent }), "{event:?}");
    send(&direct, 3).await;
    proxy.pass();
    for _ in 0..3 {
        assert!(next_message(&mut puller).await.above_credit);
    }
    assert_eq!(puller.outstanding(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_give_their_credits_back() {
    let nats = Nats::start_plain().await.unwrap();
    let connection = connect_to(nats.url()).await;
    jetgate::jetstream::ensure_stream(&connection, &stream_spec()).await.unwrap();
    let jetstream = async_nats::jetstream::new(connection.client().clone());
    let config = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some(DURABLE.into()),
        max_batch: 5,
        max_waiting: 2,
        ..Default::default()
    };
    jetstream.get_stream(STREAM).await.unwrap().create_consumer(config).await.unwrap();
    let mut puller = puller(&connection);
    puller.pull(6, EXPIRES).await.unwrap();
    match next(&mut puller).await {
        PullEvent::Refused { credits: 6, why: PullEnd::LimitExceeded(said) } => {
            assert_eq!(said, "Exceeded MaxRequestBatch of 5");
        }
        other => panic!("{other:?}"),
    }
    for batch in 1..=3 {
        puller.pull(batch, EXPIRES).await.unwrap();
    }
    let event = next(&mut puller).await;
    assert!(matches!(event, PullEvent::Refused { credits: 3, why: PullEnd::TooManyPulls }), "{event:?}");
    assert_eq!(puller.outstanding(), 3, "the other pulls go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_leader_ends_the_pulls_at_once() {
    let cluster = NatsCluster::start(NatsOptions::default()).await.unwrap();
    let urls: Vec<String> = cluster.url().split(',').map(String::from).collect();
    let connection = jetgate::jetstream::Connection::open(jetgate::jetstream::NatsOptions::new(urls)).await.unwrap();
    until_up(&connection).await;
    let spec = jetgate::jetstream::StreamSpec { replicas: 3, ..stream_spec() };
    jetgate::jetstream::ensure_stream(&connection, &spec).await.unwrap();
    ensure_consumer(&connection, &consumer_spec()).await.unwrap();
    let mut puller = puller(&connection);
    puller.pull(7, Duration::from_secs(20)).await.unwrap();
    soon("the pull at the server", async {
        while consumer_facts(&connection, STREAM, DURABLE).await.unwrap().num_waiting == 0 {}
    })
    .await;
    let subject = format!("$JS.API.CONSUMER.LEADER.STEPDOWN.{STREAM}.{DURABLE}");
    connection.client().request(subject, "".into()).await.unwrap();
    let event = next(&mut puller).await;
    let PullEvent::AllDead { credits: 7, why } = event else { panic!("{event:?}") };
    assert_eq!(why, PullEnd::LeadershipChange);
    assert!(why.may_have_forgotten());
    send(&connection, 1).await;
    // Until there is a leader the pull has no receiver, or nobody who takes it.
    let delivery = soon("a message", async {
        loop {
            if puller.outstanding() == 0 {
                puller.pull(2, EXPIRES).await.unwrap();
            }
            if let PullEvent::Message(delivery) = puller.next().await {
                return delivery;
            }
        }
    })
    .await;
    assert_eq!(delivery.sequence, 1);
}
