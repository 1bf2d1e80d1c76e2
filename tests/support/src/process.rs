//! A child process. Its output goes to a log file and, line by line, to the test. Dropping it kills the child.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Number of lines of a child's log that are printed when a test fails.
const SHOWN: usize = 60;

/// A running child process.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    /// The lock only makes the type `Sync`: a reader has exclusive access anyway.
    stdout: Mutex<Receiver<String>>,
    readers: Vec<JoinHandle<()>>,
    log: Log,
}

impl Process {
    /// Starts `command`. Its log is `<name>.log` in `directory`.
    ///
    /// # Panics When the program can not be started.
    pub fn start(name: &str, mut command: Command, directory: &Path) -> Self {
        let log = Log::new(directory.join(format!("{name}.log")));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        let (lines, stdout) = channel();
        let readers = vec![
            read(child.stdout.take().expect("a pipe"), log.clone(), Some(lines)),
            read(child.stderr.take().expect("a pipe"), log.clone(), None),
        ];
        let stdin = child.stdin.take();
        Self { name: name.to_owned(), child, stdin, stdout: Mutex::new(stdout), readers, log }
    }

    /// Writes one line to the child's standard input.
    ///
    /// # Panics
    /// When the child has ended.
    pub fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open until dropped");
        if let Err(error) = writeln!(stdin, "{line}").and_then(|()| stdin.flush()) {
            panic!("{} takes no input any more: {error}", self.name);
        }
    }

    /// Reads the next line of the child's standard output. `Err` says why there is none.
    pub fn read_line(&mut self, patience: Duration) -> Result<String, String> {
        let stdout = self.stdout.get_mut().expect("nobody panics with it");
        stdout.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("{} printed nothing for {patience:?}", self.name),
            RecvTimeoutError::Disconnected => format!("{} has ended: {:?}", self.name, self.child.wait()),
        })
    }

    /// Reads the next line of the child's standard output if there is one already.
    ///
    /// # Panics When the child has ended.
    pub fn try_read_line(&mut self) -> Option<String> {
        match self.stdout.get_mut().expect("nobody panics with it").try_recv() {
            Ok(line) => Some(line),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("{} has ended: {:?}", self.name, self.child.wait()),
        }
    }

    /// The child's exit status; `None`: it is running.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -s {signal} {}", self.child.id())).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} can not be sent {signal}", self.name);
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL, so the child can not close anything, and waits until the child is gone.
    pub fn kill(&mut self) {
        // An error means that the child has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if thread::panicking() {
            self.log.show(&self.name);
        }
    }
}

/// Copies a pipe to the log, and its lines to `lines`, until the child closes the pipe.
fn read(pipe: impl Read + Send + 'static, log: Log, lines: Option<Sender<String>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            log.line(&line);
            if let Some(lines) = &lines {
                // The test may have ended and not read any more lines. The log still gets them.
                let _ = lines.send(line);
            }
        }
    })
}

/// A log file and its last lines.
#[derive(Clone)]
struct Log(Arc<Mutex<LogState>>);

struct LogState {
    path: PathBuf,
    file: File,
    tail: VecDeque<String>,
}

impl Log {
    fn new(path: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&path);
        let file = file.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        Self(Arc::new(Mutex::new(LogState { path, file, tail: VecDeque::with_capacity(SHOWN) })))
    }

    fn line(&self, line: &str) {
        let mut state = self.0.lock().expect("nobody panics with the log");
        let _ = writeln!(state.file, "{line}");
        if state.tail.len() == SHOWN {
            state.tail.pop_front();
        }
        state.tail.push_back(line.to_owned());
    }

    fn show(&self, name: &str) {
        let state = self.0.lock().expect("nobody panics with the log");
        eprintln!("\n---- the end of the log of {name}; all of it is in {}", state.path.display());
        for line in &state.tail {
            // A single GUILD_CREATE in a debug log would hide everything else.
            let cut = line.char_indices().nth(400).map_or(line.as_str(), |(end, _)| &line[..end]);
            eprintln!("{cut}");
        }
        eprintln!("---- end of {name}");
    }
}
