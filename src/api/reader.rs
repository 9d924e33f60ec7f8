//! Texts of variables and flags into settings, collecting everything that is wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::gate::Ratio;
use crate::template::nearest;

use super::names;
use super::nats::{self, Material, NatsAuth, NatsSettings, NatsTls, Secret};
use super::problem::{Problem, ProblemKind};
use super::read::{bounded, duration, form, number, seconds_or_duration, word};
use super::resources::resources;
use super::settings::{
    DeliverPolicy, Effective, LogFormat, OnDoubt, Origin, QuotaSettings, Settings, SettingsArgs, Source,
};
use super::table::{self, SETTINGS};

pub(super) struct Reader {
    given: BTreeMap<&'static str, (String, Origin)>,
    pub(super) problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(args: &SettingsArgs, env: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut reader = Self { given: BTreeMap::new(), problems: Vec::new() };
        let mut unknown = Vec::new();
        let flags: BTreeMap<_, _> = args.given().filter(|(_, value)| !is_blank(value)).collect();
        for (name, value) in env {
            let name = name.to_string_lossy();
            let Some(setting) = table::find(&name) else {
                if name.starts_with("BACKPRESSURE_") {
                    unknown.push(name.into_owned());
                }
                continue;
            };
            match value.into_string() {
                Ok(value) if is_blank(&value) => {}
                Ok(value) => {
                    reader.given.insert(setting.variable, (value, Origin::Variable));
                }
                Err(_) if flags.contains_key(setting.variable) => {}
                // Left out it would count as not given, and gating would be off.
                Err(_) => {
                    reader.given.insert(setting.variable, (String::new(), Origin::Variable));
                    reader.problem(setting.variable, ProblemKind::NotUtf8 { allowed: setting.form });
                }
            }
        }
        unknown.sort();
        for name in unknown {
            // Without what they have in common, which would make every name near.
            let given = name.trim_start_matches("BACKPRESSURE_");
            let ends = SETTINGS.iter().filter_map(|setting| setting.variable.strip_prefix("BACKPRESSURE_"));
            let end = nearest(given, ends);
            let nearest = SETTINGS
                .iter()
                .map(|setting| setting.variable)
                .find(|variable| end.is_some_and(|end| variable.strip_prefix("BACKPRESSURE_") == Some(end)));
            reader.problems.push(Problem { setting: name, kind: ProblemKind::Unknown { nearest } });
        }
        let flags = flags.into_iter().map(|(variable, value)| (variable, (value.clone(), Origin::Flag)));
        reader.given.extend(flags);
        reader
    }

    /// The value of a setting, given or by default; nothing where it has neither.
    fn text(&self, variable: &'static str) -> Option<String> {
        let given = self.given.get(variable).map(|(value, _)| value.trim().to_owned());
        let default = || table::find(variable).map(|setting| setting.default.to_owned());
        given.or_else(default).filter(|text| !text.is_empty())
    }

    fn is_given(&self, variable: &str) -> bool {
        self.given.contains_key(variable)
    }

    fn problem(&mut self, variable: &'static str, kind: ProblemKind) {
        let setting = match (self.given.get(variable), table::find(variable)) {
            (Some((_, Origin::Flag)), Some(setting)) => format!("--{} ({variable})", setting.flag),
            _ => variable.to_owned(),
        };
        self.problems.push(Problem { setting, kind });
    }

