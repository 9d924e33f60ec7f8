//! What the settings name outside of themselves: the files of NATS, the kubeconfig. They are looked at before anything
//! starts, so that a wrong one is told with its variable, and not as a connection that does not come.

use std::error::Error;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::chain;
use crate::api::{Material, NatsAuth, Origin, SETTINGS, Setting, Settings, is_surely_a_path};
use crate::jetstream::{Credentials, Secret};
use crate::k8s::{self, ConnectError};

/// Why what a setting names cannot be used.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("cannot be read")]
    Unreadable(#[source] std::io::Error),
    #[error("is empty")]
    Empty,
    #[error("cannot be used")]
    Unusable(#[source] Box<dyn Error>),
}

/// Why a PEM text cannot be used.
#[derive(Debug, thiserror::Error)]
enum PemFault {
    #[error("it holds no certificate")]
    NoCertificate,
    #[error("it holds no certificate: {0}")]
    BrokenCertificate(&'static str),
    #[error("it holds no private key: {0}")]
    NoKey(&'static str),
    #[error("it is no private key of a kind that is known here (RSA, ECDSA on P-256 or P-384, Ed25519)")]
    OtherKey,
    #[error("it is the key of another certificate")]
    OtherCertificate,
}

/// Not in the parser's own words, which quote the text: it may be the key.
const fn words(fault: &pem::Error) -> &'static str {
    match fault {
        pem::Error::MissingSectionEnd { .. } => "an END line is missing, or stands on the line of another",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is not alone on its line",
        pem::Error::Base64Decode(_) => "what stands between BEGIN and END is no base64",
        pem::Error::Io(_) => "it cannot be read",
        pem::Error::NoItemsFound => "there are no such BEGIN and END lines",
        pem::Error::SectionTooLarge => "it is too large",
        // Others may come with another version of the parser.
        _ => "it is no PEM",
    }
}

/// One sentence for each thing of NATS that is named and cannot be used.
pub(super) fn nats_faults(settings: &Settings) -> Vec<String> {
    let mut look = Look { settings, faults: Vec::new() };
    look.credentials();
    look.tls();
    look.faults
}

/// What is wrong with the kubeconfig, where one is named.
pub(super) fn kubeconfig_faults(settings: &Settings) -> Vec<String> {
    let mut look = Look { settings, faults: Vec::new() };
    look.kubeconfig();
    look.faults
}

struct Look<'a> {
    settings: &'a Settings,
    faults: Vec<String>,
}

impl Look<'_> {
    fn credentials(&mut self) {
        let answer = |credentials: Credentials| credentials.answer(b"nonce").map(drop).map_err(Into::into);
        let inline = |text: &[u8]| str::from_utf8(text).map(|text| Secret::Inline(text.to_owned()));
        match self.settings.nats.auth.as_ref() {
            Some(NatsAuth::Creds(creds)) => {
                let what = "the text of a credentials file, user JWT and seed";
                self.read("NATS_CREDS", creds, what, |text| answer(Credentials::File(inline(text)?)));
            }
            Some(NatsAuth::Nkey(nkey)) => {
                let what = "the seed of a user, 58 characters that begin with SU";
                self.read("NATS_NKEY", nkey, what, |text| answer(Credentials::Nkey(inline(text)?)));
            }
            Some(NatsAuth::Token(token)) => {
                self.read("NATS_TOKEN", token, "the token", text);
            }
            Some(NatsAuth::Password { user: _, password }) => {
                self.read("NATS_PASSWORD", password, "the password", text);
            }
            None => {}
        }
    }

    fn tls(&mut self) {
        let tls = &self.settings.nats.tls;
        if let Some(ca) = &tls.ca {
            self.read("NATS_CA", ca, "one or more certificates in PEM", authorities);
        }
        let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else { return };
        let certificate = "a certificate in PEM, those between it and its authority behind it";
        let private = "the certificate's private key in PEM";
        let chain = self.read("NATS_CERT", cert, certificate, certificates);
        let secret = self.read("NATS_KEY", key, private, |text| {
            PrivateKeyDer::from_pem_slice(text).map_err(|error| PemFault::NoKey(words(&error)).into())
        });
        let (Some(chain), Some(secret)) = (chain, secret) else { return };
        let Err(error) = CertifiedKey::from_der(chain, secret, &ring::default_provider()) else { return };
        if matches!(error, rustls::Error::InvalidCertificate(_)) {
            return self.fault("NATS_CERT", cert, certificate, &Fault::Unusable(error.into()));
        }
        let fault = if matches!(error, rustls::Error::InconsistentKeys(_)) {
            PemFault::OtherCertificate
        } else {
            PemFault::OtherKey
        };
        self.fault("NATS_KEY", key, private, &Fault::Unusable(fault.into()));
    }

    fn kubeconfig(&mut self) {
        let Some(path) = &self.settings.kubeconfig else { return };
        let material = Material::File(path.clone());
        let what = "the path of one kubeconfig whose current context names a cluster";
        self.read("KUBECONFIG", &material, what, |_| match k8s::check_kubeconfig(path) {
            Ok(()) => Ok(()),
            Err(ConnectError::Kubeconfig(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        });
    }

    /// What the text of a setting comes to; nothing where it cannot be used.
    fn read<T>(
        &mut self,
        variable: &'static str,
        material: &Material,
        allowed: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, Box<dyn Error>>,
    ) -> Option<T> {
        let found = bytes(material).and_then(|text| parse(&text).map_err(Fault::Unusable));
        found.map_err(|fault| self.fault(variable, material, allowed, &fault)).ok()
    }

    fn fault(&mut self, variable: &'static str, material: &Material, allowed: &str, fault: &Fault) {
        let (setting, name) = self.given(variable);
        let place = match material {
            Material::File(path)
                if !setting.is_some_and(|setting| setting.secret) && is_surely_a_path(&path.to_string_lossy()) =>
            {
                path.display().to_string()
            }
            Material::File(_) | Material::Inline(_) => "the value, which is not shown,".to_owned(),
        };
        let allowed = match setting {
            Some(setting) if setting.variable.ends_with("_FILE") => format!("a file with {allowed}"),
            Some(setting) if setting.form.contains("or a path") => {
                format!("{allowed}, or the path of a file with that")
            }
            Some(_) | None => allowed.to_owned(),
        };
        self.faults.push(format!("{name}: {place} {}; allowed is {allowed}", chain(fault)));
    }

    /// The setting that gave the material, itself or by a file, and its name in a sentence.
    fn given(&self, variable: &'static str) -> (Option<&'static Setting>, String) {
        let own = |name: &str| name.strip_prefix(variable).is_some_and(|rest| matches!(rest, "" | "_FILE"));
        let mut rows = self.settings.effective().iter().filter(|row| row.origin != Origin::Default);
        let Some(row) = rows.find(|row| own(row.name)) else { return (None, variable.to_owned()) };
        let setting = SETTINGS.iter().find(|setting| setting.variable == row.name);
        let name = match (row.origin, setting) {
            (Origin::Flag, Some(setting)) => format!("--{} ({})", setting.flag, row.name),
            (Origin::Flag | Origin::Variable | Origin::Default, _) => row.name.to_owned(),
        };
        (setting, name)
    }
}

fn text(bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    str::from_utf8(bytes).map(drop).map_err(Into::into)
}

fn bytes(material: &Material) -> Result<Vec<u8>, Fault> {
    let bytes = match material {
        Material::Inline(text) => text.expose().as_bytes().to_vec(),
        Material::File(path) => std::fs::read(path).map_err(Fault::Unreadable)?,
    };
    if bytes.trim_ascii().is_empty() { Err(Fault::Empty) } else { Ok(bytes) }
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error>> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| PemFault::BrokenCertificate(words(&error)))?;
    if found.is_empty() { Err(PemFault::NoCertificate.into()) } else { Ok(found) }
}

fn authorities(text: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(text)? {
        store.add(certificate)?;
    }
    Ok(())
}
