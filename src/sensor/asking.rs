//! When a report is worth sending before it is due. Pure.

use std::time::{Duration, Instant};

/// How long what can wait is gathered. Each report costs a write of the books, so one for many messages is worth this
/// much; nothing waits longer.
const GATHER: Duration = Duration::from_millis(2);

/// What there is to tell.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct News {
    /// Something that the leader decides by, or that a holder waits for.
    pub(super) urgent: bool,
    /// Numbers came back.
    pub(super) returned: bool,
    /// How many more numbers could be used.
    pub(super) want: u64,
    /// Others wait for what comes back.
    pub(super) others_wait: bool,
    /// No number is left and no message is in hand.
    pub(super) idle: bool,
    /// The most messages that may be in hand.
    pub(super) most: u64,
}

/// Decides it, by what was asked for last.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// What was asked for and not granted yet.
    unmet: u64,
    /// Since when there is something to tell that can wait.
    since: Option<Instant>,
}

impl Asking {
    /// A report went that asks for so many.
    pub(super) const fn reported(&mut self, want: u64) {
        self.unmet = want;
        self.since = None;
    }

    /// So many numbers came.
    pub(super) const fn granted(&mut self, numbers: u64) {
        self.unmet = self.unmet.saturating_sub(numbers);
    }

    /// From when on a report is worth it; none where there is nothing to tell.
    ///
    /// What came back is told at once where somebody lacks it, this lane or another. Where all that was asked for was
    /// granted, it is gathered until a quarter of the window could be used anew. A message may end after its number
    /// was reported back, and leave room only then: that is told, too, though nothing of the credits changed.
    pub(super) fn due(&mut self, news: News, now: Instant) -> Option<Instant> {
        let quarter = (news.most / 4).max(1);
        // Who has asked for more than a quarter and waits for it need not ask again.
        let more = self.unmet < quarter && news.want > self.unmet;
        if !(news.urgent || news.returned || more) {
            self.since = None;
            return None;
        }
        let lacking = news.returned && (self.unmet > 0 || news.others_wait);
        let worth = more && (news.idle || news.want >= quarter);
        if news.urgent || lacking || worth {
            return Some(now);
        }
        Some(*self.since.get_or_insert(now) + GATHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const QUIET: News = News { urgent: false, returned: false, want: 0, others_wait: false, idle: false, most: 100 };

    #[test]
    fn what_came_back_is_gathered_where_nobody_lacks_it() {
        let (mut asking, now) = (Asking::default(), clock::now());
        asking.reported(100);
        asking.granted(100);
        assert_eq!(asking.due(QUIET, now), None);
        let some = News { returned: true, want: 24, ..QUIET };
        assert_eq!(asking.due(some, now), Some(now + GATHER));
        let later = now + GATHER / 2;
        assert_eq!(asking.due(some, later), Some(now + GATHER), "not longer because more comes");
        assert_eq!(asking.due(News { want: 25, ..some }, later), Some(later), "a quarter");
        assert_eq!(asking.due(News { others_wait: true, ..some }, later), Some(later), "another lacks it");
        assert_eq!(asking.due(News { urgent: true, ..QUIET }, later), Some(later));
        asking.reported(24);
        assert_eq!(asking.due(News { want: 24, ..QUIET }, later), None);
        assert_eq!(asking.due(some, later), Some(later), "this lane lacks it");
    }

    #[test]
    fn the_end_of_a_message_is_told_where_nothing_else_would_ask() {
        let (mut asking, now) = (Asking::default(), clock::now());
        // Its number went back with a report that still had it in hand.
        asking.reported(0);
        let ended = News { want: 1, idle: true, most: 1, ..QUIET };
        assert_eq!(asking.due(ended, now), Some(now));
        asking.reported(1);
        assert_eq!(asking.due(ended, now), None, "asked for already");
        asking.granted(1);
        assert_eq!(asking.due(ended, now), Some(now));
        let (mut asking, busy) = (Asking::default(), News { want: 1, ..QUIET });
        assert_eq!(asking.due(busy, now), Some(now + GATHER), "others are in hand: it is gathered");
    }

    #[test]
    fn who_waits_for_much_does_not_ask_at_each_end() {
        let (mut asking, now) = (Asking::default(), clock::now());
        asking.reported(90);
        for want in 90..=100 {
            assert_eq!(asking.due(News { want, ..QUIET }, now), None);
        }
        asking.granted(70);
        assert_eq!(asking.due(News { want: 30, ..QUIET }, now), Some(now), "little is left of what was asked");
    }
}
