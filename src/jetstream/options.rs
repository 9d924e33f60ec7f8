//! What a person sets about the connection, and the credentials that are read again at each connect.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Auth, AuthError};

/// Where NATS is, who we are there and how long we wait.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// URLs of the servers; those that the servers tell of are added by the client.
    pub servers: Vec<String>,
    /// Who we are.
    pub credentials: Credentials,
    /// How the connection is protected.
    pub tls: TlsOptions,
    /// The name under which the servers list this connection.
    pub name: String,
    /// A prefix for reply subjects other than `_INBOX`, where the account's permissions ask for one.
    pub inbox_prefix: Option<String>,
    /// How often a silent connection is probed; it is given up after two to three intervals. At most 5 s.
    pub ping_interval: Duration,
    /// The longest that a request may take.
    pub request_timeout: Duration,
}

impl NatsOptions {
    /// The longest ping interval that is used, whatever is asked for: a dead connection must be noticed well within
    /// a credit lease.
    pub const PING_INTERVAL_MAX: Duration = Duration::from_secs(5);

    /// Options for these servers, without credentials or TLS.
    #[must_use]
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            credentials: Credentials::None,
            tls: TlsOptions::default(),
            name: String::from("jetgate"),
            inbox_prefix: None,
            ping_interval: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
        }
    }
}

/// How the connection is protected. Files are read again at each connect.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// One PEM file with the certificate authorities to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// The client certificate (PEM); goes with `key`.
    pub cert: Option<PathBuf>,
    /// The key of the client certificate (PEM).
    pub key: Option<PathBuf>,
    /// Shake hands before the server's greeting; the server needs `handshake_first`.
    pub first: bool,
}

impl TlsOptions {
    /// Whether a plain connection must be refused.
    #[must_use]
    pub fn required(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.first
    }
}

/// A secret given in place, or in a file that is read again at each connect.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The secret itself.
    Inline(String),
    /// The file that holds it.
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Secret {
    /// The secret as it is now, without the line ends that editors leave.
    pub fn read(&self) -> Result<String, SecretError> {
        match self {
            Self::Inline(text) => Ok(text.clone()),
            // A blocking read of a small local file, once per connect.
            Self::File(path) => std::fs::read_to_string(path)
                .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
                .map_err(|source| SecretError::Unreadable { path: path.clone(), source }),
        }
    }
}

/// Who we are to NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody in particular.
    None,
    /// A credentials file: a user JWT and the seed of its key.
    File(Secret),
    /// The seed of an nkey.
    Nkey(Secret),
    /// A token.
    Token(Secret),
    /// A user and a password.
    User {
        /// The user.
        user: Secret,
        /// The password.
        password: Secret,
    },
}

/// Why credentials could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The credentials have no user JWT.
    #[error("the credentials hold no user JWT")]
    NoJwt,
    /// The credentials have no seed.
    #[error("the credentials hold no seed")]
    NoSeed,
    /// The seed is not one.
    #[error("the nkey seed is not valid")]
    Seed(#[source] nkeys::error::Error),
}

impl Credentials {
    /// What to answer to the server's nonce, from the files as they are now.
    pub(crate) fn answer(&self, nonce: &[u8]) -> Result<Auth, SecretError> {
        let mut auth = Auth::new();
        match self {
            Self::None => {}
            Self::File(secret) => {
                let text = secret.read()?;
                let mut blocks = decorated(&text);
                let jwt = blocks.next().ok_or(SecretError::NoJwt)?;
                let seed = blocks.next().ok_or(SecretError::NoSeed)?;
                let pair = nkeys::KeyPair::from_seed(seed).map_err(SecretError::Seed)?;
                auth.signature = Some(pair.sign(nonce).map_err(SecretError::Seed)?);
                auth.jwt = Some(jwt.to_owned());
            }
            Self::Nkey(secret) => {
                let text = secret.read()?;
                // Key files made by tools carry comments; the seed is the line that begins with its type.
                let seed = text.lines().map(str::trim).find(|line| line.starts_with('S')).ok_or(SecretError::NoSeed)?;
                let pair = nkeys::KeyPair::from_seed(seed).map_err(SecretError::Seed)?;
                auth.signature = Some(pair.sign(nonce).map_err(SecretError::Seed)?);
                auth.nkey = Some(pair.public_key());
            }
            Self::Token(secret) => auth.token = Some(secret.read()?),
            Self::User { user, password } => {
                auth.username = Some(user.read()?);
                auth.password = Some(password.read()?);
            }
        }
        Ok(auth)
    }

    pub(crate) fn auth(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        self.answer(nonce).map_err(|error| AuthError::new(with_sources(&error)))
    }
}

/// The lines between `-----BEGIN ...-----` and `------END ...------` of a credentials file, one per block.
fn decorated(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().map(str::trim).filter(move |line| {
        if line.starts_with("---") {
            inside = line.contains("BEGIN");
            return false;
        }
        inside && !line.is_empty()
    })
}

/// An error and what caused it, in one line, for places that take text alone.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors of the client repeat their source in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", Credentials::Token(Secret::Inline("s3cret".into())));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn credentials_file_gives_jwt_and_signature() {
        let pair = nkeys::KeyPair::new_user();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\nabc.def\n------END NATS USER JWT------\n\n************************* IMPORTANT \
             *************************\nsecret!\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY \
             SEED------\n\n*************************************************************\n",
            pair.seed().unwrap()
        );
        let auth = Credentials::File(Secret::Inline(text)).answer(b"nonce").unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("abc.def"));
        pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Credentials::File(Secret::Inline("nothing".into())).answer(b"").err().unwrap();
        assert_eq!(error.to_string(), "the credentials hold no user JWT");
        let error = Credentials::Token(Secret::File("/no/such/file".into())).answer(b"").err().unwrap();
        assert!(with_sources(&error).starts_with("cannot read /no/such/file: "), "{}", with_sources(&error));
    }

    #[test]
    fn a_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("jetgate-secret-{}", std::process::id()));
        let secret = Secret::File(path.clone());
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(secret.read().unwrap(), "one");
        std::fs::write(&path, "two\r\n").unwrap();
        assert_eq!(secret.read().unwrap(), "two");
        std::fs::remove_file(&path).unwrap();
    }
}
