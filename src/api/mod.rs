//! What users write: environment, flags and the sensor file, validated into the pure types.
//!
//! Nothing here reads the process environment, a file or a clock: texts come in, values or sentences come out.

mod names;
mod nats;
mod problem;
mod read;
mod reader;
mod resources;
mod sensor_file;
#[cfg(test)]
mod sensor_file_tests;
mod settings;
#[cfg(test)]
mod settings_tests;
mod table;
mod yaml;

pub use names::{MAX_PREFIX_BYTES, NameError, check_subject, dns_label, dns_subdomain, stream_name};
pub use nats::{Material, NatsAuth, NatsSettings, NatsTls, Secret, is_surely_a_path};
pub use problem::{Problem, ProblemKind, SettingsError};
pub use sensor_file::{KubernetesTrigger, LogLevel, LogTrigger, Sensor, SensorFileContext, SensorFileError, Trigger};
pub use settings::{
    ArgsError, DeliverPolicy, Effective, LogFormat, OnDoubt, Origin, QuotaSettings, Settings, SettingsArgs, Source,
};
pub use table::{SETTINGS, Setting, markdown};
