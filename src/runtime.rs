//! Supervised tasks: an exit nobody asked for is noticed.
