//! Metrics, logs and the admin HTTP server.
