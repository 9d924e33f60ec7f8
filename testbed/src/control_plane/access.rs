//! Who one is to the API server: kubeconfigs, clients, tokens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::ControlPlane;
use crate::certs::Certificate;
use crate::error::{Error, Result};

/// Credentials for the API server.
#[derive(Clone, Debug)]
pub enum Login {
    /// The group system:masters: everything is allowed.
    Admin,
    /// A bearer token, given in the kubeconfig itself.
    Token(String),
    /// A bearer token in a file, which may be rewritten.
    TokenFile(PathBuf),
    /// A client certificate, for instance of [`ControlPlane::certificate`].
    Certificate(Certificate),
}

/// A service account that exists.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, which tokens carry.
    pub uid: String,
}

impl ServiceAccount {
    /// Its name as a user of the API.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl ControlPlane {
    /// A client certificate for a user and perhaps a group.
    pub fn certificate(&self, user: &str, group: Option<&str>) -> Result<Certificate> {
        self.authority().client(user, group)
    }

    /// A token that we sign ourselves; the API server refuses it after `lifetime`, or up to 10 s later where it has just
    /// accepted it. Make `exp`-reading clients happy with more than a minute.
    pub fn sign_token(&self, account: &ServiceAccount, lifetime: Duration) -> Result<String> {
        self.token_key().sign(&account.namespace, &account.name, &account.uid, lifetime)
    }

    /// The kubeconfig file of the administrator.
    pub fn kubeconfig_admin(&self) -> Result<PathBuf> {
        self.kubeconfig(&Login::Admin)
    }

    /// A kubeconfig file (JSON, which is YAML) for the first API server.
    pub fn kubeconfig(&self, login: &Login) -> Result<PathBuf> {
        self.kubeconfig_at(login, &self.url())
    }

    /// A kubeconfig file for another address of an API server: the second one, or a proxy.
    pub fn kubeconfig_at(&self, login: &Login, url: &str) -> Result<PathBuf> {
        let content = self.kubeconfig_json(login, url)?.to_string();
        self.write_numbered("kubeconfig", &content)
    }

    /// The administrator's configuration for kube clients, without kube's silent retries.
    pub async fn config(&self) -> Result<kube::Config> {
        self.config_at(&Login::Admin, &self.url()).await
    }

    /// As [`config`](Self::config), for anybody and any address.
    pub async fn config_at(&self, login: &Login, url: &str) -> Result<kube::Config> {
        config_from(self.kubeconfig_json(login, url)?).await
    }

    /// The administrator's client. It belongs to the runtime that asks for it: make one for each test.
    pub async fn client(&self) -> Result<kube::Client> {
        client_from(self.config().await?)
    }

    /// A client for anybody and any address.
    pub async fn client_at(&self, login: &Login, url: &str) -> Result<kube::Client> {
        client_from(self.config_at(login, url).await?)
    }

    fn kubeconfig_json(&self, login: &Login, url: &str) -> Result<Value> {
        let user = match login {
            Login::Admin => certificate_user(self.admin()),
            Login::Certificate(certificate) => certificate_user(certificate),
            Login::Token(token) => json!({ "token": token }),
            Login::TokenFile(path) => json!({ "tokenFile": text(path)? }),
        };
        Ok(kubeconfig_json(url, &self.authority().base64(), &user))
    }
}

/// The user entry of a kubeconfig with a client certificate.
pub(super) fn certificate_user(certificate: &Certificate) -> Value {
    json!({
        "client-certificate-data": STANDARD.encode(&certificate.certificate),
        "client-key-data": STANDARD.encode(&certificate.key),
    })
}

/// A whole kubeconfig.
pub(super) fn kubeconfig_json(url: &str, authority: &str, user: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "testbed",
            "cluster": {"server": url, "certificate-authority-data": authority},
        }],
        "users": [{"name": "testbed", "user": user}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
        "current-context": "testbed",
    })
}

/// A kube configuration without retries: what fails is seen to fail.
pub(super) async fn config_from(kubeconfig: Value) -> Result<kube::Config> {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).map_err(Error::doing("read a kubeconfig"))?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(Error::doing("load a kubeconfig"))?;
    config.default_retry = false;
    Ok(config)
}

/// A client on the current runtime.
pub(crate) fn client_from(config: kube::Config) -> Result<kube::Client> {
    kube::Client::try_from(config).map_err(Error::doing("make a kube client"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::Binaries(format!("{} is no UTF-8", path.display())))
}
