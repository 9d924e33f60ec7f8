//! Blocked time and time accounting; pure.
