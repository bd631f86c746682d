//! Session channel from the application to the detector: gRPC stream and Redis.
