//! Any cuts, anywhere, any number of them: the client sees each event once, in order.

use proptest::prelude::*;

use super::*;

/// A server that keeps its events, and whose connections are cut.
struct Store {
    events: Vec<String>,
    /// After how many bytes each connection is cut; those that come later are whole.
    cuts: VecDeque<usize>,
    /// It repeats the event that it was asked to go on after.
    repeats: bool,
    /// How many bytes come at once.
    step: usize,
}

impl Store {
    fn answer(&mut self, after: Option<usize>) -> Response<Body> {
        let from = after.map_or(0, |id| if self.repeats { id } else { id + 1 });
        let all = self.events[from.min(self.events.len())..].concat();
        let cut = self.cuts.pop_front().filter(|cut| *cut < all.len());
        let bytes = &all.as_bytes()[..cut.unwrap_or(all.len())];
        let pieces = bytes.chunks(self.step).map(Bytes::copy_from_slice);
        let mut frames: Vec<Result<Frame<Bytes>, BoxError>> =
            pieces.map(|piece| Ok(Frame::data(piece))).collect();
        if cut.is_some() {
            frames.push(Err("cut".into()));
        }
        events(Body::new(StreamBody::new(futures_util::stream::iter(
            frames,
        ))))
    }
}

/// What a client sees of a store.
fn seen(store: Store, request: Request<Body>) -> (String, Ended) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let store = Arc::new(Mutex::new(store));
    let service = ServiceBuilder::new()
        .layer(ResumeLayer::new("u", Some(ResumeSettings::default())))
        .layer(ObserveLayer::new("u"))
        .service(service_fn(move |request: Request<Body>| {
            let after = request.headers().get(LAST_EVENT_ID);
            let after = after.and_then(|v| v.to_str().ok()?.parse().ok());
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = store.answer(after);
            async { Ok::<_, BoxError>(answer) }
        }));
    runtime.block_on(async {
        let response = service.oneshot(request).await.expect("a head");
        read(Body::new(response.into_body())).await
    })
}

/// The events of a text. Where a CR and its LF were cut apart, one of the two may be missing, or there twice: an empty line between events is none.
fn blocks(text: &str) -> Vec<String> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let blocks = text
        .split("\n\n")
        .map(|block| block.trim_matches('\n').to_owned());
    blocks.filter(|block| !block.is_empty()).collect()
}

proptest! {
    #[test]
    fn the_client_sees_each_event_once_and_in_order(
        lengths in proptest::collection::vec(0usize..60, 1..20),
        cuts in proptest::collection::vec(0usize..400, 0..9),
        step in 1usize..50,
        end in prop_oneof!["\n", "\r\n", "\r"],
        repeats: bool,
        of_call: bool,
    ) {
        let last = lengths.len();
        let mut events: Vec<String> = lengths
            .iter()
            .enumerate()
            .map(|(id, length)| {
                let text = "x".repeat(*length);
                format!("id: {id}{end}data: {{\"method\":\"m\",\"x\":\"{text}\"}}{end}{end}")
            })
            .collect();
        events.push(format!("id: {last}{end}data: {{\"id\":1,\"result\":{{}}}}{end}{end}"));
        let whole = blocks(&events.concat());
        // Without any id a call cannot be resumed: the first event passes.
        let first = events[0].len() + 1;
        let cuts = cuts.into_iter().enumerate();
        let cuts = cuts.map(|(at, cut)| if at == 0 { cut.max(first) } else { cut }).collect();
        let request = if of_call { call("2025-06-18") } else { stream() };
        let store = Store { events, cuts, repeats, step };
        // Once the answer is there it is over: a cut between its last CR and LF passes, and does no harm.
        let (text, _) = seen(store, request);
        prop_assert_eq!(blocks(&text), whole);
    }
}
