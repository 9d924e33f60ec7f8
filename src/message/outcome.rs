//! What the API server's answer to a create means.
//!
//! One code has many meanings: a 403 may be a full quota, a missing right, a namespace that goes, or the words of a
//! webhook that happen to say `exceeded quota`. So a class is given only where code, reason, the kind in the details
//! and the whole shape of the text agree; everything else is tried again, never taken for the message's own fault.

use std::collections::BTreeMap;
use std::time::Duration;

use super::DeadReason;
use crate::gate::Quantity;

/// The `Status` of a refusal as the API server sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiStatus {
    /// The code, such as 403.
    pub code: u16,
    /// The reason, such as `Forbidden`.
    pub reason: String,
    /// The text.
    pub message: String,
    /// `details.kind`: the plural name of what was refused.
    pub kind: String,
    /// `details.group`.
    pub group: String,
    /// `details.name`.
    pub name: String,
    /// `details.causes`.
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds`, or the `Retry-After` header.
    pub retry_after: Option<Duration>,
}

/// One of the causes in the details of a `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The reason, such as `NamespaceTerminating`.
    pub reason: String,
    /// The text.
    pub message: String,
    /// The field of the object that is meant.
    pub field: String,
}

/// What was to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateTarget {
    /// The API group; empty for the core group.
    pub group: String,
    /// The plural name, such as `workflows`.
    pub plural: String,
    /// The kind, such as `Workflow`.
    pub kind: String,
}

impl CreateTarget {
    /// The resource as the API server writes it: `workflows.argoproj.io`, or `pods` in the core group.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// What a quota said when it refused: amounts by resource, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuotaRefusal {
    /// The quota's name.
    pub quota: String,
    /// What the object asks for.
    pub requested: BTreeMap<String, String>,
    /// What was used.
    pub used: BTreeMap<String, String>,
    /// What the quota allows.
    pub limited: BTreeMap<String, String>,
}

impl QuotaRefusal {
    /// Whether less is used than the refusal says, by a newer view of the quota, so that the object fits: then the
    /// refusal is late, and the API server's admission will see in a moment what is seen already.
    #[must_use]
    pub fn is_late(&self, used: impl Fn(&str) -> Option<Quantity>) -> bool {
        let amount = |amounts: &BTreeMap<String, String>, resource: &str| -> Option<Quantity> {
            amounts.get(resource).and_then(|text| Quantity::parse(text).ok())
        };
        let mut fits = false;
        for (resource, requested) in &self.requested {
            let (Some(ours), Ok(requested)) = (used(resource), Quantity::parse(requested)) else {
                continue;
            };
            let (Some(theirs), Some(limited)) = (amount(&self.used, resource), amount(&self.limited, resource)) else {
                return false;
            };
            if theirs.saturating_add(requested) <= limited {
                // This resource is not what was refused.
                continue;
            }
            if ours.saturating_add(requested) > limited {
                return false;
            }
            fits = true;
        }
        fits
    }
}

/// What the target refuses whatever the message. A closed set: it is a word of logs and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusedWhat {
    /// The sensor may not create the kind (RBAC).
    Rights,
    /// The kind is not served, or not in this version.
    Kind,
    /// The namespace is missing, or being deleted.
    Namespace,
    /// A quota wants requests or limits that the template does not give.
    MustSpecify,
    /// The cluster allows the kind only under a quota, and there is none.
    NoQuota,
}

impl RefusedWhat {
    /// All of them, in the order of the docs.
    pub const ALL: [Self; 5] = [Self::Rights, Self::Kind, Self::Namespace, Self::MustSpecify, Self::NoQuota];

    /// The word of logs and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rights => "rights",
            Self::Kind => "kind",
            Self::Namespace => "namespace",
            Self::MustSpecify => "must_specify",
            Self::NoQuota => "no_quota",
        }
    }
}

