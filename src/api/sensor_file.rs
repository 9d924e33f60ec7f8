//! The sensor file: what comes from where, and what it causes.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::template::{Template, TemplateError};

use super::names::{self, MAX_PREFIX_BYTES, NameError};
use super::yaml::{self, YamlError};

/// A sensor as its file describes it, valid.
#[derive(Debug)]
pub struct Sensor {
    /// Name: of the durable consumer too.
    pub name: String,
    /// Stream to take messages from.
    pub stream: String,
    /// Filter.
    pub subject: String,
    /// Name of the trigger.
    pub trigger_name: String,
    /// What a message causes.
    pub trigger: Trigger,
}

/// What a message causes.
#[derive(Debug)]
pub enum Trigger {
    /// An object of any kind.
    Kubernetes(Box<KubernetesTrigger>),
    /// A line in the log.
    Log(LogTrigger),
}

/// An object of any kind.
#[derive(Debug)]
pub struct KubernetesTrigger {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Prefix of the derived names.
    pub prefix: String,
    /// The object, without name, generateName and namespace: those are set where it is created. `metadata` is a map.
    pub template: Template,
}

/// A line in the log, to try things out and to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogTrigger {
    /// Not even that line.
    pub silent: bool,
    /// Level of the line.
    pub level: LogLevel,
}

/// Levels of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Errors.
    Error,
    /// Warnings.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// Details.
    Debug,
    /// Everything.
    Trace,
}

/// What the file is read beside.
#[derive(Debug, Clone, Copy, Default)]
pub struct SensorFileContext<'a> {
    /// `SENSOR_NAME`.
    pub sensor_name: Option<&'a str>,
    /// Where objects are created, where that is known.
    pub namespace: Option<&'a str>,
}

