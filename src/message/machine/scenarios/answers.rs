//! From the answer of the create to the end.

use super::*;

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
        [Action::Block(Block::QuotaRefused(full())), RETURN, refused(1)]
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
        [Action::Block(Block::QuotaRefused(full())), RETURN, refused(1)]
    );
}

#[test]
fn a_slow_lookup_ends_the_contradiction() {
    let mut bench = Bench::build(|_, _, facts, _| facts.contradicted = true).created_is_ordered();
    bench.on(Event::Refused(Answer::QuotaExceeded(full())));
    bench.wait();
    assert_eq!(bench.later(ms(200), absent()), [Action::Block(Block::QuotaRefused(full())), RETURN, refused(1)]);
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
        assert_eq!(bench.on(Event::Refused(Answer::QuotaConflict)), []);
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
        let mut want: Vec<Action> = block.map(Action::Block).into_iter().collect();
        want.push(RETURN);
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
fn a_pause_that_the_api_server_asks_for_is_kept() {
    let asked = |after| Event::Refused(Answer::Throttled { after });
    for (after, rest) in [(secs(25), secs(15)), (secs(86_400), secs(50))] {
        let mut bench = Bench::fresh().created_is_ordered();
        bench.on(asked(Some(after)));
        assert_eq!(bench.wait(), [Action::Lookup, Action::Progress], "the number is resolved after P all the same");
        assert_eq!(bench.on(Event::ProgressConfirmed), []);
        assert_eq!(bench.clone_for(mine()), [MADE, Action::Ack]);
        let nak = Action::Nak(rest + retry::short(1, id().seed()));
        assert_eq!(bench.on(absent()), [RETURN, nak], "and used by others");
        bench.naks_for(Why::NoAnswer);
    }
    // Over by then.
    let mut bench = Bench::fresh().created_is_ordered();
    bench.on(asked(Some(secs(5))));
    bench.wait();
    bench.on(Event::ProgressConfirmed);
    assert_eq!(bench.on(absent()), [Action::ReadVersion]);
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
fn holder_and_shutdown_end_what_was_not_created() {
    for (event, why) in [(Event::HolderDead, Why::HolderDead), (Event::Shutdown, Why::Shutdown)] {
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

/// It is no event but a fact: at the tick of its end what waits goes back, and where it was renewed meanwhile nothing
/// happens.
#[test]
fn the_end_of_the_lease_ends_what_waits_and_was_not_created() {
    let waiting = || {
        let mut bench = Bench::redelivered();
        bench.on(Event::Start);
        bench.on(absent());
        bench.on(Event::Version(Some(105)));
        bench.facts.lease_until = Some(bench.now + ms(300));
        bench
    };
    let mut bench = waiting();
    assert_eq!(bench.later(ms(299), Event::Tick), []);
    assert_eq!(bench.later(ms(1), Event::Tick), [RETURN, short(2)]);
    bench.naks_for(Why::LeaseOver);
    let mut bench = waiting();
    bench.facts.lease_until = Some(bench.now + secs(3));
    assert_eq!(bench.later(ms(300), Event::Tick), []);
    // A create under way is answered first, and one in doubt resolved.
    let mut bench = Bench::fresh().created_is_ordered();
    bench.facts.lease_until = Some(bench.now);
    assert_eq!(bench.on(Event::Tick), []);
    assert_eq!(bench.on(Event::Created), [MADE, Action::Ack]);
}

#[test]
fn a_create_under_way_is_finished_and_one_in_doubt_resolved_but_not_repeated() {
    for event in [Event::HolderDead, Event::Shutdown] {
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

/// The server may have given the sequence to another message, which our ack would settle.
#[test]
fn nothing_is_settled_at_a_server_that_may_have_forgotten() {
    // Another server process, or the same connection and another consumer.
    for (connection, forgetful) in [(4, 4), (3, u64::MAX)] {
        let forgets = |bench: &mut Bench| (bench.facts.connection, bench.facts.forgetful) = (connection, forgetful);
        let unconfirmed = Action::Finish(Outcome::AckUnconfirmed(How::Made));
        // Before the first ack.
        let mut bench = Bench::fresh().created_is_ordered();
        forgets(&mut bench);
        assert_eq!(bench.on(Event::Created), [MADE, unconfirmed.clone()]);
        // Between two.
        let mut bench = Bench::fresh().created_is_ordered();
        bench.on(Event::Created);
        bench.on(Event::Acked(Confirmed::No));
        forgets(&mut bench);
        assert_eq!(bench.on(Event::Tick), [unconfirmed]);
        // What the record knows, and dead letters.
        let mut bench = Bench::redelivered();
        bench.on(Event::Start);
        forgets(&mut bench);
        bench.facts.record = Says::Done;
        assert_eq!(bench.on(absent()), [RETURN, Action::Finish(Outcome::AckUnconfirmed(How::Recorded))]);
        let mut bench = Bench::fresh();
        bench.on(Event::Start);
        bench.on(Event::Rendered(Err((DeadReason::Template, String::new()))));
        forgets(&mut bench);
        let end = Action::Finish(Outcome::TermUnconfirmed(DeadReason::Template));
        assert_eq!(bench.on(Event::DeadStored(Confirmed::Yes)), [end]);
        // A nak concerns nobody of ours either, and no in-progress is sent.
        let mut bench = Bench::fresh();
        bench.on(Event::Start);
        forgets(&mut bench);
        assert_eq!(
            bench.on(Event::Rendered(Ok(()))),
            [RETURN, Action::Finish(Outcome::Abandoned(Why::ConnectionLost))]
        );
    }
}
