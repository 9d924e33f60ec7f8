//! From the delivery to the create.

use super::*;

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

// ---- a place among the creates ----

#[test]
fn a_message_that_waits_for_a_place_is_kept_alive() {
    let mut bench = Bench::fresh();
    bench.places = false;
    bench.on(Event::Start);
    assert_eq!(bench.on(Event::Rendered(Ok(()))), [Action::Place]);
    // Far longer than the server would wait for a sign.
    for _ in 0..20 {
        assert_eq!(bench.wait(), [Action::Progress]);
        assert_eq!(bench.on(Event::ProgressConfirmed), []);
    }
    let create = bench.create();
    assert_eq!(bench.on(Event::Placed), create, "checked and sent by the time at which the place came");
    assert_eq!(bench.on(Event::Created), [MADE, Action::Ack]);
}

#[test]
fn who_waits_for_a_place_hears_what_ends_it() {
    let waiting = || {
        let mut bench = Bench::fresh();
        bench.places = false;
        bench.on(Event::Start);
        bench.on(Event::Rendered(Ok(())));
        assert!(bench.machine.wants_place());
        bench
    };
    for (event, why) in [(Event::HolderDead, Why::HolderDead), (Event::Shutdown, Why::Shutdown)] {
        let mut bench = waiting();
        assert_eq!(bench.on(event), [RETURN, short(1)], "no POST was sent, so the number may go back");
        assert!(!bench.machine.wants_place());
        assert_eq!(bench.on(Event::Placed), []);
        bench.naks_for(why);
    }
    let mut bench = waiting();
    bench.facts.lease_until = None;
    assert_eq!(bench.on(Event::Placed), [RETURN, short(1)], "a place is no lease");
    bench.naks_for(Why::LeaseOver);
    let mut bench = waiting();
    bench.facts.record = Says::Done;
    assert_eq!(bench.on(Event::Placed), [RETURN, Action::Ack]);
}

#[test]
fn every_create_asks_for_a_place_of_its_own() {
    let mut bench = Bench::fresh().created_is_ordered();
    bench.places = false;
    bench.on(Event::Refused(Answer::Throttled { after: None }));
    bench.wait();
    bench.on(Event::ProgressConfirmed);
    bench.on(absent());
    assert_eq!(bench.on(Event::Version(Some(100))), [Action::Place]);
    let create = bench.create();
    assert_eq!(bench.on(Event::Placed), create);
    assert_eq!(bench.on(Event::Refused(Answer::QuotaConflict)), []);
    bench.wait();
    assert_eq!(bench.on(absent()), [Action::Place]);
    // Without the time for a create the place goes back, and is asked for again when there is time.
    bench.now += secs(21);
    assert_eq!(bench.on(Event::Placed), [Action::Progress]);
    assert!(!bench.machine.wants_place());
    assert_eq!(bench.on(Event::ProgressConfirmed), [Action::Place]);
}

#[test]
fn a_nak_needs_time_to_arrive_and_a_server_that_remembers() {
    let (terms, bench) = (terms(), Bench::fresh());
    let sent = bench.now;
    assert!(terms.may_nak(sent, false, sent + secs(26)));
    assert!(!terms.may_nak(sent, false, sent + secs(27)), "it may be another's when this arrives");
    assert!(!terms.may_nak(sent, true, sent));
}
