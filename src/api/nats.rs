//! How to reach NATS.

use std::path::{Path, PathBuf};

use super::problem::ProblemKind;
use super::read::form;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}

/// Where a secret or a certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// The text itself.
    Inline(Secret),
    /// A file, which is watched.
    File(PathBuf),
}

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsAuth {
    /// A credentials file: user JWT and seed.
    Creds(Material),
    /// A user seed.
    Nkey(Material),
    /// A token.
    Token(Material),
    /// User and password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Material,
    },
}

/// How the connection is protected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// Authorities instead of the system's.
    pub ca: Option<Material>,
    /// Client certificate; its key is there where it is.
    pub cert: Option<Material>,
    /// Key of the client certificate.
    pub key: Option<Material>,
    /// TLS before the server's greeting.
    pub first: bool,
}

/// How to reach NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsSettings {
    /// One or more, each with its scheme. One may hold a user and a password, so do not log them; see
    /// [`NatsSettings::urls_shown`].
    pub urls: Vec<Secret>,
    /// None: nothing, or what a URL holds.
    pub auth: Option<NatsAuth>,
    /// TLS.
    pub tls: NatsTls,
}

impl NatsSettings {
    /// The servers as they may be logged.
    #[must_use]
    pub fn urls_shown(&self) -> String {
        let shown: Vec<String> = self.urls.iter().map(|url| without_userinfo(url.expose())).collect();
        shown.join(",")
    }
}

const URL: &str = "a comma list of URLs such as nats://host:4222 or tls://host:4222";
const URL_WITH_USER: &str = "a comma list of URLs, one with a user such as nats://user:password@host:4222; where one of the \
                             two holds a comma they belong in NATS_USER and NATS_PASSWORD";

/// Whether what stands before the comma may be half a password.
fn follows_a_secret(item: &str) -> bool {
    item.contains('@') && !item.contains("://")
}

/// Whether what is refused holds no password for sure: one may hold what divides a URL, and its host may be forgotten.
fn may_be_shown(item: &str) -> bool {
    let (scheme, address) = item.split_once("://").unwrap_or(("", item));
    item.is_empty()
        || matches!(scheme, "" | "nats" | "tls" | "http" | "https" | "ws" | "wss")
            && is_address(address.trim_end_matches('/'))
}

