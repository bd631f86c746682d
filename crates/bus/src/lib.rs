//! Registration bus: ZeroMQ publishers and subscribers.
