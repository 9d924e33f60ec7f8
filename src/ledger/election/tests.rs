//! Each rule on its own.

mod simulation;

use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn lease(holder: &str, resource_version: u64) -> Lease {
    Lease { holder: holder.to_owned(), duration: secs(6), transitions: 3, acquired: None, resource_version }
}

fn name(own: &str) -> Name {
    Name { own: own.to_owned(), pod: Some("pod/sensor/".to_owned()) }
}

fn start() -> (Election, Instant) {
    #[allow(clippy::disallowed_methods)] // Any instant will do.
    let now = Instant::now();
    let mut election = Election::new(name("me"), LeaseTimes::default());
    // NATS goes on answering for longer than any test here, but for those that say otherwise.
    election.heard(now + secs(3_600));
    assert_eq!(election.deadline(), None);
    assert_eq!(election.step(Event::Tick, now), [Action::Read]);
    (election, now)
}

fn leader() -> (Election, Instant) {
    let (mut election, now) = start();
    assert!(matches!(election.step(Event::Seen(None), now).as_slice(), [Action::Create(_)]));
    assert_eq!(election.step(Event::WriteDone(lease("me", 10)), now), [Action::BecameLeader { epoch: 10 }]);
    (election, now)
}

fn replaced(actions: &[Action]) -> (u64, &Claim) {
    match actions {
        [.., Action::Replace { resource_version, claim }] => (*resource_version, claim),
        other => panic!("no replace in {other:?}"),
    }
}

#[test]
fn creates_where_there_is_no_lease() {
    let (mut election, now) = start();
    let actions = election.step(Event::Seen(None), now);
    let claim = Claim { holder: "me".to_owned(), duration: secs(6), transitions: 0, acquired: None };
    assert_eq!(actions, [Action::Create(claim)]);
    assert_eq!(election.leading(now), None);
    election.step(Event::WriteDone(lease("me", 7)), now + ms(10));
    assert_eq!(election.leading(now + ms(10)), Some(7));
}

#[test]
fn waits_until_the_lease_was_unchanged_for_its_duration_by_our_own_clock() {
    let (mut election, t0) = start();
    assert_eq!(election.step(Event::Seen(Some(lease("other", 5))), t0), []);
    let mut now = t0;
    while now < t0 + secs(4) {
        now = election.deadline().unwrap();
        assert_eq!(election.step(Event::Tick, now), [Action::Read]);
        assert_eq!(election.step(Event::Seen(Some(lease("other", 5))), now), []);
    }
    // It was renewed: the count begins anew.
    now = election.deadline().unwrap();
    assert_eq!(election.step(Event::Tick, now), [Action::Read], "{:?}", now - t0);
    assert_eq!(election.step(Event::Seen(Some(lease("other", 6))), now), []);
    let renewed = now;
    loop {
        now = election.deadline().unwrap();
        let actions = election.step(Event::Tick, now);
        if actions == [Action::Read] {
            assert!(now < renewed + secs(6));
            election.step(Event::Seen(Some(lease("other", 6))), now);
            continue;
        }
        assert_eq!(now, renewed + secs(6));
        let (version, claim) = replaced(&actions);
        assert_eq!((version, claim.transitions, claim.holder.as_str()), (6, 4, "me"));
        break;
    }
}

#[test]
fn a_holder_with_a_longer_duration_is_waited_for() {
    let (mut election, t0) = start();
    let long = Lease { duration: secs(60), ..lease("other", 5) };
    election.step(Event::Seen(Some(long.clone())), t0);
    let mut now = t0;
    while now < t0 + secs(59) {
        now = election.deadline().unwrap();
        assert_eq!(election.step(Event::Tick, now), [Action::Read]);
        election.step(Event::Seen(Some(long.clone())), now);
    }
}

#[test]
fn its_own_name_and_no_name_are_taken_at_once() {
    for holder in ["me", ""] {
        let (mut election, now) = start();
        let actions = election.step(Event::Seen(Some(lease(holder, 5))), now);
        let (version, claim) = replaced(&actions);
        assert_eq!((version, claim.transitions), (5, if holder == "me" { 3 } else { 4 }));
    }
}

#[test]
fn leadership_ends_by_the_renew_deadline_though_the_call_hangs() {
    let (mut election, t0) = leader();
    let due = election.deadline().unwrap();
    assert_eq!(due, t0 + secs(1));
    assert_eq!(replaced(&election.step(Event::Tick, due)).0, 10);
    assert_eq!(election.deadline(), Some(t0 + secs(4)));
    assert_eq!(election.leading(t0 + ms(3_999)), Some(10));
    assert_eq!(election.leading(t0 + secs(4)), None, "also without a tick");
    assert_eq!(election.step(Event::Tick, t0 + ms(3_999)), []);
    assert_eq!(election.step(Event::Tick, t0 + secs(4)), [Action::LostLeadership(Lost::Expired)]);
    assert_eq!(election.deadline(), None);
}

