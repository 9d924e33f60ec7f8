//! The role that holds credits, pulls, triggers and confirms.
