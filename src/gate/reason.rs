//! Why work does not leave the stream: one closed set, one table.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

/// Why a gate is blocked. Log, metric, condition, event, command line and docs all draw on this one set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Reason {
    /// The limit is reached.
    AtLimit,
    /// What is left under the limit is held by other lanes.
    HeldByOthers,
    /// A named quota does not exist.
    QuotaMissing,
    /// No named quota names the resource.
    ResourceMissing,
    /// A quota is not calculated yet.
    StatusUnknown,
    /// One effect costs more than the quota allows in all.
    NeverFits,
    /// No leader has answered since the start.
    NoLeader,
    /// The last grant is too old to be believed.
    GrantStale,
    /// A new leader is adopting the books.
    LeaderSettling,
    /// The API server refuses the object, or what a leader needs, whatever the message.
    TargetRefused,
    /// The API server refused for the quota, against what the leader saw.
    QuotaRefused,
    /// A user has suspended the sensor.
    Suspended,
    /// The quota controller does not recalculate.
    QuotaControllerStalled,
    /// More objects are alive than the limit allows.
    OverAdmitted,
    /// NATS cannot be reached, or not used.
    NatsDown,
    /// The API server cannot be reached, or not used.
    ApiDown,
    /// The API server asks for fewer calls.
    ApiThrottled,
    /// The receiver of an http trigger does not answer.
    ReceiverDown,
    /// The consumer is paused on the server.
    ConsumerPaused,
    /// The sensor is being drained.
    Draining,
    /// The process is ending.
    Shutdown,
}

/// One line of the table.
struct Row {
    name: &'static str,
    sentence: &'static str,
    cause: &'static str,
    freed_by: &'static str,
    sets_gauge: bool,
}

impl Reason {
    /// Every reason, in the order of the docs.
    pub const ALL: [Self; 21] = [
        Self::AtLimit,
        Self::HeldByOthers,
        Self::QuotaMissing,
        Self::ResourceMissing,
        Self::StatusUnknown,
        Self::NeverFits,
        Self::NoLeader,
        Self::GrantStale,
        Self::LeaderSettling,
        Self::TargetRefused,
        Self::QuotaRefused,
        Self::Suspended,
        Self::QuotaControllerStalled,
        Self::OverAdmitted,
        Self::NatsDown,
        Self::ApiDown,
        Self::ApiThrottled,
        Self::ReceiverDown,
        Self::ConsumerPaused,
        Self::Draining,
        Self::Shutdown,
    ];

    /// Every reason, the one that is said first where several hold first: what ends the lane, what somebody wants,
    /// what it stands on, whom it asks, what does not pass by itself, and last what passes.
    ///
    /// The reasons that explain a full quota stand behind [`Reason::AtLimit`], which they go with.
    pub const PRECEDENCE: [Self; 21] = [
        Self::Shutdown,
        Self::Draining,
        Self::Suspended,
        Self::ConsumerPaused,
        Self::NatsDown,
        Self::ApiDown,
        Self::ReceiverDown,
        Self::NoLeader,
        Self::GrantStale,
        Self::LeaderSettling,
        Self::TargetRefused,
        Self::QuotaMissing,
        Self::ResourceMissing,
        Self::StatusUnknown,
        Self::NeverFits,
        Self::QuotaRefused,
        Self::AtLimit,
        Self::HeldByOthers,
        Self::QuotaControllerStalled,
        Self::OverAdmitted,
        Self::ApiThrottled,
    ];

