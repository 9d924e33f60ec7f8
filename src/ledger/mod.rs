//! Who may start how many: numbers, holders, the leader's books; pure.
