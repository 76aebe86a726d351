//! Tasks that end as they should not: whoever waits for them is told.

use tracing::{Event, Metadata, Subscriber, span};

use super::*;

/// Hears what is read of a child, and panics.
struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        of.target().ends_with("stdio::child::input")
    }

    fn event(&self, _: &Event<'_>) {
        panic!("told to");
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_reader_that_panics_fails_its_childs_calls_and_another_child_follows() {
    let rig = Rig::new(r#"*'"name":"noise"'*) say noise ;;"#, |_| {});
    let session = rig.open().await;
    let stream = rig.send(get(&session)).await.expect("a stream");
    let held = rig.start(post(&session, tool(1, "hold", 0)));
    rig.pending(1).await;
    let hears = tracing::subscriber::set_default(Panics);
    let error = rig.error(post(&session, tool(2, "noise", 0))).await;
    drop(hears);
    for error in [
        error,
        *held
            .await
            .expect("no panic")
            .expect_err("it has failed")
            .downcast()
            .expect("one of ours"),
    ] {
        let gone = StdioError::Gone {
            how: Gone::Closed,
            sent: true,
        };
        assert_eq!(error.to_string(), gone.to_string());
    }
    assert!(read(stream).await.messages.is_empty());
    let gone = rig.error(post(&session, tool(3, "echo", 0))).await;
    assert!(matches!(gone, StdioError::SessionGone), "{gone}");
    rig.until("nobody is left", |rig| {
        rig.upstream.report().pids().is_empty()
    })
    .await;
    let next = rig.open().await;
    rig.reply(post(&next, tool(4, "echo", 0))).await;
}

#[test]
fn a_caller_elsewhere_is_told_when_the_runtime_of_its_child_ends() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (theirs, ours) = (runtime(), runtime());
    let rig = Rig::plain();
    let session = theirs.block_on(rig.open());
    let (stream, held) = ours.block_on(async {
        let stream = rig.send(get(&session)).await.expect("a stream");
        let held = rig.start(post(&session, tool(1, "hold", 0)));
        rig.pending(1).await;
        (stream, held)
    });
    drop(theirs);
    ours.block_on(async {
        let held = tokio::time::timeout(PATIENCE, held)
            .await
            .expect("told in time");
        let error = held.expect("no panic").expect_err("it has failed");
        assert!(
            matches!(stdio(&*error), StdioError::Gone { sent: true, .. }),
            "{error}"
        );
        let stream = tokio::time::timeout(PATIENCE, read(stream)).await;
        assert!(stream.expect("ended in time").messages.is_empty());
        let gone = rig.error(post(&session, tool(2, "echo", 0))).await;
        assert!(matches!(gone, StdioError::SessionGone), "{gone}");
    });
}
