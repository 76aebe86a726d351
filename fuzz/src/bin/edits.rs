//! Changes of a JSON text, against another library that applies them to values.
#![no_main]

use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use ziggurat_fuzz::{Change, Dialogue, Json};
use ziggurat_layers::intercept::{
    Asked, Context, Decision, Edit, Hook, InterceptLayer, InterceptSettings, Interceptor, Interest,
    Message, NotChanged,
};

#[derive(Debug, Arbitrary)]
struct Input {
    value: Json,
    pretty: bool,
    change: Change,
}

/// Makes one change, and keeps what came of it.
#[derive(Debug)]
struct Editor(Edit, Arc<Mutex<Option<Result<(), NotChanged>>>>);

impl Interceptor for Editor {
    fn name(&self) -> &str {
        "editor"
    }

    fn wants(&self, _: &Asked<'_>) -> Interest {
        Interest {
            request: true,
            body: true,
            ..Interest::default()
        }
    }

    fn request<'a>(
        &'a self,
        _: &'a Context,
        _: &'a mut HeaderMap,
        message: Option<&'a mut Message>,
    ) -> Hook<'a> {
        let done = message.map(|message| message.apply(std::slice::from_ref(&self.0)));
        *self.1.lock().expect("one thread") = done;
        Hook::now(Decision::Continue)
    }
}

/// What the other library makes of it.
fn expected(value: &Value, change: &Change) -> Option<Value> {
    let mut value = value.clone();
    let ops = match change {
        // They are no operations of JSON Patch, but can be said as some.
        Change::Set(place, new) if place.0.is_empty() => return Some(new.0.clone()),
        Change::Set(place, new) => {
            let (at, last) = place.0.rsplit_once('/')?;
            let op = match value.pointer(at)? {
                Value::Object(_) => "add",
                Value::Array(all) if last == "-" || last == all.len().to_string() => "add",
                Value::Array(_) => "replace",
                _ => return None,
            };
            json!([{ "op": op, "path": place.0, "value": new.0 }])
        }
        Change::Remove(place) if place.0.is_empty() => return None,
        Change::Remove(place) if value.pointer(&place.0).is_none() => return Some(value),
        Change::Remove(place) => json!([{ "op": "remove", "path": place.0 }]),
        Change::Patch(ops) => ops.iter().map(ziggurat_fuzz::Op::json).collect(),
    };
    let patch: json_patch::Patch = serde_json::from_value(ops).ok()?;
    // What it does of one that fails is lost with the copy.
    json_patch::patch_unsafe(&mut value, &patch).ok()?;
    Some(value)
}

fuzz_target!(|input: Input| {
    let Some(edit) = input.change.edit() else {
        return;
    };
    let text = match input.pretty {
        true => serde_json::to_string_pretty(&input.value.0),
        false => serde_json::to_string(&input.value.0),
    };
    let text = text.expect("a value");
    let done = Arc::new(Mutex::new(None));
    let editor = Editor(edit, done.clone());
    let layer = InterceptLayer::new(InterceptSettings::default(), vec![Arc::new(editor)]);
    let dialogue = Dialogue {
        asked: text.clone().into_bytes(),
        mcp: false,
        told: Vec::new(),
        events: false,
    };
    let outcome = dialogue.through(&layer).expect("any body passes");
    let done = done
        .lock()
        .expect("one thread")
        .take()
        .expect("it was shown");
    let asked = outcome.asked.expect("it was sent");
    let expected = expected(&input.value.0, &input.change);
    match (done, expected) {
        (Ok(()), Some(expected)) => {
            let found: Value = serde_json::from_slice(&asked).expect("JSON");
            assert_eq!(found, expected, "{:?} of {text}", input.change);
        }
        (Err(_), _) => assert_eq!(
            asked,
            text.as_bytes(),
            "a change that fails leaves no trace"
        ),
        (Ok(()), None) => panic!("{:?} of {text} should have been refused", input.change),
    }
});
