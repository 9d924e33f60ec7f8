//! Refusals, fairness, and what a holder makes of its grants.

use super::*;

/// A holder with one credit whose create is refused by the quota.
fn refused() -> Stand {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 1);
    refuse(&mut stand, 5);
    stand
}

fn refuse(stand: &mut Stand, want: u64) {
    let number = stand.take("a");
    stand.of("a").refused("team");
    stand.of("a").returned(number);
    stand.report("a", want);
}

#[test]
fn a_refusal_holds_until_a_later_reading_and_then_lets_one_probe_through() {
    let mut stand = refused();
    assert_eq!(stand.of("a").unused(), 0);
    assert_eq!(stand.reason("a"), Some(Reason::QuotaRefused));
    assert_eq!(stand.reads, 1);
    stand.pass(secs(1));
    stand.report("a", 5);
    assert_eq!(stand.of("a").unused(), 0, "no reading came");
    stand.quotas(vec![count_quota(2, "5", "0")]);
    assert_eq!(stand.of("a").unused(), 1, "one probe");
    stand.report("a", 5);
    assert_eq!(stand.of("a").unused(), 1, "and no second one");
    assert_eq!(stand.reason("a"), Some(Reason::QuotaRefused));
    stand.make("a");
    stand.report("a", 3);
    assert_eq!(stand.reason("a"), None);
    assert_eq!(stand.of("a").unused(), 3, "it went through");
}

#[test]
fn the_pause_after_refused_probes_doubles() {
    let mut stand = refused();
    for pause in [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
        let until = stand.now + millis(pause);
        stand.quota(count_quota(2, "5", "0"));
        while stand.now + millis(1) < until {
            stand.pass(millis(2_000).min(until - millis(1) - stand.now));
            stand.report("a", 5);
        }
        assert_eq!(stand.of("a").unused(), 0, "before {pause} ms");
        stand.pass(millis(1));
        assert_eq!(stand.of("a").unused(), 1, "after {pause} ms");
        refuse(&mut stand, 5);
        assert_eq!(stand.of("a").unused(), 0);
    }
}

#[test]
fn refusals_that_come_together_are_one() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 5);
    for _ in 0..5 {
        refuse(&mut stand, 0);
    }
    stand.now += millis(1);
    stand.quota(count_quota(2, "5", "0"));
    stand.pass(millis(100));
    stand.report("a", 5);
    assert_eq!(stand.of("a").unused(), 1);
}

#[test]
fn a_probe_that_dies_with_its_holder_makes_way_for_another() {
    let mut stand = refused();
    stand.counting("b");
    stand.now += millis(200);
    stand.quotas(vec![count_quota(2, "5", "0")]);
    assert_eq!(stand.of("a").unused(), 1);
    for _ in 0..4 {
        stand.pass(secs(3));
        stand.report("b", 2);
    }
    assert!(matches!(stand.phase("a"), Phase::Dead { .. }));
    assert_eq!(stand.of("b").unused(), 1);
}

#[test]
fn a_repeated_report_refuses_once() {
    let mut stand = refused();
    stand.now += millis(1);
    stand.quota(count_quota(2, "5", "0"));
    stand.pass(millis(100));
    let report = stand.report("a", 5);
    assert_eq!(stand.of("a").unused(), 1);
    assert_eq!(report.refused, Some(Refusal { count: 1, quota: "team".to_owned() }));
    stand.ledger.report(&report, stand.now);
    assert_eq!(stand.ledger.drain(), []);
}

#[test]
fn ten_holders_share_a_quota_of_one() {
    let mut stand = Stand::with(vec![count_quota(1, "1", "1")]);
    let ids: Vec<String> = (0..10).map(|n| format!("h{n}")).collect();
    for id in &ids {
        stand.counting(id);
        stand.report(id, 1);
    }
    let mut served = BTreeMap::new();
    let mut version = 2;
    stand.quota(count_quota(version, "1", "0"));
    for round in 0..30 {
        let having: Vec<String> = ids.iter().filter(|id| stand.holders[*id].unused() > 0).cloned().collect();
        assert_eq!(having.len(), 1, "round {round}");
        let id = having[0].clone();
        *served.entry(id.clone()).or_insert(0) += 1;
        let number = stand.make(&id);
        stand.report(&id, 1);
        let name = format!("o{round}");
        stand.applied(&name, &id, number);
        version += 1;
        stand.quota(count_quota(version, "1", "1"));
        stand.deleted(&name, &id, number);
        version += 1;
        stand.quota(count_quota(version, "1", "0"));
    }
    assert_eq!(served.values().copied().collect::<Vec<i32>>(), [3; 10]);
}

