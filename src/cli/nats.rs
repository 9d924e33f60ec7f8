//! The NATS settings as the adapter wants them.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use crate::api::{Material, NatsAuth, NatsSettings};
use crate::jetstream::{Credentials, NatsOptions, Secret, TlsOptions};

/// Why the NATS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum NatsError {
    #[error("{variable}: the text cannot be kept in a file for the TLS library")]
    Keep { variable: &'static str, source: std::io::Error },
    #[error(
        "NATS_URL: user and password in a URL must be the same in every URL, or given by NATS_USER and NATS_PASSWORD"
    )]
    Users,
}

/// The options of a connection.
pub(super) fn options(settings: &NatsSettings, name: &str) -> Result<NatsOptions, NatsError> {
    let mut servers = Vec::new();
    let mut users = Vec::new();
    for url in &settings.urls {
        let (server, user) = split_user(url.expose());
        servers.push(server);
        users.push(user);
    }
    users.dedup();
    let credentials = match (&settings.auth, users.as_slice()) {
        (Some(auth), _) => credentials(auth),
        (None, [Some((user, password))]) => {
            Credentials::User { user: Secret::Inline(user.clone()), password: Secret::Inline(password.clone()) }
        }
        (None, [None] | []) => Credentials::None,
        (None, _) => return Err(NatsError::Users),
    };
    Ok(NatsOptions {
        credentials,
        tls: TlsOptions {
            ca: settings.tls.ca.as_ref().map(|ca| file("NATS_CA", ca)).transpose()?,
            cert: settings.tls.cert.as_ref().map(|cert| file("NATS_CERT", cert)).transpose()?,
            key: settings.tls.key.as_ref().map(|key| file("NATS_KEY", key)).transpose()?,
            first: settings.tls.first,
        },
        name: name.to_owned(),
        ..NatsOptions::new(servers)
    })
}

/// A URL without its user, and the user.
fn split_user(url: &str) -> (String, Option<(String, String)>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let Some((user, host)) = rest.rsplit_once('@') else { return (url.to_owned(), None) };
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    (format!("{scheme}://{host}"), Some((user.to_owned(), password.to_owned())))
}

fn credentials(auth: &NatsAuth) -> Credentials {
    match auth {
        NatsAuth::Creds(material) => Credentials::File(secret(material)),
        NatsAuth::Nkey(material) => Credentials::Nkey(secret(material)),
        NatsAuth::Token(material) => Credentials::Token(secret(material)),
        NatsAuth::Password { user, password } => {
            Credentials::User { user: Secret::Inline(user.clone()), password: secret(password) }
        }
    }
}

fn secret(material: &Material) -> Secret {
    match material {
        Material::Inline(text) => Secret::Inline(text.expose().to_owned()),
        Material::File(path) => Secret::File(path.clone()),
    }
}

/// The path of a certificate or key. The client reads them from files at each connect, so a text gets one that only we
/// may read, and that has no name: it is gone with the process, however that ends.
fn file(variable: &'static str, material: &Material) -> Result<PathBuf, NatsError> {
    match material {
        Material::File(path) => Ok(path.clone()),
        Material::Inline(text) => {
            let path = std::env::temp_dir().join(format!("jetgate-{}-{variable}.pem", std::process::id()));
            let keep = |source| NatsError::Keep { variable, source };
            // A file of this name can only be left over from a process of the same number; it is never followed.
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(keep(error));
            }
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(keep)?;
            file.write_all(text.expose().as_bytes()).map_err(keep)?;
            // Whoever opens this path opens the file anew, from its beginning. Where there is no such thing, the name
            // has to stay.
            let nameless = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            if !nameless.exists() {
                return Ok(path);
            }
            std::fs::remove_file(&path).map_err(keep)?;
            // Open for as long as the process lives.
            std::mem::forget(file);
            Ok(nameless)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_like_a_file_and_leaves_none() {
        let text = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n";
        let path = file("NATS_TEST", &Material::Inline(crate::api::Secret::new(text.to_owned()))).unwrap();
        // At each connect.
        for _ in 0..2 {
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let begin = format!("jetgate-{}-NATS_TEST", std::process::id());
        let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&begin)));
    }

    #[test]
    fn a_user_in_the_url_is_taken_out_of_it() {
        assert_eq!(
            split_user("nats://me:p@ss@host:4222"),
            ("nats://host:4222".to_owned(), Some(("me".to_owned(), "p@ss".to_owned())))
        );
        assert_eq!(split_user("tls://host:4222"), ("tls://host:4222".to_owned(), None));
    }
}
