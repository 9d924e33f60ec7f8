//! What people write wrongly, and the sentence that each of them needs.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use serde_json::Value;
use testbed::nats::NatsOptions;
use testbed::{ControlPlane, Nats, wait};

use crate::support::{LONG, Sensor, Stage, workflow_file};

pub(crate) const GOOD: &str = r#"name: orders
stream: EVENTS
subject: orders.>
trigger:
  name: create
  kubernetes:
    object:
      apiVersion: argoproj.io/v1alpha1
      kind: Workflow
      metadata: {generateName: order-}
      spec: {id: "${{ event.data.id }}"}
"#;

/// Runs a command with nothing around it but these variables; gives its code, standard output and standard error.
async fn run(command: &str, arguments: &[&str], file: &str, env: &[(&str, &str)]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sensor.yaml");
    std::fs::write(&path, file).unwrap();
    let mut variables = BTreeMap::from([
        ("SENSOR_FILE", path.to_string_lossy().into_owned()),
        ("BACKPRESSURE_QUOTA_NAMESPACE", "team".to_owned()),
    ]);
    variables.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_jetgate"))
        .arg(command)
        .args(arguments)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LONG, output).await.expect("the command ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*path.to_string_lossy(), "FILE");
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Both commands refuse with these lines and nothing else.
pub(crate) async fn refused(file: &str, env: &[(&str, &str)], lines: &[&str]) {
    let expected: String = lines.iter().map(|line| format!("jetgate: {line}\n")).collect();
    for command in ["check", "sensor"] {
        let (code, out, err) = run(command, &[], file, env).await;
        assert_eq!(
            (code, err.as_str(), out.as_str()),
            (2, expected.as_str(), ""),
            "{command} with {env:?} and\n{file}"
        );
    }
}

#[tokio::test]
async fn good_input_is_said_to_be_good() {
    let (code, out, err) = run("check", &[], GOOD, &[]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "sensor orders in namespace team: stream EVENTS, subject orders.>, trigger create creates \
         argoproj.io/v1alpha1 Workflow\n"
    );
    let (code, _, err) = run("check", &[], GOOD, &[("BACKPRESSURE_CAPACITY_RATIO", "0.5")]).await;
    assert_eq!(
        (code, err.as_str()),
        (0, "warning: BACKPRESSURE_CAPACITY_RATIO has no effect without BACKPRESSURE_QUOTA_NAME: gating is off\n")
    );
}

/// What does not count is not looked at.
#[tokio::test]
async fn a_level_hides_a_bad_filter() {
    let bad = ("RUST_LOG", "jetgate=loud");
    for (level, expected) in [("info", 0), (" ", 2)] {
        let (code, _, err) = run("check", &[], GOOD, &[("LOG_LEVEL", level), bad]).await;
        assert_eq!(code, expected, "{level:?}: {err}");
    }
}

#[tokio::test]
async fn bad_settings_are_all_told_at_once() {
    let env = [
        ("BACKPRESSURE_CAPACITY_RATIO", "1.5"),
        ("METRICS_PORT", "99999"),
        ("ACK_WAIT", "1s"),
        ("BACKPRESSURE_QUOTA_NAM", "team"),
        ("BACKPRESSURE_SOURCE", "both"),
    ];
    let lines = [
        "BACKPRESSURE_QUOTA_NAM: unknown variable, did you mean BACKPRESSURE_QUOTA_NAME?",
        "BACKPRESSURE_CAPACITY_RATIO: `1.5` is out of range: a decimal number above 0 and at most 1 is allowed, such as 0.95",
        "BACKPRESSURE_SOURCE: `both` is not allowed; allowed is controller or apiserver",
        "ACK_WAIT: `1s` is out of range; allowed is 4s to 24h",
        "METRICS_PORT: `99999` is not allowed; allowed is a whole number from 0 to 65535",
    ];
    refused(GOOD, &env, &lines).await;
}

#[tokio::test]
async fn each_bad_setting_is_told() {
    let table: [(&[(&str, &str)], &str); 18] = [
        (
            &[("BACKPRESSURE_RESOURCE_NAME", "requests.cpu")],
            "BACKPRESSURE_RESOURCE_NAME: requests.cpu needs the cost of one effect, such as requests.cpu=500m",
        ),
        (
            &[("BACKPRESSURE_RESOURCE_NAME", "requests.cpu=0")],
            "BACKPRESSURE_RESOURCE_NAME: cost of requests.cpu: `0` is not allowed; allowed is a quantity above 0",
        ),
        (
            &[("BACKPRESSURE_QUOTA_NAME", "Team")],
            "BACKPRESSURE_QUOTA_NAME: `Team` is not a Kubernetes name: up to 253 lower-case letters, digits, `-` and `.` \
             are allowed, with a letter or digit at both ends of each part",
        ),
        (
            &[("BACKPRESSURE_POLL_INTERVAL", "soon")],
            "BACKPRESSURE_POLL_INTERVAL: `soon` is not allowed; allowed is seconds such as 30, or a duration such as \
             500ms, 10s or 5m",
        ),
        (&[("CREATE_TIMEOUT", "1s")], "CREATE_TIMEOUT: `1s` is out of range; allowed is 2s to 1m"),
        (
            &[("CREATE_TIMEOUT", "20s")],
            "ACK_WAIT: `30s` is too short; allowed is at least 40s, twice CREATE_TIMEOUT, which is 20s",
        ),
        (&[("DELIVER_POLICY", "first")], "DELIVER_POLICY: `first` is not allowed; allowed is new, all or last"),
        (&[("ON_DOUBT", "ask")], "ON_DOUBT: `ask` is not allowed; allowed is create or dead"),
        (
            &[("NATS_URL", "http://localhost:4222")],
            "NATS_URL: `http://localhost:4222` is not allowed; allowed is a comma list of URLs such as nats://host:4222 \
             or tls://host:4222",
        ),
        (&[("NATS_REPLICAS", "7")], "NATS_REPLICAS: `7` is not allowed; allowed is a whole number from 1 to 5"),
        (&[("NATS_USER", "me")], "NATS_PASSWORD: it is needed, because NATS_USER is set"),
        (
            &[("NATS_USER", "me"), ("NATS_PASSWORD", "s3cret"), ("NATS_TOKEN", "s3cret")],
            "NATS_TOKEN: NATS_TOKEN and NATS_USER are set; allowed is one way to authenticate",
        ),
        (
            &[("NATS_NKEY", "s3cret")],
            "NATS_NKEY: the value, which is not shown, is not allowed; allowed is the seed of a user, 58 characters that \
             begin with SU; a path belongs to NATS_NKEY_FILE",
        ),
        (
            &[("LOG_LEVEL", "loud")],
            "LOG_LEVEL: `loud` is not allowed; allowed is error, warn, info, debug or trace, or directives such as \
             info,jetgate::sensor=debug",
        ),
        (
            &[("METRICS_PREFIX", "9x")],
            "METRICS_PREFIX: `9x` is not allowed; allowed is letters, digits and _, not beginning with a digit",
        ),
        (
            &[("SENSOR_NAME", "other")],
            "FILE: sensor file: name: it is `orders`, but SENSOR_NAME is `other`; give one of the two, or the same",
        ),
        (
            &[("SENSOR_FILE", "/nowhere/sensor.yaml")],
            "SENSOR_FILE: cannot read /nowhere/sensor.yaml: No such file or directory (os error 2); allowed is the path of a \
             YAML file in UTF-8",
        ),
        (
            &[("BACKPRESSURE_QUOTA_NAMESPACE", "")],
            "BACKPRESSURE_QUOTA_NAMESPACE: it is needed, because this process is no pod that knows its namespace \
             (POD_NAMESPACE, a service account, or a kubeconfig whose context has one)",
        ),
    ];
    for (env, line) in table {
        refused(GOOD, env, &[line]).await;
    }
    let (code, _, err) = run("check", &["--capacity-ratio", "0"], GOOD, &[]).await;
    assert_eq!(
        (code, err.as_str()),
        (
            2,
            "jetgate: --capacity-ratio (BACKPRESSURE_CAPACITY_RATIO): `0` is out of range: a decimal number above 0 and \
             at most 1 is allowed, such as 0.95\n"
        )
    );
}

#[tokio::test]
async fn each_bad_sensor_file_is_told_with_its_place() {
    let log = "name: orders\nstream: EVENTS\nsubject: orders.>\ntrigger: {name: t, log: {}}\n";
    let table = [
        ("name: [orders".to_owned(), "line 1, column 7: a text is expected here"),
        (
            log.replace("name: orders", "nme: orders"),
            "line 1, column 1: unknown field `nme`, did you mean `name`?; allowed: name, stream, subject, trigger",
        ),
        (format!("name: a\n{log}"), "line 2, column 1: the key `name` is there twice"),
        (log.replace("stream: EVENTS\n", ""), "line 3, column 1: the field `stream` is missing"),
        (
            log.replace(", log: {}", ""),
            "trigger: it says nothing to do; exactly one of `kubernetes` and `log` is allowed",
        ),
        (
            log.replace("log: {}", "log: {}, kubernetes: {object: {}}"),
            "trigger: it says two things to do; exactly one of `kubernetes` and `log` is allowed",
        ),
        (
            log.replace("EVENTS", "E.x"),
            "stream: `E.x` is not a stream name: 1 to 255 printable characters are allowed, without spaces and without \
             any of `.*>/\\`",
        ),
        (
            log.replace("orders.>", "o..x"),
            "subject: `o..x` is not a subject: there is nothing before, after or between two dots",
        ),
        (
            log.replace("name: orders", "name: Orders"),
            "name: `Orders` is not a DNS label: 1 to 63 lower-case letters, digits and `-` are allowed, with a letter or \
             digit at both ends",
        ),
        (log.replace("name: orders\n", ""), "name: it is missing; give it there or as SENSOR_NAME"),
        (
            GOOD.replace("generateName: order-", "name: fixed"),
            "trigger.kubernetes.object.metadata.name: a fixed name would allow one object only; give `generateName`, it \
             is the prefix of a name that is derived from the message",
        ),
        (
            GOOD.replace("generateName: order-", "namespace: other"),
            "trigger.kubernetes.object.metadata.namespace: \"other\" is refused: objects are created in the quota's \
             namespace, `team`; leave it out",
        ),
        (
            GOOD.replace("generateName: order-", "labels: {n: 1}"),
            "trigger.kubernetes.object.metadata.labels: the value of `n` must be a text; write it in quotes",
        ),
        (
            GOOD.replace("generateName: order-", "annotations: {jetgate.dev/message: x}"),
            "trigger.kubernetes.object.metadata.annotations: the key `jetgate.dev/message` is refused: keys of \
             jetgate.dev carry the identity of the message",
        ),
        (
            GOOD.replace("kind: Workflow", "kind: \"${{ event.data.kind }}\""),
            "trigger.kubernetes.object.kind: it can't be an expression: rights and the quota are those of one kind",
        ),
        (
            GOOD.replace("      apiVersion: argoproj.io/v1alpha1\n", ""),
            "trigger.kubernetes.object.apiVersion: it is missing; give a text such as argoproj.io/v1alpha1",
        ),
        (
            log.replace("log: {}", "log: {level: loud}"),
            "line 4, column 33: `loud` is not allowed; allowed: error, warn, info, debug, trace",
        ),
    ];
    for (file, line) in table {
        refused(&file, &[], &[&format!("FILE: sensor file: {line}")]).await;
    }
}

#[tokio::test]
async fn each_bad_template_is_told_with_its_place() {
    let table = [
        ("${{ event.data.id", "`${{ event.data.id`: `${{` is not closed by `}}`; write `$${{` for the text itself"),
        (
            "${{ even.data.id }}",
            "`${{ even.data.id }}`: unknown variable `even`, did you mean `event`?; the only variable is `event`",
        ),
        (
            "${{ event.dta.id }}",
            "`${{ event.dta.id }}`: `event` has no field `dta`, did you mean `data`?; it has data, subject, headers, \
             time, stream, sequence, deliveries, cloudevent",
        ),
        ("${{ 1 + }}", "`${{ 1 + }}`: not a CEL expression: line 1, column 4: mismatched input '<EOF>'"),
        (
            "${{ event.subject.lower() }}",
            "`${{ event.subject.lower() }}`: unknown function `lower`; docs/templates.md lists the functions",
        ),
        (
            "${{ timestamp('yesterday') }}",
            "`${{ timestamp('yesterday') }}`: fails for every message: Error executing function 'timestamp': premature \
             end of input",
        ),
    ];
    for (expression, line) in table {
        let file = GOOD.replace("${{ event.data.id }}", expression);
        refused(&file, &[], &[&format!("FILE: sensor file: trigger.kubernetes.object: spec.id: {line}")]).await;
    }
}

/// A sensor that ends by itself with code 1; what it says.
pub(crate) async fn fails(stage: &Stage<'_>) -> String {
    let sensor = stage.spawn_anew();
    let exit = sensor.process.wait_exit(LONG).await.unwrap();
    assert_eq!(exit.code(), Some(1), "{}", sensor.process.last_log_lines(20));
    let mut lines = sensor.lines("failed");
    lines.retain(|line| line["msg"] == "failed");
    assert_eq!(lines.len(), 1, "{}", sensor.process.last_log_lines(20));
    assert_eq!(lines[0]["level"].as_str().unwrap().to_lowercase(), "error");
    lines[0]["error"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_that_cannot_be_created() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "kinds", "5").await;
    let file = workflow_file(&stage.sensor, &stage.stream);
    let of = |api_version: &str, kind: &str| {
        file.replace("argoproj.io/v1alpha1", api_version).replace("kind: Workflow", &format!("kind: {kind}"))
    };
    let begin = "task start failed: the sensor file names a kind that cannot be created: ";
    let table = [
        ("argoproj.io/v1alpha1", "Workflw", "argoproj.io/v1alpha1 has no kind \"Workflw\": did you mean Workflow?"),
        ("argoproj.io/v1", "Workflow", "the API server serves group \"argoproj.io\" as v1alpha1, not \"v1\""),
        (
            "nowhere.io/v1",
            "Workflow",
            "the API server has no group \"nowhere.io\": is its CustomResourceDefinition installed?",
        ),
    ];
    for (api_version, kind, line) in table {
        stage.file(&of(api_version, kind));
        assert_eq!(fails(&stage).await, format!("{begin}{line}"));
    }
    stage.file(&of("v1", "Namespace"));
    assert_eq!(
        fails(&stage).await,
        "task start failed: the sensor file names the kind Namespace, which is cluster-scoped; allowed are kinds that \
         live in a namespace"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_start_cannot_use() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "start", "5").await;
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    stage.set("METRICS_PORT", &port.to_string());
    assert_eq!(
        fails(&stage).await,
        format!(
            "task start failed: METRICS_PORT={port}: cannot listen on this port; choose a free one, or 0 for any: \
             Address already in use (os error 98)"
        )
    );
    stage.set("METRICS_PORT", "0");
    // A kubeconfig of the right form whose credentials cannot be used.
    let rubbish = stage.folder().join("kubeconfig");
    let mut text: Value = serde_json::from_str(&std::fs::read_to_string(&stage.kubeconfig).unwrap()).unwrap();
    text["users"][0]["user"]["client-certificate-data"] = "aGVsbG8=".into();
    std::fs::write(&rubbish, text.to_string()).unwrap();
    stage.kubeconfig.clone_from(&rubbish);
    let said = fails(&stage).await;
    let begin = format!("task start failed: KUBECONFIG={}: the Kubernetes API cannot be used: ", rubbish.display());
    assert!(said.starts_with(&begin), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_could_lose_messages() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "unsafe", "5").await;
    let (name, subject) = (&stage.sensor, format!("{}.>", stage.stream));
    let good = pull::Config {
        durable_name: Some(name.clone()),
        ack_wait: Duration::from_secs(6),
        max_deliver: -1,
        filter_subject: subject.clone(),
        ..pull::Config::default()
    };
    let table = [
        (
            pull::Config { max_deliver: 3, ..good.clone() },
            "max_deliver is 3: must be -1: a message that is returned while there is no room would be given up",
        ),
        (
            pull::Config { ack_policy: AckPolicy::None, ..good.clone() },
            "ack_policy is none: must be explicit: each message is acknowledged by itself; max_ack_pending is 0: must \
             be at least 1: it is the second bound on messages in hand",
        ),
        (
            pull::Config { ack_wait: Duration::from_secs(1), ..good.clone() },
            "ack_wait is 1s: must be at least 4s: a message must not be delivered again while its effect is under way",
        ),
    ];
    let stream = stage.jetstream().get_stream(&stage.stream).await.unwrap();
    for (config, line) in table {
        stream.create_consumer(config).await.unwrap();
        assert_eq!(
            fails(&stage).await,
            format!(
                "task start failed: JetStream refuses what the sensor needs: the consumer {name:?} of stream {:?} cannot \
                 be used: {line}",
                stage.stream
            )
        );
        stream.delete_consumer(name).await.unwrap();
    }
    stream.create_consumer(good).await.unwrap();
    let sensor = stage.start().await;
    assert_eq!(sensor.stop().await, Some(0));
}

/// The one line that says what the sensor waits for, once it is there; meanwhile it lives and is not ready.
async fn waits_for_nats(sensor: &Sensor) -> Value {
    wait::until_true("the sensor says that it waits", LONG, || async { !sensor.lines("waiting for NATS").is_empty() })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    assert_eq!(sensor.get("/livez").await.unwrap().0, 200, "waiting is living");
    let (code, text) = sensor.get("/readyz").await.unwrap();
    assert_eq!(code, 503);
    assert!(text.contains("[-] nats: stream, consumer and dead letters\n"), "{text}");
    assert_eq!(sensor.metric("sensor_quota_blocked", &[]).await, Some(1.0));
    assert_eq!(sensor.metric("sensor_nats_connected", &[]).await, Some(0.0));
    sensor.until_reason(Some("nats_down")).await;
    sensor.lines("waiting for NATS").pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "absent", "5").await;
    nats.process().kill().await.unwrap();
    let sensor = stage.spawn();
    let line = waits_for_nats(&sensor).await;
    assert!(line["last_error"].as_str().unwrap().contains("refused"), "{line}");
    nats.process().start_again().await.unwrap();
    sensor.until_ready().await;
    sensor.until_reason(None).await;
    assert_eq!(sensor.lines("waiting for NATS").len(), 1, "once");
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_that_is_corrected_in_its_file() {
    let plane = ControlPlane::shared().await.unwrap();
    let config = "authorization { users: [{user: me, password: r1ght-s3cret}, {user: anyone, password: x}] }\n\
                  no_auth_user: anyone\n";
    let nats = Nats::start(NatsOptions { config: config.to_owned(), ..NatsOptions::default() }).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "password", "5").await;
    let file = stage.folder().join("password");
    std::fs::write(&file, "wr0ng-s3cret").unwrap();
    stage.set("NATS_USER", "me").set("NATS_PASSWORD_FILE", &file.to_string_lossy());
    let sensor = stage.spawn();
    let line = waits_for_nats(&sensor).await;
    assert!(line["last_error"].as_str().unwrap().to_lowercase().contains("authorization"), "{line}");
    std::fs::write(&file, "r1ght-s3cret\n").unwrap();
    sensor.until_ready().await;
    stage.publish(0..1).await;
    stage.until_drained().await;
    assert_eq!(sensor.stop().await, Some(0));
    let log = sensor.log();
    assert!(!log.contains("s3cret"), "a secret is in the log:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_shown() {
    let plane = ControlPlane::shared().await.unwrap();
    let config = "authorization { users: [{user: me, password: r1ght-s3cret}, {user: anyone, password: x}] }\n\
                  no_auth_user: anyone\n";
    let nats = Nats::start(NatsOptions { config: config.to_owned(), ..NatsOptions::default() }).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "secrets", "5").await;
    stage.set("NATS_USER", "me").set("NATS_PASSWORD", "r1ght-s3cret").set("LOG_LEVEL", "trace");
    let sensor = stage.start().await;
    stage.publish(0..1).await;
    stage.until_drained().await;
    assert_eq!(sensor.stop().await, Some(0));
    let starting = sensor.lines("starting");
    assert_eq!(starting.len(), 1, "the settings are said once");
    let settings: Value = serde_json::from_str(starting[0]["settings"].as_str().unwrap()).unwrap();
    assert_eq!(settings["NATS_PASSWORD"], "(not shown)");
    assert_eq!(settings["NATS_USER"], "me");
    assert_eq!(settings["BACKPRESSURE_CAPACITY_RATIO"], "0.95");
    for setting in jetgate::api::SETTINGS {
        assert!(settings.get(setting.variable).is_some(), "{} is not said: {settings}", setting.variable);
    }
    // In the URL it is a secret as well.
    let url = stage.nats_url.replace("nats://", "nats://me:r1ght-s3cret@");
    let text = sensor.log();
    assert!(!text.contains("s3cret"), "a secret is in the log");
    stage.unset("NATS_USER").unset("NATS_PASSWORD");
    stage.nats_url = url;
    let sensor = stage.start().await;
    assert!(!sensor.state().await.to_string().contains("s3cret"));
    assert_eq!(sensor.stop().await, Some(0));
    assert!(!sensor.log().contains("s3cret"), "a secret is in the log");
}
