//! The sentences that people read, whole.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use clap::CommandFactory;
use proptest::prelude::*;

use crate::gate::{Quantity, Ratio};

use super::nats::without_userinfo;
use super::settings::ArgsError;
use super::*;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Settings, ArgsError> {
    let args = std::iter::once("jetgate").chain(args.iter().copied()).map(OsString::from);
    Settings::from_args_and_env(args, env.iter().map(|(name, value)| (name.into(), value.into())))
}

fn good(args: &[&str], env: &[(&str, &str)]) -> Settings {
    read(args, env).unwrap()
}

fn problems(env: &[(&str, &str)]) -> String {
    read(&[], env).unwrap_err().to_string()
}

#[test]
fn defaults() {
    let settings = good(&[], &[]);
    assert_eq!(settings.quota, None);
    assert_eq!(settings.sensor_file.to_str(), Some("/etc/jetgate/sensor.yaml"));
    assert_eq!(settings.deliver_policy, None);
    assert_eq!(settings.ack_wait, Duration::from_secs(30));
    assert_eq!(settings.create_timeout, Duration::from_secs(10));
    assert!(settings.redelivery_pause);
    assert_eq!(settings.max_in_flight, 256);
    assert_eq!(settings.on_doubt, OnDoubt::Create);
    assert_eq!((settings.metrics_port, settings.metrics_prefix.as_str()), (7777, ""));
    assert_eq!((settings.log_format, settings.log_level.as_str()), (LogFormat::Json, "info"));
    assert_eq!(settings.shutdown_grace, Duration::from_secs(25));
    assert_eq!(settings.nats.urls_shown(), "nats://localhost:4222");
    assert_eq!((settings.nats.auth, settings.nats.tls), (None, NatsTls::default()));
    assert!(settings.warnings.is_empty());
    let quota = good(&[], &[("BACKPRESSURE_QUOTA_NAME", "q")]).quota.unwrap();
    assert_eq!(quota.names, ["q"]);
    assert_eq!(quota.resources.len(), 1);
    assert_eq!(quota.resources[0].0.as_str(), "count/workflows.argoproj.io");
    assert_eq!(quota.resources[0].1, Quantity::from_whole(1));
    assert_eq!(quota.ratio, "0.95".parse::<Ratio>().unwrap());
    assert_eq!(quota.poll_interval, Duration::from_secs(30));
    assert_eq!(quota.signal_max_age, Duration::from_secs(10));
    assert_eq!(quota.settle_time, Duration::from_secs(10));
    assert_eq!(quota.source, Source::Controller);
}

