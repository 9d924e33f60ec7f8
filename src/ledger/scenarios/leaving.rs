//! Ends: of holders, of leaders, of watches.

use super::*;

#[test]
fn a_dead_holder_is_freed_after_p_and_a_list() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 5);
    stand.take("a");
    let died = stand.now + secs(10);
    stand.pass(millis(9_999));
    assert!(matches!(stand.phase("a"), Phase::Alive { .. }));
    stand.pass(millis(1));
    assert_eq!(stand.phase("a"), Phase::Dead { safe: died + secs(10) });
    assert_eq!(stand.out("a").len(), 5, "its creates may be under way");
    // A list that began too early proves nothing.
    stand.checked(&[]);
    assert_eq!(stand.out("a").len(), 5);
    stand.pass(millis(9_999));
    assert_eq!(stand.checks, 0);
    stand.pass(millis(1));
    assert_eq!(stand.checks, 1);
    stand.checked(&[]);
    assert!(!stand.knows("a"));
    assert!(stand.books.as_ref().unwrap().holders.is_empty(), "the books forget it too");
    stand.counting("b");
    stand.report("b", 9);
    assert_eq!(stand.of("b").unused(), 5);
}

#[test]
fn what_a_list_shows_stays_out_until_the_watch_does() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 2);
    stand.pass(secs(20));
    assert_eq!(stand.checks, 1);
    stand.checked(&[object("o1", "a", 1)]);
    assert_eq!(stand.out("a"), NumberSet::of_range(1, 1));
    stand.pass(secs(9));
    assert_eq!(stand.checks, 1);
    stand.pass(secs(1));
    assert_eq!(stand.checks, 2, "in case the watch never does");
    stand.applied("o1", "a", 1);
    assert!(!stand.knows("a"));
}

#[test]
fn a_zombie_is_told_to_start_anew() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 2);
    let number = stand.take("a");
    stand.pass(secs(11));
    stand.report("a", 2);
    assert!(stand.of("a").must_restart());
    let now = stand.now;
    assert!(!stand.of("a").lease_holds(now));
    assert_eq!(stand.of("a").take(now), None);
    // What it had in hand counts until a list settles it, whatever it says of it.
    stand.of("a").returned(number);
    stand.report("a", 2);
    assert_eq!(stand.out("a").len(), 2);
    // And again when it is forgotten already.
    stand.pass(secs(10));
    stand.checked(&[]);
    assert!(!stand.knows("a"));
    stand.grants.clear();
    stand.report("a", 2);
    assert!(stand.grants[0].restart);
    assert!(!stand.knows("a"));
}

#[test]
fn a_report_that_claims_more_than_the_books_is_not_believed() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    let mut report = stand.report("a", 2);
    (report.seq, report.top, report.open) = (9, 7, NumberSet::of_range(1, 7));
    stand.ledger.report(&report, stand.now);
    stand.act();
    assert!(stand.of("a").must_restart());
    assert_eq!(stand.out("a").len(), 7);
    stand.pass(secs(10));
    stand.checked(&[]);
    assert!(!stand.knows("a"));
}

#[test]
fn a_holder_that_leaves_is_forgotten_when_the_last_is_echoed() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 3);
    let number = stand.make("a");
    stand.of("a").leave();
    stand.report("a", 5);
    assert_eq!(stand.out("a"), NumberSet::of_range(number, number), "the unused ones are back");
    stand.now += millis(1);
    stand.applied("o1", "a", number);
    stand.quota(count_quota(2, "5", "1"));
    assert!(stand.of("a").is_settled());
    assert!(stand.knows("a"), "its echo may be lost");
    stand.report("a", 5);
    assert!(!stand.knows("a"));
    assert!(stand.books.as_ref().unwrap().holders.is_empty());
}

#[test]
fn a_holder_that_leaves_need_not_hear_of_its_last_numbers() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    stand.report("a", 3);
    let now = stand.now;
    // Two more are granted, and the grant does not arrive.
    let more = stand.of("a").report(5, now);
    let holder = stand.holders.remove("a").unwrap();
    stand.ledger.report(&more, now);
    stand.act();
    assert_eq!(stand.out("a").len(), 5);
    stand.holders.insert("a".to_owned(), holder);
    stand.of("a").leave();
    let last = stand.of("a").report(0, now);
    assert_eq!(last.top, 3);
    stand.ledger.report(&last, now);
    stand.act();
    assert!(!stand.knows("a"), "it never uses a number again, those that it has not heard of included");
    assert!(stand.books.as_ref().unwrap().holders.is_empty());
}

