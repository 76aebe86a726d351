//! Health: finds out whether an endpoint works before a client does, and leaves those alone that do worse than the others.
//!
//! *Active*: a [`Prober`] asks one endpoint again and again, over the real path, and shuts its [`Gate`] ([`Reason::Health`]) after some
//! failures in a row; after some successes in a row it opens it again. *Passive*: [`outlier`] compares the endpoints of an upstream by how
//! their calls go.
//!
//! | probe | what is asked | what is good |
//! | --- | --- | --- |
//! | [`Probe::Http`] | a path | a status, and by setting a text in the body |
//! | [`Probe::Tcp`] | a connection | that there is one |
//! | [`Probe::Mcp`] | `server/discover`; where the server is legacy, `ping` in a session of the prober's own | the JSON-RPC answer itself |
//!
//! - **The liar.** A front that says 200 while its server hangs does not pass as MCP: only the answer to the probe's own id counts, in time.
//! - **A failing probe deletes nothing**, and until some have failed an endpoint counts as healthy. Only the gate changes.
//! - **Spread.** The first probe comes at a random moment within the first interval, and each pause has its jitter, so that the probes of many
//!   endpoints (or proxies) do not come together.
//! - **Sessions.** The session of a legacy server is kept and used again, made anew when the server has lost it (404) or `fall` pings in
//!   a row failed in it, and ended with a DELETE when the prober ends.
//! - **Sleep.** An endpoint whose processes sleep is not woken ([`Prober::idle`]): it counts as healthy, unasked. A probe counts as use of a
//!   process, so the predicate should tell whether *clients* use the endpoint: [`OutlierHandle::quiet`](outlier::OutlierHandle::quiet) tells
//!   for how long they have not, and [`HealthHandle::sessions`] how many sessions are the prober's.
//! - **What says nothing** changes nothing: where a limit of the proxy's own is in the way (too many processes, a drain), a probe is neutral.
//!
//! Place: a prober is no layer, but a task beside the endpoint's stack. Its service is the lower end of that stack: below gate, circuit breaker,
//! limits and load meter, so that probes are neither refused nor counted as calls: the upstream, with at most clocks and observer above it. Readiness
//! and errors: those of the gate, which [`GateLayer`](crate::gate::GateLayer) or the balancer obeys. Bodies: of an answer at most 1 MiB is read.
//!
//! A prober belongs to whoever holds its [`ProberTask`], or runs [`Prober::run`]. When it goes and no other has taken its place, the
//! gate is opened and what was learnt is forgotten. On a reload make the new prober, with the same [`HealthHandle`], before the old one goes: then
//! the state stays.
//!
//! ```
//! # async fn example() {
//! use tower::service_fn;
//! use ziggurat_layers::{Body, BoxError, gate::Gate, health::{HealthHandle, HealthSettings, HealthState, Prober}};
//!
//! let core = service_fn(async |_: http::Request<Body>| Ok::<_, BoxError>(http::Response::new(Body::empty())));
//! let (handle, gate) = (HealthHandle::new("tools", "127.0.0.1:3001"), Gate::new());
//! let task = Prober::new(&handle, gate.clone(), HealthSettings::default(), core).spawn();
//! assert_eq!(handle.look().map(|report| report.state), Some(HealthState::Unknown));
//! task.close().await;
//! # }
//! ```

mod answer;
mod handle;
mod mcp;
pub mod outlier;
mod probe;
mod settings;
mod state;

use std::{convert::Infallible, fmt, sync::Arc};

use fastrand::Rng;
use http::{Request, Response};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tower::Service;

use self::{handle::Tenure, mcp::Talk, probe::ProbeError};
pub use self::{
    handle::{HealthHandle, HealthReport, LastProbe, ProbeResult},
    settings::{HealthSettings, HttpProbe, Probe},
    state::HealthState,
};
#[cfg(doc)]
use crate::gate::Reason;
use crate::{Body, error::BoxError, gate::Gate};