#[test]
fn everything_given() {
    let env = [
        ("BACKPRESSURE_QUOTA_NAME", "a, b.c"),
        ("BACKPRESSURE_QUOTA_NAMESPACE", "work"),
        ("BACKPRESSURE_RESOURCE_NAME", "pods=2,requests.cpu=500m"),
        ("BACKPRESSURE_CAPACITY_RATIO", "1"),
        ("BACKPRESSURE_POLL_INTERVAL", "500ms"),
        ("BACKPRESSURE_SIGNAL_MAX_AGE", "3s"),
        ("BACKPRESSURE_SOURCE", "apiserver"),
        ("BACKPRESSURE_SETTLE_TIME", "0s"),
        ("SENSOR_NAME", "orders"),
        ("DELIVER_POLICY", "all"),
        ("ACK_WAIT", "4s"),
        ("CREATE_TIMEOUT", "2s"),
        ("REDELIVERY_PAUSE", "off"),
        ("MAX_IN_FLIGHT", "8"),
        ("DEAD_LETTER_STREAM", "DEAD"),
        ("ON_DOUBT", "dead"),
        ("INSTANCE", "eu_1"),
        ("METRICS_PORT", "0"),
        ("METRICS_PREFIX", "argo_events_"),
        ("LOG_FORMAT", "plain"),
        ("LOG_LEVEL", "info,jetgate::sensor=debug"),
        ("SHUTDOWN_GRACE", "1m"),
        ("NATS_URL", "tls://a:4222,b"),
        ("NATS_REPLICAS", "5"),
        ("NATS_CREDS_FILE", "/creds"),
        ("NATS_CA", "-----BEGIN CERTIFICATE-----\n..."),
        ("NATS_CERT", "/cert"),
        ("NATS_KEY_FILE", "/key"),
        ("NATS_TLS_FIRST", "true"),
        ("KUBECONFIG", "/kube"),
        ("UNRELATED", "x"),
    ];
    let settings = good(&["--metrics-port=9000", "--source", "controller"], &env);
    let quota = settings.quota.clone().unwrap();
    assert_eq!(quota.names, ["a", "b.c"]);
    assert_eq!(settings.namespace.as_deref(), Some("work"));
    assert_eq!(quota.resources[1].1, Quantity::parse("0.5").unwrap());
    assert_eq!((quota.ratio, quota.poll_interval), (Ratio::ONE, Duration::from_millis(500)));
    assert_eq!((quota.source, settings.metrics_port), (Source::Controller, 9000));
    assert_eq!((settings.ack_wait, settings.create_timeout), (Duration::from_secs(4), Duration::from_secs(2)));
    assert_eq!(settings.deliver_policy, Some(DeliverPolicy::All));
    assert!(!settings.redelivery_pause);
    assert_eq!((settings.max_in_flight, settings.on_doubt, settings.replicas), (8, OnDoubt::Dead, Some(5)));
    assert_eq!((settings.dead_letter_stream.as_deref(), settings.instance.as_str()), (Some("DEAD"), "eu_1"));
    assert_eq!((settings.log_format, settings.shutdown_grace), (LogFormat::Plain, Duration::from_secs(60)));
    assert_eq!((settings.metrics_prefix.as_str(), settings.sensor_name.as_deref()), ("argo_events_", Some("orders")));
    assert_eq!(settings.log_level, "info,jetgate::sensor=debug");
    assert_eq!(settings.nats.urls_shown(), "tls://a:4222,nats://b");
    assert_eq!(settings.nats.auth, Some(NatsAuth::Creds(Material::File("/creds".into()))));
    assert!(matches!(settings.nats.tls.ca, Some(Material::Inline(_))));
    assert_eq!(settings.nats.tls.cert, Some(Material::File("/cert".into())));
    assert_eq!(settings.nats.tls.key, Some(Material::File("/key".into())));
    assert!(settings.nats.tls.first);
    assert!(good(&["--nats-tls-first"], &[]).nats.tls.first);
    let effective = |name: &str| settings.effective().iter().find(|effective| effective.name == name).unwrap().clone();
    assert_eq!((effective("METRICS_PORT").value.as_str(), effective("METRICS_PORT").origin), ("9000", Origin::Flag));
    assert_eq!((effective("ON_DOUBT").value.as_str(), effective("ON_DOUBT").origin), ("dead", Origin::Variable));
    assert_eq!((effective("NATS_USER").value.as_str(), effective("NATS_USER").origin), ("", Origin::Default));
    assert_eq!(settings.effective().len(), SETTINGS.len());
}

