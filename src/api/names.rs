//! Names of Kubernetes and NATS.

/// Why a text is not the name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No DNS-1123 label.
    #[error(
        "`{0}` is not a DNS label: 1 to 63 lower-case letters, digits and `-` are allowed, with a letter or digit at both ends"
    )]
    Label(String),
    /// No DNS-1123 subdomain.
    #[error(
        "`{0}` is not a Kubernetes name: up to 253 lower-case letters, digits, `-` and `.` are allowed, with a letter or digit at both ends of each part"
    )]
    Subdomain(String),
    /// No prefix for the names of objects.
    #[error(
        "`{0}` cannot begin the names of objects: at most {MAX_PREFIX_BYTES} lower-case letters, digits and `-` are allowed, beginning with a letter or digit"
    )]
    Prefix(String),
    /// No stream name.
    #[error(
        "`{0}` is not a stream name: 1 to 255 printable characters are allowed, without spaces and without any of `.*>/\\`"
    )]
    Stream(String),
    /// No subject filter.
    #[error("`{subject}` is not a subject: {problem}")]
    Subject {
        /// As it was written.
        subject: String,
        /// The rule that it breaks.
        problem: &'static str,
    },
}

/// The derived names of objects add 26 characters, and a label of a pod that carries such a name has 63.
pub const MAX_PREFIX_BYTES: usize = 63 - 26;

/// A DNS-1123 label, as names of namespaces and sensors are.
///
/// # Errors
/// Where it is none.
pub fn dns_label(name: &str) -> Result<(), NameError> {
    if is_label(name) { Ok(()) } else { Err(NameError::Label(name.to_owned())) }
}

fn is_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| allowed(byte) || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A DNS-1123 subdomain, as most names of objects are.
///
/// # Errors
/// Where it is none.
pub fn dns_subdomain(name: &str) -> Result<(), NameError> {
    // Parts of a subdomain are not bound to 63 characters in Kubernetes; the whole is.
    let part = |part: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = part.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
    };
    let ok = name.len() <= 253 && name.split('.').all(part);
    if ok { Ok(()) } else { Err(NameError::Subdomain(name.to_owned())) }
}

/// The prefix of derived names. It may end in `-`, because 26 letters and digits follow.
pub(super) fn prefix(prefix: &str) -> Result<(), NameError> {
    let ok = prefix.len() <= MAX_PREFIX_BYTES && is_label(&format!("{prefix}0"));
    if ok { Ok(()) } else { Err(NameError::Prefix(prefix.to_owned())) }
}

/// A JetStream stream name.
///
/// # Errors
/// Where the server would refuse it.
pub fn stream_name(name: &str) -> Result<(), NameError> {
    let ok = (1..=255).contains(&name.len())
        && name.chars().all(|char| !char.is_whitespace() && !char.is_control() && !".*>/\\".contains(char));
    if ok { Ok(()) } else { Err(NameError::Stream(name.to_owned())) }
}

/// A NATS subject that may have wildcards.
///
/// # Errors
/// Where the server would refuse it.
pub fn check_subject(subject: &str) -> Result<(), NameError> {
    let problem = |problem| Err(NameError::Subject { subject: subject.to_owned(), problem });
    if subject.is_empty() {
        return problem("it is empty; `>` takes every subject of the stream");
    }
    if subject.chars().any(|char| char.is_whitespace() || char.is_control()) {
        return problem("spaces and control characters are not allowed");
    }
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty() {
            return problem("there is nothing before, after or between two dots");
        }
        if token == ">" && tokens.peek().is_some() {
            return problem("`>` is only allowed as the last part");
        }
        if token.len() > 1 && token.contains(['*', '>']) {
            return problem("`*` and `>` must be a part of their own, between dots");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "orders-2", "0", &"x".repeat(63)] {
            assert_eq!(dns_label(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "ö", &"x".repeat(64)] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
        for good in ["a.b", "compute-quota", &"x".repeat(253)] {
            assert_eq!(dns_subdomain(good), Ok(()), "{good}");
        }
        for bad in ["", ".a", "a..b", "a.-b", "A", &"x".repeat(254)] {
            assert!(dns_subdomain(bad).is_err(), "{bad}");
        }
        for good in ["", "order-", "a", "0", &"x".repeat(37)] {
            assert_eq!(prefix(good), Ok(()), "{good}");
        }
        for bad in ["-", "A", "a.b", "a_", &"x".repeat(38)] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
        for good in ["EVENTS", "orders_v2-x", "Ä"] {
            assert_eq!(stream_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "a.b", "a*", ">", "a/b", "a\\b", "a\tb"] {
            assert!(stream_name(bad).is_err(), "{bad}");
        }
        for good in [">", "*", "orders.>", "orders.*.eu", "a", "$KV.x"] {
            assert_eq!(check_subject(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.>.b", "a*", "a.b>", ">.a", "**"] {
            assert!(check_subject(bad).is_err(), "{bad}");
        }
    }
}
