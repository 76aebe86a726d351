//! What is compared: how each proxy is started, how one knows that it is ready, and how it ends.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::BoxError;

/// How long a process may take to be ready, and to end when asked.
const PATIENCE: Duration = Duration::from_secs(10);
const STOPPING: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Proxy {
    /// None: the load goes straight to the server
    Direct,
    /// Ours without features: bare-proxy over HTTP, bare-bridge over stdio
    Bare,
    Nginx,
    Haproxy,
    /// The default tower
    Ziggurat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Http,
    Stdio,
}

/// The programs that this machine has.
pub(crate) struct Programs {
    ours: PathBuf,
    nginx: Option<PathBuf>,
    haproxy: Option<PathBuf>,
    ziggurat: Option<PathBuf>,
}

/// A process of ours, in a process group of its own that goes when this value goes.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    child: Child,
    group: Pid,
    /// Held, so that nobody writes into a closed pipe.
    _stdout: Option<ChildStdout>,
    /// Its configuration and its log.
    dir: TempDir,
}

/// The line with which ours and ziggurat say where they listen.
#[derive(Deserialize)]
struct Ready {
    listen: SocketAddr,
}

// === impl Proxy, Transport ===

impl Proxy {
    pub(crate) fn label(self, transport: Transport) -> &'static str {
        match (self, transport) {
            (Self::Direct, _) => "direct",
            (Self::Bare, Transport::Http) => "bare-proxy",
            (Self::Bare, Transport::Stdio) => "bare-bridge",
            (Self::Nginx, _) => "nginx",
            (Self::Haproxy, _) => "HAProxy",
            (Self::Ziggurat, _) => "ziggurat",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Stdio => "stdio",
        })
    }
}

// === impl Programs ===

impl Programs {
    /// `ziggurat` defaults to the program of that name beside ours.
    pub(crate) fn find(ziggurat: Option<PathBuf>) -> Result<Self, BoxError> {
        let ours = std::env::current_exe()?;
        let ziggurat = match ziggurat {
            Some(given) if given.is_file() => Some(given.canonicalize()?),
            Some(given) => return Err(format!("{} is not a file", given.display()).into()),
            None => Some(ours.with_file_name("ziggurat")).filter(|path| path.is_file()),
        };
        Ok(Self {
            nginx: in_path("nginx"),
            haproxy: in_path("haproxy"),
            ziggurat,
            ours,
        })
    }

