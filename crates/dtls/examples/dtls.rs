//! One end of a DTLS connection over UDP on the loopback, for other implementations to talk to.
//!
//! `dtls server OPTIONS` prints `listening ADDRESS` and sends back what its client says, until
//! that closes or says `close`; `dtls client ADDRESS OPTIONS` sends messages and wants each back. Both
//! print what happened and fail with status 1 when the connection does. `dtls bench` prints what sealing and opening cost.
//!
//! Options: `secret=HEX` (required), `count=N` messages of the client, `limit=BYTES` of a datagram of
//! the handshake, `cookie` (server), `other` presents the certificate of another secret.
#![forbid(unsafe_code)]

use aws_lc_rs::rand;
use dtls::{Closed, Config, Connection, Event, Peek, peek};
use keys::SharedSecret;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::error::Error;
use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime};

struct Options {
    config: Config,
    count: usize,
}

fn options(client: bool, arguments: &[String]) -> Result<Options, Box<dyn Error>> {
    let value = |name: &str| {
        arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
    };
    let is_set = |name: &str| arguments.iter().any(|argument| argument == name);
    let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let make = if client { Config::client } else { Config::server };
    let secret = hex::decode(value("secret").ok_or("secret=HEX is missing")?)?;
    let mut config = make(&SharedSecret::new(&secret), unix_time);
    if is_set("other") {
        let other = SharedSecret::new(&[b"other", &secret[..]].concat());
        config.identity = make(&other, unix_time).identity;
    }
    config.verify_hello = is_set("cookie");
    if let Some(limit) = value("limit") {
        config.datagram_limit = limit.parse()?;
    }
    let count = value("count").map_or(Ok(100), str::parse)?;
    Ok(Options { config, count })
}

fn rng() -> Result<ChaCha20Rng, Box<dyn Error>> {
    let mut seed = [0; 32];
    rand::fill(&mut seed).map_err(|_| "there is no randomness")?;
    Ok(ChaCha20Rng::from_seed(seed))
}

/// A connection over a connected socket.
struct Link {
    socket: UdpSocket,
    connection: Connection,
    /// What arrived.
    messages: Vec<Vec<u8>>,
    out: Vec<u8>,
}

impl Link {
    fn transmit(&mut self) -> std::io::Result<()> {
        while self.connection.poll_transmit(&mut self.out) {
            self.socket.send(&self.out)?;
        }
        Ok(())
    }

    fn send(&mut self, message: &[u8]) -> Result<(), Box<dyn Error>> {
        self.out.clear();
        self.connection.seal(message, &mut self.out)?;
        self.socket.send(&self.out)?;
        Ok(())
    }