#[test]
fn each_mistake_has_its_sentence() {
    let table: [(&[(&str, &str)], &str); 36] = [
        (
            &[("BACKPRESSURE_CAPACITY_RATIO", "1.5")],
            "BACKPRESSURE_CAPACITY_RATIO: `1.5` is out of range: a decimal number above 0 and at most 1 is allowed, such as 0.95",
        ),
        (
            &[("BACKPRESSURE_CAPACITY_RATIO", "95%")],
            "BACKPRESSURE_CAPACITY_RATIO: `95%` is not a ratio: a decimal number above 0 and at most 1 is allowed, such as 0.95",
        ),
        (
            &[("BACKPRESSURE_POLL_INTERVAL", "soon")],
            "BACKPRESSURE_POLL_INTERVAL: `soon` is not allowed; allowed is seconds such as 30, or a duration such as \
             500ms, 10s or 5m",
        ),
        (
            &[("BACKPRESSURE_POLL_INTERVAL", "0")],
            "BACKPRESSURE_POLL_INTERVAL: `0` is out of range; allowed is 100ms to 24h",
        ),
        (
            &[("BACKPRESSURE_SIGNAL_MAX_AGE", "500ms")],
            "BACKPRESSURE_SIGNAL_MAX_AGE: `500ms` is out of range; allowed is 1s to 1h",
        ),
        (
            &[("BACKPRESSURE_SETTLE_TIME", "10")],
            "BACKPRESSURE_SETTLE_TIME: `10` is not allowed; allowed is a duration such as 500ms, 10s or 5m",
        ),
        (
            &[("BACKPRESSURE_SOURCE", "nats")],
            "BACKPRESSURE_SOURCE: `nats` is not allowed; allowed is controller or apiserver",
        ),
        (&[("BACKPRESSURE_QUOTA_NAME", "a,a")], "BACKPRESSURE_QUOTA_NAME: `a` is given twice"),
        (
            &[("BACKPRESSURE_QUOTA_NAME", "Compute")],
            "BACKPRESSURE_QUOTA_NAME: `Compute` is not a Kubernetes name: up to 253 lower-case letters, digits, `-` and `.` \
             are allowed, with a letter or digit at both ends of each part",
        ),
        (
            &[("BACKPRESSURE_QUOTA_NAMESPACE", "a.b")],
            "BACKPRESSURE_QUOTA_NAMESPACE: `a.b` is not a DNS label: 1 to 63 lower-case letters, digits and `-` are allowed, \
             with a letter or digit at both ends",
        ),
        (
            &[("BACKPRESSURE_RESOURCE_NAME", "requests.cpu")],
            "BACKPRESSURE_RESOURCE_NAME: requests.cpu needs the cost of one effect, such as requests.cpu=500m",
        ),
        (
            &[("BACKPRESSURE_RESOURCE_NAME", "pods=0")],
            "BACKPRESSURE_RESOURCE_NAME: cost of pods: `0` is not allowed; allowed is a quantity above 0",
        ),
        (
            &[("BACKPRESSURE_QUOTA_NMAE", "a")],
            "BACKPRESSURE_QUOTA_NMAE: unknown variable, did you mean BACKPRESSURE_QUOTA_NAME?",
        ),
        (&[("BACKPRESSURE_ENABLED", "1")], "BACKPRESSURE_ENABLED: unknown variable"),
        (
            &[("SENSOR_NAME", "Orders")],
            "SENSOR_NAME: `Orders` is not a DNS label: 1 to 63 lower-case letters, digits and `-` are allowed, with a letter \
             or digit at both ends",
        ),
        (&[("DELIVER_POLICY", "first")], "DELIVER_POLICY: `first` is not allowed; allowed is new, all or last"),
        (
            &[("ACK_WAIT", "15s")],
            "ACK_WAIT: `15s` is too short; allowed is at least 20s, twice CREATE_TIMEOUT, which is 10s",
        ),
        (
            &[("CREATE_TIMEOUT", "20s")],
            "ACK_WAIT: `30s` is too short; allowed is at least 40s, twice CREATE_TIMEOUT, which is 20s",
        ),
        (&[("CREATE_TIMEOUT", "500ms")], "CREATE_TIMEOUT: `500ms` is out of range; allowed is 2s to 1m"),
        (&[("REDELIVERY_PAUSE", "yes")], "REDELIVERY_PAUSE: `yes` is not allowed; allowed is on or off"),
        (&[("MAX_IN_FLIGHT", "0")], "MAX_IN_FLIGHT: `0` is not allowed; allowed is a whole number from 1 to 65536"),
        (&[("METRICS_PORT", "+80")], "METRICS_PORT: `+80` is not allowed; allowed is a whole number from 0 to 65535"),
        (
            &[("DEAD_LETTER_STREAM", "a.b")],
            "DEAD_LETTER_STREAM: `a.b` is not a stream name: 1 to 255 printable characters are allowed, without spaces and \
             without any of `.*>/\\`",
        ),
        (&[("ON_DOUBT", "drop")], "ON_DOUBT: `drop` is not allowed; allowed is create or dead"),
        (&[("INSTANCE", "a.b")], "INSTANCE: `a.b` is not allowed; allowed is up to 32 letters, digits, - and _"),
        (
            &[("METRICS_PREFIX", "9a")],
            "METRICS_PREFIX: `9a` is not allowed; allowed is letters, digits and _, not beginning with a digit",
        ),
        (&[("LOG_FORMAT", "xml")], "LOG_FORMAT: `xml` is not allowed; allowed is json or plain"),
        (
            &[("LOG_LEVEL", "loud")],
            "LOG_LEVEL: `loud` is not allowed; allowed is error, warn, info, debug or trace, or directives such as \
             info,jetgate::sensor=debug",
        ),
        (
            &[("NATS_URL", "http://a:80")],
            "NATS_URL: `http://a:80` is not allowed; allowed is a comma list of URLs such as nats://host:4222 or \
             tls://host:4222",
        ),
        (
            &[("NATS_NKEY", "secret")],
            "NATS_NKEY: the value, which is not shown, is not allowed; allowed is the seed of a user, 58 characters that \
             begin with SU; a path belongs to NATS_NKEY_FILE",
        ),
        (
            &[("NATS_TOKEN", "secret"), ("NATS_CREDS", "/creds")],
            "NATS_CREDS: NATS_CREDS and NATS_TOKEN are set; allowed is one way to authenticate",
        ),
        (
            &[("NATS_TOKEN_FILE", "/token"), ("NATS_URL", "nats://u:secret@a")],
            "NATS_TOKEN_FILE: NATS_TOKEN_FILE and the user in NATS_URL are set; allowed is one way to authenticate",
        ),
        (
            &[("NATS_TOKEN", "secret"), ("NATS_TOKEN_FILE", "/token")],
            "NATS_TOKEN: NATS_TOKEN_FILE is set too; allowed is one of the two",
        ),
        (&[("NATS_CERT", "/cert")], "NATS_KEY: it is needed, because NATS_CERT is set"),
        (&[("NATS_PASSWORD_FILE", "/p")], "NATS_USER: it is needed, because NATS_PASSWORD is set"),
        (&[("NATS_TLS_FIRST", "1")], "NATS_TLS_FIRST: `1` is not allowed; allowed is true or false"),
    ];
    for (env, expected) in table {
        assert_eq!(problems(env), expected);
    }
}

