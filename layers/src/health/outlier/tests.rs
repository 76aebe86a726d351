use std::{num::NonZeroU32, time::Duration};

use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    Body,
    gate::{Gate, Look, Reason},
    share::Share,
};

/// The endpoints of an upstream.
struct Fleet {
    detector: OutlierDetector,
    endpoints: Vec<(OutlierHandle, Gate)>,
}

impl Fleet {
    fn new(count: usize, settings: OutlierSettings) -> Self {
        let detector = OutlierDetector::new("tools");
        detector.set(Some(settings));
        let endpoint = |at: usize| {
            let gate = Gate::new();
            (detector.endpoint(&format!("e{at}"), &gate), gate)
        };
        Self {
            endpoints: (0..count).map(endpoint).collect(),
            detector,
        }
    }

    /// So many calls at one endpoint, which end so.
    async fn calls(&self, at: usize, count: usize, status: u16) {
        let layer = OutlierLayer::new(self.endpoints[at].0.clone());
        let service = layer.layer(service_fn(move |_: Request<Body>| async move {
            let Ok(status) = StatusCode::from_u16(status) else {
                return Err::<_, BoxError>("no connection".into());
            };
            let mut response = Response::new(Body::full("x"));
            *response.status_mut() = status;
            Ok(response)
        }));
        for _ in 0..count {
            let call = service.clone().oneshot(Request::new(Body::empty()));
            if let Ok(response) = call.await {
                response.into_body().collect().await.expect("a body");
            }
        }
    }

    fn is_out(&self, at: usize) -> bool {
        self.endpoints[at].1.is_shut_by(Reason::Outlier)
    }

    fn look(&self, at: usize) -> OutlierReport {
        self.endpoints[at].0.look().expect("on")
    }
}

