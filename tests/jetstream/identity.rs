use std::path::Path;

use jetgate::jetstream::{
    Connection, Credentials, NatsOptions, Puller, Secret, StreamSpec, TlsOptions, ensure_stream, stream_facts,
};
use nkeys::KeyPair;
use testbed::certs::Authority;
use testbed::nats::{Nats, NatsOptions as ServerOptions};

use crate::operator::Operator;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_file() {
    let operator = Operator::new();
    let nats = server(&operator.config).await;
    let folder = tempdir();
    let file = folder.join("user.creds");
    std::fs::write(&file, &operator.credentials).unwrap();
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
        "cannot make the stream \"EVENTS\", which does not exist: the NATS user may not do this; the server says: \
         Permissions Violation for Publish to \"$JS.API.STREAM.CREATE.EVENTS\""
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
