//! Registration bus: ZeroMQ publishers and subscribers, and NATS JetStream for fleets.
//!
//! One message is one `C2SWrapper` in one frame. The wire protocol (ZMTP 3.x, `spec/registrar.md`
//! 10.4, RFC 37) is a value without sockets or clock, [`Connection`]; [`Publisher`] and
//! [`Subscriber`] join it to TCP and Unix sockets under tokio.
//!
//! A publisher never blocks and never waits for a subscriber: each subscriber has its own bounded
//! queue, and what does not fit is dropped and counted for that subscriber alone.
//!
//! Two mechanisms: NULL, and CURVE ([`Curve`]), where the publisher is the server.
#![forbid(unsafe_code)]

mod backlog;
mod command;
mod connection;
mod curve;
mod endpoint;
mod frame;
mod greeting;
mod link;
mod nats;
mod publisher;
mod sealed;
mod subscriber;
mod subscriptions;

pub use command::{Command, Property};
pub use connection::{Connection, Event, Heartbeat, ProtocolError, Role, Settings};
pub use curve::{
    Admission, Admitted, Curve, CurveClient, CurveError, CurveKeys, CurveServer, Entropy,
};
pub use endpoint::{Endpoint, EndpointError};
pub use frame::{Frame, FrameError, Kind};
pub use greeting::{GREETING_LEN, Greeting, GreetingError, Mechanism};
pub use nats::{KEPT, NatsError, NatsOptions, NatsPublisher, NatsSubscriber, SUBJECT};
pub use publisher::{BindError, Fanout, PeerStatus, Publisher, PublisherOptions, PublisherStats};
pub use subscriber::{State, Subscriber, SubscriberOptions, SubscriberStats};
pub use subscriptions::Subscriptions;
