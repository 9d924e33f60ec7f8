//! Every setting, once: flags, defaults, help, documentation and the nearest name of a misspelled one come from here.

use std::fmt::Write as _;

/// A setting: a variable and a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The environment variable.
    pub variable: &'static str,
    /// The flag, without `--`.
    pub flag: &'static str,
    /// The value that is used where none is given; empty where there is none.
    pub default: &'static str,
    /// The default in words, where it depends on something.
    pub default_text: &'static str,
    /// What is allowed.
    pub form: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Never shown.
    pub secret: bool,
}

const fn setting(
    variable: &'static str,
    flag: &'static str,
    default: &'static str,
    form: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting { variable, flag, default, default_text: "", form, meaning, secret: false }
}

impl Setting {
    const fn or(self, default_text: &'static str) -> Self {
        Self { default_text, ..self }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The default as people read it.
    #[must_use]
    pub const fn default_shown(&self) -> &'static str {
        if self.default.is_empty() { self.default_text } else { self.default }
    }
}

pub(super) const QUOTA_NAME: &str = "BACKPRESSURE_QUOTA_NAME";
pub(super) const QUOTA_NAMESPACE: &str = "BACKPRESSURE_QUOTA_NAMESPACE";
pub(super) const RESOURCE_NAME: &str = "BACKPRESSURE_RESOURCE_NAME";
pub(super) const CAPACITY_RATIO: &str = "BACKPRESSURE_CAPACITY_RATIO";
pub(super) const POLL_INTERVAL: &str = "BACKPRESSURE_POLL_INTERVAL";
pub(super) const SIGNAL_MAX_AGE: &str = "BACKPRESSURE_SIGNAL_MAX_AGE";
pub(super) const SOURCE: &str = "BACKPRESSURE_SOURCE";
pub(super) const SETTLE_TIME: &str = "BACKPRESSURE_SETTLE_TIME";
pub(super) const SENSOR_NAME: &str = "SENSOR_NAME";
pub(super) const SENSOR_FILE: &str = "SENSOR_FILE";
pub(super) const DELIVER_POLICY: &str = "DELIVER_POLICY";
pub(super) const ACK_WAIT: &str = "ACK_WAIT";
pub(super) const CREATE_TIMEOUT: &str = "CREATE_TIMEOUT";
pub(super) const REDELIVERY_PAUSE: &str = "REDELIVERY_PAUSE";
pub(super) const MAX_IN_FLIGHT: &str = "MAX_IN_FLIGHT";
pub(super) const DEAD_LETTER_STREAM: &str = "DEAD_LETTER_STREAM";
pub(super) const ON_DOUBT: &str = "ON_DOUBT";
pub(super) const INSTANCE: &str = "INSTANCE";
pub(super) const METRICS_PORT: &str = "METRICS_PORT";
pub(super) const METRICS_PREFIX: &str = "METRICS_PREFIX";
pub(super) const LOG_FORMAT: &str = "LOG_FORMAT";
pub(super) const LOG_LEVEL: &str = "LOG_LEVEL";
pub(super) const SHUTDOWN_GRACE: &str = "SHUTDOWN_GRACE";
pub(super) const NATS_URL: &str = "NATS_URL";
pub(super) const NATS_REPLICAS: &str = "NATS_REPLICAS";
pub(super) const NATS_CREDS: &str = "NATS_CREDS";
pub(super) const NATS_CREDS_FILE: &str = "NATS_CREDS_FILE";
pub(super) const NATS_NKEY: &str = "NATS_NKEY";
pub(super) const NATS_NKEY_FILE: &str = "NATS_NKEY_FILE";
pub(super) const NATS_TOKEN: &str = "NATS_TOKEN";
pub(super) const NATS_TOKEN_FILE: &str = "NATS_TOKEN_FILE";
pub(super) const NATS_USER: &str = "NATS_USER";
pub(super) const NATS_PASSWORD: &str = "NATS_PASSWORD";
pub(super) const NATS_PASSWORD_FILE: &str = "NATS_PASSWORD_FILE";
pub(super) const NATS_CA: &str = "NATS_CA";
pub(super) const NATS_CA_FILE: &str = "NATS_CA_FILE";
pub(super) const NATS_CERT: &str = "NATS_CERT";
pub(super) const NATS_CERT_FILE: &str = "NATS_CERT_FILE";
pub(super) const NATS_KEY: &str = "NATS_KEY";
pub(super) const NATS_KEY_FILE: &str = "NATS_KEY_FILE";
pub(super) const NATS_TLS_FIRST: &str = "NATS_TLS_FIRST";
pub(super) const KUBECONFIG: &str = "KUBECONFIG";

