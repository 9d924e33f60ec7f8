//! What an event costs.

use super::*;

/// One holder with a thousand credits in flight, answered out of order; a report and a watch event for each.
#[test]
#[ignore = "a measurement, to be run with optimisation"]
#[allow(clippy::disallowed_methods, reason = "it measures real time")]
fn an_event_costs_microseconds() {
    const EVENTS: u32 = 50_000;
    let mut stand = Stand::with(vec![count_quota(1, "1M", "0")]);
    stand.counting("a");
    stand.report("a", 1_000);
    stand.report("a", 0);
    let mut flying: Vec<u64> = (0..999).map(|_| stand.take("a")).collect();
    let mut spent = [Duration::ZERO; 4];
    let mut version = 1;
    let mut ranges = 0;
    for event in 0..u64::from(EVENTS) {
        stand.now += Duration::from_micros(20);
        let at = (event.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % flying.len();
        let number = flying.swap_remove(at);
        let began = Instant::now();
        stand.ledger.object_applied(&kind(), &object(&format!("o{number}"), "a", number), stand.now);
        stand.act();
        spent[0] += began.elapsed();
        stand.of("a").made(number);
        let now = stand.now;
        let report = stand.of("a").report(1, now);
        ranges = ranges.max(report.open.range_count() + report.made.range_count());
        let began = Instant::now();
        stand.ledger.report(&report, now);
        stand.act();
        spent[1] += began.elapsed();
        let began = Instant::now();
        let due = stand.ledger.deadline(now);
        spent[2] += began.elapsed();
        if due.is_some_and(|due| due <= now) || event % 100 == 0 {
            version += 1;
            let began = Instant::now();
            stand.quota(count_quota(version, "1M", &event.to_string()));
            spent[3] += began.elapsed();
        }
        stand.grants.clear();
        flying.push(stand.take("a"));
    }
    let each = spent.map(|time| time / EVENTS);
    eprintln!(
        "object {:?}, report {:?}, deadline {:?}, quota {:?} per event, up to {ranges} ranges",
        each[0], each[1], each[2], each[3]
    );
}
