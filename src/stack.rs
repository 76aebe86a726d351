//! The screen: the whole way of a request, top first, one line for each layer.
//!
//! Start and reload call [`tower`], and nothing else assembles layers. Boxed only where types must meet: an endpoint, a route, the
//! server. A layer that is off is a pass-through inside itself, so the type of the stack does not depend on the file.
//! A layer that is missing here (auth, tape, …) does not exist yet.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use tower::{Service, ServiceBuilder, util::BoxCloneSyncService};
use ziggurat_layers::{
    Body, BoxError,
    access_log::AccessLogLayer,
    balance::{Balance, LoadLayer},
    body_limit::BodyLimitLayer,
    credentials::CredentialsLayer,
    deadline::DeadlineLayer,
    drain::DrainLayer,
    exchange::ExchangeLayer,
    guard::{CorsLayer, GuardLayer},
    health::outlier::OutlierLayer,
    heartbeat::HeartbeatLayer,
    inspect::InspectLayer,
    observe::ObserveLayer,
    record::{ClientRecordLayer, ServerRecordLayer},
    rescue::RescueLayer,
    resume::ResumeLayer,
    route::Router,
    switch::SwitchLayer,
    timeout::TimeoutLayer,
};

use crate::{
    erase::erase,
    settings::{EndpointSettings, RouteSettings, ServerSettings},
    trace::TraceLayer,
};

/// What a terrace looks like from above.
pub type Terrace = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// The finished tower: errors have become responses.
pub type Tower = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The server terrace: every request on the listener.
///
/// Log and metrics stand outside rescue, so that they see what the client sees. So do heartbeats, after whose end nothing may come. Security checks come before anything is allocated
/// for a request, size before names.
pub fn server(settings: &ServerSettings, routes: Router<Terrace>) -> Tower {
    let service = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(TraceLayer::new())
        .layer(AccessLogLayer::new(settings.access_log))
        .layer(ServerRecordLayer::new(settings.routes(), &settings.tools))
        .layer(CorsLayer::new(settings.guard.clone()))
        .layer(HeartbeatLayer::new(settings.heartbeat))
        .layer(RescueLayer::new())
        .layer(DrainLayer::new(settings.drain.clone()))
        .layer(BodyLimitLayer::new(settings.body_limit))
        .layer(GuardLayer::new(settings.guard.clone()))
        .service(routes);
    Tower::new(erase(service))
}

/// The route terrace: one route.
///
/// The server's caps stand here, behind inspect, because what waits for a call (notifications, answers to the server's questions) must pass them,
/// and only inspect knows it; all routes share them. Old clients are served outside all that, so that everything inside sees Streamable HTTP alone.
/// What the operator switched off is refused before a session or a place is taken for it.
/// Rate limits stand inside the sessions, so that no made-up id is a key, and outside the caps, so that who is refused takes no place; retry is
/// inside, so a call counts once. Replay stands inside session, whose streams it keeps, and outside caps and deadline, so that a call that goes on
/// without its client keeps its places and its time. Rules see a call once, as it is let in, and what they change is what is kept; no clock runs while it
/// waits for an operator. The deadline spans everything that may be tried; each attempt is placed anew.
pub fn route(settings: &RouteSettings, balance: Balance<Terrace>) -> Terrace {
    // What old clients post becomes requests of their own, which are logged, counted and answered for like those of others.
    let own = ServiceBuilder::new()
        .layer(AccessLogLayer::new(settings.access_log))
        .layer(ServerRecordLayer::new([&*settings.info.name], &settings.tools).without_streams())
        .layer(RescueLayer::new())
        .layer(DrainLayer::new(settings.drain.clone()))
        .into_inner();
    let service = ServiceBuilder::new()
        .layer(InspectLayer::new(settings.inspect))
        .layer(settings.http_sse.clone().own(own))
        .layer(CredentialsLayer::new(settings.credentials.clone()))
        .layer(SwitchLayer::new(&settings.switches))
        .layer(settings.session.clone())
        .layer(settings.rate_limit.clone())
        .layer(settings.replay.clone())
        .layer(settings.limit.clone())
        .layer(settings.own_limit.clone())
        .layer(settings.intercept.clone())
        .layer(DeadlineLayer::new(settings.deadline.clone()))
        .layer(settings.retry.clone())
        .service(balance);
    Terrace::new(erase(service))
}

/// The way of a probe: the real one, below all that would refuse or count it as a call.
pub fn probe<U, B>(upstream: U) -> Terrace
where
    U: Service<Request<Body>, Response = Response<B>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    U::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Terrace::new(erase(upstream))
}

/// The endpoint terrace: one replica of an upstream.
///
/// The balancer reads the load and the gate, which breaker and cap shut; what they refuse is no attempt. Metrics stand outside the clocks, so that a timeout is a failure of the endpoint; the observer stands directly above the upstream, so
/// that everybody above it knows what passed, and the bodies that go on with a broken stream pass it, too: to everybody else it is one
/// stream, whose clocks run on.
pub fn endpoint<U, B>(settings: &EndpointSettings, upstream: U) -> Terrace
where
    U: Service<Request<Body>, Response = Response<B>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    U::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = ServiceBuilder::new()
        .layer(LoadLayer::new(settings.endpoint.clone()))
        .layer(settings.circuit.clone())
        .layer(OutlierLayer::new(settings.outlier.clone()))
        .layer(settings.limit.clone())
        .layer(ClientRecordLayer::new(
            &settings.upstream,
            settings.endpoint.name(),
            settings.transport,
            &settings.tools,
        ))
        .layer(TimeoutLayer::new(settings.timeouts.clone()))
        .layer(ResumeLayer::new(&settings.upstream, settings.resume))
        .layer(ObserveLayer::sharing(
            &settings.upstream,
            settings.waits.clone(),
        ))
        .service(upstream);
    Terrace::new(erase(service))
}
