//! Adapter to NATS JetStream: connection, pull, ack, publish, key-value buckets.
