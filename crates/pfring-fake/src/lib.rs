//! A recording fake of PF_RING's library, for tests. It is compiled from C when a test asks for it, against the
//! same headers that the bindings are made from, so the compiler compares the two.
//!
//! The fake is a real library in another sense too: packets go from a producer in one process to consumers in
//! others, through files of its folder. It writes a line for each call, with the arguments and the outcome, and a
//! line that begins with `VIOLATION` for whatever the library's contract forbids: a buffer released twice or not at
//! all, use after detach, a burst of more than 16, a queue of the wrong number, a cluster that is too small.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Compiles these parts of the fake, with `folder` for the result until it was read.
fn compile(folder: &Path, parts: &[&str]) -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiled = folder.join("compiled.so");
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"]);
    command.args(["-shared", "-fPIC", "-o"]).arg(&compiled);
    command.arg("-I").arg(here.join("../pfring-sys/include"));
    command.args(parts.iter().map(|part| here.join(format!("src/{part}.c"))));
    let output = command.output().expect("the tests need a C compiler: cc");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the fake does not compile: {text}");
    std::fs::read(compiled).expect("what was just compiled")
}

/// A folder with the fake in it. Everything that it keeps is there.
#[derive(Debug, Clone)]
pub struct Fake {
    folder: PathBuf,
}

impl Fake {
    /// Compiles the fake into `folder`, as `libpfring.so`.
    ///
    /// # Panics
    /// When there is no C compiler, or the fake and the headers do not agree.
    pub fn build(folder: &Path) -> Self {
        static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
        Self::put(folder, LIBRARY.get_or_init(|| compile(folder, &["record", "zc", "ring"])))
    }

    /// The same without ZC, as the open part of the library is.
    ///
    /// # Panics
    /// As [`Fake::build`].
    pub fn without_zc(folder: &Path) -> Self {
        static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
        Self::put(folder, LIBRARY.get_or_init(|| compile(folder, &["record", "ring"])))
    }

    /// A file of its own, because the one that was compiled here may be loaded.
    fn put(folder: &Path, library: &[u8]) -> Self {
        let this = Self { folder: folder.to_owned() };
        std::fs::write(this.library(), library).expect("a folder that can be written to");
        this
    }

    /// The library's file.
    pub fn library(&self) -> PathBuf {
        self.folder.join("libpfring.so")
    }

    /// Lets `command` find the fake where it looks for PF_RING's library.
    pub fn offer<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("PFRING_FAKE", &self.folder).env("LD_LIBRARY_PATH", &self.folder)
    }

    /// Lets a ZC device have these packets.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn packets<'a>(&self, device: &str, packets: impl IntoIterator<Item = &'a [u8]>) {
        self.append(device, packets.into_iter().map(|packet| (packet, None)));
    }

    /// Lets a device without ZC have these packets, each with its length on the wire.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn cut_packets<'a>(
        &self,
        device: &str,
        packets: impl IntoIterator<Item = (&'a [u8], usize)>,
    ) {
        self.append(device, packets.into_iter().map(|(packet, wire)| (packet, Some(wire))));
    }

    fn append<'a>(&self, device: &str, packets: impl Iterator<Item = (&'a [u8], Option<usize>)>) {
        let length = |length: usize| u16::try_from(length).expect("a packet").to_le_bytes();
        let mut bytes = Vec::new();
        for (packet, wire) in packets {
            bytes.extend(length(packet.len()));
            bytes.extend(wire.map(length).into_iter().flatten());
            bytes.extend(packet);
        }
        let path = self.folder.join(format!("packets-{device}"));
        let mut file =
            std::fs::File::options().create(true).append(true).open(path).expect("a folder");
        file.write_all(&bytes).expect("room in the folder");
    }

    /// The calls of a program so far, one a line.
    pub fn journal(&self, program: &str) -> String {
        // It has called nothing yet.
        std::fs::read_to_string(self.folder.join(format!("log-{program}"))).unwrap_or_default()
    }

    /// The calls of a program, without those that found nothing to receive.
    pub fn calls(&self, program: &str) -> Vec<String> {
        let journal = self.journal(program);
        let idle = |line: &&str| line.contains("recv") && line.ends_with(" = 0");
        journal.lines().filter(|line| !idle(line)).map(str::to_owned).collect()
    }

    /// What was done that the library forbids.
    pub fn violations(&self, program: &str) -> Vec<String> {
        let journal = self.journal(program);
        journal.lines().filter(|line| line.starts_with("VIOLATION")).map(str::to_owned).collect()
    }

    /// The text that a producer set for `/proc/net/pf_ring/stats`.
    pub fn statistics(&self) -> String {
        std::fs::read_to_string(self.folder.join("stats")).unwrap_or_default()
    }
}