    /// The table.
    const fn row(self) -> Row {
        match self {
            Self::AtLimit => Row {
                name: "at_limit",
                sentence: "blocked: the limit of the quota is reached",
                cause: "objects alive, together with the credits that are out, fill the limit",
                freed_by: "an object of the counted kind going away",
                sets_gauge: true,
            },
            Self::HeldByOthers => Row {
                name: "held_by_others",
                sentence: "blocked: the room that is left is held by other lanes",
                cause: "fewer objects are alive than the limit allows, but credits for the rest are out",
                freed_by: "another lane spending or returning its credits",
                sets_gauge: true,
            },
            Self::QuotaMissing => Row {
                name: "quota_missing",
                sentence: "blocked: the quota does not exist",
                cause: "a ResourceQuota that is named in `BACKPRESSURE_QUOTA_NAME` is not in its namespace",
                freed_by: "the quota appearing",
                sets_gauge: true,
            },
            Self::ResourceMissing => Row {
                name: "resource_missing",
                sentence: "blocked: the quota does not name the resource",
                cause: "no ResourceQuota that is named has the resource in its hard list, or it has scopes and cannot \
                        count it",
                freed_by: "the quota naming the resource",
                sets_gauge: true,
            },
            Self::StatusUnknown => Row {
                name: "status_unknown",
                sentence: "blocked: the quota is not calculated yet",
                cause: "the status of a ResourceQuota lacks hard or used of the resource",
                freed_by: "the quota controller calculating the quota",
                sets_gauge: true,
            },
            Self::NeverFits => Row {
                name: "never_fits",
                sentence: "blocked: one effect costs more than the quota allows in all",
                cause: "the cost of one effect is above hard",
                freed_by: "raising hard, or a smaller cost",
                sets_gauge: true,
            },
            Self::NoLeader => Row {
                name: "no_leader",
                sentence: "blocked: no leader has granted anything yet",
                cause: "nobody has answered since the start",
                freed_by: "a leader: where none is installed, install the controller or set `BACKPRESSURE_SOURCE=apiserver`",
                sets_gauge: true,
            },
            Self::GrantStale => Row {
                name: "grant_stale",
                sentence: "blocked: the last grant is too old",
                cause: "no leader has answered for `BACKPRESSURE_SIGNAL_MAX_AGE`",
                freed_by: "a leader answering",
                sets_gauge: true,
            },
            Self::LeaderSettling => Row {
                name: "leader_settling",
                sentence: "blocked: a new leader is reading the books",
                cause: "leadership has changed, and what is out is being counted",
                freed_by: "the leader having adopted its books",
                sets_gauge: true,
            },
            Self::TargetRefused => Row {
                name: "target_refused",
                sentence: "blocked: the API server refuses what is needed, whatever the message",
                cause: "a right (RBAC), the kind or the namespace is missing: for the objects, or for the Lease and the \
                        quotas where the sensor leads itself; or a quota wants requests or limits that the template \
                        does not give, or the cluster allows the kind under a quota alone",
                freed_by: "granting the right, installing the kind, creating the namespace or the quota, naming the \
                           requests and limits in the template",
                sets_gauge: true,
            },
            Self::QuotaRefused => Row {
                name: "quota_refused",
                sentence: "blocked: the API server refused for the quota",
                cause: "a foreign writer or another quota took room that looked free",
                freed_by: "a later reading of the quota",
                sets_gauge: true,
            },
            Self::Suspended => Row {
                name: "suspended",
                sentence: "blocked: suspended by a user",
                cause: "a user has suspended the sensor",
                freed_by: "the user",
                sets_gauge: true,
            },
            Self::QuotaControllerStalled => Row {
                name: "quota_controller_stalled",
                sentence: "blocked: the quota controller does not recalculate",
                cause: "used stays where it is although objects have gone",
                freed_by: "the quota controller (kube-controller-manager) working again",
                sets_gauge: false,
            },
            Self::OverAdmitted => Row {
                name: "over_admitted",
                sentence: "blocked: more objects are alive than the limit allows",
                cause: "hard was lowered, or others created objects beyond the limit",
                freed_by: "objects going away",
                sets_gauge: false,
            },
            Self::NatsDown => Row {
                name: "nats_down",
                sentence: "blocked: NATS cannot be used",
                cause: "the connection is lost or refused; or the stream is missing, does not answer, or may not be used",
                freed_by: "NATS; the stream, or the right, being there",
                sets_gauge: false,
            },
            Self::ApiDown => Row {
                name: "api_down",
                sentence: "blocked: the API server cannot be reached, or not used",
                cause: "calls fail or run into their timeout, or the API server does not know who asks (401)",
                freed_by: "the API server; another login",
                sets_gauge: false,
            },
            Self::ApiThrottled => Row {
                name: "api_throttled",
                sentence: "blocked: the API server asks for fewer calls",
                cause: "calls are answered with 429",
                freed_by: "the API server",
                sets_gauge: false,
            },
            Self::ReceiverDown => Row {
                name: "receiver_down",
                sentence: "blocked: the receiver does not answer",
                cause: "calls of the http trigger fail",
                freed_by: "the receiver",
                sets_gauge: false,
            },
            Self::ConsumerPaused => Row {
                name: "consumer_paused",
                sentence: "blocked: the consumer is paused",
                cause: "somebody has paused the durable consumer on the NATS server",
                freed_by: "resuming the consumer",
                sets_gauge: false,
            },
            Self::Draining => Row {
                name: "draining",
                sentence: "blocked: the sensor is draining",
                cause: "what is in hand is finished, and nothing more is taken",
                freed_by: "the end of draining",
                sets_gauge: false,
            },
            Self::Shutdown => Row {
                name: "shutdown",
                sentence: "blocked: the process is shutting down",
                cause: "SIGTERM, or a failure that ends the process",
                freed_by: "the next start",
                sets_gauge: false,
            },
        }
    }

