//! What the lane makes of signs that the consumer may have forgotten.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::gate::Reason;
use crate::jetstream::{Connection, NatsOptions, Retention, StreamFacts};
use crate::message::{OnDoubt, Record, Says, Terms};
use crate::sensor::limiter::Limiter;
use crate::sensor::shared::{Identity, RecordCopy, Standing};
use crate::telemetry::{Metrics, SensorIdentity};

const CREATED: i64 = 1_000;

fn connected(epoch: u64) -> ConnectionState {
    ConnectionState { up: true, epoch, forgetful_epoch: epoch, ..ConnectionState::default() }
}

/// A lane on a new consumer, which was found by the first connection, reigned by 1; the record knows message 7.
async fn lane() -> Lane {
    // Nobody listens there; what the lane is told of the connection is the test's.
    let connection = Connection::open(NatsOptions::new(vec!["nats://127.0.0.1:1".into()])).await.unwrap();
    let identity = SensorIdentity { namespace: "n".into(), sensor: "s".into(), trigger: "t".into() };
    let mut record = Record::new(CREATED);
    record.saw(7, CREATED);
    record.advance(5);
    let shared = Shared::new(
        Identity {
            namespace: "n".into(),
            sensor: "s".into(),
            trigger: "t".into(),
            stream: "S".into(),
            stream_created: Arc::new(AtomicI64::new(CREATED)),
        },
        Trigger::Log { silent: true, level: crate::api::LogLevel::default() },
        Terms { create_timeout: Duration::from_secs(10), ack_wait: Duration::from_secs(30), on_doubt: OnDoubt::Create },
        connection,
        String::new(),
        Metrics::new("").unwrap().sensor(identity, []),
        Limiter::new(),
        watch::channel(RecordCopy::Kept(Arc::new(record))).1,
    );
    let settings = LaneSettings {
        max_in_flight: 1,
        consumer: "s".into(),
        max_batch: 1,
        max_expires: Duration::from_secs(1),
        redelivery_pause: Some(Duration::from_secs(10)),
        remind_every: Reminder::EVERY,
        baseline: Baseline { connection: connected(1), reign: Reign::Of(1) },
        grace: Duration::ZERO,
    };
    let ports = LanePorts {
        reports: mpsc::channel(1).0,
        grants: mpsc::channel(1).1,
        waiting: watch::channel(Waiting::default()).1,
        lease: watch::channel(LeaseState::default()).1,
        consumer_gone: mpsc::channel(1).0,
    };
    let now = clock::now();
    let credits = Credits::free(HolderId::new("h"), now);
    let board = Arc::new(Board::new("n", now));
    let fresh = Freshness::of_new_consumer();
    let (mut lane, _, _) = Lane::new(Arc::new(shared), settings, credits, fresh, board, Health::new(now), ports);
    lane.connection = watch::channel(connected(1)).1;
    lane
}

fn delivery(sequence: u64, store_time_ns: i64, consumer_sequence: u64, pull_sent: Instant) -> Delivery {
    Delivery {
        subject: "S.x".into(),
        headers: Vec::new(),
        payload: bytes::Bytes::new(),
        stream: "S".into(),
        sequence,
        consumer_sequence,
        store_time_ns,
        delivered: 1,
        pending: 0,
        reply: "r".into(),
        pull_sent,
        epoch: 1,
        above_credit: false,
    }
}

fn stream(created_ns: i64) -> StreamFacts {
    StreamFacts {
        created_ns,
        first_sequence: 1,
        last_sequence: 50,
        last_stored_ns: None,
        messages: 50,
        retention: Retention::Limits,
        replicas: 1,
        subjects: Vec::new(),
        made: false,
        warnings: Vec::new(),
    }
}

fn is_fresh(lane: &Lane) -> bool {
    lane.freshness.is_fresh(100, 1)
}