    /// Lets the next thing happen.
    fn step(&mut self) -> Result<Option<Event>, Box<dyn Error>> {
        self.transmit()?;
        let idle = Instant::now() + Duration::from_secs(5);
        let deadline = self.connection.poll_timeout().unwrap_or(idle);
        let wait = deadline.saturating_duration_since(Instant::now());
        self.socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 8192];
        match self.socket.recv(&mut buffer) {
            Ok(len) => {
                let messages = &mut self.messages;
                let datagram = &mut buffer[..len];
                self.connection
                    .handle_datagram(Instant::now(), datagram, |data| messages.push(data.to_vec()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if Instant::now() >= idle {
                    let discards = self.connection.discarded();
                    return Err(
                        format!("nothing arrived for 5 s; dropped before: {discards:?}").into()
                    );
                }
                self.connection.handle_timeout(Instant::now());
            }
            Err(error) => return Err(error.into()),
        }
        self.transmit()?;
        Ok(self.connection.poll_event())
    }

    fn connect(&mut self) -> Result<(), Box<dyn Error>> {
        loop {
            match self.step()? {
                Some(Event::Connected) => return Ok(()),
                Some(Event::Closed(closed)) => return Err(closed.into()),
                None => {}
            }
        }
    }
}

fn client(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (address, arguments) = arguments.split_first().ok_or("the server's address is missing")?;
    let options = options(true, arguments)?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?;
    let connection = Connection::new(options.config, Instant::now(), &mut rng()?);
    let mut link = Link { socket, connection, messages: vec![], out: vec![] };
    link.connect()?;
    for i in 0..options.count {
        let message: Vec<u8> = (0..=i * 37 % 1200).map(|j| (i + j) as u8).collect();
        link.send(&message)?;
        while link.messages.is_empty() {
            if let Some(event) = link.step()? {
                return Err(format!("{event:?} instead of message {i}").into());
            }
        }
        if link.messages.remove(0) != message {
            return Err(format!("message {i} came back as other bytes").into());
        }
    }
    println!("{} messages came back", options.count);
    link.connection.close();
    Ok(link.transmit()?)
}

fn server(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let options = options(false, arguments)?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!("listening {}", socket.local_addr()?);
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffer = [0; 8192];
    let (len, from) = loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        // As a station does: an unknown random costs nothing and gets no answer.
        match peek(&buffer[..len]) {
            Peek::Hello(random) if *random.tag() == options.config.tag => break (len, from),
            other => println!("ignored: {other:?}"),
        }
    };
    socket.connect(from)?;
    let mut connection = Connection::new(options.config, Instant::now(), &mut rng()?);
    connection.handle_datagram(Instant::now(), &mut buffer[..len], |_| {});
    let mut link = Link { socket, connection, messages: vec![], out: vec![] };
    link.connect()?;
    let mut count = 0;
    'open: loop {
        for message in std::mem::take(&mut link.messages) {
            if message == b"close" {
                link.connection.close();
                link.transmit()?;
                break 'open;
            }
            link.send(&message)?;
            count += 1;
        }
        match link.step()? {
            Some(Event::Closed(Closed::Peer)) => break,
            Some(event) => return Err(format!("{event:?} after {count} messages").into()),
            None => {}
        }
    }
    println!("{count} messages sent back");
    Ok(())
}

/// Seals and opens records of the transport's usual size, without a network.
fn bench() -> Result<(), Box<dyn Error>> {
    const RECORDS: u32 = 1_000_000;
    let (secret, now, mut rng) = (SharedSecret::new(b"bench"), Instant::now(), rng()?);
    let mut client = Connection::new(Config::client(&secret, 0), now, &mut rng);
    let mut server = Connection::new(Config::server(&secret, 0), now, &mut rng);
    let mut out = vec![];
    while !(client.is_open() && server.is_open()) {
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = &mut [&mut client, &mut server];
            while ends[from].poll_transmit(&mut out) {
                ends[to].handle_datagram(now, &mut out, |_| {});
            }
        }
    }
    let payload = [0x5a; 1228];
    let (mut sealing, mut opening, mut got) = (Duration::ZERO, Duration::ZERO, 0);
    let mut batch: Vec<_> = (0..100).map(|_| Vec::with_capacity(1500)).collect();
    for _ in 0..RECORDS / 100 {
        let start = Instant::now();
        for out in &mut batch {
            out.clear();
            client.seal(&payload, out)?;
        }
        let sealed = Instant::now();
        for out in &mut batch {
            server.handle_datagram(now, out, |data| got += data.len());
        }
        sealing += sealed - start;
        opening += sealed.elapsed();
    }
    let per = |time: Duration| time.as_secs_f64() / f64::from(RECORDS) * 1e9;
    println!("{got} bytes: {:.0} ns to seal, {:.0} ns to open", per(sealing), per(opening));
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((role, rest)) if role == "client" => client(rest),
        Some((role, rest)) if role == "server" => server(rest),
        Some((role, [])) if role == "bench" => bench(),
        _ => {
            eprintln!(
                "usage: dtls client ADDRESS secret=HEX [OPTION…] | dtls server secret=HEX [OPTION…] | dtls bench"
            );
            std::process::exit(64);
        }
    };
    if let Err(error) = result {
        eprintln!("dtls {}: {error}", arguments[0]);
        std::process::exit(1);
    }
}
