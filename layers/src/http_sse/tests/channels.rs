//! Which GETs open a channel, who may post to it, and when it ends.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_quiet_channel_ends_and_one_with_a_call_does_not() {
    let settings = HttpSseSettings {
        idle: Duration::from_secs(60),
        ..HttpSseSettings::default()
    };
    let rig = rig(settings, lonely(405));
    let begun = tokio::time::Instant::now();
    let mut quiet = rig.open().await;
    assert_eq!(quiet.event().await, None);
    assert_eq!(begun.elapsed(), Duration::from_secs(60));
    let mut busy = rig.open().await;
    assert_eq!(busy.post(request(1, "hang")).await, 202);
    assert!(
        tokio::time::timeout(Duration::from_secs(3600), busy.event())
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_calls_of_a_channel() {
    let draining = CancellationToken::new();
    let settings = HttpSseSettings {
        draining: draining.clone(),
        calls: NonZeroUsize::MIN,
        ..HttpSseSettings::default()
    };
    let rig = rig(settings, lonely(405));
    let (mut busy, mut idle) = (rig.open().await, rig.open().await);
    assert_eq!(busy.post(request(1, "progress")).await, 202);
    draining.cancel();
    assert_eq!(idle.event().await, None);
    assert_eq!(busy.message().await["method"], "notifications/progress");
    assert_eq!(busy.message().await["id"], 1);
    assert_eq!(busy.event().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_the_upstream_is_left_to_it() {
    let rig = rig(HttpSseSettings::default(), lonely(200));
    assert!(
        rig.send(get(&[]))
            .await
            .expect("an answer")
            .body()
            .is_end_stream()
    );
    assert!(rig.channels.is_empty());
    let rig = self::rig(
        HttpSseSettings {
            serve: Serve::Always,
            ..HttpSseSettings::default()
        },
        lonely(200),
    );
    let _client = rig.open().await;
    assert!(rig.server.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_old_clients_are_concerned() {
    for mode in [Serve::Auto, Serve::Always, Serve::Off] {
        let rig = rig(
            HttpSseSettings {
                serve: mode,
                ..HttpSseSettings::default()
            },
            lonely(405),
        );
        let mut cases = vec![
            &[("mcp-session-id", "x")][..],
            &[("mcp-protocol-version", "2025-03-26")],
            &[("last-event-id", "x")],
        ];
        if mode == Serve::Off {
            cases.push(&[]);
        }
        for headers in cases {
            let response = rig.send(get(headers)).await.expect("an answer");
            assert_eq!(response.status(), 405, "{mode:?} {headers:?}");
        }
        assert!(rig.channels.is_empty());
        let answer = rig.send(post("http://h/mcp", &request(1, "ping"))).await;
        assert_eq!(answer.expect("an answer").status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_good_for_one_route_and_principal() {
    let rig = rig(HttpSseSettings::default(), lonely(405));
    let client = rig.open().await;
    for (route, principal) in [(Some("other"), None), (None, Some("mallory"))] {
        let mut request = post(&client.endpoint, &request(1, "ping"));
        let exchange = Exchange::of(&mut request);
        if let Some(name) = route {
            exchange.set_route(Arc::new(RouteInfo {
                name: name.into(),
                prefix: "/mcp".into(),
                errors: ErrorStyle::Envelope,
            }));
        }
        if let Some(principal) = principal {
            exchange.set_principal(principal.into());
        }
        let refused = rig.send(request).await.expect_err("refused");
        assert_eq!(crate::error::find(&*refused), Some(&NoChannel));
    }
    assert_eq!(client.post(request(1, "ping")).await, 202);
    let guess = format!("http://h/mcp?{PARAMETER}{}", "A".repeat(43));
    assert!(rig.send(post(&guess, &request(1, "ping"))).await.is_err());
}

#[test]
fn a_channel_that_has_ended_begins_no_call() {
    let exchange = Exchange::of(&mut get(&[]));
    let channel = channel::Channel::new(&exchange, &HttpSseSettings::default());
    let channel = Arc::new(channel);
    assert!(matches!(channel.begin(1), Ok(Ok(_))));
    channel.end();
    assert_eq!(channel.begin(1).err(), Some(NoChannel));
}
