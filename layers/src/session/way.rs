//! The way of one legacy request: from the id that the client knows to the one that its upstream knows, and back.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tower::Service;

use super::{
    BadSessionId, Result, SessionBody, SessionGone, Shared,
    body::{InHand, Life},
    seal::{Bound, Serial, Ticket},
    store::{Ending, Home, Live, NotLive, SessionKey, SessionStore, Visit},
};
use crate::{
    Body,
    attempt::Pinned,
    error::BoxError,
    exchange::Exchange,
    fault::Fault,
    mcp::{
        Verb,
        headers::{self, SESSION_ID},
    },
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
    live: Live,
    in_hand: Option<InHand>,
}

/// A place for a session; given back if none begins.
struct Place {
    store: Arc<dyn SessionStore>,
    key: SessionKey,
    taken: bool,
}

impl Way {
    pub(super) async fn go<S, B>(self, mut inner: S, mut request: Request<Body>) -> Result<B>
    where
        S: Service<Request<Body>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if let Some(sealed) = request.headers().get(SESSION_ID).cloned() {
            let deletes = request.method() == Method::DELETE;
            let member = self.member(sealed).await?;
            member.lead(&mut request)?;
            let result = inner.call(request).await.map_err(Into::into);
            return self.back(member, deletes, result).await;
        }
        let begins = self.exchange.call().is_some_and(|c| c.is_initialize());
        let place = if begins {
            Some(self.reserve().await?)
        } else {
            None
        };
        let mut response = inner.call(request).await.map_err(Into::into)?;
        self.greet(&mut response, place).await?;
        Ok(response.map(|inner| SessionBody::new(inner, None)))
    }

    fn route(&self) -> Arc<str> {
        let route = self.exchange.route();
        route.map_or_else(|| "".into(), |route| route.name.clone())
    }

    // === requests of a session ===

    /// Opens an id, and finds the session.
    async fn member(&self, sealed: HeaderValue) -> std::result::Result<Member, BoxError> {
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
        let in_hand = call.is_some_and(|call| call.verb != Verb::Get);
        let visit = Visit {
            home: Home {
                endpoint: ticket.endpoint,
                upstream_id: ticket.upstream_id,
            },
            principal: principal.cloned(),
            age: unix_time().saturating_sub(Duration::from_secs(ticket.minted)),
            in_hand,
        };
        let store = &self.shared.store;
        match store.enter(&key, visit, &self.shared.limits).await {
            Ok(live) => Ok(Member {
                in_hand: in_hand.then(|| InHand::new(store.clone(), key.clone())),
                key,
                sealed,
                live,
            }),
            Err(NotLive::Ended) => Err(SessionGone::default().into()),
            Err(NotLive::Full(full)) => Err(full.into()),
        }
    }

    /// What the upstream answered to a request of a session.
    async fn back<B>(
        &self,
        member: Member,
        deletes: bool,
        result: std::result::Result<Response<B>, BoxError>,
    ) -> Result<B>
    where
        B: HttpBody<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let end = |why| self.shared.store.end(&member.key, why);
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                return Err(match Fault::of(&*error) {
                    Fault::EndpointGone => {
                        end(Ending::EndpointGone);
                        let source = Some(error);
                        SessionGone { source }.into()
                    }
                    fault => {
                        if fault == Fault::SessionGone {
                            end(Ending::Lost);
                        }
                        error
                    }
                });
            }
        };
        let status = response.status();
        if deletes {
            let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
            if status.is_success() || unknown.contains(&status) {
                end(Ending::Deleted);
            }
        } else if self.shared.settings.lost.contains(&status) {
            end(Ending::Lost);
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
            Some(_) => self.greet(&mut response, None).await?,
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

    async fn reserve(&self) -> std::result::Result<Place, BoxError> {
        let place = Place {
            store: self.shared.store.clone(),
            key: SessionKey {
                route: self.route(),
                serial: Serial::random()?,
            },
            taken: false,
        };
        let principal = self.exchange.principal().cloned();
        let limits = &self.shared.limits;
        place.store.reserve(&place.key, principal, limits).await?;
        Ok(place)
    }

    /// Seals the id of a session that the upstream has begun, if it has. Servers begin one with their answer to `initialize`, some of them
    /// with another; the id of one that failed is left out.
    async fn greet<B>(
        &self,
        response: &mut Response<B>,
        place: Option<Place>,
    ) -> std::result::Result<(), BoxError> {
        if !response.headers().contains_key(SESSION_ID) {
            return Ok(());
        }
        if !response.status().is_success() {
            response.headers_mut().remove(SESSION_ID);
            return Ok(());
        }
        let upstream_id: Arc<str> = headers::single(response.headers(), &SESSION_ID)
            .filter(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic()))
            .ok_or(BadSessionId)?
            .into();
        let place = match place {
            Some(place) => place,
            None => self.reserve().await?,
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
        place
            .begin(Home {
                endpoint: ticket.endpoint,
                upstream_id: ticket.upstream_id,
            })
            .await;
        response.headers_mut().insert(SESSION_ID, sealed);
        Ok(())
    }
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
    async fn begin(mut self, home: Home) {
        self.store.begin(&self.key, home).await;
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