/// Probes one endpoint. Does nothing until it is run.
pub struct Prober<S> {
    service: S,
    settings: HealthSettings,
    idle: Box<dyn Fn() -> bool + Send + Sync>,
    rng: Rng,
    talk: Talk,
    tenure: Arc<Tenure>,
}

/// A prober at work. Dropping it ends the probes and opens the gate at once; the task then ends by itself, after its last request if there is a
/// session to end, which has [`HealthSettings::timeout`] for that.
#[derive(Debug)]
#[must_use = "dropping it ends the probes"]
pub struct ProberTask {
    task: Option<JoinHandle<()>>,
    stop: CancellationToken,
    tenure: Arc<Tenure>,
}

// === impl Prober ===

impl<S> Prober<S> {
    /// A prober that writes into this handle and this gate. It takes the place of the one before it from now on.
    pub fn new(handle: &HealthHandle, gate: Gate, settings: HealthSettings, service: S) -> Self {
        Self {
            service,
            settings,
            idle: Box::new(|| false),
            rng: Rng::new(),
            talk: Talk::default(),
            tenure: Arc::new(handle.begin(gate)),
        }
    }

    /// Asks this before each probe: whether the endpoint sleeps. While it does, there are no probes (but see [`HealthSettings::wake`]), the
    /// prober's own session is ended, and the endpoint counts as healthy.
    #[must_use]
    pub fn idle(self, idle: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            idle: Box::new(idle),
            ..self
        }
    }

    /// Draws the pauses from this seed.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            ..self
        }
    }
}

impl<S> Prober<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + Sync,
    S::Future: Send,
{
    /// Probes for ever. Dropping the future ends that and opens the gate; a session that is open stays with the server.
    pub async fn run(mut self) -> Infallible {
        self.probe_for_ever().await
    }

    /// Probes until `stop`; then opens the gate, and ends the session if there is one, in as long as a probe may take.
    pub async fn run_until(mut self, stop: impl Future<Output = ()> + Send) {
        tokio::select! {
            biased;
            () = stop => {}
            never = self.probe_for_ever() => match never {},
        }
        self.tenure.end();
        self.end_session().await;
    }

    /// Probes in a task of its own. To be called in a tokio runtime with time.
    pub fn spawn(self) -> ProberTask
    where
        S: 'static,
    {
        let (stop, tenure) = (CancellationToken::new(), self.tenure.clone());
        let stopped = stop.clone().cancelled_owned();
        ProberTask {
            task: Some(tokio::spawn(self.run_until(stopped))),
            stop,
            tenure,
        }
    }

    async fn probe_for_ever(&mut self) -> Infallible {
        let mut pause = self.settings.interval.mul_f64(self.rng.f64());
        loop {
            tokio::time::sleep(pause).await;
            if !self.settings.wake && (self.idle)() {
                self.end_session().await;
                self.tenure.sleeps();
            } else {
                let started = Instant::now();
                let outcome = self.probe().await;
                self.tenure.set_session(self.talk.has_session());
                let thresholds = (self.settings.fall, self.settings.rise);
                self.tenure.record(outcome, started.elapsed(), thresholds);
            }
            pause = self.settings.pause(self.rng.f64());
        }
    }

    async fn probe(&mut self) -> Result<(), ProbeError> {
        let limit = self.settings.timeout;
        match &self.settings.probe {
            Probe::Http(asked) => probe::http(&self.service, asked, limit).await,
            Probe::Tcp { address } => probe::tcp(address, limit).await,
            Probe::Mcp => self.talk.probe(&self.service, &self.settings).await,
        }
    }

    async fn end_session(&mut self) {
        self.talk.end(&self.service, self.settings.timeout).await;
        self.tenure.set_session(false);
    }
}

impl<S> fmt::Debug for Prober<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober")
            .field("handle", self.tenure.handle())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

// === impl ProberTask ===

impl ProberTask {
    /// Ends the probes, opens the gate, and waits until the session is ended.
    pub async fn close(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It cannot fail but by a panic, which was reported where it happened.
            let _ended = task.await;
        }
    }
}

impl Drop for ProberTask {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tenure.end();
    }
}

#[cfg(test)]
mod tests;
