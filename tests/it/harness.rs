//! What the end-to-end tests speak in: the real program, scripted upstreams, and a client of each era.

#[path = "harness/client.rs"]
pub(crate) mod client;
#[path = "harness/mcp.rs"]
pub(crate) mod mcp;
#[path = "harness/metrics.rs"]
pub(crate) mod metrics;
#[path = "harness/process.rs"]
pub(crate) mod process;
#[path = "harness/upstream.rs"]
pub(crate) mod upstream;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use self::{
    client::{Answer, Target},
    metrics::Metrics,
    process::Owned,
};

/// The program under test.
pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_ziggurat");

/// How long anything may take before a test gives it up as lost. No test measures time by it.
pub(crate) const LOST: Duration = Duration::from_secs(30);

/// A ziggurat that is to be started.
pub(crate) struct Start {
    args: Vec<String>,
    env: Vec<(String, String)>,
    yaml: Option<String>,
    dir: tempfile::TempDir,
}

/// A ziggurat that runs; dropping it kills it.
pub(crate) struct Ziggurat {
    child: Owned,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<String>>,
    dir: tempfile::TempDir,
}

/// What must be back once traffic has ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Baseline {
    gauges: BTreeMap<String, f64>,
    fds: usize,
    children: usize,
}

/// Waits until `check` says yes; it is asked again and again.
pub(crate) async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + LOST;
    while !check().await {
        assert!(Instant::now() < give_up, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a future that must end.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(LOST, future).await {
        Ok(value) => value,
        Err(_) => panic!("never ended: {what}"),
    }
}

/// A config with one upstream at /mcp: more settings for the server, the route, the upstream, and its endpoint in flow style.
pub(crate) fn config(server: &str, route: &str, upstream: &str, endpoint: &str) -> String {
    format!(
        "server: {{ {server} }}\nroutes: [{{ match: {{ path: /mcp }}, upstream: tools, {route} }}]\n\
         upstreams: {{ tools: {{ {upstream} endpoints: [{{ {endpoint} }}] }} }}\n"
    )
}

/// The endpoints at these URLs, for [`config`].
pub(crate) fn endpoints(urls: &[String]) -> String {
    let urls: Vec<_> = urls.iter().map(|url| format!("url: \"{url}\"")).collect();
    urls.join(" }, { ")
}

/// Two routes to one endpoint: a patient one at /mcp, for what must not be hurried on a busy machine, and a hasty one at /hasty. A session of the
/// one is good at the other, since neither seals its id.
pub(crate) fn hasty(more: &str, endpoint: &str) -> String {
    format!(
        "routes:\n- {{ match: {{ path: /mcp }}, upstream: tools, session: off }}\n\
         - {{ match: {{ path: /hasty }}, upstream: tools, session: off, deadline: 300ms, {more} }}\n\
         upstreams: {{ tools: {{ endpoints: [{{ {endpoint} }}] }} }}\n"
    )
}

/// The endpoint of the demo server over stdio.
pub(crate) fn demo(more: &str) -> String {
    format!("command: [\"{BIN}\", demo], {more}")
}

/// A config for the demo server over stdio.
pub(crate) fn stdio(more: &str) -> String {
    config("", "", "", &demo(more))
}

/// A config for an HTTP upstream, whose connections do not stay for long.
pub(crate) fn http(url: &str) -> String {
    config("", "", "", &format!("url: \"{url}\", pool_idle: 50ms"))
}

// === impl Start ===

impl Start {
    /// With this config; both listeners take a free port unless it says otherwise.
    pub(crate) fn yaml(text: &str) -> Self {
        let mut start = Self::args(&["run", "-c", "ziggurat.yaml"]);
        start.yaml = Some(with_ports(text));
        start
    }

    /// With this config, which says for itself where its admin listener is.
    pub(crate) fn whole(text: &str) -> Self {
        let mut start = Self::args(&["run", "-c", "ziggurat.yaml"]);
        start.yaml = Some(format!("listen: 127.0.0.1:0\n{text}"));
        start
    }

    /// With these arguments and nothing else.
    pub(crate) fn args(args: &[&str]) -> Self {
        Self {
            args: args.iter().map(ToString::to_string).collect(),
            env: Vec::new(),
            yaml: None,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// With one more argument.
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// With a variable in its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a file in its folder.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.dir.path().join(name), text).unwrap();
        self
    }

    /// With a folder in its folder.
    pub(crate) fn folder(self, name: &str) -> Self {
        std::fs::create_dir(self.dir.path().join(name)).unwrap();
        self
    }

    fn command(&self) -> Command {
        if let Some(yaml) = &self.yaml {
            std::fs::write(self.dir.path().join("ziggurat.yaml"), yaml).unwrap();
        }
        let mut command = Command::new(BIN);
        command
            .args(&self.args)
            // What it leaves for its user is left in its folder.
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command that ends by itself.
    pub(crate) async fn ends(self) -> Output {
        let mut command = tokio::process::Command::from(self.command());
        let output = command.kill_on_drop(true).output();
        within("the program ends by itself", output).await.unwrap()
    }

    /// Starts it, and waits until it says where it listens.
    pub(crate) async fn up(self) -> Ziggurat {
        let mut child = Owned(self.command().spawn().unwrap());
        let stderr = child.0.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let writer = log.clone();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                writer
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        let line = within("ziggurat says where it listens", child.first_line()).await;
        let said: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("no addresses in {line:?}; log: {}", log.lock().unwrap()));
        let address = |name: &str| said[name].as_str().unwrap().parse().unwrap();
        Ziggurat {
            listen: address("listen"),
            admin: address("admin"),
            child,
            log,
            dir: self.dir,
        }
    }
}

fn with_ports(text: &str) -> String {
    let listen = if text.contains("listen:") {
        ""
    } else {
        "listen: 127.0.0.1:0\n"
    };
    format!("{listen}admin: 127.0.0.1:0\n{text}")
}

// === impl Ziggurat ===

impl Ziggurat {
    /// One that runs with this config.
    pub(crate) async fn yaml(text: &str) -> Self {
        Start::yaml(text).up().await
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.0.id().try_into().unwrap()
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has written to stderr.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The listener for clients.
    pub(crate) fn target(&self) -> Target {
        Target::new(self.listen)
    }

    /// The admin listener.
    pub(crate) fn admin(&self) -> Target {
        Target::new(self.admin)
    }

    /// The token of the admin API, as the banner tells it.
    pub(crate) fn admin_token(&self) -> String {
        let log = self.log();
        let (_, rest) = log.split_once("authorization: Bearer ").unwrap();
        rest.split('\'').next().unwrap().to_owned()
    }

    /// What the admin API says under this name.
    pub(crate) async fn report(&self, name: &str) -> serde_json::Value {
        // The banner comes after the line on stdout.
        until("it tells its token", async || {
            self.log().contains("authorization: Bearer ")
        })
        .await;
        let bearer = format!("Bearer {}", self.admin_token());
        let path = format!("/admin/v1/{name}");
        let headers = [("authorization", bearer.as_str())];
        self.admin()
            .request("GET", &path, &headers, "")
            .await
            .json()
            .await
    }

    /// Orders something of the admin API; the answer, whatever it is.
    pub(crate) async fn order(&self, name: &str, body: &Value) -> Answer {
        until("it tells its token", async || {
            self.log().contains("authorization: Bearer ")
        })
        .await;
        let bearer = format!("Bearer {}", self.admin_token());
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let path = format!("/admin/v1/{name}");
        self.admin()
            .request("POST", &path, &headers, body.to_string())
            .await
    }

    /// The same, which must be carried out.
    pub(crate) async fn act(&self, name: &str, body: &Value) -> Value {
        let answer = self.order(name, body).await;
        let status = answer.status;
        let change = answer.json().await;
        assert_eq!(status, 200, "{name} {body}: {change}");
        change
    }

    /// Waits for a line of its log that has all of this, and returns it.
    pub(crate) async fn logs(&self, parts: &[&str]) -> String {
        let mut found = None;
        until(&format!("it logs {parts:?}"), async || {
            let log = self.log();
            let mut lines = log.lines();
            found = lines
                .find(|line| parts.iter().all(|part| line.contains(part)))
                .map(str::to_owned);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// What it says on /metrics now.
    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::read(&self.admin().get("/metrics").await.text().await)
    }

    /// Writes another config, says so, and waits until that has had this result: `ok` or `refused`.
    pub(crate) async fn reload(&self, yaml: &str, result: &str) {
        let count = async || {
            let metrics = self.metrics().await;
            metrics.sum("ziggurat_config_reloads_total", &[result])
        };
        let before = count().await;
        std::fs::write(self.dir.path().join("ziggurat.yaml"), with_ports(yaml)).unwrap();
        process::signal(self.pid(), "HUP");
        until(&format!("the config is {result}"), async || {
            count().await == before + 1.0
        })
        .await;
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("ziggurat ends", async || {
            status = self.child.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// Its MCP servers; the reaper, which is a child as well, is not one.
    pub(crate) fn servers(&self) -> Vec<i32> {
        process::children(self.pid())
            .into_iter()
            .filter(|pid| process::command_line(*pid).contains("demo"))
            .collect()
    }

    /// Uses it once, so that what is started once and kept (the reaper, the sweeper) is there.
    pub(crate) async fn warm(&self) -> Baseline {
        self.target().session().await.delete().await;
        until("the first child is gone", async || {
            self.servers().is_empty()
        })
        .await;
        self.baseline().await
    }

    /// How it stands right now.
    pub(crate) async fn look(&self) -> Baseline {
        Baseline {
            gauges: self.metrics().await.gauges(),
            fds: process::fds(self.pid()),
            children: process::children(self.pid()).len(),
        }
    }

    /// How it stands once it has come to rest.
    pub(crate) async fn baseline(&self) -> Baseline {
        let mut last = self.look().await;
        until("it comes to rest", async || {
            sleep(Duration::from_millis(60)).await;
            let now = self.look().await;
            std::mem::replace(&mut last, now.clone()) == now
        })
        .await;
        last
    }

    /// Every gauge, the descriptors and the children are what they were.
    pub(crate) async fn assert_back_to(&self, baseline: &Baseline) {
        let give_up = Instant::now() + LOST;
        loop {
            let now = self.look().await;
            if now == *baseline {
                return;
            }
            if Instant::now() > give_up {
                let changed: Vec<_> = now
                    .gauges
                    .iter()
                    .filter(|(name, value)| baseline.gauges.get(*name) != Some(value))
                    .map(|(name, value)| (name, baseline.gauges.get(name), value))
                    .collect();
                panic!(
                    "not back: fds {} -> {}, children {} -> {}, gauges (name, was, is) {changed:?}\n{}",
                    baseline.fds,
                    now.fds,
                    baseline.children,
                    now.children,
                    self.log(),
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Ziggurat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(20_000);
            eprintln!(
                "--- the end of its log\n{}",
                log.get(from..).unwrap_or(&log)
            );
        }
    }
}
