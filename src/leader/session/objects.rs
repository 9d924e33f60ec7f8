//! What the session makes of the objects that its watch shows: the ledger's live side, and the record.

use std::time::Instant;

use super::{Gap, Session, seen_object};
use crate::clock;
use crate::k8s::{ObjectEvent, Sight};
use crate::ledger::SeenObject;

impl Session<'_> {
    pub(super) fn listed(&mut self, objects: &[Sight], version: u64, began: Instant, gap: bool) {
        let now = clock::now();
        self.well("objects");
        let Some((counted, _)) = self.leader.settings.own.created.clone() else { return };
        // Nothing stands in the record to go on from, and creates have been made unseen.
        let blind = self.forbidden_said && self.projection.record().version() == 0;
        if self.forbidden_said {
            self.forbidden_said = false;
            tracing::info!(kind = %counted, "the objects may be watched again: live objects are counted");
        }
        for sight in objects {
            self.projection.saw(sight, now);
        }
        let rewound = version < self.projection.record().version();
        if rewound {
            tracing::warn!(kind = %counted, "the API server's versions began again (another cluster, or one restored from a backup)");
            self.projection.rewind(version, now);
        }
        if gap || rewound || blind {
            let why = if blind {
                "the objects could not be watched until now"
            } else {
                "the API server forgot what happened since the last watch (410 Gone)"
            };
            tracing::warn!(
                kind = %counted,
                "record gap: {why}; objects that came and went meanwhile are unknown, ON_DOUBT decides about their \
                 messages"
            );
            self.gap = Some(Gap { since: now, version });
            self.read_facts();
        } else if self.projection.record().version() == 0 {
            // A watch that resumes behind this list moves the version itself.
            self.advance(version, now);
        }
        let seen: Vec<SeenObject> = objects.iter().map(seen_object).collect();
        self.ledger.objects_listed(&counted, &seen, began, now);
    }

    /// The record's version moves on, unless it waits for a gap to be marked: until then no version proves anything.
    fn advance(&mut self, version: u64, now: Instant) {
        match &mut self.gap {
            Some(gap) => gap.version = gap.version.max(version),
            None => self.projection.advance(version, now),
        }
    }

    /// Marks the gap, once it is known what the consumer had handed out when the list had ended.
    pub(super) fn close_gap(&mut self, handed_out: u64, began: Instant, now: Instant) {
        if let Some(gap) = self.gap.take_if(|gap| began >= gap.since) {
            self.projection.mark_gap(handed_out, now);
            self.projection.advance(gap.version, now);
        }
    }

    pub(super) fn object(&mut self, event: &ObjectEvent, replayed: bool) {
        let now = clock::now();
        self.well("objects");
        let Some((counted, _)) = self.leader.settings.own.created.clone() else { return };
        match event {
            ObjectEvent::Applied(sight) | ObjectEvent::Deleted(sight) => {
                self.projection.saw(sight, now);
                self.advance(sight.resource_version, now);
                let object = seen_object(sight);
                match event {
                    _ if replayed => self.ledger.object_replayed(&object, now),
                    ObjectEvent::Deleted(_) => self.ledger.object_deleted(&counted, &object, now),
                    ObjectEvent::Applied(_) | ObjectEvent::Bookmark(_) => {
                        self.ledger.object_applied(&counted, &object, now);
                    }
                }
            }
            ObjectEvent::Bookmark(version) => {
                self.advance(*version, now);
                self.ledger.object_watch_alive(&counted, now);
            }
        }
    }

    pub(super) fn forbidden(&mut self, text: &str) {
        let Some((counted, _)) = &self.leader.settings.own.created else { return };
        if !self.forbidden_said {
            self.forbidden_said = true;
            tracing::warn!(
                kind = %counted,
                answer = text,
                "the objects may not be listed and watched (give the right to list and watch them): capacity is \
                 judged by `used` with a settle time, which is weaker, and there is no record of finished messages"
            );
        }
        self.ledger.object_watch_forbidden(counted, clock::now());
    }
}
