//! What users write: environment, flags and the sensor file, validated into the pure types.