/// The class of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An object of this name is there: done, if it is this message's.
    AlreadyExists,
    /// The quota is full. Definite: nothing was made.
    QuotaExceeded(QuotaRefusal),
    /// One object asks for more than the quota allows at all.
    NeverFits(QuotaRefusal),
    /// The quota has not been calculated yet.
    StatusUnknown {
        /// The quota's name.
        quota: String,
        /// The resources that it does not know.
        resources: Vec<String>,
    },
    /// The charge to the quota lost a race. Definite: nothing was made.
    QuotaConflict,
    /// The message's own fault.
    Poison(DeadReason, String),
    /// Refused whatever the message.
    TargetRefused {
        /// What is refused.
        what: RefusedWhat,
        /// The server's words.
        text: String,
    },
    /// The server does not know who asks.
    Unauthorized,
    /// Too many requests. Not definite.
    Throttled {
        /// When the server wants to be asked again.
        after: Option<Duration>,
    },
    /// It's not known whether the object was, or still will be, made.
    Unknown {
        /// The server's words.
        text: String,
    },
    /// Refused by a webhook, a policy or an admission plugin. Definite, but neither surely the message's fault nor
    /// surely the target's: tried again after a growing delay, so that a broken webhook never empties the stream.
    Again {
        /// The server's words.
        text: String,
    },
}

impl Answer {
    /// Whether the create is known not to have made an object, now or later.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        match self {
            Self::QuotaExceeded(_)
            | Self::NeverFits(_)
            | Self::StatusUnknown { .. }
            | Self::QuotaConflict
            | Self::Poison(..)
            | Self::TargetRefused { .. }
            | Self::Unauthorized
            | Self::Again { .. } => true,
            Self::AlreadyExists | Self::Throttled { .. } | Self::Unknown { .. } => false,
        }
    }

    /// The word of metrics and logs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::AlreadyExists => "already_exists",
            Self::QuotaExceeded(_) => "quota_exceeded",
            Self::NeverFits(_) => "never_fits",
            Self::StatusUnknown { .. } => "status_unknown",
            Self::QuotaConflict => "quota_conflict",
            Self::Poison(..) => "poison",
            Self::TargetRefused { .. } => "target_refused",
            Self::Unauthorized => "unauthorized",
            Self::Throttled { .. } => "throttled",
            Self::Unknown { .. } => "unknown",
            Self::Again { .. } => "again",
        }
    }
}

/// The class of what the API server answered to the POST of an object of `target`.
#[must_use]
pub fn classify(status: &ApiStatus, target: &CreateTarget) -> Answer {
    let text = || status.message.clone();
    let refused = |what| Answer::TargetRefused { what, text: text() };
    if (400..500).contains(&status.code) && denied_by_policy(status, target) {
        return Answer::Again { text: text() };
    }
    match status.code {
        // With the server's own reason alone: a proxy on the way answers 400 and 413, too, and not for the message's sake.
        400 if status.reason == "BadRequest" => Answer::Poison(DeadReason::InvalidObject, text()),
        422 if status.reason == "Invalid" => Answer::Poison(DeadReason::InvalidObject, text()),
        401 => Answer::Unauthorized,
        403 => forbidden(status, target),
        404 if status.kind == "namespaces" && status.group.is_empty() => refused(RefusedWhat::Namespace),
        404 | 405 | 406 | 415 => refused(RefusedWhat::Kind),
        409 if status.reason == "AlreadyExists" => Answer::AlreadyExists,
        409 if status.reason == "Conflict" && status.kind == "resourcequotas" && status.group.is_empty() => {
            Answer::QuotaConflict
        }
        413 if status.reason == "RequestEntityTooLarge" => Answer::Poison(DeadReason::TooLarge, text()),
        429 => Answer::Throttled { after: status.retry_after },
        // The store's own limit is below the server's. Each try would be charged to the quota and never succeed.
        500 if status.message.starts_with("etcdserver: request is too large") => {
            Answer::Poison(DeadReason::TooLarge, text())
        }
        // Asked to wait, or the way was cut: the object may have been made, or still be.
        408 | 410 => Answer::Unknown { text: text() },
        400..500 => Answer::Again { text: text() },
        _ => Answer::Unknown { text: text() },
    }
}

/// What the API server refuses of a call that is none of a message's: of the Lease, of the quotas, of a watch. None
/// where it is another answer.
#[must_use]
pub fn denied(status: &ApiStatus) -> Option<RefusedWhat> {
    match status.code {
        403 if status.causes.iter().any(|cause| cause.reason == "NamespaceTerminating") => Some(RefusedWhat::Namespace),
        403 => Some(RefusedWhat::Rights),
        404 if status.kind == "namespaces" && status.group.is_empty() => Some(RefusedWhat::Namespace),
        _ => None,
    }
}