#[tokio::test]
async fn what_is_forgotten_while_the_sensor_starts_is_heard() {
    let mut lane = lane().await;
    lane.connection_changed();
    lane.reigned_by(Some(Reign::Of(1)));
    assert!(is_fresh(&lane), "nothing has changed since the consumer was made");
    lane.reigned_by(Some(Reign::Of(2)));
    assert!(!is_fresh(&lane), "another consumer, or another leader");
    let (nobody, gone, next) = (Some(Reign::NoConsumer), Some(Reign::NoStream), Some(Reign::Of(9)));
    for (reign, forgotten) in [(nobody, 2), (None, 2), (nobody, 2), (gone, 3), (None, 3), (gone, 3), (next, 4)] {
        lane.reigned_by(reign);
        assert_eq!(lane.shared.alerts.borrow().forgotten, forgotten, "{reign:?}: once for each change");
    }

    let mut lane = self::lane().await;
    let at = clock::now() + Duration::from_secs(3);
    lane.connection = watch::channel(ConnectionState { connected_at: Some(at), ..connected(2) }).1;
    lane.connection_changed();
    assert!(!is_fresh(&lane), "another server process");
    assert_eq!(lane.freshness.not_before(), Some(at + Duration::from_secs(10)), "P from that connection on");
}

#[tokio::test]
async fn the_record_is_believed_when_the_stream_is_known_again() {
    for (created, says) in [(CREATED, Says::Done), (CREATED + 1, Says::NotYet)] {
        let mut lane = lane().await;
        assert_eq!(lane.shared.record_facts(7, CREATED).says, Says::Done);
        let now = clock::now();
        // The count begins anew.
        assert_eq!(lane.arrives(&delivery(6, CREATED, 9, now), now), Arrival::New);
        assert!(is_fresh(&lane));
        assert_eq!(lane.arrives(&delivery(7, CREATED, 1, now), now), Arrival::New);
        assert!(!is_fresh(&lane));
        let facts = lane.shared.record_facts(7, CREATED);
        assert_eq!((facts.says, facts.version), (Says::NotYet, Some(0)), "it may be another stream's");
        let question = lane.stream_question(now).unwrap();
        lane.stream_answered(question, Ok(stream(created)));
        assert_eq!(lane.shared.record_facts(7, CREATED).says, says);
        assert_eq!(lane.shared.identity.stream_created.load(Ordering::Relaxed), created);
        assert!(is_fresh(&lane));
    }
}

#[tokio::test]
async fn a_sequence_that_comes_with_another_time_is_a_sign_too() {
    let mut lane = lane().await;
    let now = clock::now();
    lane.in_hand.taken(7, 1);
    assert_eq!(lane.arrives(&delivery(7, 1, 1, now), now), Arrival::Copy);
    assert!(is_fresh(&lane));
    let before = delivery(8, 1, 2, now);
    assert!(!lane.has_forgotten(&before));
    assert_eq!(lane.arrives(&delivery(7, 2, 3, now), now), Arrival::Displacing);
    assert!(!is_fresh(&lane));
    assert_eq!(lane.shared.alerts.borrow().forgotten, 1, "what is in hand hears of it");
    assert!(lane.has_forgotten(&before), "a nak of it may concern another's");
    assert!(!lane.has_forgotten(&delivery(8, 1, 2, clock::now())));
}

/// Of several in one batch each displaces its own, and none of those that came before it.
#[tokio::test]
async fn what_a_sequence_given_again_displaces_is_forgotten_and_no_more() {
    let mut lane = lane().await;
    let now = clock::now();
    let displaced = |lane: &Lane, sequence, stored| lane.shared.alerts.borrow().displaced.has(sequence, stored);
    for sequence in [7, 8] {
        lane.in_hand.taken(sequence, 1);
        assert_eq!(lane.arrives(&delivery(sequence, 2, sequence, now), now), Arrival::Displacing);
        lane.in_hand.taken(sequence, 2);
        assert!(displaced(&lane, sequence, 1) && !displaced(&lane, sequence, 2));
    }
    assert_eq!(lane.shared.alerts.borrow().forgotten, 1, "the second tells nothing new of the others");
    assert!(!displaced(&lane, 7, 2) && !displaced(&lane, 9, 1));
    // The newer one goes back and comes again, and the older one comes late by another connection.
    lane.in_hand_ended(7, 2);
    assert_eq!(lane.arrives(&delivery(7, 2, 9, clock::now()), now), Arrival::Known);
    assert_eq!(lane.shared.alerts.borrow().forgotten, 1, "that was known");
    lane.in_hand.taken(7, 2);
    lane.in_hand_ended(7, 1);
    for late in
        [Delivery { epoch: 0, ..delivery(7, 1, 9, now) }, Delivery { above_credit: true, ..delivery(7, 1, 1, now) }]
    {
        assert_eq!(lane.arrives(&late, now), Arrival::Displaced, "by an older connection, by a pull that is over");
    }
    assert!(!displaced(&lane, 7, 2));
    lane.in_hand.taken(7, 1);
    lane.in_hand_ended(7, 1);
    assert!(displaced(&lane, 7, 1), "the newer one is in hand");
    lane.in_hand_ended(7, 2);
    assert!(!displaced(&lane, 7, 1), "nobody is left who would have to know");
    assert!(displaced(&lane, 8, 1));
}