#[test]
fn a_renewal_counts_from_its_sending() {
    let (mut election, t0) = leader();
    election.step(Event::Tick, t0 + secs(1));
    assert_eq!(election.step(Event::WriteDone(lease("me", 11)), t0 + ms(2_500)).len(), 1, "renews again");
    assert_eq!(election.leads_until(), Some(t0 + secs(5)));
    assert_eq!(election.leading(t0 + secs(4)), Some(10), "the epoch stays");
}

#[test]
fn an_answer_after_the_deadline_makes_no_leader_but_another_try() {
    let (mut election, t0) = leader();
    election.step(Event::Tick, t0 + secs(1));
    assert_eq!(election.step(Event::Tick, t0 + secs(4)), [Action::LostLeadership(Lost::Expired)]);
    let actions = election.step(Event::WriteDone(lease("me", 11)), t0 + secs(5));
    assert_eq!(actions.len(), 1, "{actions:?}");
    assert_eq!(replaced(&actions).0, 11);
    let actions = election.step(Event::WriteDone(lease("me", 12)), t0 + secs(5));
    assert_eq!(actions, [Action::BecameLeader { epoch: 12 }]);
}

#[test]
fn a_lost_answer_is_found_by_reading() {
    let (mut election, t0) = leader();
    election.step(Event::Tick, t0 + secs(1));
    assert_eq!(election.step(Event::WriteFailed, t0 + ms(2_500)), [Action::Read]);
    let actions = election.step(Event::Seen(Some(lease("me", 11))), t0 + ms(2_600));
    assert_eq!(replaced(&actions).0, 11);
    assert_eq!(election.leads_until(), Some(t0 + secs(4)), "a read renews nothing");
}

#[test]
fn a_conflict_is_looked_into_and_ends_leadership_if_somebody_else_holds_it() {
    let (mut election, t0) = leader();
    election.step(Event::Tick, t0 + secs(1));
    assert_eq!(election.step(Event::WriteConflict, t0 + ms(1_010)), [Action::Read]);
    let actions = election.step(Event::Seen(Some(lease("other", 12))), t0 + ms(1_020));
    assert_eq!(actions, [Action::LostLeadership(Lost::TakenBy("other".to_owned()))]);
}

#[test]
fn a_deleted_lease_ends_leadership_and_is_made_again() {
    let (mut election, t0) = leader();
    election.step(Event::Tick, t0 + secs(1));
    election.step(Event::WriteConflict, t0 + ms(1_010));
    let actions = election.step(Event::Seen(None), t0 + ms(1_020));
    assert_eq!(actions, [Action::LostLeadership(Lost::Deleted)]);
    assert_eq!(election.deadline(), Some(t0 + secs(2)));
    assert!(matches!(election.step(Event::Tick, t0 + secs(2)).as_slice(), [Action::Create(_)]));
}

