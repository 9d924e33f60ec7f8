//! What the session makes of the objects that its watch shows: the ledger's live side, and the record.

use std::time::Instant;

use super::super::projection::{Begin, HandedOut};
use super::{Session, seen_object};
use crate::clock;
use crate::jetstream::ConsumerFacts;
use crate::k8s::{ObjectEvent, Sight};
use crate::ledger::SeenObject;
use crate::telemetry::{LabelValue as _, WatchKind};

impl Session<'_> {
    pub(super) fn listed(&mut self, objects: &[Sight], version: u64, began: Instant, gap: bool) {
        let now = clock::now();
        self.well(WatchKind::Objects.as_str());
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
        let begin = match (blind, gap) {
            (true, _) => Begin::Blind,
            (false, true) => Begin::Expired,
            (false, false) => Begin::InPlace,
        };
        if self.projection.listed(version, begin, now) {
            self.read_facts();
        }
        let seen: Vec<SeenObject> = objects.iter().map(seen_object).collect();
        self.ledger.objects_listed(&counted, &seen, began, now);
    }

    /// Says that the consumer has acknowledged more than the stream has, once: it was not taken back with the stream.
    pub(super) fn say_ahead(&mut self, ack_floor: u64, last_sequence: u64) {
        let ahead = ack_floor > last_sequence;
        if ahead && !self.ahead_said {
            tracing::warn!(
                stream = self.leader.settings.own.stream,
                ack_floor,
                last_sequence,
                "the consumer is ahead of its stream, which lost its end: what gets these sequences now will not be \
                 delivered, unless the consumer is made anew to deliver from there"
            );
        }
        self.ahead_said = ahead;
    }

    /// Marks a gap as soon as it is known what the consumer had handed out.
    pub(super) fn close_gap(&mut self, consumer: &ConsumerFacts, began: Instant, now: Instant) {
        let handed_out = HandedOut {
            upto: consumer.delivered_stream_sequence,
            deliveries: consumer.delivered_consumer_sequence,
            began,
        };
        if let Some(doubt) = self.projection.close_gap(handed_out, now) {
            tracing::warn!(
                stream = self.leader.settings.own.stream,
                upto = handed_out.upto,
                "record gap: {}; objects that came and went meanwhile are unknown, ON_DOUBT decides about their messages",
                doubt.as_str()
            );
        }
    }

    pub(super) fn object(&mut self, event: &ObjectEvent, replayed: bool) {
        let now = clock::now();
        self.well(WatchKind::Objects.as_str());
        let Some((counted, _)) = self.leader.settings.own.created.clone() else { return };
        match event {
            ObjectEvent::Applied(sight) | ObjectEvent::Deleted(sight) if replayed => {
                let object = self.sighted(sight, now);
                self.ledger.object_replayed(&object, now);
            }
            ObjectEvent::Applied(sight) => {
                let object = self.sighted(sight, now);
                self.ledger.object_applied(&counted, &object, now);
            }
            ObjectEvent::Deleted(sight) => {
                let object = self.sighted(sight, now);
                self.ledger.object_deleted(&counted, &object, now);
            }
            ObjectEvent::Bookmark(version) => {
                self.projection.advance(*version, now);
                self.ledger.object_watch_alive(&counted, now);
            }
        }
    }

    /// What an event tells the record, whatever has become of the object.
    fn sighted(&mut self, sight: &Sight, now: Instant) -> SeenObject {
        self.projection.saw(sight, now);
        self.projection.advance(sight.resource_version, now);
        seen_object(sight)
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
