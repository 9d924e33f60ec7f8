//! What crosses a process boundary; versioned; pure.
