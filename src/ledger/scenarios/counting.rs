//! What fits, and why nothing does.

use super::*;

#[test]
fn hard_of_nothing_grants_nothing_and_says_that_it_never_fits() {
    let mut stand = Stand::with(vec![count_quota(1, "0", "0")]);
    stand.counting("a");
    stand.report("a", 5);
    assert_eq!(stand.of("a").unused(), 0);
    assert_eq!(stand.reason("a"), Some(Reason::NeverFits));
}

#[test]
fn hard_of_one_grants_one_whatever_the_ratio() {
    let mut stand = Stand::with(vec![count_quota(1, "1", "0")]);
    let mut low = terms(&[(COUNT, "1")]);
    low.ratio = "0.5".parse().unwrap();
    stand.holder("a", low);
    stand.report("a", 5);
    assert_eq!(stand.of("a").unused(), 1);
    let number = stand.make("a");
    stand.applied("o1", "a", number);
    stand.quota(count_quota(2, "1", "1"));
    stand.report("a", 5);
    assert_eq!(stand.of("a").unused(), 0);
    assert_eq!(stand.reason("a"), Some(Reason::AtLimit));
    stand.deleted("o1", "a", number);
    assert_eq!(stand.of("a").unused(), 0, "used shows it still");
    stand.quota(count_quota(3, "1", "0"));
    assert_eq!(stand.of("a").unused(), 1);
}

#[test]
fn nothing_is_granted_before_all_is_listed() {
    let mut stand = Stand::bare(Books::empty());
    stand.counting("a");
    stand.report("a", 5);
    assert_eq!(stand.reason("a"), Some(Reason::LeaderSettling));
    stand.quotas(vec![count_quota(1, "5", "0")]);
    assert_eq!(stand.reason("a"), Some(Reason::LeaderSettling));
    stand.objects(&[]);
    assert_eq!(stand.of("a").unused(), 5);
}

#[test]
fn a_quota_that_is_missing_opens_when_it_appears() {
    let mut stand = Stand::with(vec![]);
    stand.counting("a");
    stand.report("a", 5);
    assert_eq!(stand.reason("a"), Some(Reason::QuotaMissing));
    stand.quota(quota("team", 1, &[("pods", "5", "0")]));
    assert_eq!(stand.reason("a"), Some(Reason::ResourceMissing));
    let mut young = count_quota(2, "5", "0");
    young.status_hard = None;
    stand.quota(young);
    assert_eq!(stand.reason("a"), Some(Reason::StatusUnknown));
    assert_eq!(stand.of("a").unused(), 0);
    stand.quota(count_quota(3, "5", "0"));
    assert_eq!(stand.of("a").unused(), 5);
    stand.ledger.quota(QuotaUpdate::Deleted("team".to_owned()), stand.now);
    stand.act();
    assert_eq!(stand.reason("a"), Some(Reason::QuotaMissing));
}

#[test]
fn the_smaller_of_two_quotas_counts() {
    let other = quota("other", 1, &[(COUNT, "2", "0")]);
    let mut stand = Stand::with(vec![count_quota(1, "10", "4"), other]);
    stand.counting("a");
    stand.report("a", 9);
    assert_eq!(stand.of("a").unused(), 2, "the other quota has no ratio and bounds all the same");
    stand.quota(quota("other", 2, &[(COUNT, "20", "0")]));
    stand.report("a", 9);
    assert_eq!(stand.of("a").unused(), 6);
}

#[test]
fn one_credit_costs_two_resources() {
    let mut stand = Stand::with(vec![quota("team", 1, &[(COUNT, "10", "0"), (CPU, "2", "500m")])]);
    stand.holder("a", terms(&[(COUNT, "1"), (CPU, "500m")]));
    stand.report("a", 9);
    assert_eq!(stand.of("a").unused(), 3, "1.5 cpu are free");
    let number = stand.make("a");
    stand.applied("o1", "a", number);
    stand.quota(quota("team", 2, &[(COUNT, "10", "1"), (CPU, "2", "500m")]));
    stand.report("a", 9);
    assert_eq!(stand.of("a").unused(), 2, "its pod may show in used at any time of the settle time");
    stand.pass(secs(2));
    stand.report("a", 9);
    assert_eq!(stand.of("a").unused(), 3, "and the settle time is over");
    assert!(stand.of("a").made_count() == 0);
}

#[test]
fn a_large_cost_without_objects_leaves_by_its_settle_time() {
    let mut stand = Stand::with(vec![quota("team", 1, &[(CPU, "4", "0")])]);
    let mut cpu = terms(&[(CPU, "2")]);
    cpu.created = None;
    stand.holder("a", cpu);
    stand.report("a", 9);
    assert_eq!(stand.of("a").unused(), 2);
    stand.make("a");
    stand.pass(millis(1_999));
    assert_eq!(stand.of("a").made_count(), 1);
    assert_eq!(stand.out("a"), NumberSet::of_range(1, 2));
    stand.pass(millis(1));
    assert_eq!(stand.of("a").made_count(), 0);
    assert_eq!((stand.reads, stand.checks), (0, 0), "nothing could be seen");
}

#[test]
fn used_above_hard_is_no_room() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "9")]);
    stand.counting("a");
    stand.report("a", 9);
    assert_eq!(stand.of("a").unused(), 0);
    assert_eq!(stand.reason("a"), Some(Reason::AtLimit));
}

