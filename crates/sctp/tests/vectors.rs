//! The recorded sessions of existing peers, packet by packet.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use rand_chacha::rand_core::{TryCryptoRng, TryRng};
use sctp::chunk::{Chunk, parameter};
use sctp::packet::Writer;
use sctp::{Association, Config, Packet, Role};
use vectors::{Tally, Value, hex};

const FILE: &str = "transports-dtls-transcripts.json";
const HEARTBEAT: &[u8] = b"6v3jyM521GkBo1lsMyVLcRyzdZ7FKEM3";
const MS: Duration = Duration::from_millis(1);

/// Draws what a recorded peer drew.
struct Recorded {
    cookie: Vec<u8>,
    words: Vec<u32>,
}

impl TryRng for Recorded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.words.remove(0))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("nothing draws 64 bits")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.cookie);
        Ok(())
    }
}

impl TryCryptoRng for Recorded {}

struct Session {
    packets: Vec<(bool, Vec<u8>)>,
    unordered: bool,
}

impl Session {
    fn read(transcript: &Value) -> Self {
        let packets = transcript["sctp_packets"].as_array().unwrap();
        let packet = |p: &Value| (p["dir"] == "client->station", hex(&p["hex"]));
        Self {
            packets: packets.iter().map(packet).collect(),
            unordered: transcript["station_unordered"].as_bool().unwrap(),
        }
    }

    /// One of our associations in the place of a recorded one.
    fn association(&self, role: Role) -> Association {
        let mut draws = Recorded { cookie: vec![0; 32], words: Vec::new() };
        for (_, bytes) in &self.packets[..2] {
            let packet = Packet::parse(bytes).unwrap();
            match (packet.chunks().next().unwrap().unwrap(), role) {
                (Chunk::Init(init), Role::Client) => draws.words = vec![init.tag, init.tsn],
                (Chunk::InitAck(init), Role::Server) => {
                    draws.words = vec![init.tag, init.tsn];
                    draws.cookie = init.parameter(parameter::STATE_COOKIE).unwrap().to_vec();
                }
                _ => {}
            }
        }
        let unordered = role == Role::Server && self.unordered;
        let config = Config { unordered, keepalive: HEARTBEAT, ..Config::default() };
        Association::new(role, config, &mut draws)
    }
}

fn sessions() -> Vec<Session> {
    let file = vectors::load(FILE);
    file["transcripts"].as_array().unwrap().iter().map(Session::read).collect()
}

fn sent(association: &mut Association, now: Instant) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    association.poll_transmit(now, &mut out).map(|_| out)
}

#[test]
fn every_packet_is_read_and_written_again() {
    let mut tally = Tally::new(FILE);
    for session in sessions() {
        for (_, bytes) in &session.packets {
            let packet = Packet::parse(bytes).unwrap();
            let mut again = Vec::new();
            let ports = (packet.source, packet.destination);
            let mut writer = Writer::new(&mut again, ports, packet.tag, 1228);
            for chunk in packet.chunks() {
                writer.chunk(&chunk.unwrap());
            }
            writer.finish();
            assert_eq!(&again, bytes);
            tally.pass();
        }
    }
    tally.finish();
}

/// Our client in the place of the recorded one sends the same packets, byte by byte.
#[test]
fn our_client_repeats_the_recorded_client() {
    let mut tally = Tally::new(FILE);
    let session = &sessions()[0];
    let packets: Vec<&[u8]> = session.packets.iter().map(|p| &p.1[..]).collect();
    let mut client = session.association(Role::Client);
    let now = Instant::now();
    let mut send = |client: &mut Association, now, expected: usize| {
        assert_eq!(sent(client, now).as_deref(), Some(packets[expected]), "packet {expected}");
        tally.pass();
    };
    send(&mut client, now, 0);
    client.handle_packet(now, packets[1]);
    send(&mut client, now, 2);
    client.handle_packet(now, packets[3]);
    client.write(b"GET / HTTP/1.0\r\n\r\n");
    send(&mut client, now, 4);
    assert!(client.write_message(HEARTBEAT));
    send(&mut client, now, 5);
    client.handle_packet(now, packets[6]);
    client.handle_packet(now, packets[7]);
    assert_eq!(sent(&mut client, now), None);
    assert_eq!(client.poll_timeout(), Some(now + 200 * MS));
    let now = now + 200 * MS;
    client.handle_timeout(now);
    send(&mut client, now, 8);
    client.handle_packet(now, packets[9]);
    client.handle_packet(now, packets[10]);
    send(&mut client, now, 11);
    assert_eq!(client.readable(), [0x5a; 3000]);
    client.finish();
    send(&mut client, now, 12);
    assert_eq!(client.ended(), None);
    tally.finish();
}

/// Our station in the place of the recorded ones sends the same set-up and the same data. When it
/// acknowledges differs, since it reads at once where theirs had not read yet.
#[test]
fn our_station_repeats_the_recorded_stations() {
    let mut tally = Tally::new(FILE);
    for session in sessions() {
        let mut station = session.association(Role::Server);
        let now = Instant::now();
        let is_data = |bytes: &[u8]| bytes[12] == 0;
        let (from_client, from_station): (Vec<_>, Vec<_>) =
            session.packets.iter().partition(|(from_client, _)| *from_client);
        let mut client = from_client.iter().map(|(_, bytes)| bytes);
        let (setup, data): (Vec<_>, Vec<_>) = from_station
            .iter()
            .map(|(_, bytes)| bytes)
            .filter(|bytes| bytes[12] != 3)
            .partition(|bytes| !is_data(bytes));
        for expected in setup {
            station.handle_packet(now, client.next().unwrap());
            assert_eq!(sent(&mut station, now).as_ref(), Some(expected));
            tally.pass();
        }
        let mut client = client.peekable();
        while let Some(packet) = client.next_if(|bytes| is_data(bytes)) {
            station.handle_packet(now, packet);
        }
        let mut read = [0; 99];
        let n = station.read(&mut read);
        assert_eq!(&read[..n], b"GET / HTTP/1.0\r\n\r\n");
        assert_eq!(station.counters().keepalives, 1);
        assert_eq!(station.write(&[0x5a; 3000]), 3000);
        for expected in data {
            let packet = loop {
                let packet = sent(&mut station, now).unwrap();
                if is_data(&packet) {
                    break packet;
                }
            };
            assert_eq!(&packet, expected);
            tally.pass();
        }
        assert!(!station.is_read_to_end());
        for packet in client {
            station.handle_packet(now, packet);
        }
        assert!(station.is_read_to_end());
        assert_eq!(station.unacknowledged(), 0);
    }
    tally.finish();
}