/// Every setting, in the order of the documentation.
pub const SETTINGS: &[Setting] = &[
    setting(QUOTA_NAME, "quota-name", "", "a name, or a comma list", "the ResourceQuota to respect; without it gating is off, which is said once in the log, and `MAX_IN_FLIGHT` bounds what is in flight. Other unscoped quotas of the namespace that track the same resource bound it too, at their hard").or("none: gating off"),
    setting(QUOTA_NAMESPACE, "quota-namespace", "", "a namespace", "where the quota is, and where objects are created").or("the pod's namespace, else that of the kubeconfig's context"),
    setting(RESOURCE_NAME, "resource-name", "count/workflows.argoproj.io", "a resource of the quota, or a list `name=cost,...`", "what one effect takes; the cost of a count is 1 where none is given"),
    setting(CAPACITY_RATIO, "capacity-ratio", "0.95", "a decimal number above 0, at most 1", "the share of hard that is used"),
    setting(POLL_INTERVAL, "poll-interval", "30", "seconds, or a duration such as `500ms`; 100ms to 24h", "the leader's safety re-read beside its watch, not the reaction time"),
    setting(SIGNAL_MAX_AGE, "signal-max-age", "10s", "a duration, 1s to 1h", "how long what the leader said is believed: the credit lease of a grant, the age at which readers call the signal stale"),
    setting(SOURCE, "source", "controller", "`controller` or `apiserver`", "who leads: the controller, or the sensors among themselves"),
    setting(SETTLE_TIME, "settle-time", "10s", "a duration, 0s to 1h", "how long an effect stays counted where its objects cannot be watched (cpu, memory, pods made by others)"),
    setting(SENSOR_NAME, "sensor-name", "", "a DNS label", "the sensor: metric label, durable consumer, part of the identity; renaming makes a new sensor").or("`name` of the sensor file; one of the two is required"),
    setting(SENSOR_FILE, "sensor-file", "/etc/jetgate/sensor.yaml", "a path", "the sensor file"),
    setting(DELIVER_POLICY, "deliver-policy", "", "`new`, `all` or `last`", "where a durable consumer begins that does not exist yet").or("`new`; on a work queue stream `all`"),
    setting(ACK_WAIT, "ack-wait", "30s", "a duration, at least twice `CREATE_TIMEOUT`, at most 24h", "how long the server waits for an ack before it delivers again; in-progress is sent at a third of it"),
    setting(CREATE_TIMEOUT, "create-timeout", "10s", "a duration, 2s to 60s", "the longest that a create may live, client and server together, half of it each; the server takes whole seconds"),
    setting(REDELIVERY_PAUSE, "redelivery-pause", "on", "`on` or `off`", "whether messages wait for `CREATE_TIMEOUT` after a start or a reconnect that may have forgotten deliveries; off is faster, and a message may then have two objects where the server was killed"),
    setting(MAX_IN_FLIGHT, "max-in-flight", "256", "1 to 65536", "messages in hand per replica at most; max_ack_pending of a durable that we make is four times that"),
    setting(DEAD_LETTER_STREAM, "dead-letter-stream", "", "a stream name", "where messages go that can never succeed; made when missing and allowed").or("`<stream>-dead`, with `INSTANCE` `<stream>-dead-<instance>`"),
    setting(ON_DOUBT, "on-doubt", "create", "`create` or `dead`", "what happens to a message whose object may have existed in a gap of the record"),
    setting(INSTANCE, "instance", "", "up to 32 letters, digits, `-` and `_`", "part of the names of buckets and dead letters: for two clusters on one NATS account").or("empty"),
    setting(METRICS_PORT, "metrics-port", "7777", "0 to 65535; 0 takes a free one", "metrics, health and debug state"),
    setting(METRICS_PREFIX, "metrics-prefix", "", "letters, digits and `_`, not beginning with a digit", "a copy of `sensor_quota_blocked` with this prefix, so that existing alerts keep working: `argo_events_`").or("empty"),
    setting(LOG_FORMAT, "log-format", "json", "`json` or `plain`", "the form of the log"),
    setting(LOG_LEVEL, "log-level", "info", "`error`, `warn`, `info`, `debug` or `trace`, or filter directives", "how much is logged"),
    setting(SHUTDOWN_GRACE, "shutdown-grace", "25s", "a duration, 1s to 1h", "how long a stop may take; keep it under the pod's termination grace period"),
    setting(NATS_URL, "nats-url", "nats://localhost:4222", "a comma list of `nats://` or `tls://` URLs", "the NATS servers"),
    setting(NATS_REPLICAS, "nats-replicas", "", "1 to 5", "on how many NATS servers a bucket or stream is kept that is made here").or("as many as the sensor's stream"),
    setting(NATS_CREDS, "nats-creds", "", "the text of a credentials file, or a path", "user JWT and seed").secret(),
    setting(NATS_CREDS_FILE, "nats-creds-file", "", "a path, watched", "the same from a file"),
    setting(NATS_NKEY, "nats-nkey", "", "a user seed, `SU...`", "authentication by nkey").secret(),
    setting(NATS_NKEY_FILE, "nats-nkey-file", "", "a path, watched", "the same from a file"),
    setting(NATS_TOKEN, "nats-token", "", "a text", "authentication by token").secret(),
    setting(NATS_TOKEN_FILE, "nats-token-file", "", "a path, watched", "the same from a file"),
    setting(NATS_USER, "nats-user", "", "a text, with `NATS_PASSWORD`", "authentication by user and password"),
    setting(NATS_PASSWORD, "nats-password", "", "a text, with `NATS_USER`", "authentication by user and password").secret(),
    setting(NATS_PASSWORD_FILE, "nats-password-file", "", "a path, watched", "the same from a file"),
    setting(NATS_CA, "nats-ca", "", "PEM text, or a path", "the authorities that the server's certificate may come from").or("the system's"),
    setting(NATS_CA_FILE, "nats-ca-file", "", "a path, watched", "the same from a file"),
    setting(NATS_CERT, "nats-cert", "", "PEM text, or a path; with `NATS_KEY`", "the client certificate"),
    setting(NATS_CERT_FILE, "nats-cert-file", "", "a path, watched", "the same from a file"),
    setting(NATS_KEY, "nats-key", "", "PEM text, or a path; with `NATS_CERT`", "the key of the client certificate").secret(),
    setting(NATS_KEY_FILE, "nats-key-file", "", "a path, watched", "the same from a file"),
    setting(NATS_TLS_FIRST, "nats-tls-first", "false", "`true` or `false`", "TLS before the server's greeting"),
    setting(KUBECONFIG, "kubeconfig", "", "a path", "how to reach the API server").or("the pod's service account, else `~/.kube/config`"),
];

