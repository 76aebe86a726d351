//! Calling a service that need not be ready: in place where it is, which saves a clone for each request.
//!
//! A service that stands behind a choice (a router, a swap) cannot be made ready before the request is there. [`call`] asks it at that
//! moment. What is ready is called where it stands; what is not goes into the future to wait there, and leaves a clone behind, so
//! a place in a queue that it may have is never left with a service that nobody polls.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use pin_project::pin_project;
use tower::{Service, ServiceExt, util::Oneshot};

/// The future of [`call`].
#[pin_project]
pub struct Called<S: Service<R>, R>(#[pin] State<S, R>);

#[pin_project(project = StateProj)]
enum State<S: Service<R>, R> {
    Now(#[pin] S::Future),
    Later(Pin<Box<Oneshot<S, R>>>),
    Failed(Option<S::Error>),
}

/// Calls `service` as soon as it is ready.
pub fn call<S, R>(service: &mut S, request: R) -> Called<S, R>
where
    S: Service<R> + Clone,
{
    let mut context = Context::from_waker(Waker::noop());
    Called(match service.poll_ready(&mut context) {
        Poll::Ready(Ok(())) => State::Now(service.call(request)),
        Poll::Ready(Err(error)) => State::Failed(Some(error)),
        Poll::Pending => {
            let clone = service.clone();
            let waiting = mem::replace(service, clone);
            State::Later(Box::pin(waiting.oneshot(request)))
        }
    })
}

impl<S, R> Future for Called<S, R>
where
    S: Service<R>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Now(inner) => inner.poll(cx),
            StateProj::Later(waiting) => waiting.as_mut().poll(cx),
            StateProj::Failed(error) => {
                Poll::Ready(Err(error.take().expect("polled after its end")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;
    use tokio_test::{assert_pending, task};
    use tower::{Layer, limit::GlobalConcurrencyLimitLayer, service_fn};

    use super::*;

    #[tokio::test]
    async fn what_is_not_ready_waits_in_its_future_and_leaves_nothing_behind() {
        let places = Arc::new(Semaphore::new(1));
        let limit = GlobalConcurrencyLimitLayer::with_semaphore(places.clone());
        let mut service = limit.layer(service_fn(async |n: u32| Ok::<_, ()>(n)));
        let taken = places.clone().acquire_owned().await.expect("open");
        let mut waiting = task::spawn(call(&mut service, 1));
        assert_pending!(waiting.poll());
        drop(taken);
        assert!(waiting.is_woken());
        assert_eq!(waiting.await, Ok(1));
        assert_eq!(places.available_permits(), 1);
        assert_eq!(call(&mut service, 2).await, Ok(2));
    }
}
