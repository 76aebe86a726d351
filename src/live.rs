//! A service that can be exchanged while it serves.
//!
//! A reload builds a new stack beside the old one and puts it here. Each request takes the service that is current when
//! it arrives, also on a connection that was opened before; a call that has begun stays with the service it began on,
//! which goes with the last that holds it.
//!
//! A clone keeps its own clone of the service between requests, so a connection that is open but idle holds the service of its last request until the
//! next one comes, or it closes. What must end at once, such as a child process, is ended by whoever swapped.
//!
//! It stands at the very top, where nobody looks at readiness: it is always ready, and waits for the inner service inside
//! the call.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use tower::Service;
use ziggurat_layers::ready::{self, Called};

/// A service that calls whichever `S` is current.
pub struct Live<S> {
    current: Arc<ArcSwap<S>>,
    /// What this clone called last, and which service that is a clone of.
    own: Option<(Arc<S>, S)>,
}

/// Exchanges the service of a [`Live`].
pub struct LiveHandle<S> {
    current: Arc<ArcSwap<S>>,
}

// === impl Live ===

impl<S> Live<S> {
    /// Starts with `service`.
    pub fn new(service: S) -> (Self, LiveHandle<S>) {
        let current = Arc::new(ArcSwap::from_pointee(service));
        let handle = LiveHandle {
            current: current.clone(),
        };
        (Self { current, own: None }, handle)
    }
}

impl<S> Clone for Live<S> {
    fn clone(&self) -> Self {
        Self {
            current: self.current.clone(),
            own: None,
        }
    }
}

impl<S> fmt::Debug for Live<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl<S, Req> Service<Req> for Live<S>
where
    S: Service<Req, Error = Infallible> + Clone,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Called<S, Req>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let current = self.current.load();
        let (_, service) = match &mut self.own {
            Some(own) if Arc::ptr_eq(&own.0, &current) => own,
            own => own.insert((current.clone(), S::clone(&current))),
        };
        ready::call(service, request)
    }
}

// === impl LiveHandle ===

impl<S> LiveHandle<S> {
    /// Puts `service` in place for the next request, and returns the one before.
    pub fn swap(&self, service: S) -> Arc<S> {
        self.current.swap(Arc::new(service))
    }

    /// The service that is current.
    pub fn current(&self) -> Arc<S> {
        self.current.load_full()
    }
}

impl<S> Clone for LiveHandle<S> {
    fn clone(&self) -> Self {
        Self {
            current: self.current.clone(),
        }
    }
}

impl<S> fmt::Debug for LiveHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveHandle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use tower::ServiceExt;

    use super::*;

    #[derive(Clone)]
    struct Named(&'static str);

    impl Service<()> for Named {
        type Response = &'static str;
        type Error = Infallible;
        type Future = Ready<Result<&'static str, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            ready(Ok(self.0))
        }
    }

    #[tokio::test]
    async fn the_next_call_takes_the_new_service_and_a_call_under_way_keeps_the_old() {
        let (live, handle) = Live::new(Named("old"));
        let clone = live.clone();
        let mut ready = live.clone();
        let Ok(ready_service) = ready.ready().await;
        let under_way = ready_service.call(());
        assert_eq!(handle.swap(Named("new")).0, "old");
        assert_eq!(under_way.await, Ok("old"));
        assert_eq!(clone.oneshot(()).await, Ok("new"));
        assert_eq!(handle.current().0, "new");
    }

    #[tokio::test]
    async fn the_old_service_goes_with_its_last_call() {
        let (live, handle) = Live::new(Named("old"));
        let old = Arc::downgrade(&handle.swap(Named("new")));
        assert!(old.upgrade().is_none());
        drop(live);
    }
}
