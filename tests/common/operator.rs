//! A nats-server in operator mode, whose users have JWTs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::json;

/// One account with one user.
pub(crate) struct Operator {
    /// Of the server.
    pub(crate) config: String,
    /// The user's credentials file.
    pub(crate) credentials: String,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
        let system = KeyPair::new_account();
        let operator_jwt = jwt(&operator, &operator.public_key(), "op", json!({"type": "operator", "version": 2}));
        let unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1});
        let claims = json!({"type": "account", "version": 2, "limits": unlimited});
        let account_jwt = jwt(&operator, &account.public_key(), "acc", claims);
        let mut claims = json!({"type": "account", "version": 2, "limits": unlimited});
        for storage in ["mem_storage", "disk_storage", "streams", "consumer"] {
            claims["limits"][storage] = json!(0);
        }
        let system_jwt = jwt(&operator, &system.public_key(), "sys", claims);
        let user_jwt = jwt(
            &account,
            &user.public_key(),
            "user",
            json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}),
        );
        let config = format!(
            "operator: {operator_jwt}\nsystem_account: {0}\nresolver: MEMORY\n\
             resolver_preload: {{ {0}: {system_jwt}, {1}: {account_jwt} }}\n",
            system.public_key(),
            account.public_key()
        );
        let credentials = format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY \
             SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        );
        Self { config, credentials }
    }
}

/// A JWT as NATS signs them.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, nats: serde_json::Value) -> String {
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject, "nats": nats,
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}