#[test]
fn live_objects_count_though_used_is_too_low() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    let objects: Vec<_> = (0..4).map(|n| SeenObject { name: format!("x{n}"), credit: None }).collect();
    stand.objects(&objects);
    stand.counting("a");
    stand.report("a", 9);
    assert_eq!(stand.of("a").unused(), 1);
}

#[test]
fn without_a_watch_the_settle_time_counts() {
    let mut stand = Stand::bare(Books::empty());
    stand.quotas(vec![count_quota(1, "5", "0")]);
    stand.ledger.object_watch_forbidden(&kind(), stand.now);
    stand.counting("a");
    stand.report("a", 9);
    assert_eq!(stand.of("a").unused(), 5);
    stand.make("a");
    stand.quota(count_quota(2, "5", "1"));
    stand.report("a", 0);
    assert_eq!(stand.out("a").len(), 5, "counted twice until the settle time is over");
    stand.pass(secs(2));
    stand.report("a", 0);
    assert_eq!(stand.out("a").len(), 4);
    assert_eq!(stand.checks, 0);
}

#[test]
fn a_silent_watch_stops_the_grants() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.now += secs(12);
    stand.report("a", 5);
    assert_eq!(stand.reason("a"), Some(Reason::ApiDown));
    stand.pass(secs(0));
    stand.report("a", 5);
    assert_eq!(stand.of("a").unused(), 5);
}

#[test]
fn a_reading_settles_what_was_made_after_its_quota_event() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 2);
    let number = stand.take("a");
    stand.now += millis(3);
    // Both events are faster than the answer, and no later one will ever come.
    stand.quota(count_quota(2, "5", "1"));
    stand.applied("o1", "a", number);
    stand.now += millis(3);
    stand.of("a").made(number);
    stand.report("a", 0);
    assert_eq!(stand.of("a").made_count(), 1);
    stand.pass(millis(49));
    assert_eq!(stand.reads, 0);
    stand.pass(millis(1));
    assert_eq!(stand.reads, 1);
    stand.now += millis(1);
    stand.quotas(vec![count_quota(2, "5", "1")]);
    assert_eq!(stand.of("a").made_count(), 0);
    stand.pass(secs(1));
    assert_eq!(stand.reads, 1, "once is enough");
}

#[test]
fn a_reading_that_fails_is_asked_for_again() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 2);
    let number = stand.make("a");
    stand.applied("o1", "a", number);
    stand.pass(millis(60));
    assert_eq!(stand.reads, 1);
    stand.ledger.quotas_read_failed(stand.now);
    stand.act();
    assert_eq!(stand.reads, 1, "not at once");
    stand.pass(millis(500));
    assert_eq!(stand.reads, 2);
    stand.quotas(vec![count_quota(2, "5", "1")]);
    assert_eq!(stand.of("a").made_count(), 0);
}

#[test]
fn what_came_and_went_unseen_is_settled_by_a_list() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 1);
    stand.make("a");
    stand.now += millis(5);
    stand.quota(count_quota(2, "5", "0"));
    for _ in 0..3 {
        stand.pass(secs(3));
        stand.report("a", 0);
    }
    assert_eq!(stand.checks, 0);
    stand.pass(secs(1));
    assert_eq!(stand.checks, 1);
    stand.ledger.objects_check_failed(&kind(), stand.now);
    stand.pass(millis(500));
    assert_eq!(stand.checks, 2);
    stand.checked(&[]);
    assert_eq!(stand.of("a").made_count(), 0);
}

#[test]
fn a_copied_object_settles_no_number() {
    let copied = SeenObject::read("copy", Some("ns/s/t/events/1/5"), Some("a/1"));
    assert_eq!(copied.credit, None);
}

#[test]
fn the_signal_shows_the_quota() {
    let mut stand = Stand::with(vec![count_quota(3, "5", "1")]);
    stand.counting("a");
    stand.report("a", 2);
    let all = [terms(&[(COUNT, "1")])];
    let signal = stand.ledger.signal("team", &all, stand.now);
    assert_eq!((signal.resource_version, signal.reason), (3, None));
    let resource = &signal.resources[0];
    assert_eq!((resource.credits, resource.live, resource.weaker), (2, Some(0), false));
    assert_eq!(resource.headroom, "2".parse().unwrap());
    let again = stand.ledger.signal("team", &all, stand.now);
    assert!(again.tells_the_same(&signal) && again.seq > signal.seq);
}

#[test]
fn nothing_is_kept_of_quotas_that_are_gone() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    for name in 0..50 {
        let name = format!("passing-{name}");
        stand.quota(quota(&name, 1, &[("pods", "5", "0")]));
        stand.ledger.refused(&name, stand.now);
        stand.now += millis(1);
        stand.ledger.quota(QuotaUpdate::Deleted(name), stand.now);
    }
    stand.quotas(vec![count_quota(1, "5", "0")]);
    assert_eq!(stand.ledger.read_at.keys().collect::<Vec<_>>(), ["team"]);
    assert_eq!(stand.ledger.holds.len(), 0);
    // A refusal that the list cannot know of yet stays, whatever quota it names.
    let began = stand.now;
    stand.now += millis(5);
    stand.ledger.refused("new", stand.now);
    stand.ledger.quotas_listed(vec![count_quota(1, "5", "0")], began, stand.now);
    assert_eq!(stand.ledger.holds.len(), 1);
}
