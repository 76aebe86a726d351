//! The screen: the whole way of a request, top first, one line for each layer.
//!
//! Start and reload call [`tower`], and nothing else assembles layers. Boxed only where types must meet: an endpoint, a route, the
//! server. A layer that is off is a pass-through inside itself, so the type of the stack does not depend on the file.
//! A layer that is missing here (auth, rate limit, intercept, resume, …) does not exist yet.

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
    inspect::InspectLayer,
    observe::ObserveLayer,
    record::{ClientRecordLayer, ServerRecordLayer},
    rescue::RescueLayer,
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
/// Log and metrics stand outside rescue, so that they see what the client sees. Security checks come before anything is allocated
/// for a request, size before names.
pub fn server(settings: &ServerSettings, routes: Router<Terrace>) -> Tower {
    let service = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(TraceLayer::new())
        .layer(AccessLogLayer::new(settings.access_log))
        .layer(ServerRecordLayer::new(settings.routes(), &settings.tools))
        .layer(CorsLayer::new(settings.guard.clone()))
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
/// and only inspect knows it; all routes share them. What the operator switched off is refused before a session or a place is taken for it. The deadline spans everything that may be tried; each attempt is placed anew.
pub fn route(settings: &RouteSettings, balance: Balance<Terrace>) -> Terrace {
    let service = ServiceBuilder::new()
        .layer(InspectLayer::new(settings.inspect))
        .layer(CredentialsLayer::new(settings.credentials.clone()))
        .layer(SwitchLayer::new(&settings.switches))
        .layer(settings.session.clone())
        .layer(settings.limit.clone())
        .layer(settings.own_limit.clone())
        .layer(DeadlineLayer::new(settings.deadline))
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
/// that everybody above it knows what passed.
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
        .layer(TimeoutLayer::new(settings.timeouts))
        .layer(ObserveLayer::new(&settings.upstream))
        .service(upstream);
    Terrace::new(erase(service))
}
