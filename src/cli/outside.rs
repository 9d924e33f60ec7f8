//! What the settings name outside of themselves: the files of NATS, the kubeconfig. They are looked at before anything
//! starts, so that a wrong one is told with its variable, and not as a connection that does not come.

use std::error::Error;
use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::chain;
use crate::api::{Material, NatsAuth, Origin, SETTINGS, Setting, Settings};
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
    #[error("it holds no private key")]
    NoKey(#[source] rustls::pki_types::pem::Error),
    #[error("it is no private key of RSA, ECDSA or EdDSA")]
    OtherKey,
    #[error("it is the key of another certificate")]
    OtherCertificate,
}

/// One sentence for each thing that is named and cannot be used.
pub(super) fn faults(settings: &Settings) -> Vec<String> {
    let mut look = Look { settings, faults: Vec::new() };
    look.credentials();
    look.tls();
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
        let inline = |text: &str| Secret::Inline(text.to_owned());
        match self.settings.nats.auth.as_ref() {
            Some(NatsAuth::Creds(creds)) => {
                let what = "the text of a credentials file, user JWT and seed";
                self.read("NATS_CREDS", creds, what, |text| answer(Credentials::File(inline(text))));
            }
            Some(NatsAuth::Nkey(nkey)) => {
                let what = "the seed of a user, 58 characters that begin with SU";
                self.read("NATS_NKEY", nkey, what, |text| answer(Credentials::Nkey(inline(text))));
            }
            Some(NatsAuth::Token(token)) => {
                self.read("NATS_TOKEN", token, "the token", |_| Ok(()));
            }
            Some(NatsAuth::Password { user: _, password }) => {
                self.read("NATS_PASSWORD", password, "the password", |_| Ok(()));
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
            PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| PemFault::NoKey(error).into())
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
        parse: impl FnOnce(&str) -> Result<T, Box<dyn Error>>,
    ) -> Option<T> {
        let found = text(material).and_then(|text| parse(&text).map_err(Fault::Unusable));
        found.map_err(|fault| self.fault(variable, material, allowed, &fault)).ok()
    }

    fn fault(&mut self, variable: &'static str, material: &Material, allowed: &str, fault: &Fault) {
        let (setting, name) = self.given(variable);
        let place = match material {
            Material::File(path) if !setting.is_some_and(|setting| setting.secret) => path.display().to_string(),
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

fn text(material: &Material) -> Result<String, Fault> {
    let text = match material {
        Material::Inline(text) => text.expose().to_owned(),
        Material::File(path) => read_file(path)?,
    };
    if text.trim().is_empty() { Err(Fault::Empty) } else { Ok(text) }
}

fn read_file(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(Fault::Unreadable)
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error>> {
    let found = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err(PemFault::NoCertificate.into()) } else { Ok(found) }
}

fn authorities(text: &str) -> Result<(), Box<dyn Error>> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(text)? {
        store.add(certificate)?;
    }
    Ok(())
}