#[test]
fn mistakes_are_reported_together() {
    let error = read(
        &["--capacity-ratio", "2", "--create-timeout=x"],
        &[("ON_DOUBT", "drop"), ("BACKPRESSURE_SORCE", "x"), ("SENSOR_NAME", "-"), ("NATS_PASSWORD", "hunter2")],
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "BACKPRESSURE_SORCE: unknown variable, did you mean BACKPRESSURE_SOURCE?\n\
         --capacity-ratio (BACKPRESSURE_CAPACITY_RATIO): `2` is out of range: a decimal number above 0 and at most 1 is \
         allowed, such as 0.95\n\
         SENSOR_NAME: `-` is not a DNS label: 1 to 63 lower-case letters, digits and `-` are allowed, with a letter or digit \
         at both ends\n\
         --create-timeout (CREATE_TIMEOUT): `x` is not allowed; allowed is a duration such as 500ms, 10s or 5m\n\
         ON_DOUBT: `drop` is not allowed; allowed is create or dead\n\
         NATS_USER: it is needed, because NATS_PASSWORD is set"
    );
    assert!(read(&["--no-such-flag"], &[]).is_err());
}

#[test]
fn empty_is_not_given_and_settings_without_effect_are_said() {
    let settings = good(&[], &[("BACKPRESSURE_QUOTA_NAME", ""), ("NATS_TOKEN", ""), ("METRICS_PORT", "")]);
    assert_eq!((settings.quota, settings.nats.auth, settings.metrics_port), (None, None, 7777));
    let blank =
        good(&["--max-in-flight= "], &[("BACKPRESSURE_QUOTA_NAME", " "), ("METRICS_PORT", "\t"), ("ACK_WAIT", " ")]);
    assert_eq!(
        (blank.quota, blank.metrics_port, blank.max_in_flight),
        (None, 7777, 256),
        "a blank one is an empty one"
    );
    let under = good(&["--max-in-flight= "], &[("MAX_IN_FLIGHT", "8")]);
    assert_eq!(under.max_in_flight, 8, "a blank flag hides no variable");
    let warned = good(&[], &[("BACKPRESSURE_SOURCE", "apiserver"), ("BACKPRESSURE_QUOTA_NAMESPACE", "a")]);
    assert_eq!(warned.warnings, ["BACKPRESSURE_SOURCE has no effect without BACKPRESSURE_QUOTA_NAME: gating is off"]);
    assert_eq!(warned.namespace.as_deref(), Some("a"));
}

