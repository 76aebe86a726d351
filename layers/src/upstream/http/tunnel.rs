//! Upgrades (RFC 9110, 7.8): WebSocket and its like, on plain HTTP.
//!
//! After a 101 the client's and the upstream's connection are joined, byte by byte. Upgrades to HTTP itself (`h2c`) or to TLS are not
//! forwarded: what came over them would pass by every layer as something else than it is.

use std::{sync::Arc, time::Duration};

use http::{Extensions, HeaderValue, Response, Version, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};

use super::{Shared, headers};
use crate::limit::Permit;

/// An upgrade that a client asks for.
#[derive(Debug)]
pub(super) struct Tunnel {
    client: OnUpgrade,
    protocol: HeaderValue,
    permit: Option<Permit>,
}

/// How long the second side may go on when the first has ended.
const LINGER: Duration = Duration::from_secs(5);

impl Tunnel {
    /// The upgrade that the request asks for, if it is one that passes.
    pub(super) fn wanted(parts: &Parts, extensions: &mut Extensions) -> Option<Self> {
        let protocol = parts.headers.get(header::UPGRADE)?;
        if parts.version != Version::HTTP_11
            || !headers::has_token(&parts.headers, &header::CONNECTION, "upgrade")
            || parts.headers.get_all(header::UPGRADE).iter().count() != 1
            || !passes(protocol.to_str().ok()?)
        {
            return None;
        }
        Some(Self {
            client: extensions.remove()?,
            protocol: protocol.clone(),
            permit: extensions.remove(),
        })
    }

    /// What is asked for.
    pub(super) fn protocol(&self) -> &HeaderValue {
        &self.protocol
    }

    /// Joins both sides as soon as the client has the 101.
    pub(super) fn join<B>(self, response: &mut Response<B>, shared: &Arc<Shared>) {
        let upstream = hyper::upgrade::on(&mut *response);
        let protocol = response.headers().get(header::UPGRADE).cloned();
        let headers = response.headers_mut();
        headers::strip_response(headers);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.unwrap_or(self.protocol));
        let (client, permit) = (self.client, self.permit);
        shared.tasks.tunnel(async move {
            if let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) {
                join(TokioIo::new(client), TokioIo::new(upstream)).await;
            }
            drop(permit);
        });
    }
}

/// One protocol, and not a version of HTTP or TLS.
fn passes(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default().trim();
    !protocol.contains(',')
        && ["http", "h2c", "h2", "tls"]
            .iter()
            .all(|never| !name.eq_ignore_ascii_case(never))
}

/// Carries bytes both ways until both sides have ended, or one has and the other lingers.
async fn join<A, B>(a: A, b: B)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut a_read, mut a_write) = split(a);
    let (mut b_read, mut b_write) = split(b);
    let up = async {
        copy(&mut a_read, &mut b_write).await?;
        b_write.shutdown().await
    };
    let down = async {
        copy(&mut b_read, &mut a_write).await?;
        a_write.shutdown().await
    };
    tokio::pin!(up, down);
    // An error ends both sides; an end is passed on, and leaves the other side some time.
    tokio::select! {
        ended = &mut up => if ended.is_ok() {
            let _over = tokio::time::timeout(LINGER, down).await;
        },
        ended = &mut down => if ended.is_ok() {
            let _over = tokio::time::timeout(LINGER, up).await;
        },
    }
}
