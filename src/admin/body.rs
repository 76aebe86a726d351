//! The body of an action: small, JSON, and here in time.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Request};
use http_body::Body;
use http_body_util::BodyExt;

use super::answer::Problem;

/// The most bytes of a body: the longest message has 12000 characters, each of which may take 12 bytes (two escapes of JSON); the rest is small.
pub(super) const MOST: usize = 160 << 10;

/// How long it may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the body of a request that was let in.
pub(super) async fn read<B>(request: Request<B>) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    if !is_json(request.headers()) {
        return Err(Problem::NotJson);
    }
    let said = request.body().size_hint().lower();
    if said > MOST as u64 {
        return Err(Problem::BodyTooLarge);
    }
    let body = request.into_body();
    let whole = read_limited(body);
    let whole = tokio::time::timeout(PATIENCE, whole).await;
    whole.unwrap_or(Err(Problem::BodyTooSlow))
}

async fn read_limited<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Bytes, Problem> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::BadBody("the body broke off".to_owned()))?;
        if let Ok(data) = frame.into_data() {
            if all.len() + data.len() > MOST {
                return Err(Problem::BodyTooLarge);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.into())
}

/// A page in a browser can send other types to anywhere without asking first.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (first, second) = (types.next(), types.next());
    let essence = first
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next());
    second.is_none()
        && !headers.contains_key(CONTENT_ENCODING)
        && essence.is_some_and(|e| e.trim().eq_ignore_ascii_case("application/json"))
}
