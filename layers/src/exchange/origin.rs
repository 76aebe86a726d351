//! Requests that are made on behalf of another: in its client's name, to the same place.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};

use super::Exchange;
use crate::{
    Body,
    mcp::{
        CallFacts, EnvelopeError, Messages,
        headers::{SESSION_ID, forget_message},
    },
};

/// What a request brings that others are made after.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) uri: Uri,
    /// Without those that speak of its own message, its session, or its own answer.
    pub(crate) headers: HeaderMap,
    pub(crate) exchange: Arc<Exchange>,
}

impl Origin {
    /// What this request brings.
    pub(crate) fn new(uri: Uri, mut headers: HeaderMap, exchange: Arc<Exchange>) -> Self {
        forget_message(&mut headers);
        headers.remove(SESSION_ID);
        Self {
            uri,
            headers,
            exchange,
        }
    }

    /// Another request, outside of sessions. It is to be filed ([`Exchange::file_beside`]) once its headers stand.
    pub(crate) fn request(
        &self,
        method: Method,
        message: Bytes,
        accept: &'static str,
    ) -> Request<Body> {
        let length = HeaderValue::from(message.len());
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if method == Method::POST {
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json);
            headers.insert(header::CONTENT_LENGTH, length);
            *request.body_mut() = Body::full(message);
        }
        *request.method_mut() = method;
        request
    }
}

impl Exchange {
    /// Gives a request that is made on behalf of this one an exchange of its own, in which is filed what it says; its body is this message.
    pub(crate) fn file_beside<B>(
        &self,
        request: &mut Request<B>,
        message: &Bytes,
    ) -> Result<Arc<Self>, EnvelopeError> {
        let facts = CallFacts::read(request.method(), request.headers(), message)?;
        Ok(self.file(request, facts))
    }

    /// The same for a body whose messages were read already.
    pub(crate) fn file_read_beside<B>(
        &self,
        request: &mut Request<B>,
        messages: Messages,
    ) -> Result<Arc<Self>, EnvelopeError> {
        let facts = CallFacts::with(request.method(), request.headers(), messages)?;
        Ok(self.file(request, facts))
    }

    fn file<B>(&self, request: &mut Request<B>, facts: CallFacts) -> Arc<Self> {
        let other = self.beside();
        other.set_call(facts);
        request.extensions_mut().insert(other.clone());
        other
    }
}