/// No status: the connection failed.
const BROKEN: u16 = 0;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test(start_paused = true)]
async fn gateway_errors_in_a_row_eject_at_once_and_each_time_for_longer() {
    let fleet = Fleet::new(3, OutlierSettings::default());
    for (turn, time) in [(1, 30), (2, 60), (3, 90)] {
        fleet.calls(0, 4, BROKEN).await;
        assert!(!fleet.is_out(0));
        fleet.calls(0, 1, 503).await;
        assert!(fleet.is_out(0), "{turn}");
        let report = fleet.look(0);
        assert_eq!(
            (report.ejected, report.ejections),
            (Some(seconds(time)), turn)
        );
        tokio::time::advance(seconds(time)).await;
        assert!(!fleet.is_out(0));
        assert_eq!(fleet.endpoints[0].1.look(), Look::Open);
    }
    // Two intervals of good conduct take two away.
    tokio::time::advance(seconds(20)).await;
    fleet.calls(0, 5, 502).await;
    assert_eq!(fleet.look(0).ejections, 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_itself_ends_the_row() {
    let fleet = Fleet::new(2, OutlierSettings::default());
    for other in [200, 404, 500] {
        fleet.calls(0, 4, BROKEN).await;
        fleet.calls(0, 1, other).await;
        fleet.calls(0, 4, 504).await;
        fleet.calls(0, 9, other).await;
        assert!(!fleet.is_out(0), "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_that_takes_calls_is_never_ejected() {
    let fleet = Fleet::new(2, OutlierSettings::default());
    fleet.endpoints[1].1.shut(Reason::Operator, None);
    fleet.calls(0, 20, BROKEN).await;
    assert!(!fleet.is_out(0));
    fleet.endpoints[1].1.open(Reason::Operator);
    fleet.calls(0, 1, BROKEN).await;
    assert!(fleet.is_out(0));
    fleet.calls(1, 20, BROKEN).await;
    assert!(!fleet.is_out(1));
    let alone = Fleet::new(1, OutlierSettings::default());
    alone.calls(0, 20, BROKEN).await;
    assert!(!alone.is_out(0));
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_share_is_out() {
    let settings = OutlierSettings {
        max_ejected: Share::percent(40),
        ..OutlierSettings::default()
    };
    let fleet = Fleet::new(5, settings);
    for at in 0..5 {
        fleet.calls(at, 5, BROKEN).await;
    }
    let out: Vec<_> = (0..5).filter(|at| fleet.is_out(*at)).collect();
    assert_eq!(out, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_one_that_fails_more_often_than_the_others_is_ejected_at_the_end_of_an_interval() {
    let fleet = Fleet::new(5, OutlierSettings::default());
    for at in 0..5 {
        fleet.calls(at, 30, 200).await;
    }
    fleet.calls(3, 20, 500).await;
    assert_eq!((fleet.look(3).calls, fleet.look(3).failures), (50, 20));
    assert!(!fleet.is_out(3));
    tokio::time::advance(seconds(10)).await;
    // Any call that ends has the rates compared.
    fleet.calls(0, 1, 200).await;
    let out: Vec<_> = (0..5).filter(|at| fleet.is_out(*at)).collect();
    assert_eq!(out, [3]);
    assert_eq!(fleet.look(3).calls, 0, "a new interval begins");
    // A fleet that fails as a whole is left alone.
    tokio::time::advance(seconds(40)).await;
    fleet.calls(0, 1, 200).await;
    for at in 0..5 {
        fleet.calls(at, 30, 500).await;
    }
    tokio::time::advance(seconds(10)).await;
    fleet.calls(0, 1, 500).await;
    assert!((0..5).all(|at| !fleet.is_out(at)));
}

#[tokio::test(start_paused = true)]
async fn off_lets_all_in_again_and_counts_nothing() {
    let fleet = Fleet::new(2, OutlierSettings::default());
    fleet.calls(0, 5, BROKEN).await;
    assert!(fleet.is_out(0));
    // A reload keeps what is so.
    fleet.detector.set(Some(OutlierSettings::default()));
    let again = fleet.detector.endpoint("e0", &fleet.endpoints[0].1);
    assert!(again.look().is_some_and(|report| report.ejections == 1));
    assert!(fleet.is_out(0));
    fleet.detector.set(None);
    assert!(!fleet.is_out(0));
    assert_eq!(again.look(), None);
    fleet.calls(0, 20, BROKEN).await;
    assert!(!fleet.is_out(0));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_goes_away_opens_its_gate_and_counts_no_more() {
    let settings = OutlierSettings {
        max_ejected: Share::ALL,
        consecutive: NonZeroU32::new(1),
        ..OutlierSettings::default()
    };
    let mut fleet = Fleet::new(3, settings);
    fleet.calls(2, 1, BROKEN).await;
    assert!(fleet.is_out(2));
    let (handle, gate) = fleet.endpoints.pop().expect("the third");
    drop(handle);
    assert!(!gate.is_shut_by(Reason::Outlier));
    fleet.calls(0, 1, BROKEN).await;
    fleet.calls(1, 1, BROKEN).await;
    assert!(fleet.is_out(0) && !fleet.is_out(1));
}

#[tokio::test(start_paused = true)]
async fn it_is_known_since_when_no_client_came() {
    let fleet = Fleet::new(1, OutlierSettings::default());
    tokio::time::advance(seconds(7)).await;
    assert_eq!(fleet.endpoints[0].0.quiet(), seconds(7));
    fleet.calls(0, 1, 200).await;
    assert_eq!(fleet.endpoints[0].0.quiet(), Duration::ZERO);
    // Also while it is off, and not while a stream is open.
    fleet.detector.set(None);
    let streams = OutlierLayer::new(fleet.endpoints[0].0.clone()).layer(service_fn(
        async |_: Request<Body>| Ok::<_, BoxError>(Response::new(Body::full("x"))),
    ));
    let mut request = Request::new(Body::empty());
    let accept = http::HeaderValue::from_static("text/event-stream");
    request.headers_mut().insert("accept", accept);
    let open = streams.oneshot(request).await.expect("a stream");
    tokio::time::advance(seconds(7)).await;
    assert_eq!(fleet.endpoints[0].0.quiet(), Duration::ZERO);
    drop(open);
    tokio::time::advance(seconds(7)).await;
    assert_eq!(fleet.endpoints[0].0.quiet(), seconds(7));
}

#[tokio::test(start_paused = true)]
async fn what_was_on_its_way_when_it_was_ejected_does_not_eject_it_again() {
    let fleet = Fleet::new(2, OutlierSettings::default());
    fleet.calls(0, 12, BROKEN).await;
    tokio::time::advance(seconds(30)).await;
    fleet.calls(0, 4, BROKEN).await;
    assert!(!fleet.is_out(0));
}

#[tokio::test(start_paused = true)]
async fn an_ejection_is_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let fleet =
        ::metrics::with_local_recorder(&recorder, || Fleet::new(2, OutlierSettings::default()));
    fleet.calls(1, 5, BROKEN).await;
    let text = recorder.handle().render();
    let line = "ziggurat_outlier_ejections_total{upstream=\"tools\",endpoint=\"e1\"} 1";
    assert!(text.contains(line), "{text}");
}
