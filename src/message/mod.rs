//! One message: identity, record, outcome classes, retry and its machine; pure.
