//! Over real connections: the HTTP upstream, and TCP.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::ServiceExt;

use super::*;
use crate::upstream::http::{HttpUpstream, HttpUpstreamSettings};

/// A small HTTP server for a script; its connections end with it.
async fn serve(script: Script) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            connections.spawn(connection(stream, script.clone()));
        }
    });
    (address, tasks)
}

/// Answers the requests of a connection, one after the other, and closes after each answer that streams.
async fn connection(stream: TcpStream, script: Script) {
    let mut stream = BufReader::new(stream);
    while let Some((mut request, body)) = read(&mut stream).await {
        assert_eq!(request.uri(), "/mcp");
        let exchange = Exchange::of(&mut request);
        let facts = crate::mcp::CallFacts::read(request.method(), request.headers(), &body);
        exchange.set_call(facts.expect("a message"));
        let response = script.clone().answer(request).await.expect("a response");
        let (parts, body) = response.into_parts();
        let mut head = format!("HTTP/1.1 {} X\r\n", parts.status.as_u16());
        for (name, value) in &parts.headers {
            head += &format!("{name}: {}\r\n", value.to_str().expect("text"));
        }
        match body.bytes().cloned() {
            Some(bytes) => {
                head += &format!("content-length: {}\r\n\r\n", bytes.len());
                stream.write_all(head.as_bytes()).await.expect("open");
                stream.write_all(&bytes).await.expect("open");
            }
            None if parts.headers.contains_key(header::CONTENT_TYPE) => {
                head += "\r\n: alive\n\n";
                stream.write_all(head.as_bytes()).await.expect("open");
                // Until the other side has had enough.
                let _rest = stream.read_u8().await;
                return;
            }
            None => {
                head += "content-length: 0\r\n\r\n";
                stream.write_all(head.as_bytes()).await.expect("open");
            }
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<(Request<Body>, Bytes)> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let mut request = Request::builder().method(words.next()?).uri(words.next()?);
    let mut length = 0;
    loop {
        let mut field = String::new();
        stream.read_line(&mut field).await.ok()?;
        let Some((name, value)) = field.trim_end().split_once(": ") else {
            break;
        };
        if name == "content-length" {
            length = value.parse().expect("a length");
        }
        request = request.header(name, value);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((request.body(Body::empty()).expect("a request"), body.into()))
}

fn quick() -> HealthSettings {
    HealthSettings {
        interval: Duration::from_millis(10),
        timeout: Duration::from_millis(200),
        handshake: Duration::from_millis(200),
        ..HealthSettings::default()
    }
}

async fn until(handle: &HealthHandle, state: HealthState) {
    let wait = async {
        while report(handle).state != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let patience = Duration::from_secs(20);
    let came = tokio::time::timeout(patience, wait).await;
    assert!(came.is_ok(), "never {state:?}: {:?}", handle.look());
}

#[tokio::test]
async fn a_real_server_is_probed_in_either_era() {
    for mode in [Mode::Modern, Mode::Legacy] {
        let script = Script::new(mode);
        let (address, _tasks) = serve(script.clone()).await;
        let url = format!("http://{address}/mcp").parse().expect("a URL");
        let upstream = HttpUpstream::new(HttpUpstreamSettings::new("tools", url)).expect("of use");
        let core = service_fn(move |request: Request<Body>| {
            let response = upstream.clone().oneshot(request);
            async move { Ok::<_, BoxError>(response.await?.map(Body::new)) }
        });
        let (handle, gate) = (handle(), Gate::new());
        let task = Prober::new(&handle, gate.clone(), quick(), core).spawn();
        until(&handle, HealthState::Healthy).await;
        script.set(Mode::Liar);
        until(&handle, HealthState::Unhealthy).await;
        assert!(gate.is_shut_by(Reason::Health));
        script.set(mode);
        until(&handle, HealthState::Healthy).await;
        task.close().await;
        let asked = script.asked();
        let deleted = asked
            .last()
            .is_some_and(|last| last.starts_with("DELETE s"));
        assert_eq!(deleted, mode == Mode::Legacy, "{asked:?}");
    }
}

#[tokio::test]
async fn a_connection_is_probed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let settings = HealthSettings {
        probe: Probe::Tcp {
            address: address.to_string().into(),
        },
        ..quick()
    };
    let (script, handle, gate) = (Script::new(Mode::Fails), handle(), Gate::new());
    let task = script.prober(&handle, &gate, settings).spawn();
    until(&handle, HealthState::Healthy).await;
    drop(listener);
    until(&handle, HealthState::Unhealthy).await;
    let error = report(&handle).error.expect("an error");
    assert_eq!(&*error, "cannot connect: connection refused");
    assert!(script.asked().is_empty());
    drop(task);
}
