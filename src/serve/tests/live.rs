//! A reload under a connection that stays.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use super::super::testing::TestBody;
use super::*;
use crate::live::Live;

type Stack = BoxCloneSyncService<Request<Incoming>, Response<TestBody>, Infallible>;

fn stack(name: &'static str) -> Stack {
    BoxCloneSyncService::new(service_fn(move |_| async move { Ok(whole(name)) }))
}

#[tokio::test]
async fn a_swap_takes_effect_on_a_kept_alive_connection() {
    let (live, handle) = Live::new(stack("old."));
    let running = Running::start(live, ServeSettings::default()).await;
    let mut client = running.raw().await;
    client.get("/").await;
    client.until("old.").await;
    handle.swap(stack("new."));
    client.get("/").await;
    client.until("new.").await;
}