#[test]
fn a_large_cost_is_not_starved_by_small_ones() {
    let mut stand = Stand::with(vec![quota("team", 1, &[(CPU, "8", "8")])]);
    for (id, cost) in [("a", "1"), ("b", "6"), ("c", "1")] {
        let mut cpu = terms(&[(CPU, cost)]);
        cpu.created = None;
        stand.holder(id, cpu);
        stand.report(id, 100);
    }
    let mut version = 1;
    // Foreign pods go one by one; the small ones would take each cpu as it comes.
    for used in (0..8).rev() {
        version += 1;
        stand.now += millis(1);
        stand.quota(quota("team", version, &[(CPU, "8", &used.to_string())]));
        for id in ["a", "b", "c"] {
            stand.report(id, 100);
        }
    }
    assert_eq!(stand.of("b").unused(), 1);
    assert!(stand.of("a").unused() + stand.of("c").unused() == 2, "and all is in use");
}

#[test]
fn a_low_ratio_that_is_at_its_limit_holds_nobody_up() {
    let mut stand = Stand::with(vec![count_quota(1, "10", "5")]);
    let mut low = terms(&[(COUNT, "1")]);
    low.ratio = "0.5".parse().unwrap();
    stand.holder("a", low);
    stand.counting("b");
    stand.report("a", 5);
    stand.report("b", 9);
    assert_eq!(stand.reason("a"), Some(Reason::HeldByOthers));
    assert_eq!(stand.of("b").unused(), 5);
}

#[test]
fn a_grant_that_is_older_or_comes_again_changes_nothing() {
    let mut stand = Stand::with(vec![count_quota(1, "9", "0")]);
    stand.counting("a");
    stand.report("a", 2);
    let first = stand.grants.last().unwrap().clone();
    stand.now += secs(1);
    stand.report("a", 3);
    assert_eq!(stand.of("a").unused(), 5);
    let until = stand.of("a").lease_until();
    assert!(stand.of("a").on_grant(&first).ignored);
    let newest = stand.grants.last().unwrap().clone();
    assert_eq!(stand.of("a").on_grant(&newest), GrantEffect::default());
    let mut older = newest.clone();
    (older.epoch, older.top) = (6, 20);
    assert!(stand.of("a").on_grant(&older).ignored);
    let mut other = newest;
    (other.holder, other.top) = (HolderId::new("b"), 20);
    assert!(stand.of("a").on_grant(&other).ignored);
    assert_eq!((stand.of("a").unused(), stand.of("a").lease_until()), (5, until));
}

#[test]
fn a_lease_starts_where_its_report_was_sent() {
    let mut stand = Stand::with(vec![count_quota(1, "9", "0")]);
    stand.counting("a");
    let sent = stand.now;
    let report = stand.of("a").report(1, sent);
    stand.now += secs(4);
    stand.ledger.report(&report, stand.now);
    stand.act();
    assert_eq!(stand.of("a").lease_until(), Some(sent + secs(10)));
    assert!(stand.of("a").lease_holds(sent + millis(9_999)));
    assert!(!stand.of("a").lease_holds(sent + secs(10)));
    assert_eq!(stand.of("a").take(sent + secs(10)), None);
}

#[test]
fn a_top_that_fell_is_told_by_a_leader_that_forgot() {
    let mut stand = Stand::with(vec![count_quota(1, "9", "0")]);
    stand.counting("a");
    stand.report("a", 3);
    let mut grant = stand.grants.last().unwrap().clone();
    (grant.seq, grant.top) = (grant.seq + 1, 0);
    assert!(stand.of("a").on_grant(&grant).restart);
    let now = stand.now;
    assert_eq!(stand.of("a").take(now), None);
}