/// Why a file is no sensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SensorFileError {
    /// Not YAML, or not of this form.
    #[error("sensor file: {0}")]
    Yaml(#[from] YamlError),
    /// A name.
    #[error("sensor file: {field}: {source}")]
    Name {
        /// The field, or the variable.
        field: &'static str,
        /// What is wrong.
        source: NameError,
    },
    /// Two names.
    #[error("sensor file: name: it is `{file}`, but SENSOR_NAME is `{variable}`; give one of the two, or the same")]
    TwoNames {
        /// In the file.
        file: String,
        /// In the environment.
        variable: String,
    },
    /// No name.
    #[error("sensor file: name: it is missing; give it there or as SENSOR_NAME")]
    NoName,
    /// None or several.
    #[error("sensor file: trigger: {0}; exactly one of `kubernetes` and `log` is allowed")]
    Kinds(&'static str),
    /// Something about the object.
    #[error("sensor file: trigger.kubernetes.object{}{path}: {problem}", if path.is_empty() { "" } else { "." })]
    Object {
        /// Under the object.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// An expression.
    #[error("sensor file: trigger.kubernetes.object: {0}")]
    Template(#[from] TemplateError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSensor {
    name: Option<String>,
    stream: String,
    subject: String,
    trigger: RawTrigger,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTrigger {
    name: String,
    kubernetes: Option<RawKubernetes>,
    #[serde(default, deserialize_with = "present")]
    log: Option<RawLog>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKubernetes {
    object: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLog {
    #[serde(default)]
    silent: bool,
    #[serde(default)]
    level: LogLevel,
}

/// `log:` with nothing behind it is a log trigger too.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<RawLog>, D::Error> {
    Ok(Some(Option::<RawLog>::deserialize(deserializer)?.unwrap_or_default()))
}

impl Sensor {
    /// Reads and checks a sensor file.
    ///
    /// # Errors
    /// The first thing that is wrong with it, with its place.
    pub fn parse(text: &str, context: &SensorFileContext<'_>) -> Result<Self, SensorFileError> {
        let raw: RawSensor = yaml::parse(text)?;
        let named =
            |field, check: Result<(), NameError>| check.map_err(|source| SensorFileError::Name { field, source });
        let name = match (raw.name, context.sensor_name) {
            (Some(file), Some(variable)) if file != variable => {
                return Err(SensorFileError::TwoNames { file, variable: variable.to_owned() });
            }
            (Some(name), _) => name,
            (None, Some(name)) => name.to_owned(),
            (None, None) => return Err(SensorFileError::NoName),
        };
        named("name", names::dns_label(&name))?;
        named("stream", names::stream_name(&raw.stream))?;
        named("subject", names::check_subject(&raw.subject))?;
        named("trigger.name", names::dns_label(&raw.trigger.name))?;
        let trigger = match (raw.trigger.kubernetes, raw.trigger.log) {
            (Some(kubernetes), None) => {
                Trigger::Kubernetes(Box::new(object(kubernetes.object, &name, context.namespace)?))
            }
            (None, Some(RawLog { silent, level })) => Trigger::Log(LogTrigger { silent, level }),
            (None, None) => return Err(SensorFileError::Kinds("it says nothing to do")),
            (Some(_), Some(_)) => return Err(SensorFileError::Kinds("it says two things to do")),
        };
        Ok(Self { name, stream: raw.stream, subject: raw.subject, trigger_name: raw.trigger.name, trigger })
    }
}

/// Fields of the metadata that only the server or we can set, and why.
const REFUSED: [(&str, &str); 5] = [
    (
        "name",
        "a fixed name would allow one object only; give `generateName`, it is the prefix of a name that is derived from the message",
    ),
    ("uid", "only the API server sets it"),
    ("resourceVersion", "only the API server sets it"),
    ("deletionTimestamp", "only the API server sets it"),
    ("managedFields", "only the API server sets it"),
];

fn wrong(path: &str, problem: impl Into<String>) -> SensorFileError {
    SensorFileError::Object { path: path.to_owned(), problem: problem.into() }
}

fn object(object: Value, sensor: &str, namespace: Option<&str>) -> Result<KubernetesTrigger, SensorFileError> {
    let Value::Object(mut object) = object else {
        return Err(wrong("", "it must be a map: the object to create"));
    };
    let api_version = literal(&object, "apiVersion", "argoproj.io/v1alpha1")?;
    let kind = literal(&object, "kind", "Workflow")?;
    if api_version.split('/').count() > 2 || api_version.split('/').any(str::is_empty) {
        let problem = format!(
            "`{api_version}` is not allowed; allowed is a version, or a group and a version, such as v1 or argoproj.io/v1alpha1"
        );
        return Err(wrong("apiVersion", problem));
    }
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    let Value::Object(metadata) = metadata else {
        return Err(wrong("metadata", "it must be a map"));
    };
    let prefix = checked_metadata(metadata, sensor, namespace)?;
    let document = Value::Object(object);
    let template = Template::compile_with_texts(&document, &["metadata.labels", "metadata.annotations"])?;
    Ok(KubernetesTrigger { api_version, kind, prefix, template })
}

fn literal(object: &Map<String, Value>, field: &str, example: &str) -> Result<String, SensorFileError> {
    match object.get(field) {
        Some(Value::String(text)) if text.contains("${{") => {
            Err(wrong(field, "it can't be an expression: rights and the quota are those of one kind"))
        }
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
        None => Err(wrong(field, format!("it is missing; give a text such as {example}"))),
        Some(_) => Err(wrong(field, format!("it must be a text such as {example}"))),
    }
}

/// Checks the metadata, takes out what is set where the object is created, and gives the prefix of names.
fn checked_metadata(
    metadata: &mut Map<String, Value>,
    sensor: &str,
    namespace: Option<&str>,
) -> Result<String, SensorFileError> {
    for (field, problem) in REFUSED {
        if metadata.contains_key(field) {
            return Err(wrong(&format!("metadata.{field}"), problem));
        }
    }
    match (metadata.shift_remove("namespace"), namespace) {
        (None | Some(Value::Null), _) => {}
        (Some(Value::String(written)), Some(namespace)) if written == namespace => {}
        (Some(written), namespace) => {
            let namespace = namespace.map_or_else(String::new, |name| format!(", `{name}`"));
            let problem =
                format!("{written} is refused: objects are created in the quota's namespace{namespace}; leave it out");
            return Err(wrong("metadata.namespace", problem));
        }
    }
    for field in ["labels", "annotations"] {
        texts(metadata, field)?;
    }
    match metadata.shift_remove("generateName") {
        None | Some(Value::Null) => Ok(default_prefix(sensor)),
        Some(Value::String(text)) if text.is_empty() => Ok(default_prefix(sensor)),
        Some(Value::String(text)) if text.contains("${{") => Err(wrong(
            "metadata.generateName",
            "it can't be an expression: a message has one name, whatever it says; put values into labels or annotations",
        )),
        Some(Value::String(text)) => match names::prefix(&text) {
            Ok(()) => Ok(text),
            Err(error) => Err(wrong("metadata.generateName", error.to_string())),
        },
        Some(_) => Err(wrong("metadata.generateName", "it must be a text such as order-")),
    }
}

/// The sensor's name as a prefix, cut where it is longer than a prefix may be.
fn default_prefix(sensor: &str) -> String {
    let cut: String = sensor.chars().take(MAX_PREFIX_BYTES - 1).collect();
    format!("{}-", cut.trim_end_matches('-'))
}

fn texts(metadata: &mut Map<String, Value>, field: &str) -> Result<(), SensorFileError> {
    if metadata.get(field).is_some_and(Value::is_null) {
        metadata.shift_remove(field);
    }
    let Some(value) = metadata.get(field) else {
        return Ok(());
    };
    let path = format!("metadata.{field}");
    let Value::Object(members) = value else {
        return Err(wrong(&path, "it must be a map of texts; values may be expressions, the map itself may not"));
    };
    for (key, value) in members {
        if key == "jetgate.dev" || key.starts_with("jetgate.dev/") {
            return Err(wrong(
                &path,
                format!("the key `{key}` is refused: keys of jetgate.dev carry the identity of the message"),
            ));
        }
        if !value.is_string() {
            return Err(wrong(&path, format!("the value of `{key}` must be a text; write it in quotes")));
        }
    }
    Ok(())
}
