//! S01: Redis, and a message through it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;

const DEFAULT_URL: &str = "redis://127.0.0.1:6379/";
const LIMIT: Duration = Duration::from_secs(2);

struct Connection {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Connection {
    fn open(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("redis://").ok_or("only redis:// can be tried here")?;
        let rest = rest.split('/').next().unwrap_or_default();
        let (user, place) = rest.rsplit_once('@').map_or(("", rest), |(user, place)| (user, place));
        let place = if place.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
            place.to_owned()
        } else {
            format!("{place}:6379")
        };
        let address = place
            .to_socket_addrs()
            .map_err(|error| format!("{place}: {error}"))?
            .next()
            .ok_or_else(|| format!("{place} has no address"))?;
        let stream = TcpStream::connect_timeout(&address, LIMIT)
            .map_err(|error| format!("{place}: {error}"))?;
        let limited = stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.try_clone());
        let writer = limited.map_err(|error| error.to_string())?;
        let mut connection = Self { reader: BufReader::new(stream), writer };
        let password = user.split_once(':').map_or("", |(_, password)| password);
        if !password.is_empty() {
            connection.ask(&["AUTH", password])?;
        }
        Ok(connection)
    }

    fn send(&mut self, words: &[&str]) -> Result<(), String> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.writer.write_all(request.as_bytes()).map_err(|error| error.to_string())
    }

    /// The next line; an error that the server states is one here too.
    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).map_err(|error| error.to_string())?;
        let line = line.trim_end().to_owned();
        match line.strip_prefix('-') {
            Some(error) => Err(error.to_owned()),
            None if read == 0 => Err("the server ended the connection".to_owned()),
            None => Ok(line),
        }
    }

    fn ask(&mut self, words: &[&str]) -> Result<String, String> {
        self.send(words)?;
        self.line()
    }
}

/// Sends a message to a channel that nobody else uses and waits for it.
fn round_trip(url: &str) -> Result<(), String> {
    let channel = format!("conjure-doctor-{}", std::process::id());
    let mut subscriber = Connection::open(url)?;
    subscriber.ask(&["SUBSCRIBE", &channel])?;
    let mut publisher = Connection::open(url)?;
    publisher.ask(&["PUBLISH", &channel, "there"])?;
    loop {
        if subscriber.line()? == "there" {
            return Ok(());
        }
    }
}

/// S01.
pub(crate) fn check(probe: &Probe) -> Checked {
    let settings = probe.application()?;
    let url = settings.redis_url.as_deref().unwrap_or(DEFAULT_URL);
    if url.is_empty() {
        return Err(Outcome::Skipped("redis_url is empty: Redis is not used".to_owned()));
    }
    let Err(error) = round_trip(url) else {
        return Ok(Outcome::Good("a message came back through Redis".to_owned()));
    };
    // A password may stand in the URL.
    let place = url.rsplit('@').next().unwrap_or_default().trim_start_matches("redis://");
    let stream = settings.session_socket.as_deref() != Some("");
    let evidence = format!("{place}: {error}");
    let remedy = "start redis-server, correct redis_url, or switch it off with redis_url = \"\"";
    Ok(Outcome::Found(vec![if stream {
        Finding::warning(
            "Redis does not answer; the session socket works without it, detectors of the reference do not",
            evidence,
            remedy,
        )
    } else {
        Finding::error(
            "Redis does not answer and is the only way by which detectors learn of sessions",
            evidence,
            remedy,
        )
    }]))
}
