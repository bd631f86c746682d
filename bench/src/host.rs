//! A process of this program in namespaces of its own, which measures what it is asked for.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::measure::Side;

/// Time for an orderly end.
const FAREWELL: Duration = Duration::from_secs(5);

/// The process, shared by the sides of a row.
#[derive(Clone)]
pub(crate) struct Host(Arc<Mutex<Process>>);

/// The process inside the namespaces, and the pipes to it.
struct Process {
    child: Child,
    /// Taken at the end, which the process hears.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Host {
    /// Starts this program again with the arguments `words`, which [`answer`]s there.
    pub(crate) fn start(words: &[&str]) -> Result<Self, String> {
        let failed = |e: std::io::Error| e.to_string();
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("is piped"));
        Ok(Self(Arc::new(Mutex::new(Process { child, questions, answers }))))
    }

    /// The answer to `question`.
    pub(crate) fn ask(&self, question: &str) -> Result<f64, String> {
        self.0.lock().expect("no measurement has panicked").ask(question)
    }

    /// A side whose cost is the answer to `question`.
    pub(crate) fn side(&self, question: &'static str) -> Side {
        let host = self.clone();
        Box::new(move || host.ask(question).unwrap_or_else(|why| panic!("{question}: {why}")))
    }
}

impl Process {
    /// The answer to `question`; lines of the application's log are passed over.
    fn ask(&mut self, question: &str) -> Result<f64, String> {
        let questions = self.questions.as_mut().ok_or("the process is at its end")?;
        writeln!(questions, "{question}").map_err(|e| e.to_string())?;
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line).map_err(|e| e.to_string())? == 0 {
                return Err("the measuring process has ended".to_owned());
            }
            if let Some(reason) = line.strip_prefix('!') {
                return Err(reason.trim().to_owned());
            }
            if let Some(answer) = line.strip_prefix('=') {
                return answer.trim().parse().map_err(|_| format!("no number: {answer}"));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.questions.take());
        // Files and processes of its own go with an orderly end.
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says to whoever asks why there will be no answer.
pub(crate) fn refuse(reason: &str) {
    println!("!{}", reason.replace('\n', " "));
}

/// Answers questions, in the process that [`Host::start`] started, until there are no more.
pub(crate) fn answer(mut measure: impl FnMut(&str) -> Result<f64, String>) -> Result<(), String> {
    for question in std::io::stdin().lines() {
        println!("={}", measure(&question.map_err(|e| e.to_string())?)?);
    }
    Ok(())
}
