//! What becomes of one request: the stream that it opens, or the one that it goes on with.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::Body as HttpBody;

use super::{
    Answer, Plan, ReplayBody, Scope, Shared,
    body::Reader,
    id::{self, Kind, StreamId},
    store::Outcome,
    stream::{self, Ids, Stream},
};
use crate::{
    Body,
    attempt::{InSession, Unresumable},
    error::BoxError,
    exchange::Exchange,
    mcp::Verb,
    observe::Media,
    waits::Waits,
};

/// A request of a session.
pub(super) struct Origin {
    pub(super) shared: Arc<Shared>,
    pub(super) member: InSession,
    pub(super) exchange: Arc<Exchange>,
}

// === impl Origin ===

impl Origin {
    /// A standing stream goes on: where it is, or with a new one from the upstream.
    pub(super) fn resume_standing(self, stream: Arc<Stream>, after: u64) -> Plan {
        let look = stream.look(after);
        let after = after.min(look.newest);
        self.shared.store.count(if look.whole {
            Outcome::Replayed
        } else {
            tracing::info!(
                request_id = self.exchange.id(),
                "a stream goes on with a gap: not all that its client missed is kept"
            );
            Outcome::Gap
        });
        if !look.live {
            return Plan::GoOn(self, stream, after);
        }
        let turn = stream.join();
        self.read(stream, turn, after)
    }

    /// The rest of a call's answer.
    pub(super) fn resume_call(self, stream: Arc<Stream>, after: u64) -> Plan {
        let look = stream.look(after);
        self.exchange.response().set_resumes_call();
        if !look.whole {
            return self.refuse(&stream.id);
        }
        if !look.live && after >= look.newest {
            self.shared.store.count(Outcome::Complete);
            return Plan::Answer(Some(Answer::Nothing));
        }
        self.shared.store.count(Outcome::Replayed);
        let turn = stream.join();
        self.read(stream, turn, after.min(look.newest))
    }

    fn read(self, stream: Arc<Stream>, turn: u64, after: u64) -> Plan {
        // All that goes out are whole events.
        self.exchange.response().observe(&Waits::default());
        let reader = Reader::again(&self.shared.store, stream, self.exchange, turn, after, true);
        Plan::Answer(Some(Answer::Read(reader)))
    }

    /// What the client missed of a call's answer is not kept.
    pub(super) fn refuse(self, id: &StreamId) -> Plan {
        self.exchange.response().set_resumes_call();
        self.shared.store.count(Outcome::Lost);
        let answer = match &id.request {
            Some(request) => {
                tracing::info!(
                    request_id = self.exchange.id(),
                    "a client came back for an answer that is not kept any more"
                );
                Answer::Said(stream::lost(&self.exchange, request))
            }
            None => Answer::Nothing,
        };
        Plan::Answer(Some(answer))
    }

    /// Keeps the stream of a response, if it is one to keep.
    pub(super) fn keep<B>(self, response: Response<B>) -> Response<ReplayBody<B>>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let unresumable = response.extensions().get::<Unresumable>().is_some();
        let wanted = unresumable || self.shared.settings.scope == Scope::Always;
        let Some(call) = self
            .exchange
            .call()
            .filter(|_| wanted && is_stream(&response))
        else {
            return response.map(ReplayBody::passing);
        };
        let serial = self.member.serial;
        let standing = call.verb == Verb::Get;
        let id = StreamId {
            kind: if standing { Kind::Standing } else { Kind::Call },
            mark: id::mark(serial),
            stream: self.shared.store.number(serial),
            request: call.request().and_then(|message| message.id()).cloned(),
        };
        // Who may poll takes an event without data.
        let primes = self.exchange.may_poll();
        let ids = if unresumable { Ids::Ours } else { Ids::Unknown };
        response.map(|inner| {
            let stream = Stream::new(
                id,
                self.shared.store.budget(),
                self.shared.bounds(),
                self.shared.times(),
                self.exchange.clone(),
                primes,
                ids,
                &self.member,
                Body::new(inner),
            );
            self.shared.store.add(&self.member, stream.clone());
            ReplayBody::reading(Reader::own(&self.shared.store, stream, self.exchange))
        })
    }

    /// Goes on with a standing stream on the body of this response.
    pub(super) fn go_on<B>(
        self,
        response: Response<B>,
        stream: Arc<Stream>,
        after: u64,
    ) -> Response<ReplayBody<B>>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if !is_stream(&response) {
            return response.map(ReplayBody::passing);
        }
        response.map(|inner| {
            let turn = stream.adopt(Body::new(inner));
            let store = &self.shared.store;
            ReplayBody::reading(Reader::again(
                store,
                stream,
                self.exchange,
                turn,
                after,
                false,
            ))
        })
    }
}

fn is_stream<B>(response: &Response<B>) -> bool {
    response.status().is_success() && Media::of(response.headers()) == Media::Events
}
