//! A call that was changed on its way.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::mcp::CallFacts;

/// What interceptors made of a call: so that it is changed in the same way when it is sent again.
#[derive(Debug)]
pub(crate) struct Changed {
    /// Its facts as it goes on; the places in them are those of `body`.
    pub(crate) call: CallFacts,
    /// Its body as it goes on.
    pub(crate) body: Bytes,
    /// The headers that were changed, with all their values.
    pub(crate) headers: Vec<(HeaderName, Vec<HeaderValue>)>,
}

impl Changed {
    /// The headers that are other ones after than before.
    pub(crate) fn headers(
        before: &HeaderMap,
        after: &HeaderMap,
    ) -> Vec<(HeaderName, Vec<HeaderValue>)> {
        let names = before
            .keys()
            .chain(after.keys().filter(|name| !before.contains_key(*name)));
        names
            .filter(|name| !before.get_all(*name).iter().eq(after.get_all(*name)))
            .map(|name| (name.clone(), after.get_all(name).iter().cloned().collect()))
            .collect()
    }

    /// Changes the headers of the call that is sent again.
    pub(crate) fn lead(&self, headers: &mut HeaderMap) {
        for (name, values) in &self.headers {
            headers.remove(name);
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }
}
