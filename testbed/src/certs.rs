//! Certificates and keys of one control plane, and service account tokens signed by ourselves.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::error::{Error, Result};

/// Who the API server says it is in tokens.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";

/// The API server still takes a token this long after its `exp` (the leeway of its JWT library).
const LEEWAY: Duration = Duration::from_secs(60);

/// A certificate with its private key, both as PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS#8.
    pub key: String,
}

/// An authority of our own.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Makes a new one.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = named(Vec::new(), name, None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed("make the key of the authority"))?;
        CertifiedIssuer::self_signed(params, key).map(Self).map_err(failed("sign the authority"))
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// The same, base64 as in a kubeconfig.
    pub fn base64(&self) -> String {
        STANDARD.encode(self.pem())
    }

    /// For a server under these names and addresses.
    pub fn serving(&self, names: &[&str]) -> Result<Certificate> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = named(names, "testbed", None)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// For a server on this machine, as the API server sees itself.
    pub fn serving_loopback(&self) -> Result<Certificate> {
        self.serving(&["127.0.0.1", "localhost", "10.0.0.1"])
    }

    /// For a client: Kubernetes takes the common name as the user and the organization as the group.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Certificate> {
        let mut params = named(Vec::new(), user, group)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Certificate> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(failed("make a key"))?;
        let certificate = params.signed_by(&key, &self.0).map_err(failed("sign a certificate"))?;
        Ok(Certificate { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// The key that signs service account tokens.
#[derive(Debug)]
pub struct TokenKey(KeyPair);

impl TokenKey {
    /// Makes a new one (ECDSA P-256).
    pub fn new() -> Result<Self> {
        KeyPair::generate().map(Self).map_err(failed("make the key of the service accounts"))
    }

    /// The private key as PEM, for the API server and the controller manager.
    pub fn private_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public key as PEM.
    pub fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }

    /// A token for a service account that the API server stops accepting after `lifetime`.
    ///
    /// The API server grants 60 s beyond `exp` and remembers an accepted token for 10 s more, so `exp` lies 60 s earlier
    /// than `lifetime` says, which for short ones is in the past: what reads `exp` itself should be given more.
    pub fn sign(&self, namespace: &str, service_account: &str, uid: &str, lifetime: Duration) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(failed("read the clock"))?;
        let expires = (now + lifetime).saturating_sub(LEEWAY).as_secs();
        let issued = now.as_secs().min(expires).saturating_sub(3600);
        let claims = json!({
            "iss": ISSUER,
            "aud": [ISSUER],
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "iat": issued,
            "nbf": issued,
            "exp": expires,
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": service_account, "uid": uid},
            },
        });
        let head = URL_SAFE_NO_PAD.encode(json!({"alg": "ES256", "typ": "JWT"}).to_string());
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.0.serialized_der(), &random)
            .map_err(|why| Error::Binaries(format!("sign a token: {why}")))?;
        let signature =
            key.sign(&random, signed.as_bytes()).map_err(|why| Error::Binaries(format!("sign a token: {why}")))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }
}

fn named(names: Vec<String>, common: &str, organization: Option<&str>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names).map_err(failed("name a certificate"))?;
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common);
    params.distinguished_name = name;
    Ok(params)
}

fn failed<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Error {
    Error::doing::<E>(what)
}
