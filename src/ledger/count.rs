//! The count: what is free under the limit, and why nothing is.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::gate::{self, Bound, Quantity, QuotaView, Reason, ResourceName};
use crate::ledger::account::{Account, Priced};
use crate::ledger::live::LiveState;
use crate::ledger::owner::{Ledger, Standing};
use crate::message::HolderId;
use crate::wire::{Reading, ResourceSignal, Signal, Terms, VERSION};

impl Ledger {
    /// The signal of a quota, for people: the terms that name it decide which resources it shows.
    pub fn signal(&mut self, quota: &str, terms: &[Terms], now: Instant) -> Signal {
        self.signal_seq = self.signal_seq.saturating_add(1);
        let mut resources: BTreeMap<ResourceName, ResourceSignal> = BTreeMap::new();
        let mut reason = None;
        for terms in terms.iter().filter(|terms| terms.quotas.iter().any(|name| name == quota)) {
            let prices = price(&self.quotas, terms);
            let standing = self.explain(&prices, None, now);
            reason = reason.or(standing.reason);
            for reading in standing.readings.into_iter().filter(|reading| reading.quota == quota) {
                let credits = self.holders.values().map(|account| account.out().len()).sum();
                let weaker = !prices.iter().any(|price| price.resource == reading.resource && self.is_live(price));
                let signal = ResourceSignal {
                    resource: reading.resource.clone(),
                    hard: reading.hard,
                    used: reading.used,
                    live: reading.live,
                    limit: reading.limit,
                    headroom: reading.headroom,
                    credits,
                    weaker,
                };
                resources
                    .entry(reading.resource)
                    .and_modify(|known| {
                        if known.limit < signal.limit {
                            *known = signal.clone();
                        }
                    })
                    .or_insert(signal);
            }
        }
        Signal {
            v: VERSION,
            namespace: self.namespace.clone(),
            quota: quota.to_owned(),
            resources: resources.into_values().collect(),
            reason,
            resource_version: self.quotas.get(quota).map_or(0, |view| view.resource_version),
            epoch: self.epoch,
            seq: self.signal_seq,
        }
    }

    /// How a set of terms stands. `holder` is whose credits do not count as held by others.
    #[must_use]
    pub fn standing(&self, terms: &Terms, holder: Option<&HolderId>, now: Instant) -> Standing {
        self.explain(&price(&self.quotas, terms), holder, now)
    }

