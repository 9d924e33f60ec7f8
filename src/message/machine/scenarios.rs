//! One scenario for each rule, by name.

use std::time::{Duration, Instant};

use super::*;
use crate::message::{Answer, HolderId, RefusedWhat, Says, retry};

const P: Duration = Duration::from_secs(10);
const NUMBER: u64 = 7;

/// A machine, its facts and its time.
struct Bench {
    machine: Machine,
    facts: Facts,
    now: Instant,
}

fn id() -> MessageId {
    MessageId {
        namespace: "team".into(),
        sensor: "orders".into(),
        trigger: "create".into(),
        stream: "EVENTS".into(),
        sequence: 42,
        store_time_ns: 1_790_000_000_000_000_001,
    }
}

fn credit() -> CreditId {
    CreditId { holder: HolderId::new("pod-1.x"), number: NUMBER }
}

fn terms() -> Terms {
    Terms { create_timeout: P, ack_wait: Duration::from_secs(30), on_doubt: OnDoubt::Create }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Bench {
    fn build(change: impl FnOnce(&mut Handed, &mut Terms, &mut Facts, Instant)) -> Self {
        #[allow(clippy::disallowed_methods)] // Any instant serves as the first.
        let now = Instant::now();
        let mut handed = Handed {
            delivered: 1,
            pull_sent: now,
            connection: 3,
            fresh: true,
            not_before: None,
            effect: Effect::Object,
        };
        let mut facts = Facts {
            record: Says::NotYet,
            record_version: Some(100),
            in_doubt: false,
            lease_until: Some(now + secs(3_600)),
            connected: true,
            connection: 3,
            forgetful: 1,
            contradicted: false,
        };
        let mut terms = terms();
        change(&mut handed, &mut terms, &mut facts, now);
        Self { machine: Machine::new(id(), credit(), terms, handed, now), facts, now }
    }

    fn fresh() -> Self {
        Self::build(|_, _, _, _| {})
    }

    fn redelivered() -> Self {
        Self::build(|handed, _, _, _| (handed.fresh, handed.delivered) = (false, 2))
    }

    fn on(&mut self, event: Event) -> Actions {
        self.machine.step(event, &self.facts, self.now)
    }

    fn later(&mut self, wait: Duration, event: Event) -> Actions {
        self.now += wait;
        self.on(event)
    }

    /// Ticks at the deadline.
    fn wait(&mut self) -> Actions {
        self.now = self.machine.deadline().expect("it waits for an answer, not for time");
        self.on(Event::Tick)
    }

    /// Waits, and answers each in-progress on the way, until something else happens.
    fn wait_alive(&mut self) -> Actions {
        for _ in 0..1_000 {
            let actions = self.wait();
            if actions != [Action::Progress] {
                return actions;
            }
            assert_eq!(self.on(Event::ProgressConfirmed), []);
        }
        panic!("nothing but in-progress");
    }

    /// Up to a create under way.
    fn created_is_ordered(mut self) -> Self {
        assert_eq!(self.on(Event::Start), [Action::Render]);
        let create = self.create();
        assert_eq!(self.on(Event::Rendered(Ok(()))), create);
        self
    }

    fn create(&self) -> Actions {
        vec![Action::Create { send_by: self.now + P / 2 }]
    }

    fn outcome(&self) -> Outcome {
        assert_eq!(self.machine.deadline(), None);
        assert!(!self.machine.number_is_open());
        self.machine.outcome().expect("not finished")
    }

    fn naks_for(mut self, why: Why) {
        assert_eq!(self.on(Event::Acked(Confirmed::Yes)), [Action::Finish(Outcome::Again(why))]);
        assert_eq!(self.outcome(), Outcome::Again(why));
    }
}

fn mine() -> Event {
    Event::Looked(Looked::Found(Found { message: Some(id().annotation()), credit: Some(credit().annotation()) }))
}

fn others() -> Event {
    Event::Looked(Looked::Found(Found { message: Some(id().annotation()), credit: Some("pod-2.y/1".into()) }))
}

fn absent() -> Event {
    Event::Looked(Looked::Absent)
}

fn full() -> QuotaRefusal {
    QuotaRefusal { quota: "q".into(), ..QuotaRefusal::default() }
}

fn short(delivered: u64) -> Action {
    Action::Nak(retry::short(delivered, id().seed()))
}

fn growing(delivered: u64) -> Action {
    Action::Nak(retry::delay(delivered, id().seed()))
}

fn refused(delivered: u64) -> Action {
    Action::Nak(retry::refused(delivered, id().seed()))
}

const MADE: Action = Action::Made(NUMBER);
const RETURN: Action = Action::Return(NUMBER);

// ---- 1, 2: record and redelivery ----

#[test]
fn a_fresh_message_is_created_and_acked() {
    let mut bench = Bench::fresh().created_is_ordered();
    assert_eq!(bench.on(Event::Created), [MADE, Action::Ack]);
    assert_eq!(bench.on(Event::Acked(Confirmed::Yes)), [Action::Finish(Outcome::Done(How::Made))]);
    assert_eq!(bench.outcome(), Outcome::Done(How::Made));
}

#[test]
fn what_the_record_knows_is_acked_without_effect() {
    for fresh in [true, false] {
        let mut bench = Bench::build(|handed, _, facts, _| (handed.fresh, facts.record) = (fresh, Says::Done));
        assert_eq!(bench.on(Event::Start), [RETURN, Action::Ack]);
        bench.on(Event::Acked(Confirmed::Yes));
        assert_eq!(bench.outcome(), Outcome::Done(How::Recorded));
    }
}

#[test]
fn the_record_is_asked_again_right_before_the_create() {
    let mut bench = Bench::fresh();
    bench.on(Event::Start);
    bench.facts.record = Says::Done;
    assert_eq!(bench.on(Event::Rendered(Ok(()))), [RETURN, Action::Ack]);
}

#[test]
fn a_redelivery_is_looked_up_first() {
    let mut bench = Bench::redelivered();
    assert_eq!(bench.on(Event::Start), [Action::Lookup]);
    assert_eq!(bench.on(others()), [RETURN, Action::Ack]);
    let mut bench = Bench::redelivered();
    bench.on(Event::Start);
    assert_eq!(bench.on(mine()), [MADE, Action::Ack]);
    bench.on(Event::Acked(Confirmed::Yes));
    assert_eq!(bench.outcome(), Outcome::Done(How::Found));
}

#[test]
fn a_lookup_waits_until_older_creates_are_dead() {
    let mut bench = Bench::build(|handed, _, _, now| (handed.fresh, handed.not_before) = (false, Some(now + secs(4))));
    assert_eq!(bench.on(Event::Start), []);
    assert_eq!(bench.machine.deadline(), Some(bench.now + secs(4)));
    assert_eq!(bench.later(ms(3_999), Event::Tick), []);
    assert_eq!(bench.later(ms(1), Event::Tick), [Action::Lookup]);
}

#[test]
fn an_absent_object_is_created_only_when_the_record_has_looked_that_far() {
    let mut bench = Bench::redelivered();
    bench.on(Event::Start);
    assert_eq!(bench.on(absent()), [Action::ReadVersion]);
    assert_eq!(bench.on(Event::Version(Some(105))), []);
    bench.facts.record_version = Some(104);
    assert_eq!(bench.later(ms(50), Event::Tick), []);
    bench.facts.record_version = Some(105);
    assert_eq!(bench.later(ms(50), Event::Tick), [Action::Render]);
    assert_eq!(bench.on(Event::Rendered(Ok(()))), bench.create());
}

#[test]
fn an_object_that_came_and_went_is_told_by_the_record() {
    let mut bench = Bench::redelivered();
    bench.on(Event::Start);
    bench.on(absent());
    bench.on(Event::Version(Some(105)));
    (bench.facts.record_version, bench.facts.record) = (Some(105), Says::Done);
    assert_eq!(bench.on(Event::Tick), [RETURN, Action::Ack]);
}

#[test]
fn a_record_that_lags_sends_the_message_back() {
    let mut bench = Bench::redelivered();
    bench.on(Event::Start);
    bench.on(absent());
    bench.on(Event::Version(Some(105)));
    let begun = bench.now;
    assert_eq!(bench.wait_alive(), [RETURN, short(2)]);
    assert_eq!(bench.now, begun + secs(2));
    bench.naks_for(Why::RecordBehind);
}

#[test]
fn in_doubt_on_doubt_decides() {
    let mut bench = Bench::build(|handed, _, facts, _| (handed.fresh, facts.in_doubt) = (false, true));
    bench.on(Event::Start);
    bench.on(absent());
    assert_eq!(bench.on(Event::Version(Some(100))), [Action::Render]);
    let mut want = vec![Action::Count(Noted::PossibleDuplicate)];
    want.extend(bench.create());
    assert_eq!(bench.on(Event::Rendered(Ok(()))), want);

    let mut bench = Bench::build(|handed, terms, facts, _| {
        (handed.fresh, facts.in_doubt, terms.on_doubt) = (false, true, OnDoubt::Dead);
    });
    bench.on(Event::Start);
    bench.on(absent());
    let actions = bench.on(Event::Version(Some(100)));
    assert!(matches!(&actions[..], [RETURN, Action::PublishDead { reason: DeadReason::InDoubt, .. }]), "{actions:?}");
}

#[test]
fn without_a_record_a_lookup_is_all_the_proof() {
    let mut bench = Bench::build(|handed, _, facts, _| (handed.fresh, facts.record_version) = (false, None));
    bench.on(Event::Start);
    assert_eq!(bench.on(absent()), [Action::Render]);
    assert_eq!(bench.on(Event::Rendered(Ok(())))[0], Action::Count(Noted::PossibleDuplicate));
}

#[test]
fn a_foreign_object_of_our_name_makes_a_dead_letter() {
    for message in [None, Some("team/orders/create/EVENTS/43/1".to_owned())] {
        let mut bench = Bench::redelivered();
        bench.on(Event::Start);
        let found = Found { message, credit: Some(credit().annotation()) };
        let actions = bench.on(Event::Looked(Looked::Found(found)));
        assert!(matches!(&actions[..], [RETURN, Action::PublishDead { reason: DeadReason::ForeignObject, .. }]));
    }
}

#[test]
fn failing_lookups_send_the_message_back() {
    let mut bench = Bench::redelivered();
    bench.on(Event::Start);
    for _ in 0..2 {
        assert_eq!(bench.on(Event::Looked(Looked::Failed)), []);
        assert_eq!(bench.wait_alive(), [Action::Lookup]);
    }
    assert_eq!(bench.on(Event::Looked(Looked::Failed)), [RETURN, growing(2)]);
    bench.naks_for(Why::LookupFailed);

    let mut bench = Bench::redelivered();
    bench.on(Event::Start);
    bench.on(absent());
    for _ in 0..2 {
        assert_eq!(bench.on(Event::Version(None)), []);
        assert_eq!(bench.wait_alive(), [Action::ReadVersion]);
    }
    assert_eq!(bench.on(Event::Version(None)), [RETURN, growing(2)]);
}

// ---- 3: right before the create ----

#[test]
fn no_create_without_a_lease() {
    for lease in [None, Some(0)] {
        let mut bench = Bench::fresh();
        bench.on(Event::Start);
        bench.facts.lease_until = lease.map(|n| bench.now + secs(n));
        assert_eq!(bench.on(Event::Rendered(Ok(()))), [RETURN, short(1)]);
        bench.naks_for(Why::LeaseOver);
    }
}

#[test]
fn a_create_needs_time_before_the_server_gives_the_message_to_another() {
    // 20 s after the pull there are 10 s left: just enough. A millisecond later there are not.
    for (age, enough) in [(20_000, true), (20_001, false)] {
        let mut bench = Bench::build(|handed, _, _, now| handed.pull_sent = now - ms(age));
        // In progress is due too, and its answer is still out.
        assert_eq!(bench.on(Event::Start), [Action::Render, Action::Progress]);
        let actions = bench.on(Event::Rendered(Ok(())));
        assert_eq!(actions, if enough { bench.create() } else { vec![] });
        if !enough {
            assert_eq!(bench.later(ms(5), Event::ProgressConfirmed), bench.create());
        }
    }
}

#[test]
fn without_confirmed_progress_there_is_no_create() {
    let mut bench = Bench::build(|handed, _, _, now| handed.pull_sent = now - ms(20_001));
    bench.on(Event::Start);
    bench.on(Event::Rendered(Ok(())));
    assert_eq!(bench.on(Event::ProgressFailed), [RETURN, short(1)]);
    bench.naks_for(Why::HoldOver);
}

#[test]
fn an_ack_wait_that_has_no_time_for_a_create_does_not_spin() {
    let mut bench = Bench::build(|_, terms, _, _| terms.ack_wait = secs(5));
    bench.on(Event::Start);
    assert_eq!(bench.on(Event::Rendered(Ok(()))), [Action::Progress]);
    assert_eq!(bench.later(ms(1), Event::ProgressConfirmed), [Action::Progress]);
    assert_eq!(bench.later(ms(1), Event::ProgressConfirmed), [Action::Progress]);
    assert_eq!(bench.later(ms(1), Event::ProgressConfirmed), [RETURN, short(1)]);
}

#[test]
fn no_create_on_another_connection() {
    let mut bench = Bench::fresh();
    bench.on(Event::Start);
    bench.facts.connection = 4;
    // The server is the same and remembers: the nak concerns our own delivery.
    assert_eq!(bench.on(Event::Rendered(Ok(()))), [RETURN, short(1)]);
    bench.naks_for(Why::ConnectionLost);
}

#[test]
fn a_nak_waits_for_the_connection_and_is_not_sent_to_a_server_that_forgot() {
    for (forgetful, naked) in [(1, true), (4, false)] {
        let mut bench = Bench::fresh();
        bench.on(Event::Start);
        bench.facts.connected = false;
        assert_eq!(bench.on(Event::ConnectionLost), [], "the template is under way");
        assert_eq!(bench.on(Event::Rendered(Ok(()))), [RETURN]);
        assert_eq!(bench.later(secs(2), Event::Tick), []);
        (bench.facts.connected, bench.facts.connection, bench.facts.forgetful) = (true, 4, forgetful);
        if naked {
            assert_eq!(bench.on(Event::Tick), [short(1)]);
            bench.naks_for(Why::ConnectionLost);
        } else {
            assert_eq!(bench.on(Event::Tick), [Action::Finish(Outcome::Abandoned(Why::ConnectionLost))]);
        }
    }
}

#[test]
fn a_nak_is_not_sent_when_the_message_may_be_anothers() {
    let mut bench = Bench::fresh();
    bench.on(Event::Start);
    bench.facts.connected = false;
    bench.on(Event::Rendered(Ok(())));
    // A tenth of ack_wait is left for the way.
    assert_eq!(bench.machine.deadline(), Some(bench.now + secs(27)));
    assert_eq!(bench.wait(), [Action::Finish(Outcome::Abandoned(Why::ConnectionLost))]);
}

#[test]
fn a_create_that_was_not_sent_is_checked_again() {
    let mut bench = Bench::fresh().created_is_ordered();
    for _ in 0..2 {
        bench.now += secs(4);
        let create = bench.create();
        assert_eq!(bench.on(Event::NotSent), create);
    }
    assert_eq!(bench.on(Event::NotSent), [RETURN, short(1)]);
    bench.naks_for(Why::NotSent);
}

// ---- 4, 5: answers ----

#[test]
fn a_taken_name_is_looked_up() {
    let taken = || Event::Refused(Answer::AlreadyExists);
    let mut bench = Bench::fresh().created_is_ordered();
    assert_eq!(bench.on(taken()), [Action::Lookup]);
    assert_eq!(bench.on(others()), [RETURN, Action::Ack]);

    let mut bench = Bench::fresh().created_is_ordered();
    bench.on(taken());
    assert_eq!(bench.on(absent()), [Action::ReadVersion], "gone again: the record has to say so");
    bench.on(Event::Version(Some(101)));
    (bench.facts.record, bench.facts.record_version) = (Says::Done, Some(101));
    assert_eq!(bench.on(Event::Tick), [RETURN, Action::Ack]);

    let mut bench = Bench::fresh().created_is_ordered();
    bench.on(taken());
    bench.on(absent());
    assert_eq!(bench.on(Event::Version(Some(100))), bench.create());
}

#[test]
fn a_full_quota_returns_the_number_and_blocks() {
    let mut bench = Bench::fresh().created_is_ordered();
    assert_eq!(
        bench.on(Event::Refused(Answer::QuotaExceeded(full()))),
        [RETURN, Action::Block(Block::QuotaRefused(full())), refused(1)]
    );
    bench.naks_for(Why::QuotaRefused);
}

#[test]
fn a_refusal_that_contradicts_the_view_is_tried_again_for_100_ms() {
    let mut bench = Bench::build(|_, _, facts, _| facts.contradicted = true).created_is_ordered();
    let first = bench.now;
    for _ in 0..3 {
        assert_eq!(bench.on(Event::Refused(Answer::QuotaExceeded(full()))), [Action::Count(Noted::RefusalRetried)]);
        let from = bench.now;
        assert_eq!(bench.wait(), [Action::Lookup]);
        assert!((10..=25).contains(&(bench.now - from).as_millis()));
        let create = bench.create();
        assert_eq!(bench.on(absent()), create, "the number is kept");
    }
    bench.now = first + ms(100);
    assert_eq!(
        bench.on(Event::Refused(Answer::QuotaExceeded(full()))),
        [RETURN, Action::Block(Block::QuotaRefused(full())), refused(1)]
    );
}

#[test]
fn a_slow_lookup_ends_the_contradiction() {
    let mut bench = Bench::build(|_, _, facts, _| facts.contradicted = true).created_is_ordered();
    bench.on(Event::Refused(Answer::QuotaExceeded(full())));
    bench.wait();
    assert_eq!(bench.later(ms(200), absent()), [RETURN, Action::Block(Block::QuotaRefused(full())), refused(1)]);
}

#[test]
fn a_refusal_may_hide_an_object() {
    let mut bench = Bench::build(|_, _, facts, _| facts.contradicted = true).created_is_ordered();
    bench.on(Event::Refused(Answer::QuotaExceeded(full())));
    bench.wait();
    assert_eq!(bench.on(others()), [RETURN, Action::Ack]);
}

#[test]
fn a_lost_race_for_the_quota_is_looked_up_and_tried_again() {
    let mut bench = Bench::fresh().created_is_ordered();
    for _ in 0..5 {
        assert_eq!(bench.on(Event::Refused(Answer::QuotaConflict)), [Action::Count(Noted::ConflictRetried)]);
        assert_eq!(bench.wait(), [Action::Lookup]);
        let create = bench.create();
        assert_eq!(bench.on(absent()), create);
    }
    assert_eq!(bench.on(Event::Refused(Answer::QuotaConflict)), [RETURN, refused(1)]);
    bench.naks_for(Why::Conflict);
}

#[test]
fn what_is_refused_whatever_the_message_blocks_and_buries_nothing() {
    let text = || "no".to_owned();
    let unknown = || Block::StatusUnknown { quota: "q".into(), resources: vec!["r".into()] };
    let rights = || Block::TargetRefused { what: RefusedWhat::Rights, text: text() };
    let cases = [
        (Answer::NeverFits(full()), Some(Block::NeverFits(full())), growing(1), Why::NeverFits),
        (
            Answer::StatusUnknown { quota: "q".into(), resources: vec!["r".into()] },
            Some(unknown()),
            refused(1),
            Why::StatusUnknown,
        ),
        (
            Answer::TargetRefused { what: RefusedWhat::Rights, text: text() },
            Some(rights()),
            growing(1),
            Why::TargetRefused,
        ),
        (Answer::Unauthorized, Some(Block::Unauthorized), growing(1), Why::Unauthorized),
        (Answer::Again { text: text() }, None, growing(1), Why::Refused),
    ];
    for (answer, block, nak, why) in cases {
        let mut bench = Bench::fresh().created_is_ordered();
        let mut want = vec![RETURN];
        want.extend(block.map(Action::Block));
        want.push(nak);
        assert_eq!(bench.on(Event::Refused(answer)), want);
        bench.naks_for(why);
    }
}

#[test]
fn poison_is_terminated_only_after_its_dead_letter_is_stored() {
    let mut bench = Bench::fresh().created_is_ordered();
    let dead = || Action::PublishDead { reason: DeadReason::InvalidObject, text: "bad".into() };
    let poison = Answer::Poison(DeadReason::InvalidObject, "bad".into());
    assert_eq!(bench.on(Event::Refused(poison)), [RETURN, dead()]);
    assert_eq!(bench.on(Event::DeadStored(Confirmed::No)), []);
    assert_eq!(bench.wait_alive(), [dead()]);
    assert_eq!(bench.on(Event::DeadStored(Confirmed::Yes)), [Action::Term(DeadReason::InvalidObject)]);
    bench.on(Event::Acked(Confirmed::Yes));
    assert_eq!(bench.outcome(), Outcome::Dead(DeadReason::InvalidObject));
}

#[test]
fn a_dead_letter_that_cannot_be_stored_sends_the_message_back() {
    let mut bench = Bench::fresh();
    bench.on(Event::Start);
    let poison = Event::Rendered(Err((DeadReason::Template, "no such field".into())));
    assert!(matches!(&bench.on(poison)[..], [RETURN, Action::PublishDead { .. }]));
    for _ in 0..4 {
        assert_eq!(bench.on(Event::DeadStored(Confirmed::No)), []);
        assert!(matches!(&bench.wait_alive()[..], [Action::PublishDead { .. }]));
    }
    assert_eq!(bench.on(Event::DeadStored(Confirmed::No)), [growing(1)]);
    bench.naks_for(Why::DeadLetterFailed);
}

// ---- 6: no definite answer ----

#[test]
fn a_create_without_an_answer_is_looked_up_after_p() {
    let doubts = [
        (Event::NoAnswer, None),
        (Event::Refused(Answer::Unknown { text: "504".into() }), None),
        (Event::Refused(Answer::Throttled { after: None }), Some(Block::Throttled { after: None })),
    ];
    for (doubt, block) in doubts {
        let mut bench = Bench::fresh().created_is_ordered();
        let ordered = bench.now;
        let want: Actions = block.map(Action::Block).into_iter().collect();
        assert_eq!(bench.later(secs(5), doubt), want, "the number stays open");
        assert_eq!(bench.wait(), [Action::Lookup, Action::Progress]);
        assert_eq!(bench.now, ordered + P);
        assert_eq!(bench.on(mine()), [MADE, Action::Ack]);
    }
}

#[test]
fn a_create_that_made_nothing_is_made_again_by_the_rule_of_the_record() {
    let mut bench = Bench::fresh().created_is_ordered();
    bench.on(Event::NoAnswer);
    bench.wait();
    bench.on(Event::ProgressConfirmed);
    assert_eq!(bench.on(absent()), [Action::ReadVersion], "it may have come and gone");
    assert_eq!(bench.on(Event::Version(Some(101))), []);
    bench.facts.record_version = Some(101);
    assert_eq!(bench.on(Event::Tick), bench.create(), "with the same number");
    assert_eq!(bench.on(Event::Created), [MADE, Action::Ack]);
}

#[test]
fn the_number_is_resolved_also_when_the_message_is_lost() {
    let mut bench = Bench::fresh().created_is_ordered();
    bench.on(Event::NoAnswer);
    (bench.facts.connected, bench.facts.connection) = (false, 4);
    assert_eq!(bench.on(Event::ConnectionLost), []);
    assert_eq!(bench.wait(), [Action::Lookup], "and no in-progress");
    // Looking fails for far longer than ack_wait, and is never given up.
    for _ in 0..50 {
        assert_eq!(bench.on(Event::Looked(Looked::Failed)), []);
        assert_eq!(bench.wait(), [Action::Lookup]);
    }
    assert!(bench.machine.number_is_open());
    let ends = [RETURN, Action::Finish(Outcome::Abandoned(Why::ConnectionLost))];
    assert_eq!(bench.clone_for(absent()), ends);
    assert_eq!(bench.on(mine()), [MADE, Action::Ack], "an ack may be late");
}

impl Bench {
    fn clone_for(&self, event: Event) -> Actions {
        self.machine.clone().step(event, &self.facts, self.now)
    }
}

#[test]
fn in_progress_is_sent_at_a_third_of_ack_wait() {
    let mut bench = Bench::fresh().created_is_ordered();
    assert_eq!(bench.machine.deadline(), Some(bench.now + secs(10)));
    assert_eq!(bench.wait(), [Action::Progress], "beside the create");
    assert_eq!(bench.machine.deadline(), None, "one at a time");
    bench.later(secs(1), Event::ProgressConfirmed);
    assert_eq!(bench.machine.deadline(), Some(bench.now + secs(9)));
    assert_eq!(bench.wait(), [Action::Progress]);
    assert_eq!(bench.later(secs(1), Event::ProgressFailed), []);
    assert_eq!(bench.machine.deadline(), Some(bench.now + ms(2_500)), "sooner after a failure");
}

#[test]
fn a_late_confirmation_does_not_restore_the_hold() {
    let mut bench = Bench::redelivered();
    bench.on(Event::Start);
    assert_eq!(bench.wait(), [Action::Progress]);
    bench.later(secs(21), Event::ProgressConfirmed);
    assert_eq!(bench.on(absent()), [RETURN, Action::Finish(Outcome::Abandoned(Why::HoldOver))]);
}

// ---- 7, 8: ends from outside ----

#[test]
fn lease_holder_and_shutdown_end_what_was_not_created() {
    for (event, why) in
        [(Event::LeaseOver, Why::LeaseOver), (Event::HolderDead, Why::HolderDead), (Event::Shutdown, Why::Shutdown)]
    {
        // Under way: answered first.
        let mut bench = Bench::fresh();
        bench.on(Event::Start);
        assert_eq!(bench.on(event.clone()), []);
        assert_eq!(bench.on(Event::Rendered(Ok(()))), [RETURN, short(1)]);
        bench.naks_for(why);
        // Waiting: at once.
        let mut bench = Bench::redelivered();
        bench.on(Event::Start);
        bench.on(absent());
        bench.on(Event::Version(Some(105)));
        assert_eq!(bench.on(event.clone()), [RETURN, short(2)]);
        bench.naks_for(why);
        // Before the start.
        let mut bench = Bench::fresh();
        assert_eq!(bench.on(event), []);
        assert_eq!(bench.on(Event::Start), [RETURN, short(1)]);
    }
}

#[test]
fn a_create_under_way_is_finished_and_one_in_doubt_resolved_but_not_repeated() {
    for event in [Event::LeaseOver, Event::HolderDead, Event::Shutdown] {
        let mut bench = Bench::fresh().created_is_ordered();
        assert_eq!(bench.on(event.clone()), []);
        assert_eq!(bench.on(Event::Created), [MADE, Action::Ack]);

        let mut bench = Bench::fresh().created_is_ordered();
        bench.on(Event::NoAnswer);
        assert_eq!(bench.on(event), []);
        assert_eq!(bench.wait(), [Action::Lookup, Action::Progress]);
        assert_eq!(bench.on(absent()), [RETURN, short(1)]);
    }
}

#[test]
fn a_dead_letter_is_not_retried_in_a_shutdown() {
    let mut bench = Bench::fresh();
    bench.on(Event::Start);
    bench.on(Event::Rendered(Err((DeadReason::Payload, "no".into()))));
    bench.on(Event::DeadStored(Confirmed::No));
    assert_eq!(bench.on(Event::Shutdown), [short(1)]);
}

// ---- 9, 10: ack and nak ----

#[test]
fn an_ack_is_tried_again_while_the_message_is_ours() {
    let mut bench = Bench::fresh().created_is_ordered();
    bench.on(Event::Created);
    for _ in 0..7 {
        assert_eq!(bench.on(Event::Acked(Confirmed::No)), []);
        assert_eq!(bench.wait(), [Action::Ack]);
    }
    assert_eq!(bench.on(Event::Acked(Confirmed::No)), [Action::Finish(Outcome::AckUnconfirmed(How::Made))]);
}

#[test]
fn an_ack_waits_for_the_connection() {
    let mut bench = Bench::fresh().created_is_ordered();
    bench.on(Event::Created);
    bench.facts.connected = false;
    bench.on(Event::ConnectionLost);
    bench.on(Event::Acked(Confirmed::No));
    assert_eq!(bench.later(secs(9), Event::Tick), []);
    (bench.facts.connected, bench.facts.connection) = (true, 4);
    assert_eq!(bench.on(Event::Tick), [Action::Ack], "the old reply serves on a new connection");
    bench.facts.connected = false;
    bench.on(Event::Acked(Confirmed::No));
    assert_eq!(bench.wait(), [Action::Finish(Outcome::AckUnconfirmed(How::Made))]);
}

#[test]
fn a_nak_is_tried_twice() {
    let mut bench = Bench::build(|_, _, facts, _| facts.lease_until = None);
    assert_eq!(bench.on(Event::Start), [RETURN, short(1)]);
    assert_eq!(bench.on(Event::Acked(Confirmed::No)), [short(1)]);
    assert_eq!(bench.on(Event::Acked(Confirmed::No)), [Action::Finish(Outcome::Abandoned(Why::LeaseOver))]);
}

#[test]
fn a_local_effect_needs_no_lookup_and_leaves_no_doubt() {
    let local = |fresh| {
        Bench::build(move |handed, _, _, now| {
            (handed.fresh, handed.effect, handed.not_before) = (fresh, Effect::Instant, Some(now + secs(5)));
        })
        .created_is_ordered()
    };
    assert_eq!(local(false).on(Event::Created), [MADE, Action::Ack]);
    assert_eq!(local(true).on(Event::NoAnswer), [RETURN, growing(1)]);
    assert_eq!(local(true).on(Event::Refused(Answer::AlreadyExists)), [RETURN, growing(1)]);
}
