//! The balancer and what stands around it: who sends, who consumes, and the interface in between.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use shm::{Consumer, ConsumerOptions, ConsumerState};

use crate::frames::HEAD;

pub(crate) const CLUSTER: u32 = 98;
const LIMIT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(5);

pub(crate) fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Looks again until `done` gives something.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "it never came to that: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A child process that ends with the test, and what it says.
struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends frames on an interface.
pub(crate) struct Sender {
    process: Process,
    input: ChildStdin,
}

impl Sender {
    /// On an interface as a packet socket does (`packet`), or into a tap device that it makes (`tap`).
    pub(crate) fn new(kind: &str, interface: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("sender.py"), kind, interface]).stdin(Stdio::piped());
        let mut process = Process::start(&mut command);
        let input = process.child.stdin.take().unwrap();
        let mut sender = Self { process, input };
        sender.says("ready");
        sender
    }

    fn says(&mut self, word: &str) {
        let line = self.process.lines.next().expect("python3 is needed, and a network").unwrap();
        assert_eq!(line, word);
    }

    /// Returns when the kernel has carried all of them to whoever receives them.
    pub(crate) fn send(&mut self, frames: &[Vec<u8>]) {
        let line =
            |frame: &Vec<u8>| frame.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
        let text = frames.iter().map(line).collect::<String>() + "\n";
        self.input.write_all(text.as_bytes()).unwrap();
        self.says("sent");
    }
}

pub(crate) fn command(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zbalance"));
    command.args(line.split_whitespace()).env("CJ_IPC_DIR", dir);
    command
}

/// `command` as root with `capability` alone.
pub(crate) fn with_only(capability: &str, command: &Command) -> Command {
    let mut confined = Command::new("setpriv");
    confined.arg(format!("--bounding-set=-all{capability}")).arg("--").arg(command.get_program());
    confined.args(command.get_args());
    for (name, value) in command.get_envs() {
        confined.env(name, value.unwrap_or_default());
    }
    confined
}

/// The service manager, as a balancer sees it.
pub(crate) struct Manager(UnixDatagram);

impl Manager {
    pub(crate) fn of(command: &mut Command, dir: &Path) -> Self {
        let path = dir.join("manager");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        command.env("NOTIFY_SOCKET", path);
        Self(socket)
    }

    /// Waits until it is told this.
    pub(crate) fn hears(&self, wanted: &str) {
        let mut message = [0; 4096];
        loop {
            let len = self.0.recv(&mut message).unwrap();
            if String::from_utf8_lossy(&message[..len]).lines().any(|line| line == wanted) {
                return;
            }
        }
    }
}

pub(crate) struct Balancer(Process);

impl Balancer {
    /// Starts it and checks the one line about its source.
    pub(crate) fn start(command: &mut Command, chosen: &str) -> Self {
        let mut process = Process::start(command);
        let said: Vec<String> = process
            .lines
            .by_ref()
            .map_while(Result::ok)
            .take_while(|line| !line.contains("zbalance: ready"))
            .filter(|line| !line.contains("Starting balancer with"))
            .collect();
        assert_eq!(said, [format!("zbalance: {chosen}")]);
        Self(process)
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.0.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// SIGHUP, until it has read its file of options.
    pub(crate) fn reload(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        let mut lines = self.0.lines.by_ref().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("reloaded ")), "it never said that it reloaded");
    }

    /// Waits for its end: what it said after it was ready, but who came and went, and its exit status.
    pub(crate) fn end(mut self) -> String {
        let lines = self.0.lines.by_ref().map_while(Result::ok);
        let text: Vec<String> = lines.filter(|line| !line.contains(": consumer ")).collect();
        assert_eq!(self.0.child.wait().unwrap().code(), Some(0), "{text:?}");
        text.join("\n")
    }
}

/// A number of the final statistics.
pub(crate) fn number(text: &str, name: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
}

/// What comes of a command that ends by itself: exit code and text.
pub(crate) fn failure(command: &mut Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// The balancer's state as its control socket tells it.
pub(crate) fn state(dir: &Path) -> Option<serde_json::Value> {
    serde_json::from_str(&shm::monitor(dir, CLUSTER).ok()?).ok()
}

/// Waits until every queue has this number for `field`.
pub(crate) fn queues_have(dir: &Path, field: &str, wanted: impl Fn(u64) -> bool) {
    let all = |state: serde_json::Value| {
        let mut queues = state["queues"].as_array()?.iter();
        queues.all(|queue| queue[field].as_u64().is_some_and(&wanted)).then_some(())
    };
    until(&format!("{field}: {:?}", state(dir)), || state(dir).and_then(all));
}

/// A consumer of a queue, and the frames that it took.
pub(crate) struct Reader {
    consumer: Consumer,
    frames: Vec<Vec<u8>>,
}

impl Reader {
    pub(crate) fn attach(dir: &Path, queue: u16) -> Self {
        let options = ConsumerOptions::new(dir.to_owned(), CLUSTER, queue);
        let mut reader = Self { consumer: Consumer::detached(options), frames: Vec::new() };
        until("a consumer attaches", || {
            reader.receive();
            reader.is_attached().then_some(())
        });
        reader
    }

    fn receive(&mut self) {
        let burst = self.consumer.receive(SHORT);
        let ours = burst.iter().filter(|frame| frame.data.starts_with(&HEAD));
        self.frames.extend(ours.map(|frame| frame.data.to_vec()));
    }

    /// Takes frames until there are `count`, and gives the buffers of all back.
    pub(crate) fn read(&mut self, count: usize) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + LIMIT;
        while self.frames.len() < count && Instant::now() < deadline {
            self.receive();
        }
        self.consumer.release();
        std::mem::take(&mut self.frames)
    }

    fn is_attached(&self) -> bool {
        self.consumer.state() != ConsumerState::Detached
    }
}

/// Takes frames until the balancer has closed all queues; what each of the readers got.
pub(crate) fn read_to_the_end(mut readers: [Reader; 2]) -> [Vec<Vec<u8>>; 2] {
    until("the queues are closed", || {
        readers.iter_mut().filter(|reader| reader.is_attached()).for_each(Reader::receive);
        (!readers.iter().any(Reader::is_attached)).then_some(())
    });
    readers.map(|reader| reader.frames)
}

/// What an interface has on it, and the sockets of the network that receive frames.
#[derive(Debug, PartialEq)]
pub(crate) struct Footprint {
    pub(crate) promiscuity: u64,
    /// How the XDP program on it runs: 1 in the driver, 2 behind it.
    pub(crate) xdp: Option<u64>,
    /// Packet sockets, and those of AF_XDP.
    pub(crate) sockets: [u64; 2],
}

impl Footprint {
    pub(crate) fn of(interface: &str) -> Self {
        let text = ip(&format!("-j -d link show dev {interface}"));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let protocols = std::fs::read_to_string("/proc/self/net/protocols").unwrap();
        let sockets = |name: &str| {
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let mut lines = protocols.lines().map(words);
            lines.find(|words| words[0] == name).map_or(0, |words| words[2].parse().unwrap())
        };
        Self {
            promiscuity: json[0]["promiscuity"].as_u64().unwrap(),
            xdp: json[0]["xdp"]["mode"].as_u64(),
            sockets: ["PACKET", "XDP"].map(sockets),
        }
    }
}
