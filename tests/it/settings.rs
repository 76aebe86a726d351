//! Each setting of the layers that keep calls alive changes what is seen of the real program. The schema says which settings there are.
//!
//! A [`Case`] has the place of one setting, some values, and for each value what its scenario must then see. Nothing else differs between the
//! values, and not all of them may look alike: so no case passes where its setting is ignored. A setting without a case fails, and so does a
//! case without a setting.

mod balance;
mod circuit;
mod clocks;
mod health;
mod limits;
mod outlier;
mod player;
mod resume;
mod retry;
mod schema;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    rc::Rc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::{Ziggurat, upstream::Upstream};

/// A setting, and what must be seen with each of its values.
struct Case {
    /// Its key path below `server`, `route` or `upstream`, as the schema has it.
    path: String,
    /// What else is set.
    base: Value,
    /// What is seen with these values.
    rows: Vec<(Value, &'static str)>,
    scenario: Scenario,
}

/// What is done with a config, and what is seen then.
type Scenario = Rc<dyn Fn(Given) -> Pin<Box<dyn Future<Output = String>>>>;

/// What a scenario has to begin with.
#[derive(Clone)]
struct Given {
    path: String,
    base: Value,
    value: Value,
}

/// How many values are tried at a time.
const AT_ONCE: usize = 8;

/// Makes a case.
fn case<V: Into<Value>, const N: usize>(
    path: impl Into<String>,
    base: Value,
    scenario: Scenario,
    rows: [(V, &'static str); N],
) -> Case {
    Case {
        path: path.into(),
        base,
        rows: rows.map(|(value, seen)| (value.into(), seen)).into(),
        scenario,
    }
}

fn scenario<F, Fut>(scenario: F) -> Scenario
where
    F: Fn(Given) -> Fut + 'static,
    Fut: Future<Output = String> + 'static,
{
    Rc::new(move |given| Box::pin(scenario(given)))
}

/// Whether this is so within that time. What is awaited gets plenty; what must not be, too little.
async fn soon(time: Duration, mut check: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if check().await {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

// === impl Given ===

impl Given {
    /// A config with these endpoints, in which nothing is on but what the case sets.
    fn config(&self, endpoints: Value) -> String {
        let mut all = json!({
            "server": {},
            "route": { "match": { "path": "/mcp" }, "upstream": "tools", "retry": "off" },
            "upstream": { "circuit": "off", "health": "off", "outlier": "off", "endpoints": endpoints },
        });
        merge(&mut all, &self.base);
        put(&mut all, &self.path, &self.value);
        format!(
            "server: {}\nroutes: [{}]\nupstreams: {{ tools: {} }}\n",
            all["server"], all["route"], all["upstream"]
        )
    }

    /// A ziggurat over these servers.
    async fn over(&self, servers: &[&Upstream]) -> Ziggurat {
        let endpoints = servers.iter().map(|s| json!({ "url": s.url("/mcp") }));
        self.with(endpoints.collect()).await
    }

    /// A ziggurat with these endpoints.
    async fn with(&self, endpoints: Value) -> Ziggurat {
        Ziggurat::yaml(&self.config(endpoints)).await
    }
}

/// Puts `more` over `all`, key by key.
fn merge(all: &mut Value, more: &Value) {
    match (all, more) {
        (Value::Object(all), Value::Object(more)) => {
            for (key, value) in more {
                merge(all.entry(key).or_insert(Value::Null), value);
            }
        }
        (all, more) => *all = more.clone(),
    }
}

/// Puts a value where the path says; of a list it means the first item.
fn put(all: &mut Value, path: &str, value: &Value) {
    let mut at = all;
    for key in path.split('.') {
        // A section that was off.
        if !at.is_object() {
            *at = json!({});
        }
        at = match key.split_once('[') {
            Some((list, _)) => &mut at[list][0],
            None => &mut at[key],
        };
    }
    *at = value.clone();
}

// === the table ===

/// Makes the table of all cases, and for each part of it a test that tries it.
macro_rules! table {
    ($($test:ident: $cases:expr,)*) => {
        fn all() -> Vec<Case> {
            [$($cases(),)*].into_iter().flatten().collect()
        }

        $(#[tokio::test]
        async fn $test() {
            try_all($cases()).await;
        })*
    };
}

table! {
    each_way_to_choose_an_endpoint_is_seen: balance::of_policies,
    each_share_of_calls_is_seen: balance::of_shares,
    each_setting_of_an_endpoints_breaker_is_seen: circuit::of_endpoints,
    each_setting_of_the_breakers_of_tools_is_seen: circuit::of_tools,
    each_setting_of_a_tools_own_breaker_is_seen: circuit::of_some_tools,
    each_clock_of_calls_is_seen: clocks::of_calls,
    each_clock_of_attempts_is_seen: clocks::of_attempts,
    each_setting_of_the_probes_is_seen: health::cases,
    each_limit_is_seen: limits::cases,
    each_setting_of_the_comparison_is_seen: outlier::cases,
    each_setting_of_resumption_is_seen: resume::cases,
    each_setting_of_retries_is_seen: retry::cases,
}

/// Tries each value of each case, and tells of all that look otherwise than they should.
async fn try_all(cases: Vec<Case>) {
    let tries = cases.iter().flat_map(|case| {
        case.rows.iter().map(async |(value, expected)| {
            let given = Given {
                path: case.path.clone(),
                base: case.base.clone(),
                value: value.clone(),
            };
            let seen = (case.scenario)(given).await;
            let told = format!("{}: {value}: {seen}, not {expected}", case.path);
            (seen != *expected).then_some(told)
        })
    });
    let tried: Vec<_> = stream::iter(tries).buffered(AT_ONCE).collect().await;
    let wrong: Vec<_> = tried.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn each_setting_has_a_case_and_each_case_a_setting() {
    let settings: BTreeMap<String, bool> = schema::settings().await;
    let cases = all();
    let named: BTreeSet<_> = cases.iter().map(|case| case.path.as_str()).collect();
    let known: BTreeSet<_> = settings.keys().map(String::as_str).collect();
    let without: Vec<_> = known.difference(&named).collect();
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(
        without.is_empty() && unknown.is_empty(),
        "settings without a case: {without:#?}; cases without a setting: {unknown:#?}"
    );
}

#[tokio::test]
async fn what_may_be_off_has_a_case_in_which_it_is() {
    let cases = all();
    let is_tried_off = |path: &str| {
        let mut rows = cases
            .iter()
            .filter(|c| c.path == path)
            .flat_map(|c| &c.rows);
        rows.any(|(value, _)| value == "off")
    };
    let settings = schema::settings().await.into_iter();
    let never: Vec<_> = settings
        .filter(|(path, may_be_off)| *may_be_off && !is_tried_off(path))
        .collect();
    assert!(never.is_empty(), "never off: {never:#?}");
}

#[test]
fn no_case_passes_where_its_setting_is_ignored() {
    for case in all() {
        let (_, first) = &case.rows[0];
        let differs = case.rows.iter().any(|(_, seen)| seen != first);
        assert!(differs, "{} looks the same with all values", case.path);
    }
}
