//! The way of one legacy request: from the id that the client knows to the one that its upstream knows, and back.

use std::{
    any::Any,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body as HttpBody;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};
use tower::{Service, ServiceExt};

use super::{
    BadSessionId, Heal, Result, SessionBody, SessionGone, Shared,
    body::{InHand, Life},
    heal::{self, Again, NotHealed},
    seal::{Bound, Serial, Ticket},
    store::{Asked, Ending, Home, Live, NotLive, Note, SessionKey, SessionStore, Visit},
};
use crate::{
    Body,
    attempt::{InSession, Pinned},
    deadline::DeadlineExceeded,
    error::{BoxError, find},
    exchange::Exchange,
    fault::Fault,
    gate::{GateShut, Reason},
    mcp::{Verb, headers::SESSION_ID},
    metrics::{self, names},
};

/// One request.
pub(super) struct Way {
    pub(super) shared: Arc<Shared>,
    pub(super) exchange: Arc<Exchange>,
}

/// A session that a request belongs to.
struct Member {
    key: SessionKey,
    /// The id as the client sent it.
    sealed: HeaderValue,
    /// The request that is at hand.
    asked: Asked,
    live: Live,
    in_hand: Option<Arc<InHand>>,
}

/// A place for a session; given back if none begins.
struct Place {
    store: Arc<dyn SessionStore>,
    key: SessionKey,
    initialize: Option<Bytes>,
    taken: bool,
}

/// Why a session cannot be used where it lives. Nothing came of the request that found out.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// Its upstream does not know it any more, or its endpoint was taken out. If it is not begun anew, it is over, for this reason.
    Over(Ending),
    /// Its endpoint cannot be reached now, and another one could. If it is not begun anew there, it waits.
    OutOfReach,
}

/// How long a session that could not be moved is left where it is.
const PAUSE: Duration = Duration::from_secs(5);

/// What the upstream said.
type Outcome<B> = std::result::Result<Response<B>, BoxError>;

