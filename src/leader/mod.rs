//! The role that owns the ledgers of a namespace: watches, books, record, signal.
