//! Every way to log in at NATS, given to the program by its variables: ready means that stream, consumer and dead letters
//! were made over that connection.

use std::path::{Path, PathBuf};

use nkeys::KeyPair;
use testbed::Nats;
use testbed::certs::Authority;
use testbed::nats::NatsOptions;
use testbed::process::{Process, Spec};

use crate::operator::Operator;
use crate::support::Sensor;

const FILE: &str = "name: orders\nstream: EVENTS\nsubject: EVENTS.>\ntrigger: {name: say, log: {}}\n";

async fn server(config: &str) -> Nats {
    Nats::start(NatsOptions { config: config.to_owned(), ..NatsOptions::default() }).await.unwrap()
}

fn sensor(folder: &Path, url: &str, env: &[(&str, &str)]) -> Sensor {
    let file = folder.join("sensor.yaml");
    std::fs::write(&file, FILE).unwrap();
    let log = folder.join(format!("{}.log", env.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("-")));
    let mut spec = Spec::new("jetgate", env!("CARGO_BIN_EXE_jetgate"), ["sensor"], log)
        .env("SENSOR_FILE", file.to_string_lossy())
        .env("BACKPRESSURE_QUOTA_NAMESPACE", "nowhere")
        .env("METRICS_PORT", "0")
        .env("NATS_URL", url);
    for (name, value) in env {
        spec = spec.env(*name, *value);
    }
    Sensor { process: Process::spawn(spec).unwrap() }
}

async fn logs_in(folder: &Path, url: &str, env: &[(&str, &str)]) {
    let sensor = sensor(folder, url, env);
    sensor.until_ready().await;
    assert_eq!(sensor.metric("sensor_nats_connected", &[]).await, Some(1.0), "{env:?}");
    assert_eq!(sensor.stop().await, Some(0), "{env:?}");
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn by_token_nkey_and_credentials_as_text_and_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::new_user();
    let operator = Operator::new();
    let ways = [
        ("NATS_TOKEN", "authorization { token: s3cret }".to_owned(), "s3cret".to_owned()),
        ("NATS_NKEY", format!("authorization {{ users: [{{nkey: {}}}] }}", key.public_key()), key.seed().unwrap()),
        ("NATS_CREDS", operator.config, operator.credentials),
    ];
    for (variable, config, secret) in ways {
        let nats = server(&config).await;
        logs_in(folder.path(), &nats.url(), &[(variable, &secret)]).await;
        let file = write(folder.path(), variable, &format!("{secret}\n"));
        let from_file = format!("{variable}_FILE");
        logs_in(folder.path(), &nats.url(), &[(&from_file, &file.to_string_lossy())]).await;
        if variable == "NATS_CREDS" {
            logs_in(folder.path(), &nats.url(), &[(variable, &file.to_string_lossy())]).await;
        }
        // A server that asks lets nobody in who says nothing.
        let stranger = sensor(folder.path(), &nats.url(), &[("LOG_LEVEL", "info")]);
        testbed::wait::until_true("it says why it waits", crate::support::LONG, || async {
            let waits = stranger.lines("waiting for NATS");
            let said = waits.iter().filter_map(|line| line["last_error"].as_str());
            said.into_iter().any(|error| error.to_lowercase().contains("authorization"))
        })
        .await
        .unwrap();
        stranger.process.kill().await.unwrap();
        std::fs::remove_file(stranger.process.log()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_certificate_as_text_and_from_files_before_and_after_the_greeting() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("nats").unwrap();
    let certificate = authority.client("sensor", None).unwrap();
    let texts = [
        ("NATS_CA", authority.pem()),
        ("NATS_CERT", certificate.certificate.clone()),
        ("NATS_KEY", certificate.key.clone()),
    ];
    let files = texts.each_ref().map(|(name, text)| (format!("{name}_FILE"), write(folder.path(), name, text)));
    for first in [false, true] {
        let nats = Nats::start(NatsOptions {
            tls: Some(authority.serving_loopback().unwrap()),
            verify_clients: Some(authority.pem()),
            tls_first: first,
            ..NatsOptions::default()
        })
        .await
        .unwrap();
        let first = first.to_string();
        let mut env: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        env.push(("NATS_TLS_FIRST", &first));
        logs_in(folder.path(), &nats.url(), &env).await;
        let mut env: Vec<(&str, &str)> =
            files.iter().map(|(name, path)| (name.as_str(), path.to_str().unwrap())).collect();
        env.push(("NATS_TLS_FIRST", &first));
        logs_in(folder.path(), &nats.url(), &env).await;
    }
}

/// One of the servers is away; the users in the URLs are taken out of them.
#[tokio::test(flavor = "multi_thread")]
async fn by_a_list_of_urls_with_a_user() {
    let folder = tempfile::tempdir().unwrap();
    let nats = server("authorization { user: me, password: p-w }").await;
    let away = testbed::ports::Port::reserve().unwrap();
    let with_user = |url: String| url.replace("nats://", "nats://me:p-w@");
    let urls = format!("{},{}", with_user(format!("nats://{}", away.address())), with_user(nats.url()));
    logs_in(folder.path(), &urls, &[]).await;
}
