use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jetgate::jetstream::{
    Connection, Credentials, NatsOptions, Puller, Secret, StreamSpec, TlsOptions, ensure_stream, stream_facts,
};
use nkeys::KeyPair;
use serde_json::json;
use testbed::certs::Authority;
use testbed::nats::{Nats, NatsOptions as ServerOptions};

use crate::{LIMIT, STREAM, next, soon, stream_spec, until_up};

async fn server(config: &str) -> Nats {
    Nats::start(ServerOptions { config: config.into(), ..Default::default() }).await.unwrap()
}

fn options(nats: &Nats, credentials: Credentials) -> NatsOptions {
    NatsOptions { credentials, ..NatsOptions::new(vec![nats.url()]) }
}

fn inline(text: &str) -> Secret {
    Secret::Inline(text.into())
}

async fn connects(options: NatsOptions) -> Connection {
    let connection = Connection::open(options).await.unwrap();
    until_up(&connection).await;
    connection
}

async fn refused(options: NatsOptions, expected: &str) {
    let connection = Connection::open(options).await.unwrap();
    let mut state = connection.state();
    let state = soon("the refusal", state.wait_for(|state| state.last_error.is_some())).await.unwrap().clone();
    let said = state.last_error.unwrap();
    assert!(!state.up && said.contains(expected), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token() {
    let nats = server("authorization { token: s3cret }").await;
    connects(options(&nats, Credentials::Token(inline("s3cret")))).await;
    refused(options(&nats, Credentials::Token(inline("wrong"))), "authorization violation").await;
    refused(options(&nats, Credentials::None), "authorization violation").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_and_a_password_file_that_is_put_right() {
    let nats = server("authorization { user: me, password: right }").await;
    let folder = tempdir();
    let file = folder.join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let credentials = Credentials::User { user: inline("me"), password: Secret::File(file.clone()) };
    let connection = Connection::open(options(&nats, credentials)).await.unwrap();
    let mut state = connection.state();
    let said = soon("the refusal", state.wait_for(|state| state.last_error.is_some())).await.unwrap().clone();
    assert!(said.last_error.unwrap().contains("authorization violation"));
    std::fs::remove_file(&file).unwrap();
    soon(
        "the missing file",
        state.wait_for(|state| {
            state.last_error.as_ref().is_some_and(|said| said.contains("cannot read") && said.contains("password"))
        }),
    )
    .await
    .unwrap();
    std::fs::write(&file, "right\n").unwrap();
    until_up(&connection).await;
    assert_eq!(connection.state().borrow().last_error, None);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nkey() {
    let (ours, other) = (KeyPair::new_user(), KeyPair::new_user());
    let nats = server(&format!("authorization {{ users: [ {{ nkey: {} }} ] }}", ours.public_key())).await;
    connects(options(&nats, Credentials::Nkey(inline(&ours.seed().unwrap())))).await;
    refused(options(&nats, Credentials::Nkey(inline(&other.seed().unwrap()))), "authorization violation").await;
    refused(options(&nats, Credentials::Nkey(inline("nonsense"))), "the credentials hold no seed").await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_file() {
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
    let nats = server(&format!(
        "operator: {operator_jwt}\nsystem_account: {0}\nresolver: MEMORY\n\
         resolver_preload: {{ {0}: {system_jwt}, {1}: {account_jwt} }}\n",
        system.public_key(),
        account.public_key()
    ))
    .await;
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY \
         SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    let folder = tempdir();
    let file = folder.join("user.creds");
    std::fs::write(&file, text).unwrap();
    let connection = connects(options(&nats, Credentials::File(Secret::File(file)))).await;
    ensure_stream(&connection, &stream_spec()).await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls() {
    let authority = Authority::new("nats").unwrap();
    let certificate = authority.client("sensor", None).unwrap();
    let folder = tempdir();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    let (ca, cert) = (write("ca.pem", &authority.pem()), write("cert.pem", &certificate.certificate));
    let key = write("key.pem", &certificate.key);
    let stranger = write("stranger.pem", &Authority::new("stranger").unwrap().pem());
    for first in [false, true] {
        let nats = Nats::start(ServerOptions {
            tls: Some(authority.serving_loopback().unwrap()),
            verify_clients: Some(authority.pem()),
            tls_first: first,
            ..Default::default()
        })
        .await
        .unwrap();
        let with = |tls| NatsOptions { tls, ..NatsOptions::new(vec![nats.url()]) };
        let good = TlsOptions { ca: Some(ca.clone()), cert: Some(cert.clone()), key: Some(key.clone()), first };
        let connection = connects(with(good.clone())).await;
        ensure_stream(&connection, &stream_spec()).await.unwrap();
        refused(with(TlsOptions { ca: Some(stranger.clone()), ..good.clone() }), "UnknownIssuer").await;
        refused(with(TlsOptions { cert: None, key: None, ..good.clone() }), "CertificateRequired").await;
        let half = Connection::open(with(TlsOptions { key: None, ..good })).await.unwrap_err();
        assert_eq!(half.to_string(), "a client certificate and its key go together: set both or none");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// T14: what the permissions forbid is said at once, with the subject, instead of a timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named() {
    let nats = server(
        r#"authorization { users: [
            { user: admin, password: x },
            { user: me, password: x, permissions: {
                publish: ["$JS.API.STREAM.INFO.>"], subscribe: ["_SENS.>"] } } ] }"#,
    )
    .await;
    let login = |user: &str| Credentials::User { user: inline(user), password: inline("x") };
    let mut mine = options(&nats, login("me"));
    mine.inbox_prefix = Some("_SENS".into());
    let connection = connects(mine).await;
    let start = std::time::Instant::now();
    let error = ensure_stream(&connection, &stream_spec()).await.unwrap_err();
    assert!(start.elapsed() < LIMIT / 10);
    assert!(!error.is_passing());
    let told = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert_eq!(
        told,
        "cannot make the stream \"EVENTS\": the NATS user may not do this; the server says: Permissions Violation for \
         Publish to \"$JS.API.STREAM.CREATE.EVENTS\""
    );
    let mut puller = Puller::new(connection.clone(), STREAM, "orders");
    puller.pull(2, std::time::Duration::from_secs(20)).await.unwrap();
    let event = next(&mut puller).await;
    let told = format!("{event:?}");
    assert!(told.contains("credits: 2") && told.contains("$JS.API.CONSUMER.MSG.NEXT.EVENTS.orders"), "{told}");

    // Without the right to the inbox no answer can ever come; that is said too.
    let connection = connects(options(&nats, login("me"))).await;
    let error = stream_facts(&connection, STREAM).await.unwrap_err();
    let told = std::error::Error::source(&error).unwrap().to_string();
    assert!(told.contains("Permissions Violation for Subscription to \"_INBOX."), "{told}");
    let admin = connects(options(&nats, login("admin"))).await;
    ensure_stream(&admin, &StreamSpec { subject: "orders.>".into(), ..stream_spec() }).await.unwrap();
}

fn tempdir() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("jetgate-{}-{}", std::process::id(), rand::random::<u64>()));
    std::fs::create_dir(&path).unwrap();
    assert!(Path::new(&path).is_dir());
    path
}
