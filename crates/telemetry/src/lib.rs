//! Logging with privacy types, admin service and process life cycle.