/// Whether the words are a webhook's or an admission policy's, whatever code they chose (400 is their default).
fn denied_by_policy(status: &ApiStatus, target: &CreateTarget) -> bool {
    status.message.starts_with("admission webhook \"")
        || forbidden_text(status, target).is_some_and(|text| text.starts_with("ValidatingAdmissionPolicy '"))
}

fn forbidden(status: &ApiStatus, target: &CreateTarget) -> Answer {
    let again = || Answer::Again { text: status.message.clone() };
    let refused = |what| Answer::TargetRefused { what, text: status.message.clone() };
    if status.reason != "Forbidden" || status.kind != target.plural || status.group != target.group {
        return again();
    }
    if status.causes.iter().any(|cause| cause.reason == "NamespaceTerminating") {
        return refused(RefusedWhat::Namespace);
    }
    let Some(text) = forbidden_text(status, target) else {
        return again();
    };
    if let Some(rest) = text.strip_prefix("exceeded quota: ") {
        return quota_refusal(rest).map_or_else(again, |refusal| {
            if never_fits(&refusal) { Answer::NeverFits(refusal) } else { Answer::QuotaExceeded(refusal) }
        });
    }
    if let Some(rest) = text.strip_prefix("status unknown for quota: ") {
        return rest.split_once(", resources: ").map_or_else(again, |(quota, resources)| Answer::StatusUnknown {
            quota: quota.to_owned(),
            resources: resources.split(',').map(|name| name.trim().to_owned()).collect(),
        });
    }
    if text.strip_prefix("failed quota: ").is_some_and(|rest| rest.contains(": must specify ")) {
        return refused(RefusedWhat::MustSpecify);
    }
    if text.starts_with("insufficient quota to consume: ") {
        return refused(RefusedWhat::NoQuota);
    }
    if text.starts_with("quota usage is negative") {
        return Answer::Unknown { text: status.message.clone() };
    }
    let cannot = format!("\" cannot create resource \"{}\"", target.plural);
    if text.strip_prefix("User \"").is_some_and(|rest| rest.contains(&cannot)) {
        return refused(RefusedWhat::Rights);
    }
    again()
}

/// What stands behind `<resource> "<name>" is forbidden: ` or `<resource> is forbidden: `, for our resource alone.
fn forbidden_text<'a>(status: &'a ApiStatus, target: &CreateTarget) -> Option<&'a str> {
    let rest = status.message.strip_prefix(target.qualified().as_str())?;
    let rest = match rest.strip_prefix(" \"") {
        Some(named) => named.split_once('"')?.1,
        None => rest,
    };
    rest.strip_prefix(" is forbidden: ")
}

/// Reads `<quota>, requested: <amounts>, used: <amounts>, limited: <amounts>`.
fn quota_refusal(text: &str) -> Option<QuotaRefusal> {
    let (quota, rest) = text.split_once(", requested: ")?;
    let (requested, rest) = rest.split_once(", used: ")?;
    let (used, limited) = rest.split_once(", limited: ")?;
    (!quota.is_empty() && !quota.contains(',')).then_some(())?;
    Some(QuotaRefusal {
        quota: quota.to_owned(),
        requested: amounts(requested)?,
        used: amounts(used)?,
        limited: amounts(limited)?,
    })
}

fn amounts(text: &str) -> Option<BTreeMap<String, String>> {
    text.split(',')
        .map(|pair| pair.split_once('=').map(|(name, amount)| (name.trim().to_owned(), amount.trim().to_owned())))
        .collect()
}

/// Whether one object asks for more of a resource than the quota allows even when nothing is used.
fn never_fits(refusal: &QuotaRefusal) -> bool {
    refusal.requested.iter().any(|(name, requested)| {
        let limited = refusal.limited.get(name).and_then(|text| Quantity::parse(text).ok());
        let requested = Quantity::parse(requested).ok();
        requested.zip(limited).is_some_and(|(requested, limited)| requested > limited)
    })
}

#[cfg(test)]
mod tests;