    /// Its name in metrics, conditions and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().name
    }

    /// What a person reads in the log.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        self.row().sentence
    }

    /// How it comes about.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        self.row().cause
    }

    /// What ends it.
    #[must_use]
    pub const fn freed_by(self) -> &'static str {
        self.row().freed_by
    }

    /// Whether it sets `sensor_quota_blocked`: it is about the quota and who shares it, not about what has failed.
    #[must_use]
    pub const fn sets_gauge(self) -> bool {
        self.row().sets_gauge
    }

    /// Whether it takes back what was granted before: the quota does not say any more that there is room, or is too
    /// small for even one effect. Where the others hold, a number that was granted is still good.
    #[must_use]
    pub const fn withdraws(self) -> bool {
        match self {
            Self::QuotaMissing | Self::ResourceMissing | Self::StatusUnknown | Self::NeverFits | Self::Suspended => {
                true
            }
            Self::AtLimit
            | Self::HeldByOthers
            | Self::NoLeader
            | Self::GrantStale
            | Self::LeaderSettling
            | Self::TargetRefused
            | Self::QuotaRefused
            | Self::QuotaControllerStalled
            | Self::OverAdmitted
            | Self::NatsDown
            | Self::ApiDown
            | Self::ApiThrottled
            | Self::ReceiverDown
            | Self::ConsumerPaused
            | Self::Draining
            | Self::Shutdown => false,
        }
    }

    /// The page about the reasons, for the docs.
    #[must_use]
    pub fn markdown() -> String {
        let mut page = String::from(
            "# Reasons\n\n\
             Why a sensor takes no message. The log, the metrics, the conditions, the events and the command line all \
             use these names.\n\
             A blocked sensor is alive and ready, and goes on by itself when the reason is gone.\n\n\
             | reason | what the log says | cause | freed by | sets `sensor_quota_blocked` |\n\
             |---|---|---|---|---|\n",
        );
        for reason in Self::ALL {
            let Row { name, sentence, cause, freed_by, sets_gauge } = reason.row();
            let gauge = if sets_gauge { "yes" } else { "no" };
            // Writing to a String does not fail.
            writeln!(page, "| `{name}` | {sentence} | {cause} | {freed_by} | {gauge} |").ok();
        }
        page.push_str("\nWhere several hold, the first one of this list is said:\n");
        let names = Self::PRECEDENCE.map(|reason| format!("`{reason}`"));
        writeln!(page, "{}.", names.join(", ")).ok();
        page.push_str(
            "\nThe gauge is 1 while any one that sets it holds, whichever is said. \
             `quota_controller_stalled` and `over_admitted` go with `at_limit`, which sets it.\n",
        );
        page
    }

    pub(super) const fn bit(self) -> u32 {
        1 << self as u8
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_and_precedence_are_the_same_set() {
        let all: BTreeSet<_> = Reason::ALL.into_iter().collect();
        let ranked: BTreeSet<_> = Reason::PRECEDENCE.into_iter().collect();
        assert_eq!(all.len(), Reason::ALL.len());
        assert_eq!(all, ranked);
    }

    #[test]
    fn one_name_everywhere() {
        let names: BTreeSet<_> = Reason::ALL.into_iter().map(Reason::as_str).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let json = format!("\"{reason}\"");
            assert_eq!(serde_json::to_string(&reason).unwrap(), json);
            assert_eq!(serde_json::from_str::<Reason>(&json).unwrap(), reason);
            assert!(reason.sentence().starts_with("blocked: "), "{reason}");
            assert!(!reason.cause().is_empty() && !reason.freed_by().is_empty(), "{reason}");
        }
    }

    #[test]
    fn the_gauge_is_set_by_what_the_design_says() {
        let quiet: Vec<_> = Reason::ALL.into_iter().filter(|reason| !reason.sets_gauge()).map(Reason::as_str).collect();
        assert_eq!(
            quiet,
            [
                "quota_controller_stalled",
                "over_admitted",
                "nats_down",
                "api_down",
                "api_throttled",
                "receiver_down",
                "consumer_paused",
                "draining",
                "shutdown",
            ]
        );
    }

    #[test]
    fn the_page_has_every_reason_and_no_broken_row() {
        let page = Reason::markdown();
        for reason in Reason::ALL {
            assert!(page.contains(&format!("\n| `{reason}` | ")), "{reason}");
        }
        for row in page.lines().filter(|line| line.starts_with('|')) {
            assert_eq!(row.matches('|').count(), 6, "{row}");
        }
    }
}