#[test]
fn secrets_are_never_shown() {
    let seed = format!("SU{}", "A".repeat(56));
    let cases: [&[(&str, &str)]; 4] = [
        &[("NATS_CREDS", "-----BEGIN NATS USER JWT-----\nhunter2")],
        &[("NATS_NKEY", &seed)],
        &[("NATS_TOKEN", "hunter2")],
        &[
            ("NATS_USER", "u"),
            ("NATS_PASSWORD", "hunter2"),
            ("NATS_CERT", "/c"),
            ("NATS_KEY", "-----BEGIN KEY-----hunter2"),
        ],
    ];
    for env in cases {
        let shown = format!("{:?}", good(&[], env));
        assert!(!shown.contains("hunter2") && !shown.contains(&seed), "{shown}");
        let broken = [env, &[("ON_DOUBT", "x")]].concat();
        assert!(!problems(&broken).contains("hunter2"));
    }
    for comma in ["nats://u:hunter2,ss@a", "nats://b,nats://u:1234,hunter2,x@a"] {
        let said = problems(&[("NATS_URL", comma)]);
        assert!(!said.contains("hunter2") && !said.contains("1234") && said.contains("NATS_PASSWORD"), "{said}");
        assert!(!without_userinfo(comma).contains("hunter2"));
    }
    let forgotten = ["nats://u:hunter2", "nats://u:hunter2,x://ter@a", "u:hunter2", "nats://a,nats://u:hunter2/"];
    let odd = [
        "nats://u:p@hunter2!word",
        "u:hunter2://ss@h",
        "nats://hunter2+en=",
        "nats://u:1,hunter2://x@h",
        "http://u:x@hunter2",
    ];
    for odd in forgotten.into_iter().chain(odd) {
        let said = problems(&[("NATS_URL", odd)]);
        assert!(!said.contains("hunter2") && said.contains("not shown"), "{said}");
    }
    assert_eq!(without_userinfo("b,nats://u:p@a:1,tls://c"), "b,nats://...@a:1,tls://c");
    let shown = format!("{:?}", good(&[], &[("NATS_URL", "nats://u:hunter2@a")]));
    assert!(!shown.contains("hunter2") && shown.contains("nats://...@a"), "{shown}");
}

#[test]
fn the_namespace_is_found() {
    let found = |settings: &Settings, pod: &str, mounted: Option<&str>| {
        let around = [("POD_NAMESPACE", Some(pod.to_owned())), ("the account", mounted.map(str::to_owned))];
        settings.resolve_namespace(around).map_err(|problem| problem.to_string())
    };
    let configured = good(&[], &[("BACKPRESSURE_QUOTA_NAMESPACE", "a")]);
    assert_eq!(found(&configured, "b", Some("c")), Ok(Some("a".to_owned())));
    let open = good(&[], &[]);
    assert_eq!(found(&open, "b", Some("c")), Ok(Some("b".to_owned())));
    assert_eq!(found(&open, "", Some("c\n")), Ok(Some("c".to_owned())));
    assert_eq!(found(&open, "", None), Ok(None));
    // The next would be another namespace than somebody meant.
    let rule = "is not a DNS label: 1 to 63 lower-case letters, digits and `-` are allowed, with a letter or digit at both ends";
    assert_eq!(found(&open, "Team", Some("c")), Err(format!("POD_NAMESPACE: `Team` {rule}")));
    assert_eq!(found(&open, " ", Some("a.b")), Err(format!("the account: `a.b` {rule}")));
}

