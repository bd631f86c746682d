//! Protobuf messages of the station: registrations, ClientConf, session and administration channels.
