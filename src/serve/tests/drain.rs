//! What a shutdown does to connections and exchanges in each state.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tower::service_fn;

use super::*;

#[tokio::test]
async fn an_exchange_under_way_finishes_and_nothing_new_comes_in() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begin, wait) = (begun.clone(), go.clone());
    let service = service_fn(move |_| {
        let (begin, wait) = (begin.clone(), wait.clone());
        async move {
            begin.notify_one();
            wait.notified().await;
            Ok::<_, Infallible>(whole("done"))
        }
    });
    let running = Running::start(service, ServeSettings::default()).await;
    let mut client = running.raw().await;
    client.get("/").await;
    begun.notified().await;

    running.drain.start();
    while TcpStream::connect(running.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!running.task.is_finished());

    go.notify_one();
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("done"), "{answer}");
    assert_eq!(
        running.task.await.unwrap(),
        Served {
            finished: 1,
            cut: 0
        }
    );
}

#[tokio::test]
async fn an_idle_connection_closes() {
    let running = Running::start(
        service_fn(async |_| Ok(whole("ok"))),
        ServeSettings::default(),
    )
    .await;
    let mut client = running.raw().await;
    client.get("/").await;
    client.until("ok").await;
    running.drain.start();
    assert_eq!(client.rest().await, "");
    assert_eq!(running.task.await.unwrap(), Served::default());
}

#[tokio::test(start_paused = true)]
async fn the_limit_cuts_an_endless_stream() {
    let running = Running::start(
        service_fn(async |_| Ok(endless())),
        ServeSettings::default(),
    )
    .await;
    let mut client = running.raw().await;
    client.get("/").await;
    client.until("data: 1\n\n\r\n").await;

    let served = running
        .drain
        .finish(Duration::from_secs(30), running.task)
        .await;
    assert_eq!(
        served.unwrap(),
        Served {
            finished: 0,
            cut: 1
        }
    );
    assert_eq!(client.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_sees_the_limit_ends_its_streams_well() {
    let drain = super::super::Drain::new();
    let watch = drain.watch();
    let service = service_fn(move |_| {
        let mut watch = watch.clone();
        let last = async move {
            watch.closing().await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"retry: 1\n\n")))
        };
        let body = StreamBody::new(stream::once(last));
        async { Ok(Response::new(BodyExt::boxed(body))) }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let settings = ServeSettings::default();
    let task = tokio::spawn(super::super::run(
        listener,
        None,
        service,
        settings,
        drain.watch(),
    ));
    let mut client = Raw {
        stream: TcpStream::connect(addr).await.unwrap(),
    };
    client.get("/").await;
    client.until("\r\n\r\n").await;

    let start = tokio::time::Instant::now();
    let served = drain.finish(Duration::from_secs(30), task).await.unwrap();
    assert_eq!(
        served,
        Served {
            finished: 0,
            cut: 1
        }
    );
    assert_eq!(start.elapsed().as_secs(), 30, "the grace was not needed");
    assert_eq!(client.rest().await, "A\r\nretry: 1\n\n\r\n0\r\n\r\n");
}

#[tokio::test(start_paused = true)]
async fn during_the_delay_connections_are_accepted() {
    let settings = ServeSettings {
        drain_delay: Duration::from_secs(5),
        ..ServeSettings::default()
    };
    let running = Running::start(service_fn(async |_| Ok(whole("ok"))), settings).await;
    running.drain.start();
    let start = tokio::time::Instant::now();
    let mut client = running.raw().await;
    client.get("/").await;
    let head = client.until("ok").await;
    assert!(!head.contains("connection: close"), "{head}");
    running.task.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 5);
    assert!(TcpStream::connect(running.addr).await.is_err());
}

#[tokio::test]
async fn a_request_whose_head_is_half_there_is_served() {
    let running = Running::start(
        service_fn(async |_| Ok(whole("ok"))),
        ServeSettings::default(),
    )
    .await;
    let mut client = running.raw().await;
    client.get("/").await;
    client.until("ok").await;
    client.send("GET / HTTP/1.1\r\nhost: loc").await;
    // A second connection's exchange shows that the server has had its turn with the first one's bytes.
    let mut other = running.raw().await;
    other.get("/").await;
    other.until("ok").await;

    running.drain.start();
    assert_eq!(other.rest().await, "");
    client.send("alhost\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    running.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn http2_streams_are_cut_whether_or_not_they_have_a_head() {
    let service = service_fn(async |request: Request<_>| {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        Ok(endless())
    });
    let running = Running::start(service, ServeSettings::default()).await;
    let stream = TokioIo::new(running.raw().await.stream);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = |path: &str| {
        let uri = format!("http://localhost{path}");
        Request::get(uri).body(Empty::<Bytes>::new()).unwrap()
    };
    let never = tokio::spawn(client.send_request(request("/never")));
    let stream = client.send_request(request("/stream")).await.unwrap();
    assert_eq!(stream.status(), StatusCode::OK);

    let served = running
        .drain
        .finish(Duration::from_secs(30), running.task)
        .await;
    assert_eq!(
        served.unwrap(),
        Served {
            finished: 0,
            cut: 2
        }
    );
    assert!(never.await.unwrap().is_err());
    assert!(stream.into_body().collect().await.is_err());
    drop(connection.await);
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_counts_until_it_closes_and_is_cut_at_the_limit() {
    let ended = Arc::new(Notify::new());
    let end = ended.clone();
    let service = service_fn(move |mut request: Request<_>| {
        let end = end.clone();
        async move {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut byte = [0];
                while let Ok(1) = io.read(&mut byte).await {
                    io.write_all(&byte).await.unwrap();
                }
                end.notify_one();
            });
            let mut response = whole("");
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            Ok::<_, Infallible>(response)
        }
    });
    let running = Running::start(service, ServeSettings::default()).await;
    let mut client = running.raw().await;
    client
        .send("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await;
    client.until("\r\n\r\n").await;
    client.send("x").await;
    client.until("x").await;

    let served = running
        .drain
        .finish(Duration::from_secs(30), running.task)
        .await;
    assert_eq!(
        served.unwrap(),
        Served {
            finished: 0,
            cut: 1
        }
    );
    ended.notified().await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn dropping_the_listener_cuts_its_connections() {
    let running = Running::start(
        service_fn(async |_| Ok(endless())),
        ServeSettings::default(),
    )
    .await;
    let mut client = running.raw().await;
    client.get("/").await;
    client.until("data: 1\n\n\r\n").await;
    running.task.abort();
    assert_eq!(client.rest().await, "");
}