    fn read<T>(&mut self, variable: &'static str, parse: impl FnOnce(&str) -> Result<T, ProblemKind>) -> Option<T> {
        let text = self.text(variable)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(kind) => {
                self.problem(variable, kind);
                None
            }
        }
    }

    fn duration(&mut self, variable: &'static str, bounds: (u64, u64)) -> Option<Duration> {
        let bounds = (Duration::from_secs(bounds.0), Duration::from_secs(bounds.1));
        self.read(variable, |text| bounded(text, duration, "a duration such as 500ms, 10s or 5m", bounds))
    }

    /// Everything is read, so that every problem is found; nothing is given back where one was.
    pub(super) fn settings(&mut self) -> Option<Settings> {
        let namespace = self.read(table::QUOTA_NAMESPACE, |text| named(text, names::dns_label));
        let namespace_ok = namespace.is_some() || !self.is_given(table::QUOTA_NAMESPACE);
        let (quota, warnings) = self.quota();
        let sensor_name = self.read(table::SENSOR_NAME, |text| named(text, names::dns_label));
        let sensor_file = self.read(table::SENSOR_FILE, |text| Ok(PathBuf::from(text)));
        let policies = [("new", DeliverPolicy::New), ("all", DeliverPolicy::All), ("last", DeliverPolicy::Last)];
        let deliver_policy = self.read(table::DELIVER_POLICY, |text| word(text, &policies));
        let ack_wait = self.duration(table::ACK_WAIT, (4, 86_400));
        let create_timeout = self.duration(table::CREATE_TIMEOUT, (2, 60));
        self.ack_wait_fits(ack_wait, create_timeout);
        let redelivery_pause = self.read(table::REDELIVERY_PAUSE, |text| word(text, &[("on", true), ("off", false)]));
        let max_in_flight = self.read(table::MAX_IN_FLIGHT, |text| number(text, 1, 65_536));
        let dead_letter_stream = self.read(table::DEAD_LETTER_STREAM, |text| named(text, names::stream_name));
        let doubts = [("create", OnDoubt::Create), ("dead", OnDoubt::Dead)];
        let on_doubt = self.read(table::ON_DOUBT, |text| word(text, &doubts));
        let instance = self.read(table::INSTANCE, instance).unwrap_or_default();
        let replicas = self.read(table::NATS_REPLICAS, |text| number(text, 1, 5));
        let metrics_port = self.read(table::METRICS_PORT, |text| number(text, 0, 65_535));
        let metrics_prefix = self.read(table::METRICS_PREFIX, metrics_prefix).unwrap_or_default();
        let log_format =
            self.read(table::LOG_FORMAT, |text| word(text, &[("json", LogFormat::Json), ("plain", LogFormat::Plain)]));
        let log_level = self.read(table::LOG_LEVEL, log_level);
        let shutdown_grace = self.duration(table::SHUTDOWN_GRACE, (1, 3_600));
        let nats = self.nats();
        let kubeconfig = self.read(table::KUBECONFIG, |text| Ok(PathBuf::from(text)));
        if !namespace_ok {
            return None;
        }
        Some(Settings {
            quota,
            namespace,
            sensor_name,
            sensor_file: sensor_file?,
            deliver_policy,
            ack_wait: ack_wait?,
            create_timeout: create_timeout?,
            redelivery_pause: redelivery_pause?,
            max_in_flight: max_in_flight?,
            dead_letter_stream,
            on_doubt: on_doubt?,
            instance,
            replicas,
            metrics_port: u16::try_from(metrics_port?).ok()?,
            metrics_prefix,
            log_format: log_format?,
            log_level: log_level?,
            shutdown_grace: shutdown_grace?,
            nats: nats?,
            kubeconfig,
            warnings,
            effective: self.effective(),
        })
    }

    fn quota(&mut self) -> (Option<QuotaSettings>, Vec<String>) {
        let names = self.read(table::QUOTA_NAME, quota_names);
        let resources = self.read(table::RESOURCE_NAME, resources);
        let ratio = self.read(table::CAPACITY_RATIO, |text| Ok(text.parse::<Ratio>()?));
        let poll_interval = self.read(table::POLL_INTERVAL, |text| {
            let bounds = (Duration::from_millis(100), Duration::from_secs(86_400));
            bounded(text, seconds_or_duration, "seconds such as 30, or a duration such as 500ms, 10s or 5m", bounds)
        });
        let signal_max_age = self.duration(table::SIGNAL_MAX_AGE, (1, 3_600));
        let settle_time = self.duration(table::SETTLE_TIME, (0, 3_600));
        let sources = [("controller", Source::Controller), ("apiserver", Source::Apiserver)];
        let source = self.read(table::SOURCE, |text| word(text, &sources));
        if !self.is_given(table::QUOTA_NAME) {
            return (None, self.without_effect());
        }
        let quota = || {
            Some(QuotaSettings {
                names: names?,
                resources: resources?,
                ratio: ratio?,
                poll_interval: poll_interval?,
                signal_max_age: signal_max_age?,
                settle_time: settle_time?,
                source: source?,
            })
        };
        (quota(), Vec::new())
    }

    fn without_effect(&self) -> Vec<String> {
        // The namespace is also where objects are created.
        let ours = |name: &&&str| name.starts_with("BACKPRESSURE_") && **name != table::QUOTA_NAMESPACE;
        let idle: Vec<&str> = self.given.keys().filter(ours).copied().collect();
        if idle.is_empty() {
            return Vec::new();
        }
        let have = if idle.len() == 1 { "has" } else { "have" };
        vec![format!("{} {have} no effect without {}: gating is off", idle.join(", "), table::QUOTA_NAME)]
    }

    fn ack_wait_fits(&mut self, ack_wait: Option<Duration>, create_timeout: Option<Duration>) {
        let (Some(ack_wait), Some(create_timeout)) = (ack_wait, create_timeout) else {
            return;
        };
        if ack_wait < create_timeout.saturating_mul(2) {
            let least = super::read::duration_text(create_timeout.saturating_mul(2));
            let timeout = super::read::duration_text(create_timeout);
            let text = self.text(table::ACK_WAIT).unwrap_or_default();
            let kind = ProblemKind::Together(format!(
                "`{text}` is too short; allowed is at least {least}, twice CREATE_TIMEOUT, which is {timeout}"
            ));
            self.problem(table::ACK_WAIT, kind);
        }
    }

    fn nats(&mut self) -> Option<NatsSettings> {
        let urls = self.read(table::NATS_URL, nats::urls);
        let creds = self.material(table::NATS_CREDS, table::NATS_CREDS_FILE, |text| Ok(nats::material(text)));
        let nkey = self.material(table::NATS_NKEY, table::NATS_NKEY_FILE, nats::seed);
        let token = self.material(table::NATS_TOKEN, table::NATS_TOKEN_FILE, inline);
        let user = self.text(table::NATS_USER);
        let password = self.material(table::NATS_PASSWORD, table::NATS_PASSWORD_FILE, inline);
        let tls = NatsTls {
            ca: self.material(table::NATS_CA, table::NATS_CA_FILE, |text| Ok(nats::material(text))),
            cert: self.material(table::NATS_CERT, table::NATS_CERT_FILE, |text| Ok(nats::material(text))),
            key: self.material(table::NATS_KEY, table::NATS_KEY_FILE, |text| Ok(nats::material(text))),
            first: self
                .read(table::NATS_TLS_FIRST, |text| word(text, &[("true", true), ("false", false)]))
                .unwrap_or_default(),
        };
        self.pair(table::NATS_CERT, table::NATS_CERT_FILE, table::NATS_KEY, table::NATS_KEY_FILE);
        self.pair(table::NATS_USER, table::NATS_USER, table::NATS_PASSWORD, table::NATS_PASSWORD_FILE);
        let (urls, userinfo) = urls?;
        self.one_way_in(userinfo);
        let password = user.zip(password).map(|(user, password)| NatsAuth::Password { user, password });
        let auth = creds
            .map(NatsAuth::Creds)
            .or_else(|| nkey.map(NatsAuth::Nkey))
            .or_else(|| token.map(NatsAuth::Token))
            .or(password);
        Some(NatsSettings { urls, auth, tls })
    }

    fn material(
        &mut self,
        variable: &'static str,
        file: &'static str,
        parse: fn(&str) -> Result<Material, ProblemKind>,
    ) -> Option<Material> {
        if self.is_given(variable) && self.is_given(file) {
            self.problem(variable, ProblemKind::Together(format!("{file} is set too; allowed is one of the two")));
        }
        let inline = self.read(variable, parse);
        inline.or_else(|| self.text(file).map(|path| Material::File(PathBuf::from(path))))
    }

    /// Two settings that only make sense together, each given as itself or as a file.
    fn pair(&mut self, one: &'static str, one_file: &str, other: &'static str, other_file: &str) {
        let has_one = self.is_given(one) || self.is_given(one_file);
        let has_other = self.is_given(other) || self.is_given(other_file);
        let (missing, given) = match (has_one, has_other) {
            (true, false) => (other, one),
            (false, true) => (one, other),
            (true, true) | (false, false) => return,
        };
        self.problem(missing, ProblemKind::Together(format!("it is needed, because {given} is set")));
    }

    fn one_way_in(&mut self, userinfo: bool) {
        let ways = [
            ([table::NATS_CREDS, table::NATS_CREDS_FILE], false),
            ([table::NATS_NKEY, table::NATS_NKEY_FILE], false),
            ([table::NATS_TOKEN, table::NATS_TOKEN_FILE], false),
            ([table::NATS_USER, table::NATS_USER], false),
            ([table::NATS_URL, table::NATS_URL], true),
        ];
        let mut used = Vec::new();
        for (names, by_url) in ways {
            match names.into_iter().find(|name| self.is_given(name)) {
                Some(name) if !by_url => used.push(name),
                Some(_) if userinfo => used.push("the user in NATS_URL"),
                Some(_) | None => {}
            }
        }
        if let [first, _, ..] = used.as_slice() {
            let problem = format!("{} are set; allowed is one way to authenticate", used.join(" and "));
            let first = *first;
            self.problem(first, ProblemKind::Together(problem));
        }
    }

    fn effective(&self) -> Vec<Effective> {
        let effective = SETTINGS.iter().map(|setting| {
            let given = self.given.get(setting.variable);
            let origin = given.map_or(Origin::Default, |(_, origin)| *origin);
            let value = match given {
                Some(_) if setting.secret => "(not shown)".to_owned(),
                Some((value, _)) if value.contains("-----BEGIN") => "(inline)".to_owned(),
                Some((value, _)) if setting.variable == table::KUBECONFIG && !nats::is_surely_a_path(value) => {
                    "(not shown)".to_owned()
                }
                Some((value, _)) if setting.variable == table::NATS_URL => nats::without_userinfo(value),
                Some((value, _)) => value.clone(),
                None => setting.default.to_owned(),
            };
            Effective { name: setting.variable, value, origin }
        });
        effective.collect()
    }
}

