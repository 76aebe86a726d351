//! Whatever is cut, and whoever comes back when: a client that follows the ids sees each event of its stream once, in order.

use proptest::prelude::*;

use super::*;

/// What happens.
#[derive(Debug, Clone)]
enum Act {
    /// The upstream says so many events in one piece, cut after some bytes.
    Say(usize, usize),
    /// The client reads up to so many events.
    Read(usize),
    /// Its connection breaks.
    Cut,
    /// It comes back with its last id, and leaves the old connection open for a while.
    Back,
    /// It comes twice at once; only the second one reads.
    Twice,
    /// Somebody else tries with the id.
    Foreign,
    Pause,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (1..4usize, 0..40usize).prop_map(|(n, cut)| Act::Say(n, cut)),
        3 => (1..5usize).prop_map(Act::Read),
        2 => Just(Act::Cut),
        2 => Just(Act::Back),
        1 => Just(Act::Twice),
        1 => Just(Act::Foreign),
        1 => Just(Act::Pause),
    ];
    proptest::collection::vec(act, 0..40)
}

/// A client that follows the ids.
struct Client {
    reading: Option<Reading>,
    /// Connections that it has left open.
    old: Vec<Reading>,
    id: String,
    seen: Vec<String>,
}

impl Client {
    async fn read(&mut self, most: usize) {
        let Some(reading) = &mut self.reading else {
            return;
        };
        for _ in 0..most {
            match reading.next().await {
                Some((Some(id), data)) => {
                    self.id = id;
                    if !data.is_empty() {
                        self.seen.push(data);
                    }
                }
                Some((None, nothing)) => {
                    assert_eq!(nothing, "nothing");
                    return;
                }
                None => return,
            }
        }
    }

    async fn back(&mut self, rig: &Rig) {
        let reading = rig.get(Some(&self.id)).await;
        self.old.extend(self.reading.replace(reading));
    }
}

async fn play(acts: Vec<Act>, standing: bool) {
    let rig = Rig::always();
    let method = if standing { Method::GET } else { Method::POST };
    let mut first = rig.send(method, "2025-11-25", None).await;
    let source = rig.source();
    source.try_send(Ok("data: 0\n\n")).expect("read");
    first.event("").await;
    let mut client = Client {
        id: first.event("0").await,
        reading: Some(first),
        old: Vec::new(),
        seen: vec!["0".to_owned()],
    };
    let mut said = 1;
    for act in acts {
        match act {
            Act::Say(events, cut) => {
                let text: String = (said..said + events)
                    .map(|number| format!("data: {number}\n\n"))
                    .collect();
                said += events;
                let text: &'static str = text.leak();
                let (one, two) = text.split_at(cut.min(text.len()));
                source.try_send(Ok(one)).expect("read");
                source.try_send(Ok(two)).expect("read");
            }
            Act::Read(most) => client.read(most).await,
            Act::Cut => drop(client.reading.take()),
            Act::Back => client.back(&rig).await,
            Act::Twice => {
                client.back(&rig).await;
                client.back(&rig).await;
            }
            Act::Foreign => {
                let other = session(2);
                let tried = rig.send_in(&other, Method::GET, "2025-06-18", Some(&client.id));
                tried.await.nothing().await;
            }
            Act::Pause => {
                client.old.clear();
                tokio::time::sleep(MOMENT).await;
            }
        }
    }
    rig.release();
    drop(source);
    client.back(&rig).await;
    if standing {
        // It goes on with a new one of the upstream if the old one has ended meanwhile.
        rig.release();
    }
    client.read(usize::MAX).await;
    let all: Vec<String> = (0..said).map(|number| number.to_string()).collect();
    assert_eq!(client.seen, all);
    // An old connection has nothing more.
    for mut old in client.old {
        while let Some((id, _)) = old.next().await {
            assert!(id.is_none(), "an event on a connection that was left");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn each_event_is_seen_once_and_in_order(acts in acts(), standing: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(play(acts, standing));
    }
}
