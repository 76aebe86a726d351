//! The start of a child: room for it, the process, and its first answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::Extensions;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::Pool;
use crate::{
    mcp::{Era, MessageFacts, envelope},
    upstream::stdio::{
        call::{Call, Item},
        child::{Child, Lease, Origin},
        error::StdioError,
    },
};

/// Stops a child that is dropped before it is known to be of use.
pub(super) struct Trial(pub(super) Option<Arc<Child>>);

impl Pool {
    /// A child for one session; the client's own `initialize` is its first request. Returns the answer.
    pub(in crate::upstream::stdio) async fn initialize(
        self: &Arc<Self>,
        body: &Bytes,
        facts: &MessageFacts,
        mut extensions: Extensions,
    ) -> Result<(Arc<Child>, Item), StdioError> {
        let child = self.start("session", Era::Legacy, false).await?;
        let mut trial = Trial(Some(child.clone()));
        let call = Arc::new(Call::new(1, self.settings.buffer));
        let lease = child.call(body, &[facts], call, &Origin::default(), &mut extensions)?;
        let item = self
            .greet(&child, lease)
            .await
            .inspect_err(|_| self.failed())?;
        self.came_up();
        if matches!(item.answer, Some(None)) {
            trial.0 = None;
        }
        Ok((child, item))
    }

    /// Asks a child something on the proxy's own account.
    pub(in crate::upstream::stdio) async fn ask(
        &self,
        child: &Arc<Child>,
        request: String,
        limit: Duration,
    ) -> Result<Item, StdioError> {
        let lease = self.question(child, request)?;
        self.answer(&lease, limit).await
    }

    pub(super) fn question(
        &self,
        child: &Arc<Child>,
        request: String,
    ) -> Result<Lease, StdioError> {
        let body = Bytes::from(request);
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let facts =
            envelope::read_message(text, 0).map_err(|_| StdioError::Misplaced("not a message"))?;
        let call = Arc::new(Call::new(1, self.settings.buffer));
        let origin = Origin {
            session: None,
            own: true,
        };
        child.call(&body, &[&facts], call, &origin, &mut Extensions::new())
    }

    /// Waits for a new child's first answer.
    pub(super) async fn greet(&self, child: &Child, lease: Lease) -> Result<Item, StdioError> {
        let began = Instant::now();
        let answer = self.answer(&lease, self.settings.handshake).await;
        let took = began.elapsed().as_secs_f64();
        self.meters.handshake_time.record(took);
        match &answer {
            Ok(_) => child.ready(),
            Err(StdioError::Handshake { .. }) => self.meters.handshake_timeouts.increment(1),
            Err(_) => {}
        }
        answer
    }

    async fn answer(&self, lease: &Lease, limit: Duration) -> Result<Item, StdioError> {
        let answer = async {
            loop {
                match poll_fn(|cx| lease.call.poll_next(cx)).await {
                    Some(Ok(item)) if item.answer.is_none() => {}
                    Some(result) => return result,
                    None => return Err(StdioError::Closing),
                }
            }
        };
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or(Err(StdioError::Handshake { limit }))
    }

    /// Starts a child, if there is room and it is not to be left alone for a while.
    pub(super) async fn start(
        self: &Arc<Self>,
        reason: &'static str,
        era: Era,
        shared: bool,
    ) -> Result<Arc<Child>, StdioError> {
        if self.closing.is_cancelled() {
            return Err(StdioError::Closing);
        }
        self.sweep_from_now_on();
        if let Some(again) = self.backoff() {
            return Err(StdioError::Backoff { again });
        }
        let place = self.place().await?;
        self.meters.spawn(reason);
        let child = Child::start(
            &self.settings,
            &self.meters,
            era,
            shared,
            &self.tasks,
            place,
        )
        .inspect_err(|_| self.failed())?;
        let mut state = self.state();
        state.children.retain(|c| c.strong_count() > 0);
        state.children.push(Arc::downgrade(&child));
        drop(state);
        // Whoever closes stops those that are listed; it may have looked just before.
        if self.closing.is_cancelled() {
            child.stop("drain");
            return Err(StdioError::Closing);
        }
        Ok(child)
    }

    /// A place for a child. One that is on its way out is waited for.
    async fn place(&self) -> Result<OwnedSemaphorePermit, StdioError> {
        const GRACE: Duration = Duration::from_secs(1);
        let places = self.places.clone();
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let limit = self.settings.max_children.get();
        let full = StdioError::Full {
            limit,
            what: "server processes",
        };
        if !self.children().iter().any(|c| c.is_leaving()) {
            return Err(full);
        }
        let steps = self.settings.stop;
        let leaving = steps.stdin + steps.term + GRACE;
        match tokio::time::timeout(leaving, places.acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(full),
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            child.stop("refused");
        }
    }
}