#[tokio::test]
async fn nothing_is_handed_out_while_the_stream_is_not_known() {
    let mut lane = lane().await;
    assert_eq!(lane.shared.standing(), Standing::Stands);
    let now = clock::now();
    lane.forgotten(now);
    assert_eq!(lane.shared.standing(), Standing::StreamUnknown);
    let question = lane.stream_question(now).unwrap();
    lane.stream_answered(question, Err(crate::jetstream::ManageError::StreamMissing { stream: "S".into() }));
    assert_eq!(lane.shared.standing(), Standing::StreamUnknown);
    assert!(lane.stream_unread.as_ref().unwrap().why.contains("cannot be read"));
    lane.stream_answered(question, Ok(stream(CREATED + 1)));
    assert_eq!(lane.shared.standing(), Standing::Settling, "another stream, whose record comes first");
    assert!(lane.stream_unread.is_none());
    lane.forgotten(now);
    let question = lane.stream_question(now).unwrap();
    lane.stream_answered(question, Ok(stream(CREATED)));
    assert_eq!(lane.shared.standing(), Standing::Stands);
}

#[tokio::test]
async fn what_an_older_pull_brings_is_not_tried_where_the_target_refuses() {
    let mut lane = lane().await;
    let mut crew = Crew::new("message", 16);
    let now = clock::now();
    let block = |after| Some(LocalBlock::new(Reason::ApiThrottled, String::new(), Some(after), now));
    lane.block = block(Duration::from_secs(60));
    lane.delivered(delivery(8, 1, 2, now), &mut crew, now);
    assert_eq!(lane.credits.busy(), 0, "it goes back");
    lane.block = block(Duration::ZERO);
    lane.delivered(delivery(9, 1, 3, now), &mut crew, now);
    assert_eq!(lane.credits.busy(), 1, "one is tried");
    lane.delivered(delivery(10, 1, 4, now), &mut crew, now);
    assert_eq!(lane.credits.busy(), 1, "one at a time");
    crew.abort().await;
}

#[tokio::test]
async fn a_stream_that_does_not_answer_is_asked_again_after_a_pause() {
    let mut lane = lane().await;
    let now = clock::now();
    lane.forgotten(now);
    let question = lane.stream_question(now).unwrap();
    lane.stream_answered(question, Err(crate::jetstream::ManageError::StreamMissing { stream: "S".into() }));
    assert_eq!(lane.stream_question(now), None, "not at once");
    let at = lane.asks_stream_at().unwrap();
    assert!(lane.wake_at(now) <= at);
    assert_eq!(lane.stream_question(at), Some(question));
}

#[tokio::test]
async fn what_comes_of_a_pull_is_heard() {
    let mut lane = lane().await;
    let mut crew = Crew::new("message", 1);
    let now = clock::now();
    lane.pulled(PullEvent::AllDead { credits: 1, why: PullEnd::Denied("no right".to_owned()) }, &mut crew);
    assert!(lane.pulls.are_denied(now));
    assert!(lane.pull_not_before.is_some(), "not again at once");
    let late = Delivery { above_credit: true, ..delivery(1, 1, 1, now) };
    lane.heard_of_a_pull(&PullEvent::Message(late), now);
    assert!(lane.pulls.are_denied(now), "by a pull that is over");
    lane.pulled(PullEvent::GivenBack(1), &mut crew);
    let served = |lane: &Lane| !lane.pulls.are_denied(now) && !lane.pulls.are_hindered_by(Trouble::Denied, now);
    assert!(served(&lane));
    // Nothing was out when the connection was lost, or something was: neither says that pulls are not served.
    for (credits, why) in [(0, PullEnd::ConnectionChanged), (0, PullEnd::Silent), (2, PullEnd::ConnectionChanged)] {
        lane.heard_of_a_pull(&PullEvent::AllDead { credits, why }, now);
        assert!(served(&lane));
    }
    lane.heard_of_a_pull(&PullEvent::AllDead { credits: 1, why: PullEnd::ConsumerDeleted }, now);
    assert!(!lane.pulls.are_denied(now) && lane.pulls.are_hindered_by(Trouble::Denied, now));
}