impl Way {
    pub(super) async fn go<S, B>(self, mut inner: S, request: Request<Body>) -> Result<B>
    where
        S: Service<Request<Body>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        if let Some(sealed) = request.headers().get(SESSION_ID).cloned() {
            return self.follow(sealed, inner, request).await;
        }
        let begins = self.exchange.call().is_some_and(|c| c.is_initialize());
        let place = if begins {
            // For a heal, if there may be one.
            let kept = self.shared.settings.heal != Heal::Never;
            let initialize = request.body().bytes().filter(|_| kept).cloned();
            Some(self.reserve(initialize).await?)
        } else {
            None
        };
        let uri = request.uri().clone();
        let mut response = inner.call(request).await.map_err(Into::into)?;
        self.greet(&mut response, place, uri).await?;
        Ok(response.map(|inner| SessionBody::new(inner, None)))
    }

    fn route(&self) -> Arc<str> {
        let route = self.exchange.route();
        route.map_or_else(|| "".into(), |route| route.name.clone())
    }

    fn is_get(&self) -> bool {
        self.exchange.call().is_some_and(|c| c.verb == Verb::Get)
    }

    // === requests of a session ===

    /// Opens an id, and finds the session.
    async fn member(&self, sealed: HeaderValue, uri: Uri) -> std::result::Result<Member, BoxError> {
        let principal = self.exchange.principal();
        let route = self.route();
        let bound = Bound {
            route: &route,
            principal: principal.map(|p| &**p),
        };
        let call = self.exchange.call();
        let id = call.and_then(|call| call.session.as_deref());
        let ticket = id.and_then(|id| self.shared.keys.open(id, bound));
        let ticket = ticket.ok_or_else(SessionGone::default)?;
        let key = SessionKey {
            route,
            serial: ticket.serial,
        };
        // A stream may be open for ever; whatever else there is ends.
        let in_hand = !self.is_get();
        let asked = Asked {
            uri,
            version: call.and_then(|call| call.version.clone()),
        };
        let visit = Visit {
            home: Home {
                endpoint: ticket.endpoint,
                upstream_id: ticket.upstream_id,
            },
            asked: &asked,
            principal: principal.cloned(),
            age: unix_time().saturating_sub(Duration::from_secs(ticket.minted)),
            in_hand,
        };
        let store = &self.shared.store;
        match store.enter(&key, visit, &self.shared.limits).await {
            Ok(live) => Ok(Member {
                in_hand: in_hand.then(|| Arc::new(InHand::new(store.clone(), key.clone()))),
                key,
                sealed,
                asked,
                live,
            }),
            Err(NotLive::Ended) => Err(SessionGone::default().into()),
            Err(NotLive::Full(full)) => Err(full.into()),
        }
    }

    /// Sends a request of a session to where it lives; once more, if the session had to be healed for it.
    async fn follow<S, B>(
        &self,
        sealed: HeaderValue,
        mut inner: S,
        request: Request<Body>,
    ) -> Result<B>
    where
        S: Service<Request<Body>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let mut member = self.member(sealed, request.uri().clone()).await?;
        let deletes = request.method() == Method::DELETE;
        let heals = self.shared.settings.heal != Heal::Never && !deletes;
        let (parts, body) = request.into_parts();
        let again = heals.then(|| Again::of(&parts, &body)).flatten();
        let bytes = body.bytes().cloned();
        let mut request = Request::from_parts(parts, body);
        member.lead(&mut request)?;
        let (mut result, mut lost) = self.send(&member, &mut inner, request).await;
        if let Some((again, loss)) = again.zip(lost) {
            let mut refusal = Some(result);
            let healed = self.heal(&member, loss, &again, &mut inner, &mut refusal);
            let Some(live) = healed.await? else {
                return match refusal {
                    Some(result) => self.back(member, deletes, result, lost).await,
                    None => Err(SessionGone::default().into()),
                };
            };
            // Also where somebody else healed it: the request must not wait for a place that its own refusal holds.
            drop(refusal);
            member.live = live;
            self.exchange.response().reset();
            self.exchange.go_on();
            let mut request = again.into_request();
            member.lead(&mut request)?;
            (result, lost) = self.send(&member, &mut inner, request).await;
        }
        if result.as_ref().is_ok_and(|r| r.status().is_success()) {
            // What was not asked of the upstream says nothing of it.
            let streamed = self.is_get() && !self.exchange.response().resumes_call();
            self.note(&member, streamed.then_some(Note::Streamed));
            if let Some((call, bytes)) = self.exchange.asked().zip(bytes) {
                self.note(&member, heal::notes(call, &bytes));
            }
        }
        self.back(member, deletes, result, lost).await
    }

    /// Sends a request, and keeps account of the calls that may have left something in the session. Says also whether the session is lost.
    async fn send<S, B>(
        &self,
        member: &Member,
        inner: &mut S,
        request: Request<Body>,
    ) -> (Outcome<B>, Option<Loss>)
    where
        S: Service<Request<Body>, Response = Response<B>>,
        S::Error: Into<BoxError>,
    {
        let risky = self.exchange.call().is_some_and(heal::is_risky);
        self.note(member, risky.then_some(Note::Risky));
        let ready = inner.ready().await.map_err(Into::into);
        let called = ready.is_ok();
        let result = match ready {
            Ok(inner) => inner.call(request).await.map_err(Into::into),
            Err(error) => Err(error),
        };
        let (lost, rejected) = match &result {
            Ok(response) => {
                let lost = self.is_lost(member, response.status());
                (lost.then_some(Loss::Over(Ending::Lost)), lost)
            }
            Err(error) => {
                let fault = Fault::of(&**error);
                if fault == Fault::SessionGone {
                    self.shared.store.end(&member.key, Ending::Lost);
                }
                let lost = if fault == Fault::EndpointGone {
                    Some(Loss::Over(Ending::EndpointGone))
                } else {
                    self.is_out_of_reach(error, &fault)
                        .then_some(Loss::OutOfReach)
                };
                (lost, !called || heal::is_unsent(&fault))
            }
        };
        self.note(member, (risky && rejected).then_some(Note::Rejected));
        (result, lost)
    }

    fn note(&self, member: &Member, notes: impl IntoIterator<Item = Note>) {
        for note in notes {
            self.shared.store.note(&member.key, note);
        }
    }

    /// By this status the upstream says that it does not know the session.
    fn is_lost(&self, member: &Member, status: StatusCode) -> bool {
        // A server that has no GET may say so with a 404, too, which is no word about the session.
        let telling = member.live.streamed || !self.is_get();
        telling && self.shared.settings.lost.contains(&status)
    }

    /// There is no connection to the endpoint, or its breaker is open and its probes fail, too: a breaker may be open for load alone, and then all
    /// sessions would move, and back. And there is another endpoint. What only goes with a call (an answer, a cancellation) moves nothing: its call is there.
    fn is_out_of_reach(&self, error: &BoxError, fault: &Fault) -> bool {
        let unreachable = match fault {
            Fault::ConnectFailed(_) | Fault::ConnectTimeout(_) => true,
            _ => find::<GateShut>(&**error).is_some_and(|shut| shut.reason == Reason::Health),
        };
        let call = self.exchange.call();
        unreachable
            && self.exchange.may_go_elsewhere()
            && call.is_some_and(|call| !call.is_fire_and_forget())
    }

    /// Begins a lost session anew, if that is honest and nobody else just did; says how it stands then. One that stays lost is over, and one that is
    /// out of reach waits; so it does if the upstream could not be asked now: its error is all that happens, and another request may have more
    /// luck. Without a `Live` there is no session any more, or it waits.
    ///
    /// A response holds its places under the caps until its body is gone. So the refusal is let go before anything is sent, and before
    /// somebody else is waited for, who may need a place.
    async fn heal<S, B>(
        &self,
        member: &Member,
        loss: Loss,
        again: &Again,
        inner: &mut S,
        refusal: &mut Option<Outcome<B>>,
    ) -> std::result::Result<Option<Live>, BoxError>
    where
        S: Service<Request<Body>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let turn = &member.live.turn;
        let mut turn = match turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                refusal.take_if(|refusal| refusal.is_ok());
                self.turn(turn).await?
            }
        };
        let store = &self.shared.store;
        let Some((live, history)) = store.recall(&member.key).await else {
            return Ok(None);
        };
        let old = &member.live.home;
        if live.home != *old {
            return Ok(Some(live));
        }
        let moves = matches!(loss, Loss::OutOfReach);
        if moves && turn.is_some_and(|again| Instant::now() < again) {
            return Ok(None);
        }
        let own = self.exchange.endpoint();
        let own = own.as_ref().map(|e| &*e.upstream);
        // Whoever waits for the turn must not try again.
        let over = |upstream, outcome| {
            if let Loss::Over(why) = loss {
                count(upstream, outcome);
                store.end(&member.key, why);
            }
            Ok(None)
        };
        let Some(initialize) = &history.initialize else {
            return over(own, "unknown");
        };
        let settings = &self.shared.settings;
        if settings.heal == Heal::Safe && !settings.stateless && history.risky > 0 {
            return over(own, "unsafe");
        }
        refusal.take_if(|refusal| refusal.is_ok());
        let away = moves.then(|| old.endpoint.clone());
        let mut handshake = again.handshake(inner, self.exchange.clone(), away);
        let begun = tokio::time::timeout(heal::LIMIT, handshake.begin(initialize, &history)).await;
        let upstream = handshake.upstream().or(own);
        let (session, request_id) = (member.key.serial, self.exchange.id());
        match begun.unwrap_or(Err(NotHealed::Late)) {
            Ok(home) => {
                count(upstream, "healed");
                tracing::info!(upstream, %session, request_id, "a lost session was begun anew");
                let settled = store.settle(&member.key, old, home.clone(), moves).await;
                if settled.as_ref().is_none_or(|live| live.home != home) {
                    // It ended meanwhile.
                    handshake.take_back(&home).await;
                }
                Ok(settled)
            }
            Err(NotHealed::Away(error)) if !moves => {
                count(upstream, "failed");
                Err(error)
            }
            Err(error) => {
                if moves {
                    *turn = Some(Instant::now() + PAUSE);
                }
                let error: &dyn std::error::Error = &error;
                tracing::warn!(upstream, %session, request_id, error, "a lost session could not be begun anew");
                over(upstream, "failed")
            }
        }
    }

    /// Waits until nobody else heals the session, but not for all of them one after another, nor beyond the deadline of the call.
    async fn turn<'a>(
        &self,
        turn: &'a Mutex<Option<Instant>>,
    ) -> std::result::Result<MutexGuard<'a, Option<Instant>>, DeadlineExceeded> {
        let last = Instant::now() + heal::LIMIT;
        let due = self.exchange.due().filter(|due| *due < last);
        let limit = match due {
            Some(due) => due.saturating_duration_since(self.exchange.started()),
            None => heal::LIMIT,
        };
        let waited = tokio::time::timeout_at(due.unwrap_or(last), turn.lock()).await;
        // The upstream refused the request, so nothing came of it.
        waited.map_err(|_| DeadlineExceeded { limit, sent: false })
    }

    /// What the upstream answered to a request of a session, and why the session is lost, if it is.
    async fn back<B>(
        &self,
        mut member: Member,
        deletes: bool,
        result: Outcome<B>,
        lost: Option<Loss>,
    ) -> Result<B>
    where
        B: HttpBody<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let end = |why| self.shared.store.end(&member.key, why);
        let mut response = match (result, lost) {
            (Ok(response), _) => response,
            (Err(error), None | Some(Loss::OutOfReach)) => return Err(error),
            (Err(error), Some(Loss::Over(why))) => {
                end(why);
                let source = Some(error);
                return Err(SessionGone { source }.into());
            }
        };
        let status = response.status();
        if deletes {
            let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
            if status.is_success() || unknown.contains(&status) {
                end(Ending::Deleted);
            }
        } else if let Some(Loss::Over(why)) = lost {
            end(why);
            if status != StatusCode::NOT_FOUND {
                return Err(SessionGone::default().into());
            }
        }
        match response.headers().get(SESSION_ID) {
            None => {}
            Some(id) if id.as_bytes() == member.live.home.upstream_id.as_bytes() => {
                let sealed = member.sealed.clone();
                response.headers_mut().insert(SESSION_ID, sealed);
            }
            Some(_) => {
                let uri = std::mem::take(&mut member.asked.uri);
                self.greet(&mut response, None, uri).await?;
            }
        }
        let life = self.life(member);
        Ok(response.map(|inner| SessionBody::new(inner, Some(life))))
    }

    fn life(&self, member: Member) -> Life {
        // Only streams that stand are cut when the session ends: a call goes on to its answer.
        let ended = member.in_hand.is_none().then_some(member.live.ended);
        Life::new(
            self.shared.store.clone(),
            member.key,
            self.exchange.clone(),
            member.in_hand,
            ended,
        )
    }

    // === new sessions ===

    async fn reserve(&self, initialize: Option<Bytes>) -> std::result::Result<Place, BoxError> {
        let place = Place {
            store: self.shared.store.clone(),
            key: SessionKey {
                route: self.route(),
                serial: Serial::random()?,
            },
            initialize,
            taken: false,
        };
        let principal = self.exchange.principal().cloned();
        let limits = &self.shared.limits;
        place.store.reserve(&place.key, principal, limits).await?;
        Ok(place)
    }

    /// Seals the id of a session that the upstream has begun, if it has. Servers begin one with their answer to `initialize`, some of them
    /// with another, which passes without its id if there is no place: its call was executed. The id of one that failed is left out.
    async fn greet<B>(
        &self,
        response: &mut Response<B>,
        place: Option<Place>,
        uri: Uri,
    ) -> std::result::Result<(), BoxError> {
        if !response.headers().contains_key(SESSION_ID) {
            return Ok(());
        }
        if !response.status().is_success() {
            response.headers_mut().remove(SESSION_ID);
            return Ok(());
        }
        let upstream_id = heal::upstream_id(response.headers()).ok_or(BadSessionId)?;
        let place = match place {
            Some(place) => place,
            None => match self.reserve(None).await {
                Ok(place) => place,
                Err(error) => {
                    let error: &dyn std::error::Error = &*error;
                    tracing::debug!(error, "left out the id of a session that has no place");
                    response.headers_mut().remove(SESSION_ID);
                    return Ok(());
                }
            },
        };
        let endpoint = self.exchange.endpoint();
        let ticket = Ticket {
            serial: place.key.serial,
            minted: unix_time().as_secs(),
            endpoint: endpoint.map_or_else(|| "".into(), |e| e.endpoint.clone()),
            upstream_id,
        };
        let bound = Bound {
            route: &place.key.route,
            principal: self.exchange.principal().map(|p| &**p),
        };
        let sealed = self.shared.keys.seal(&ticket, bound).ok_or(BadSessionId)?;
        let sealed = HeaderValue::try_from(sealed).map_err(|_| BadSessionId)?;
        let home = Home {
            endpoint: ticket.endpoint,
            upstream_id: ticket.upstream_id,
        };
        place.begin(home, uri).await;
        response.headers_mut().insert(SESSION_ID, sealed);
        Ok(())
    }
}