fn books_of(top: u64, out: NumberSet) -> Books {
    let mut books = Books::empty();
    books.epoch = 7;
    books.holders.insert(HolderId::new("a"), Book { terms: terms(&[(COUNT, "1")]), top, out });
    books
}

#[test]
fn a_new_leader_counts_what_the_books_call_out_and_grants_the_rest() {
    let mut stand = Stand::bare(books_of(4, NumberSet::of_range(3, 4)));
    stand.quotas(vec![count_quota(1, "5", "1")]);
    stand.objects(&[object("o3", "a", 3)]);
    stand.counting("b");
    stand.report("b", 9);
    assert_eq!(stand.of("b").unused(), 2, "used 1, and two that may not show in it");
    assert!(matches!(stand.phase("a"), Phase::Adopted { .. }));
    stand.pass(secs(20));
    assert!(matches!(stand.phase("a"), Phase::Dead { .. }), "silent for L + P");
}

#[test]
fn what_an_older_leader_echoed_counts_until_it_is_seen() {
    let mut stand = Stand::bare(books_of(2, NumberSet::of_range(1, 2)));
    stand.quotas(vec![count_quota(1, "5", "1")]);
    stand.objects(&[]);
    stand.now += millis(10);
    let mut old = Holder::new(HolderId::new("a"), terms(&[(COUNT, "1")]));
    let mut report = old.report(0, stand.now);
    (report.epoch, report.top, report.open) = (6, 2, NumberSet::of_range(2, 2));
    stand.ledger.report(&report, stand.now);
    stand.act();
    assert_eq!(stand.out("a"), NumberSet::of_range(1, 2), "1 may be an object that this watch has not told");
    assert_eq!(stand.checks, 1, "asked at once");
    stand.now += millis(5);
    stand.checked(&[]);
    stand.quotas(vec![count_quota(1, "5", "1")]);
    assert_eq!(stand.out("a"), NumberSet::of_range(2, 2));
}

#[test]
fn a_made_number_whose_object_the_list_showed_is_settled() {
    let mut stand = Stand::bare(books_of(2, NumberSet::new()));
    stand.quotas(vec![count_quota(1, "5", "1")]);
    // The predecessor settled it, and its echo was lost.
    stand.objects(&[object("o1", "a", 1)]);
    let mut old = Holder::new(HolderId::new("a"), terms(&[(COUNT, "1")]));
    let mut report = old.report(0, stand.now);
    (report.epoch, report.top, report.made) = (6, 2, NumberSet::of_range(1, 1));
    stand.ledger.report(&report, stand.now);
    stand.act();
    assert_eq!(stand.ledger.unseen().map(|(_, numbers)| numbers.len()).sum::<u64>(), 0);
    stand.pass(millis(50));
    stand.now += millis(1);
    stand.quotas(vec![count_quota(1, "5", "1")]);
    assert!(stand.out("a").is_empty());
    assert_eq!(stand.grants.last().unwrap().made_seen, NumberSet::of_range(1, 1));
}

#[test]
fn grants_wait_for_the_books() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    let mut holder = Holder::new(HolderId::new("a"), terms(&[(COUNT, "1")]));
    let report = holder.report(3, stand.now);
    stand.ledger.report(&report, stand.now);
    let actions = stand.ledger.drain();
    let [Action::WriteBooks(books), Action::Send(answer)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(books.holders[&HolderId::new("a")].out, NumberSet::of_range(1, 3));
    assert_eq!(answer.top, 0);
    stand.ledger.books_written(stand.now);
    let actions = stand.ledger.drain();
    let [Action::Send(grant)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(grant.top, 3);
}

#[test]
fn an_old_report_that_raises_a_forgotten_holder_leaves_nothing_behind() {
    let mut stand = Stand::with(vec![count_quota(1, "5", "0")]);
    stand.counting("a");
    let first = stand.report("a", 2);
    let number = stand.make("a");
    stand.applied("o1", "a", number);
    stand.quota(count_quota(2, "5", "1"));
    stand.of("a").leave();
    stand.report("a", 0);
    stand.report("a", 0);
    assert!(!stand.knows("a"));
    stand.ledger.report(&first, stand.now);
    stand.act();
    assert_eq!(stand.out("a"), NumberSet::of_range(1, 2));
    stand.pass(secs(20));
    stand.checked(&[object("o1", "a", 1)]);
    assert!(!stand.knows("a"), "the watch has told of o1 before, and tells no more");
}