/// Those that take any text are looked at where they are used.
#[test]
fn every_setting_refuses_what_it_cannot_be() {
    let free =
        ["NATS_CREDS", "NATS_TOKEN", "NATS_USER", "NATS_PASSWORD", "NATS_CA", "NATS_CERT", "NATS_KEY", "KUBECONFIG"];
    let with = |setting: &Setting| match setting.variable {
        name if name.starts_with("BACKPRESSURE_") && name != "BACKPRESSURE_QUOTA_NAME" => {
            ("BACKPRESSURE_QUOTA_NAME", "q")
        }
        _ => ("UNRELATED", ""),
    };
    for setting in
        SETTINGS.iter().filter(|setting| !free.contains(&setting.variable) && !setting.variable.ends_with("_FILE"))
    {
        let said = problems(&[with(setting), (setting.variable, "\u{1}, !")]);
        assert!(said.starts_with(&format!("{}: ", setting.variable)), "{}: {said}", setting.variable);
        assert!(said.contains("allowed") && !said.contains('\n'), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_utf_8_is_not_passed_over() {
    use std::os::unix::ffi::OsStringExt as _;
    for setting in SETTINGS {
        let env = std::iter::once((setting.variable.into(), OsString::from_vec(vec![b'q', 0xff])));
        let args = std::iter::once(OsString::from("jetgate"));
        let said = Settings::from_args_and_env(args, env).unwrap_err().to_string();
        let sentence = format!("{}: the value is not UTF-8; allowed is {}", setting.variable, setting.form);
        assert!(said.lines().any(|line| line == sentence), "{said}");
    }
    for (flag, expected) in [("--max-in-flight=8", Some(8)), ("--max-in-flight= ", None)] {
        let env = std::iter::once(("MAX_IN_FLIGHT".into(), OsString::from_vec(vec![b'7', 0xff])));
        let args = ["jetgate", flag].map(OsString::from).into_iter();
        let read = Settings::from_args_and_env(args, env).ok().map(|settings| settings.max_in_flight);
        assert_eq!(read, expected, "a flag wins, a blank one is none");
    }
}

#[test]
fn content_is_no_path() {
    for path in [
        "/etc/kube/x",
        "./x",
        "../x",
        "kube/config",
        "config",
        "a/team.kubeconfig",
        "ca.pem",
        "/tmp/team-AbCd12xyz34/config",
    ] {
        assert!(is_surely_a_path(path), "{path}");
    }
    let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ0ZWFtIn0.c2lnbmF0dXJl";
    for content in [
        "/hunter2",
        "/9j4AAQSkZJRgABAQ",
        "/x/9j4AAQSkZJRgABAQ",
        "/a/b==",
        "hunter2",
        "YXBpVmVyc2lvbjogdjE/a+b",
        jwt,
        "apiVersion: v1\nkind: Config",
        "{\"a\": \"x.yaml\"}",
        "x\n.yaml",
    ] {
        assert!(!is_surely_a_path(content), "{content}");
    }
}

#[test]
fn flags_and_table_are_the_same() {
    let command = Cli::command();
    command.clone().debug_assert();
    let flags: BTreeSet<(&str, &str)> = command
        .get_arguments()
        .filter_map(|argument| argument.get_long().map(|long| (argument.get_id().as_str(), long)))
        .filter(|(_, long)| *long != "help")
        .collect();
    let rows: BTreeSet<(&str, &str)> = SETTINGS.iter().map(|setting| (setting.variable, setting.flag)).collect();
    assert_eq!(flags, rows);
    assert_eq!(rows.len(), SETTINGS.len());
    for setting in SETTINGS {
        let short = setting.variable.strip_prefix("BACKPRESSURE_").unwrap_or(setting.variable);
        assert_eq!(setting.flag, short.to_lowercase().replace('_', "-"));
        let secrets = ["NATS_CREDS", "NATS_NKEY", "NATS_TOKEN", "NATS_PASSWORD", "NATS_KEY"];
        assert_eq!(setting.secret, secrets.contains(&setting.variable), "{}", setting.variable);
    }
}

proptest! {
    #[test]
    fn no_value_panics(value in ".{0,30}|[0-9a-z.:/@,=-]{0,30}", index in 0..SETTINGS.len(), flag in any::<bool>()) {
        let setting = &SETTINGS[index];
        let result = if flag {
            read(&[&format!("--{}={value}", setting.flag)], &[])
        } else {
            read(&[], &[(setting.variable, &value)])
        };
        drop(result.map_err(|error| error.to_string()));
    }
}
