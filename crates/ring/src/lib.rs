//! Shared-memory packet queues between zbalance and its consumers.