#[test]
fn numbers_go_where_the_holder_says() {
    let mut stand = Stand::with(vec![count_quota(1, "9", "0")]);
    stand.counting("a");
    stand.report("a", 4);
    let (one, two) = (stand.take("a"), stand.take("a"));
    assert_eq!((one, two, stand.of("a").busy(), stand.of("a").unused()), (1, 2, 2, 2));
    stand.of("a").unuse(two);
    assert_eq!(stand.take("a"), two, "it was ready all the time");
    assert_eq!(stand.of("a").give_back(1), 1);
    stand.of("a").returned(two);
    stand.report("a", 0);
    assert_eq!(stand.out("a").iter().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(stand.of("a").report_interval(), secs(10) / 3);
}

#[test]
fn a_right_to_the_quotas_that_is_missing_is_said_and_opens_when_it_is_given() {
    let lack = |verb| Lack {
        verb,
        resource: "resourcequotas",
        what: crate::message::RefusedWhat::Rights,
        text: format!("User \"u\" cannot {verb} resource \"resourcequotas\""),
    };
    // From the start: not listed yet is not the whole truth.
    let mut stand = Stand::bare(Books::empty());
    stand.counting("a");
    stand.report("a", 1);
    assert_eq!(stand.reason("a"), Some(Reason::LeaderSettling));
    stand.ledger.quotas_refused(lack("list"), stand.now);
    stand.act();
    let grant = stand.grants.last().unwrap().clone();
    assert_eq!(grant.reason, Some(Reason::TargetRefused), "told without a question");
    assert_eq!(
        grant.detail,
        "the right to list resourcequotas is missing; the API server says: User \"u\" cannot list resource \
         \"resourcequotas\""
    );
    stand.quotas(vec![count_quota(1, "5", "0")]);
    stand.objects(&[]);
    assert_eq!(stand.of("a").unused(), 1);
    // Taken later: a list that succeeds is no watch.
    stand.ledger.quotas_refused(lack("watch"), stand.now);
    stand.act();
    stand.quotas(vec![count_quota(1, "5", "0")]);
    stand.report("a", 3);
    assert_eq!(stand.reason("a"), Some(Reason::TargetRefused));
    assert_eq!(stand.of("a").unused(), 1, "nothing more");
    stand.ledger.quota_watch_alive(stand.now);
    stand.act();
    assert_eq!(stand.of("a").unused(), 4);
    assert_eq!(stand.ledger.quota_lack(), None);
}

/// A poll is refused while the watch goes on.
#[test]
fn a_refused_poll_is_asked_again_until_it_is_believed_or_answered() {
    let lack = || Lack {
        verb: "list",
        resource: "resourcequotas",
        what: crate::message::RefusedWhat::Rights,
        text: "User \"u\" cannot list resource \"resourcequotas\"".to_owned(),
    };
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    let refuse_for = |stand: &mut Stand, lasts: Duration| {
        let until = stand.now + lasts;
        while stand.now < until {
            stand.ledger.quotas_list_refused(lack(), stand.now);
            stand.ledger.quota_watch_alive(stand.now);
            let before = stand.reads;
            stand.pass(millis(600));
            assert_eq!(stand.reads, before + 1, "nobody else asks before the next poll");
        }
        stand.ledger.quotas_list_refused(lack(), stand.now);
        stand.act();
    };
    refuse_for(&mut stand, secs(1));
    assert_eq!(stand.ledger.quota_lack(), None, "an API server that starts refuses everything for a moment");
    stand.quotas(vec![count_quota(1, "5", "0")]);
    stand.pass(secs(60));
    stand.ledger.quotas_list_refused(lack(), stand.now);
    assert_eq!(stand.ledger.quota_lack(), None, "there was another answer between the two");
    refuse_for(&mut stand, BELIEVED_AFTER);
    assert_eq!(stand.ledger.quota_lack(), Some(&lack()));
    stand.report("a", 1);
    assert_eq!(stand.reason("a"), Some(Reason::TargetRefused), "what was made is settled by reading");
    stand.pass(millis(600));
    stand.quotas(vec![count_quota(1, "5", "0")]);
    assert_eq!(stand.ledger.quota_lack(), None);
    assert_eq!(stand.of("a").unused(), 1);
    let reads = stand.reads;
    stand.pass(secs(60));
    assert_eq!(stand.reads, reads, "answered");
}