/// What is read beside the settings: the platform's variables, which have no flag.
const AROUND: &[(&str, &str, &str, &str)] = &[
    (
        "POD_NAMESPACE",
        "the pod's service account's",
        "a namespace",
        "the pod's namespace, where `BACKPRESSURE_QUOTA_NAMESPACE` is not given; from the downward API",
    ),
    (
        "POD_NAME",
        "none",
        "the pod's name",
        "from the downward API: a restarted container takes the Lease of its predecessor in the same pod at once; without it the Lease has to run out first",
    ),
    (
        "HOSTNAME",
        "none",
        "a text",
        "the name of the process in the Lease where `POD_NAME` is not given and the system tells no name",
    ),
    ("RUST_LOG", "none", "a level, or filter directives", "as `LOG_LEVEL`, where that is not given"),
    (
        "KUBERNETES_SERVICE_HOST",
        "set in every pod",
        "an address",
        "says that this is a pod, whose service account is used where `KUBECONFIG` is not given",
    ),
];

pub(super) fn find(variable: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.variable == variable)
}

/// The table of `docs/settings.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| variable | flag | default | allowed | meaning |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let default = match (setting.default, setting.default_text) {
            ("", words) => words.to_owned(),
            (value, _) => format!("`{value}`"),
        };
        let Setting { variable, flag, form, meaning, .. } = setting;
        // Writing to a String can't fail.
        writeln!(text, "| `{variable}` | `--{flag}` | {default} | {form} | {meaning} |").ok();
    }
    for (variable, default, form, meaning) in AROUND {
        writeln!(text, "| `{variable}` | (no flag) | {default} | {form} | {meaning} |").ok();
    }
    text
}