/// The URLs of a comma list, and whether one of them holds a user.
pub(super) fn urls(text: &str) -> Result<(Vec<Secret>, bool), ProblemKind> {
    let mut urls = Vec::new();
    let mut userinfo = false;
    if text.split(',').skip(1).any(follows_a_secret) {
        return Err(ProblemKind::SecretForm { allowed: URL_WITH_USER });
    }
    for item in text.split(',').map(str::trim) {
        let url = if item.contains("://") { item.to_owned() } else { format!("nats://{item}") };
        let refused = || {
            if may_be_shown(item) { form(item, URL) } else { ProblemKind::SecretForm { allowed: URL } }
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(refused)?;
        if !matches!(scheme, "nats" | "tls") {
            return Err(refused());
        }
        let (user, address) = rest.rsplit_once('@').map_or((None, rest), |(user, address)| (Some(user), address));
        userinfo |= user.is_some();
        if !is_address(address.trim_end_matches('/')) {
            return Err(refused());
        }
        urls.push(Secret::new(url));
    }
    Ok((urls, userinfo))
}

/// How files are called that settings name; no token ends so.
const FILE_EXTENSIONS: &[&str] =
    &["yaml", "yml", "json", "conf", "config", "kubeconfig", "pem", "crt", "cer", "key", "creds", "txt"];

/// Whether a text is a path for sure, and not the content of the file, which may be secret: where a path is wanted people
/// give the content now and then.
#[must_use]
pub fn is_surely_a_path(text: &str) -> bool {
    let path = Path::new(text);
    // A token in base64 may begin with `/`.
    let random = |part: &str| {
        let has = |class: fn(&char) -> bool| part.chars().any(|char| class(&char));
        part.contains(['+', '='])
            || part.len() >= 12
                && part.chars().all(char::is_alphanumeric)
                && has(char::is_ascii_uppercase)
                && has(char::is_ascii_lowercase)
                && has(char::is_ascii_digit)
    };
    let folders = path.parent().is_some_and(|folder| folder.parent().is_some());
    let begins_so = path.is_absolute() && folders || path.starts_with(".") || path.starts_with("..");
    let ends_so = path.file_name().is_some_and(|name| name == "config")
        || path.extension().is_some_and(|extension| FILE_EXTENSIONS.iter().any(|known| extension == *known));
    text.len() <= 1_024
        && !text.contains(['\n', '\r', '{', '"'])
        && (begins_so || ends_so)
        && !text.split('/').any(random)
}

fn is_address(address: &str) -> bool {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_ok = v6.map_or_else(
        || !host.is_empty() && host.chars().all(|char| char.is_ascii_alphanumeric() || "-._".contains(char)),
        |v6| v6.parse::<std::net::Ipv6Addr>().is_ok(),
    );
    host_ok && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// A list of URLs without what stands before an `@`.
#[must_use]
pub(super) fn without_userinfo(text: &str) -> String {
    let one = |url: &str| {
        let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
        let separator = if url.contains("://") { "://" } else { "" };
        match rest.rsplit_once('@') {
            Some((_, address)) => format!("{scheme}{separator}...@{address}"),
            None => url.to_owned(),
        }
    };
    let mut shown: Vec<String> = Vec::new();
    for item in text.split(',') {
        if follows_a_secret(item) {
            shown.clear();
            shown.push("...".to_owned());
        }
        shown.push(one(item));
    }
    shown.join(",")
}

/// PEM or credentials are the text itself, anything else is a path.
pub(super) fn material(text: &str) -> Material {
    if text.contains("-----BEGIN") {
        Material::Inline(Secret::new(text.to_owned()))
    } else {
        Material::File(PathBuf::from(text))
    }
}

/// A seed of a user: 58 characters of base32 that begin with `SU`.
pub(super) fn seed(text: &str) -> Result<Material, ProblemKind> {
    let text = text.trim();
    let ok = text.len() == 58 && text.starts_with("SU") && text.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'));
    if ok {
        return Ok(Material::Inline(Secret::new(text.to_owned())));
    }
    let allowed = "the seed of a user, 58 characters that begin with SU; a path belongs to NATS_NKEY_FILE";
    Err(ProblemKind::SecretForm { allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_urls() {
        let (read, userinfo) = urls("nats://a:4222, b , tls://[::1]:4223,c-1.ns.svc:1").unwrap();
        let shown: Vec<&str> = read.iter().map(Secret::expose).collect();
        assert_eq!(shown, ["nats://a:4222", "nats://b", "tls://[::1]:4223", "nats://c-1.ns.svc:1"]);
        assert!(!userinfo);
        assert!(urls("nats://u:p@a").unwrap().1);
        for bad in
            ["", "http://a", "nats://", "nats://a:0", "nats://a:x", "nats://a b", "a,,b", "nats://[::g]", "ws://a"]
        {
            assert!(urls(bad).is_err(), "{bad}");
        }
        let error = urls("nats://u:secret@a:b").unwrap_err().to_string();
        assert_eq!(
            error,
            "the value, which is not shown, is not allowed; allowed is a comma list of URLs such as nats://host:4222 or tls://host:4222"
        );
        assert_eq!(without_userinfo("nats://u:p@x@a,b,c:d@e"), "...,...@e");
        assert_eq!(without_userinfo("nats://u:p@x@a,b,tls://c:d@e"), "nats://...@a,b,tls://...@e");
        assert_eq!(format!("{read:?}"), "[(not shown), (not shown), (not shown), (not shown)]");
    }
}