/// Counts what became of a lost session. Rare enough to look the counter up.
fn count(upstream: Option<&str>, outcome: &'static str) {
    let labels = [
        ("upstream", upstream.unwrap_or("other")),
        ("outcome", outcome),
    ];
    metrics::counter(names::REINITIALIZE, &labels).increment(1);
}

/// The time of the system's clock, which processes share.
fn unix_time() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

// === impl Member ===

impl Member {
    /// Sends a request to where the session lives.
    fn lead(&self, request: &mut Request<Body>) -> std::result::Result<(), SessionGone> {
        let home = &self.live.home;
        let id = HeaderValue::from_str(&home.upstream_id).map_err(|_| SessionGone::default())?;
        request.headers_mut().insert(SESSION_ID, id);
        let busy = self.in_hand.as_ref().map(|in_hand| {
            let busy: Weak<dyn Any + Send + Sync> = Arc::<InHand>::downgrade(in_hand);
            busy
        });
        request.extensions_mut().insert(InSession {
            serial: self.key.serial.number(),
            ended: self.live.ended.clone(),
            busy,
        });
        if !home.endpoint.is_empty() {
            request
                .extensions_mut()
                .insert(Pinned(home.endpoint.clone()));
        }
        Ok(())
    }
}

// === impl Place ===

impl Place {
    async fn begin(mut self, home: Home, uri: Uri) {
        let initialize = self.initialize.take();
        let version = None; // It is yet to be said.
        let asked = Asked { uri, version };
        self.store.begin(&self.key, home, asked, initialize).await;
        self.taken = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.taken {
            self.store.end(&self.key, Ending::Unused);
        }
    }
}
