//! An obfs4 server that echoes and a client of such a server, to be tried with those of others.
//!
//! `obfs4 serve LISTEN` prints the `cert=` argument that a client of its identity is given, and
//! serves connections one after the other until it is ended. `obfs4 echo ADDRESS CERT BYTES` sends
//! so many bytes and fails unless the same ones return.

use keys::{ClientVersion, SharedSecret};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, SystemTime};
use transports::obfs4::{
    Client, ClientIdentity, MarkSearch, MarkVerdict, Progress, ReplayFilter, Server, ServerIdentity,
};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", listen] => listen_on(listen),
        ["echo", address, cert, count] => {
            echo(address, cert, count.parse().map_err(std::io::Error::other)?)
        }
        _ => Err(std::io::Error::other("usage: obfs4 serve LISTEN | echo ADDRESS CERT BYTES")),
    }
}

fn listen_on(listen: &str) -> std::io::Result<()> {
    let secret = SharedSecret::new(b"a secret that everybody knows");
    let keys = secret.session_keys(ClientVersion::CURRENT).obfs4();
    let cert = base64(&[&keys.node_id[..], &keys.public].concat());
    let identity = ServerIdentity::new(keys);
    let mut rng = rng();
    let mut replays = ReplayFilter::new(&mut rng);
    let listener = TcpListener::bind(listen)?;
    println!("{} cert={cert}", listener.local_addr()?);
    for stream in listener.incoming() {
        match serve(stream?, &identity, &mut replays, &mut rng) {
            Ok(echoed) => println!("echoed {echoed} bytes"),
            Err(error) => println!("failed: {error}"),
        }
    }
    Ok(())
}

fn echo(address: &str, cert: &str, count: usize) -> std::io::Result<()> {
    let cert = from_base64(cert.trim_start_matches("cert="));
    let (Some(node_id), Some(public)) = (cert.first_chunk(), cert.last_chunk()) else {
        return Err(std::io::Error::other("CERT has fewer than 52 bytes"));
    };
    let mut rng = rng();
    let mut stream = TcpStream::connect(address)?;
    let identity = ClientIdentity::new(*public, *node_id);
    let (mut client, hello) = Client::start(identity, now(), &mut rng);
    stream.write_all(&hello)?;
    let mut sent = vec![0; count];
    rng.fill_bytes(&mut sent);
    let (mut buffer, mut echoed, mut open) = ([0; 23_168], Vec::new(), false);
    while !open || echoed.len() < count {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(std::io::Error::other(format!("closed after {} bytes", echoed.len())));
        }
        let progress =
            client.receive(&buffer[..n], &mut rng, &mut echoed).map_err(std::io::Error::other)?;
        if progress == Progress::Open && !open {
            open = true;
            let mut burst = Vec::new();
            client.send(&sent, &mut rng, &mut burst).map_err(std::io::Error::other)?;
            let mut writer = stream.try_clone()?;
            // Both directions at once, or buffers fill and neither side reads.
            std::thread::spawn(move || writer.write_all(&burst));
        }
    }
    if echoed != sent {
        return Err(std::io::Error::other("other bytes returned than were sent"));
    }
    println!("echoed {count} bytes");
    Ok(())
}

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(now().as_nanos() as u64)
}

fn serve(
    mut stream: TcpStream,
    identity: &ServerIdentity,
    replays: &mut ReplayFilter,
    rng: &mut ChaCha20Rng,
) -> std::io::Result<usize> {
    let mut buffer = [0; 23_168];
    let mut received = Vec::new();
    let mut search = MarkSearch::new();
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(0),
            n => received.extend_from_slice(&buffer[..n]),
        }
        match search.offer(&received, |_, each| each(1, identity.shared(), ())) {
            MarkVerdict::Found(()) => break,
            MarkVerdict::TryAgain => {}
            MarkVerdict::NotThisTransport => return Err(std::io::Error::other("no mark")),
        }
    }
    let (mut tunnel, reply) =
        Server::accept(identity, &received, now(), replays, rng).map_err(std::io::Error::other)?;
    stream.write_all(&reply)?;
    let (mut payload, mut burst, mut echoed) = (Vec::new(), Vec::new(), 0);
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(echoed);
        }
        tunnel.receive(&buffer[..n], now(), rng, &mut payload).map_err(std::io::Error::other)?;
        tunnel.send(&payload, rng, &mut burst).map_err(std::io::Error::other)?;
        stream.write_all(&burst)?;
        echoed += payload.len();
        payload.clear();
        burst.clear();
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 without padding, as bridge lines write it.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let value = three.iter().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
        let value = value << (8 * (3 - three.len()));
        for i in 0..=three.len() {
            text.push(char::from(ALPHABET[(value >> (18 - 6 * i) & 63) as usize]));
        }
    }
    text
}

/// What base64 without padding stands for; other characters are skipped.
fn from_base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut value, mut bits) = (Vec::new(), 0u32, 0);
    for digit in text.bytes().filter_map(|c| ALPHABET.iter().position(|&a| a == c)) {
        value = value << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((value >> bits) as u8);
            value &= (1 << bits) - 1;
        }
    }
    bytes
}