#[test]
fn conflicts_never_make_a_hot_loop() {
    let (mut election, t0) = start();
    let mut writes = 0;
    let mut event = Event::Seen(None);
    let mut now = t0;
    while now < t0 + secs(10) {
        let actions = election.step(event, now);
        event = match actions.as_slice() {
            [Action::Create(_)] => {
                writes += 1;
                Event::WriteConflict
            }
            [Action::Read] => Event::Seen(None),
            [] => {
                now = election.deadline().unwrap();
                Event::Tick
            }
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(writes, 10);
}

#[test]
fn a_shutdown_gives_the_lease_back() {
    let (mut election, t0) = leader();
    let actions = election.step(Event::Shutdown, t0 + ms(500));
    assert_eq!(actions.first(), Some(&Action::LostLeadership(Lost::GivenUp)));
    let (version, claim) = replaced(&actions);
    assert_eq!((version, claim.holder.as_str(), claim.transitions), (10, "", 3));
    assert!(!election.is_over());
    assert_eq!(election.step(Event::WriteDone(lease("", 11)), t0 + ms(510)), []);
    assert!(election.is_over());
    assert_eq!(election.deadline(), None);
}

#[test]
fn a_shutdown_during_a_renewal_waits_for_it_and_then_gives_the_lease_back() {
    let (mut election, t0) = leader();
    election.step(Event::Tick, t0 + secs(1));
    assert_eq!(election.step(Event::Shutdown, t0 + secs(1)), [Action::LostLeadership(Lost::GivenUp)]);
    let actions = election.step(Event::WriteDone(lease("me", 11)), t0 + ms(1_010));
    assert_eq!(
        replaced(&actions),
        (11, &Claim { holder: String::new(), duration: secs(6), transitions: 3, acquired: None })
    );
    assert_eq!(election.leading(t0 + ms(1_010)), None);
    // The answer is lost: one look, one more try, then it is left to expire.
    assert_eq!(election.step(Event::WriteFailed, t0 + secs(2)), [Action::Read]);
    assert_eq!(replaced(&election.step(Event::Seen(Some(lease("me", 11))), t0 + secs(2))).0, 11);
    assert_eq!(election.step(Event::WriteFailed, t0 + secs(3)), []);
    assert!(election.is_over());
}

#[test]
fn who_leads_nothing_is_over_at_once() {
    let (mut election, now) = start();
    assert_eq!(election.step(Event::Seen(Some(lease("other", 5))), now), []);
    assert_eq!(election.step(Event::Shutdown, now), []);
    assert!(election.is_over());
}

/// The Lease stays as it is: when it is taken, counted from `from`.
fn taken_after(election: &mut Election, stays: &Lease, from: Instant) -> Duration {
    for _ in 0..100 {
        let now = election.deadline().unwrap();
        let actions = election.step(Event::Tick, now);
        if actions != [Action::Read] {
            assert_eq!(replaced(&actions).1.holder, "me");
            return now - from;
        }
        election.step(Event::Seen(Some(stays.clone())), now);
    }
    panic!("not taken");
}

#[test]
fn the_lease_of_a_namesake_is_taken_at_once_where_the_first_look_finds_it() {
    let (mut election, now) = start();
    let actions = election.step(Event::Seen(Some(lease("pod/sensor/1", 5))), now);
    let (version, claim) = replaced(&actions);
    assert_eq!((version, claim.holder.as_str(), claim.transitions), (5, "me", 4));
    // Another pod's, and another sensor's of the same pod, are not.
    for other in ["pod/sensors/1", "pod-2/sensor/1", "pod/sensor"] {
        let (mut election, now) = start();
        assert_eq!(election.step(Event::Seen(Some(lease(other, 5))), now), [], "{other}");
        assert_eq!(taken_after(&mut election, &lease(other, 5), now), secs(6));
    }
    // Nobody's namesake.
    let mut election = Election::new(Name { own: "me".to_owned(), pod: None }, LeaseTimes::default());
    election.heard(now + secs(60));
    election.step(Event::Tick, now);
    assert_eq!(election.step(Event::Seen(Some(lease("pod/sensor/1", 5))), now), []);
}

#[test]
fn who_loses_the_lease_to_a_namesake_waits_like_any_other() {
    let (mut election, t0) = leader();
    election.step(Event::Tick, t0 + secs(1));
    assert_eq!(election.step(Event::WriteConflict, t0 + ms(1_010)), [Action::Read]);
    let twin = lease("pod/sensor/2", 12);
    let actions = election.step(Event::Seen(Some(twin.clone())), t0 + ms(1_020));
    assert_eq!(actions, [Action::LostLeadership(Lost::TakenByNamesake(twin.holder.clone()))]);
    assert_eq!(taken_after(&mut election, &twin, t0 + ms(1_020)), secs(6));
}

#[test]
fn a_namesake_that_lives_after_all_is_not_pushed_aside_a_second_time() {
    let (mut election, t0) = start();
    election.step(Event::Seen(Some(lease("pod/sensor/1", 5))), t0);
    // It renewed in between.
    assert_eq!(election.step(Event::WriteConflict, t0 + ms(10)), [Action::Read]);
    let renewed = lease("pod/sensor/1", 6);
    assert_eq!(election.step(Event::Seen(Some(renewed.clone())), t0 + ms(20)), []);
    assert_eq!(taken_after(&mut election, &renewed, t0 + ms(20)), secs(6));
}

#[test]
fn what_a_namesake_may_still_hold_is_given_to_nobody() {
    let (mut election, t0) = start();
    election.step(Event::Seen(Some(lease("pod/sensor/1", 5))), t0);
    election.step(Event::WriteDone(lease("me", 6)), t0 + ms(10));
    assert_eq!(election.step(Event::Shutdown, t0 + ms(4_009)), [Action::LostLeadership(Lost::Expired)]);
    assert!(election.is_over(), "it is left to expire");
}

#[test]
fn a_leader_that_nats_does_not_answer_gives_the_lease_up_until_it_does() {
    #[allow(clippy::disallowed_methods)] // Any instant will do.
    let t0 = Instant::now();
    let mut election = Election::new(name("me"), LeaseTimes::default());
    assert_eq!(election.step(Event::Tick, t0), [Action::Read]);
    assert!(election.is_cut_off());
    assert_eq!(election.step(Event::Seen(None), t0), [], "never heard of NATS: no candidate");
    election.heard(t0 + ms(100));
    assert!(matches!(election.step(Event::Tick, t0 + ms(100)).as_slice(), [Action::Create(_)]));
    election.step(Event::WriteDone(lease("me", 10)), t0 + ms(110));
    let mut now;
    let mut version = 10;
    // It renews until then.
    let actions = loop {
        now = election.deadline().unwrap();
        let actions = election.step(Event::Tick, now);
        if let [Action::LostLeadership(_), ..] = actions.as_slice() {
            break actions;
        }
        assert_eq!(replaced(&actions).1.holder, "me");
        version += 1;
        election.step(Event::WriteDone(lease("me", version)), now);
    };
    assert_eq!(now, t0 + ms(5_100));
    assert_eq!(actions.first(), Some(&Action::LostLeadership(Lost::CutOff)));
    assert_eq!(replaced(&actions), (version, &Claim { holder: String::new(), ..replaced(&actions).1.clone() }));
    assert_eq!(election.leading(now), None);
    let free = lease("", version + 1);
    election.step(Event::WriteDone(free.clone()), now);
    // It looks on, and takes nothing, though the Lease is free.
    for _ in 0..20 {
        now = election.deadline().unwrap();
        assert_eq!(election.step(Event::Tick, now), [Action::Read]);
        assert_eq!(election.step(Event::Seen(Some(free.clone())), now), []);
    }
    now += ms(10);
    election.heard(now);
    assert_eq!(replaced(&election.step(Event::Tick, now)).1.holder, "me");
}

fn lack(verb: &'static str) -> Lack {
    let text = format!("cannot {verb} resource");
    Lack { verb, resource: "leases.coordination.k8s.io", what: crate::message::RefusedWhat::Rights, text }
}

#[test]
fn a_lasting_refusal_of_reads_is_believed_and_over_with_the_next_answer() {
    let (mut election, t0) = start();
    for second in 0..=2 {
        assert_eq!(election.lack(), None, "after {second} s");
        let now = t0 + secs(second);
        assert_eq!(election.step(Event::Refused(lack("get")), now), []);
        assert_eq!(election.step(Event::Tick, now + secs(1)), [Action::Read], "it is asked again");
    }
    assert_eq!(election.lack(), Some(&lack("get")));
    // No answer at all says nothing about rights: what is believed stays.
    election.step(Event::ReadFailed, t0 + secs(3));
    assert_eq!(election.lack(), Some(&lack("get")));
    for second in 4..=6 {
        election.step(Event::Tick, t0 + secs(second));
        election.step(Event::Refused(lack("get")), t0 + secs(second));
    }
    assert!(election.lack().is_some());
    election.step(Event::Tick, t0 + secs(7));
    assert!(matches!(election.step(Event::Seen(None), t0 + secs(7)).as_slice(), [Action::Create(_)]));
    assert_eq!(election.lack(), None);
}

#[test]
fn a_refused_write_is_believed_although_reads_succeed_until_a_write_does() {
    let (mut election, t0) = start();
    let mut now = t0;
    let mut actions = election.step(Event::Seen(None), now);
    for _ in 0..3 {
        assert!(matches!(actions.as_slice(), [Action::Create(_)]), "{actions:?}");
        assert_eq!(election.step(Event::Refused(lack("create")), now), [Action::Read]);
        assert_eq!(election.step(Event::Seen(None), now), [], "not at once");
        now += secs(1);
        actions = election.step(Event::Tick, now);
    }
    assert_eq!(election.lack(), Some(&lack("create")));
    assert_eq!(election.leading(now), None);
    assert_eq!(election.step(Event::WriteDone(lease("me", 4)), now), [Action::BecameLeader { epoch: 4 }]);
    assert_eq!(election.lack(), None);
}

#[test]
fn what_we_lack_is_in_nobodys_way_where_another_leads() {
    let (mut election, mut now) = start();
    election.step(Event::Seen(Some(lease("", 3))), now);
    for _ in 0..4 {
        election.step(Event::Refused(lack("update")), now);
        election.step(Event::Seen(Some(lease("", 3))), now);
        now += secs(1);
        election.step(Event::Tick, now);
    }
    assert!(election.lack().is_some());
    election.step(Event::Refused(lack("update")), now);
    election.step(Event::Seen(Some(lease("other", 5))), now);
    assert_eq!(election.lack(), None, "it has just taken the Lease");
    // It is dead: that it holds the Lease says nothing then.
    for second in 1..=9 {
        match election.step(Event::Tick, now + secs(second)).as_slice() {
            [Action::Read] => drop(election.step(Event::Seen(Some(lease("other", 5))), now + secs(second))),
            [Action::Replace { .. }] => {
                assert_eq!(election.step(Event::Refused(lack("update")), now + secs(second)), [Action::Read]);
                election.step(Event::Seen(Some(lease("other", 5))), now + secs(second));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(election.lack().is_some());
}