    /// Why this proxy cannot take part; `None` if it can.
    pub(crate) fn missing(&self, proxy: Proxy) -> Option<&'static str> {
        match proxy {
            Proxy::Direct | Proxy::Bare => None,
            Proxy::Nginx if self.nginx.is_some() => None,
            Proxy::Haproxy if self.haproxy.is_some() => None,
            Proxy::Ziggurat if self.ziggurat.is_some() => None,
            Proxy::Nginx | Proxy::Haproxy => Some("not installed; benches/install installs it"),
            Proxy::Ziggurat => Some("not built; build the workspace, or say where with --ziggurat"),
        }
    }

    /// The HTTP server that every proxy has behind it.
    pub(crate) async fn echo_http(&self) -> Result<Running, BoxError> {
        self.part(["echo-http"]).await
    }

    /// A part of this program that serves; `arguments` begin with its name.
    pub(crate) async fn part<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Running, BoxError> {
        let mut command = Command::new(&self.ours);
        command.args(arguments);
        Running::announced(command, tempfile::tempdir()?).await
    }

    /// Starts nginx, HAProxy or ziggurat with this configuration. `LISTEN` and `DIR` are filled in, and each of
    /// `words` with its value.
    pub(crate) async fn configured(
        &self,
        proxy: Proxy,
        template: &str,
        words: &[(&str, String)],
    ) -> Result<Running, BoxError> {
        let dir = tempfile::tempdir()?;
        let program = match proxy {
            Proxy::Direct | Proxy::Bare => None,
            Proxy::Nginx => self.nginx.as_ref(),
            Proxy::Haproxy => self.haproxy.as_ref(),
            Proxy::Ziggurat => self.ziggurat.as_ref(),
        };
        let mut command = Command::new(program.ok_or("the program is missing")?);
        let (listen, file) = configure(template, dir.path(), words)?;
        match proxy {
            Proxy::Nginx => command
                .arg("-p")
                .arg(dir.path())
                .args(["-e", "stderr", "-c"]),
            Proxy::Haproxy => command.args(["-db", "-f"]),
            Proxy::Direct | Proxy::Bare | Proxy::Ziggurat => command.args(["run", "--config"]),
        };
        command.arg(file);
        Running::listening(command, dir, listen).await
    }

    /// Starts a proxy in front of `upstream`, or of a stdio child of its own. `None` for no proxy at all.
    pub(crate) async fn start(
        &self,
        proxy: Proxy,
        transport: Transport,
        upstream: SocketAddr,
    ) -> Result<Option<Running>, BoxError> {
        let dir = tempfile::tempdir()?;
        let words = [("UPSTREAM", upstream.to_string())];
        let running = match proxy {
            Proxy::Direct => return Ok(None),
            Proxy::Bare => {
                let mut command = Command::new(&self.ours);
                command.arg(match transport {
                    Transport::Http => "bare-proxy",
                    Transport::Stdio => "bare-bridge",
                });
                self.in_front_of(&mut command, transport, upstream, "");
                Running::announced(command, dir).await
            }
            Proxy::Ziggurat => {
                let ziggurat = self.ziggurat.as_ref().ok_or("the program is missing")?;
                let mut command = Command::new(ziggurat);
                command.args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
                self.in_front_of(&mut command, transport, upstream, "/mcp");
                Running::announced(command, dir).await
            }
            Proxy::Nginx => {
                let template = include_str!("contender/nginx.conf");
                self.configured(proxy, template, &words).await
            }
            Proxy::Haproxy => {
                let template = include_str!("contender/haproxy.cfg");
                self.configured(proxy, template, &words).await
            }
        };
        Ok(Some(running?))
    }

    fn in_front_of(
        &self,
        command: &mut Command,
        transport: Transport,
        upstream: SocketAddr,
        path: &str,
    ) {
        match transport {
            Transport::Http => command.arg(format!("http://{upstream}{path}")),
            Transport::Stdio => command.arg("--").arg(&self.ours).arg("echo-stdio"),
        };
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Where Debian puts them, which is not in everybody's path.
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// A port of this machine that is free now.
pub(crate) fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Writes a configuration for a port that is free now.
fn configure(
    template: &str,
    dir: &Path,
    words: &[(&str, String)],
) -> Result<(SocketAddr, PathBuf), BoxError> {
    let listen = free_port()?;
    let mut filled = template
        .replace("LISTEN", &listen.to_string())
        .replace("DIR", &dir.to_string_lossy());
    for (word, value) in words {
        filled = filled.replace(word, value);
    }
    let file = dir.join("proxy.conf");
    std::fs::write(&file, filled)?;
    Ok((listen, file))
}

// === impl Running ===

impl Running {
    /// A program that says on its first line where it listens.
    async fn announced(mut command: Command, dir: TempDir) -> Result<Self, BoxError> {
        command.stdout(Stdio::piped());
        let mut running = Self::spawn(command, dir)?;
        let stdout = running.child.stdout.take().ok_or("it has no stdout")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let read = timeout(PATIENCE, stdout.read_line(&mut line)).await;
        match read.ok().map(|_| serde_json::from_str::<Ready>(&line)) {
            Some(Ok(ready)) => running.address = ready.listen,
            _ => return Err(running.failure("it did not say where it listens")),
        }
        running._stdout = Some(stdout.into_inner());
        Ok(running)
    }

    /// A program that was told where to listen.
    async fn listening(
        mut command: Command,
        dir: TempDir,
        address: SocketAddr,
    ) -> Result<Self, BoxError> {
        command.stdout(Stdio::null());
        let mut running = Self::spawn(command, dir)?;
        running.address = address;
        let connected = timeout(PATIENCE, async {
            while TcpStream::connect(address).await.is_err() {
                if running.child.try_wait()?.is_some() {
                    return Ok(false);
                }
                sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, std::io::Error>(true)
        });
        match connected.await {
            Ok(Ok(true)) => Ok(running),
            _ => Err(running.failure("it does not listen")),
        }
    }

    fn spawn(mut command: Command, dir: TempDir) -> Result<Self, BoxError> {
        let child = command
            .stdin(Stdio::null())
            .stderr(File::create(log(&dir))?)
            .process_group(0)
            .spawn()?;
        let pid = child.id().ok_or("it ended at once")?;
        Ok(Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            child,
            group: Pid::from_raw(pid.cast_signed()).ok_or("it has no process id")?,
            _stdout: None,
            dir,
        })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), BoxError> {
        Ok(kill_process(self.group, signal)?)
    }

    /// Asks it to end, and sees that it does.
    pub(crate) async fn stop(mut self) {
        let _gone = self.signal(Signal::TERM);
        let _too_slow = timeout(STOPPING, self.child.wait()).await;
    }

    /// `what` went wrong, and what the process itself says about it.
    fn failure(&self, what: &str) -> BoxError {
        let log = std::fs::read_to_string(log(&self.dir)).unwrap_or_default();
        match log.trim().lines().last() {
            Some(last) => format!("{what}; its log ends: {last}").into(),
            None => what.into(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Also after a proper end: the group may hold more than the process that was asked.
        let _none_left = kill_process_group(self.group, Signal::KILL);
        let _reaped = self.child.try_wait();
    }
}

fn log(dir: &TempDir) -> PathBuf {
    dir.path().join("log")
}