/// A variable that is set to nothing counts as not given, as `--set key=` of helm makes it.
fn is_blank(value: &str) -> bool {
    value.trim().is_empty()
}

fn named(text: &str, check: fn(&str) -> Result<(), names::NameError>) -> Result<String, ProblemKind> {
    check(text)?;
    Ok(text.to_owned())
}

fn quota_names(text: &str) -> Result<Vec<String>, ProblemKind> {
    let mut found: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        names::dns_subdomain(name)?;
        if found.iter().any(|known| known == name) {
            return Err(ProblemKind::Twice(name.to_owned()));
        }
        found.push(name.to_owned());
    }
    Ok(found)
}

// The signature of what reads a secret.
#[allow(clippy::unnecessary_wraps)]
fn inline(text: &str) -> Result<Material, ProblemKind> {
    Ok(Material::Inline(Secret::new(text.to_owned())))
}

fn instance(text: &str) -> Result<String, ProblemKind> {
    let ok = text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if ok { Ok(text.to_owned()) } else { Err(form(text, "up to 32 letters, digits, - and _")) }
}

fn metrics_prefix(text: &str) -> Result<String, ProblemKind> {
    let ok = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.starts_with(|first: char| !first.is_ascii_digit());
    if ok { Ok(text.to_owned()) } else { Err(form(text, "letters, digits and _, not beginning with a digit")) }
}

/// A level, or directives `target=level,...`; whoever sets the log up reads the targets.
fn log_level(text: &str) -> Result<String, ProblemKind> {
    let level = |text: &str| {
        matches!(text.to_ascii_lowercase().as_str(), "error" | "warn" | "info" | "debug" | "trace" | "off")
    };
    let directive = |part: &str| {
        let part = part.trim();
        level(part.rsplit_once('=').map_or(part, |(_, level)| level))
    };
    if text.split(',').all(directive) {
        return Ok(text.to_owned());
    }
    Err(form(text, "error, warn, info, debug or trace, or directives such as info,jetgate::sensor=debug"))
}