    /// The room under each quota for each of the costs.
    pub(super) fn rooms<'a>(&self, prices: &'a [Priced]) -> Vec<Room<'a>> {
        let mut rooms = Vec::with_capacity(prices.len());
        for price in prices {
            let Ok(bounds) = &price.bounds else { continue };
            let live = self.live_side(price);
            for bound in bounds {
                let used = bound.used.saturating_add(self.used_pending(&bound.quota, price));
                let side = live.map_or(used, |live| live.max(used));
                rooms.push(Room { bound, price, headroom: bound.limit.saturating_sub(side) });
            }
        }
        rooms
    }

    /// Why nothing at all is granted for these costs, whatever the room.
    pub(super) fn blocked(&self, prices: &[Priced], now: Instant) -> Option<Reason> {
        self.not_ready(prices, now)
            .or_else(|| prices.iter().find_map(|price| price.bounds.as_ref().err().map(|why| why.reason)))
            .or_else(|| self.held_quota(prices, now).map(|_| Reason::QuotaRefused))
    }

    fn held_quota<'a>(&self, prices: &'a [Priced], now: Instant) -> Option<&'a str> {
        let mut bounds = prices.iter().filter_map(|price| price.bounds.as_ref().ok()).flatten();
        bounds.find(|bound| self.held(&bound.quota, now)).map(|bound| bound.quota.as_str())
    }

    /// Why no further number fits, or none.
    pub(super) fn reason(&self, prices: &[Priced], holder: Option<&HolderId>, now: Instant) -> Option<Reason> {
        self.blocked(prices, now)
            .or_else(|| (credits(&self.rooms(prices)) == 0).then(|| self.full_reason(prices, holder)))
    }

    fn full_reason(&self, prices: &[Priced], holder: Option<&HolderId>) -> Reason {
        let held = self.holders.iter().filter(|(id, _)| Some(*id) != holder).any(|(_, account)| {
            account.unanswered > 0
                && account.prices.iter().any(|theirs| prices.iter().any(|ours| ours.resource == theirs.resource))
        });
        if held { Reason::HeldByOthers } else { Reason::AtLimit }
    }

    /// The reason in words, with the readings behind it.
    pub(super) fn explain(&self, prices: &[Priced], holder: Option<&HolderId>, now: Instant) -> Standing {
        let rooms = self.rooms(prices);
        let blocked = self.blocked(prices, now);
        let credits = if blocked.is_some() { 0 } else { credits(&rooms) };
        let reason = blocked.or_else(|| (credits == 0).then(|| self.full_reason(prices, holder)));
        let detail = if let Some(reason) = blocked {
            self.blocked_detail(prices, reason, now)
        } else if credits == 0 {
            rooms.iter().find(|room| room.headroom < room.price.amount).map_or_else(String::new, |room| {
                let live = self.live_count(room.price).map_or_else(String::new, |live| format!(", {live} live"));
                let Bound { quota, hard, used, limit, spec_differs: _ } = room.bound;
                format!(
                    "{} of quota {quota}: {used} used{live}, limit {limit}, hard {hard}",
                    room.price.resource.as_str()
                )
            })
        } else {
            String::new()
        };
        let readings = rooms
            .into_iter()
            .map(|room| Reading {
                quota: room.bound.quota.clone(),
                resource: room.price.resource.clone(),
                hard: room.bound.hard,
                used: room.bound.used,
                live: self.live_count(room.price),
                limit: room.bound.limit,
                headroom: room.headroom,
                version: self.quotas.get(&room.bound.quota).map_or(0, |view| view.resource_version),
            })
            .collect();
        Standing { credits, reason, detail, readings }
    }

    fn blocked_detail(&self, prices: &[Priced], reason: Reason, now: Instant) -> String {
        if self.not_ready(prices, now).is_some() {
            return self.not_ready_detail(prices, now);
        }
        if let Some(why) = prices.iter().find_map(|price| price.bounds.as_ref().err()) {
            return why.detail.clone();
        }
        self.held_quota(prices, now).map_or_else(
            || reason.sentence().to_owned(),
            |quota| format!("quota {quota} refused an effect that a credit was held for"),
        )
    }

    /// Whether a cost is counted by its objects.
    pub(super) fn is_live(&self, price: &Priced) -> bool {
        self.options.live_side
            && price.own
            && price.counted.as_ref().is_some_and(|counted| {
                matches!(
                    self.kinds.get(counted),
                    Some(LiveState::Watched { objects: _, alive: _ } | LiveState::Unknown)
                )
            })
    }

    /// Whether some cost of the holder is settled by time, because no watch shows its effect.
    pub(super) fn is_settled_by_time(&self, account: &Account) -> bool {
        account.prices.iter().any(|price| !self.is_live(price))
    }

    /// Whether some cost of the holder is settled by the sight of the object.
    pub(super) fn is_settled_by_sight(&self, account: &Account) -> bool {
        account.prices.iter().any(|price| self.is_live(price))
    }

    fn live_count(&self, price: &Priced) -> Option<u64> {
        if !self.options.live_side {
            return None;
        }
        price.counted.as_ref().and_then(|counted| self.kinds.get(counted).and_then(LiveState::count))
    }

    /// Live objects and every credit that may still become one.
    fn live_side(&self, price: &Priced) -> Option<Quantity> {
        let mut side = Quantity::from_whole(self.live_count(price)?);
        for account in self.holders.values() {
            for theirs in account.prices.iter().filter(|theirs| theirs.resource == price.resource) {
                let out = if self.is_live(theirs) {
                    account.unseen
                } else {
                    account.unanswered + account.made.iter().map(|batch| batch.numbers.len()).sum::<u64>()
                };
                side = side.saturating_add(theirs.amount.times(out));
            }
        }
        Some(side)
    }

    /// What `used` of a quota does not show yet: credits without an answer, and answers after its last reading.
    fn used_pending(&self, quota: &str, price: &Priced) -> Quantity {
        let read_at = self.quota_read_at(quota);
        let mut pending = Quantity::ZERO;
        for account in self.holders.values() {
            for theirs in account.prices.iter().filter(|theirs| theirs.resource == price.resource) {
                let live = self.is_live(theirs);
                // The youngest come last.
                let made = account.made.iter().rev();
                let unread = made.take_while(|batch| !live || read_at.is_none_or(|read| read <= batch.at));
                let count = account.unanswered + unread.map(|batch| batch.numbers.len()).sum::<u64>();
                pending = pending.saturating_add(theirs.amount.times(count));
            }
        }
        pending
    }

    /// Why nothing at all is known well enough.
    fn not_ready(&self, prices: &[Priced], now: Instant) -> Option<Reason> {
        if self.quota_lack().is_some() {
            return Some(Reason::TargetRefused);
        }
        let Some(quotas_alive) = self.quotas_alive.filter(|_| self.all_read_at.is_some()) else {
            return Some(Reason::LeaderSettling);
        };
        if now >= quotas_alive + self.options.watch_grace {
            return Some(Reason::ApiDown);
        }
        prices.iter().filter(|price| price.own).find_map(|price| {
            match price.counted.as_ref().and_then(|counted| self.kinds.get(counted)) {
                None | Some(LiveState::Unknown) => Some(Reason::LeaderSettling),
                Some(LiveState::Watched { objects: _, alive }) if now >= *alive + self.options.watch_grace => {
                    Some(Reason::ApiDown)
                }
                Some(LiveState::Watched { objects: _, alive: _ } | LiveState::Forbidden) => None,
            }
        })
    }

    fn not_ready_detail(&self, prices: &[Priced], now: Instant) -> String {
        if let Some(lack) = self.quota_lack() {
            return lack.detail();
        }
        let Some(quotas_alive) = self.quotas_alive.filter(|_| self.all_read_at.is_some()) else {
            return "the quotas have not been listed yet".to_owned();
        };
        if now >= quotas_alive + self.options.watch_grace {
            return "the watch of the quotas is silent".to_owned();
        }
        let mut own = prices.iter().filter(|price| price.own).filter_map(|price| price.counted.as_ref());
        let unknown = own.clone().find(|kind| matches!(self.kinds.get(kind), None | Some(LiveState::Unknown)));
        match (unknown, own.next()) {
            (Some(kind), _) => format!("{kind} have not been listed yet"),
            (None, Some(kind)) => format!("the watch of {kind} is silent"),
            (None, None) => String::new(),
        }
    }
}

/// The room for one cost under one quota.
#[derive(Debug)]
pub(super) struct Room<'a> {
    pub(super) bound: &'a Bound,
    pub(super) price: &'a Priced,
    /// What is left under the limit, on the side that leaves less.
    pub(super) headroom: Quantity,
}

/// How many times all costs fit; never, where nothing bounds them.
fn credits(rooms: &[Room<'_>]) -> u64 {
    rooms.iter().map(|room| room.headroom.divided_by(room.price.amount)).min().unwrap_or(0)
}

/// The costs of terms under the quotas as last read.
pub(super) fn price(quotas: &BTreeMap<String, QuotaView>, terms: &Terms) -> Vec<Priced> {
    terms
        .costs
        .iter()
        .map(|cost| {
            let counted = cost.resource.counted();
            Priced {
                bounds: gate::bounds(quotas, &terms.quotas, terms.ratio, &cost.resource, cost.amount),
                own: counted.is_some() && counted == terms.created,
                counted,
                amount: cost.amount,
                resource: cost.resource.clone(),
            }
        })
        .collect()
}
