//! What an expression looks at: the values of its names, as far as there is room for them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

use cel::{Context as Scope, Env, Value as Cel};
use http::HeaderMap;
use serde_json::Value;

use super::{About, Expression, Unclear, Variable};
use crate::mcp::Era;

/// How much may still be looked into.
struct Room {
    values: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), Unclear> {
        let left = self
            .values
            .checked_sub(1)
            .zip(self.bytes.checked_sub(bytes));
        (self.values, self.bytes) = left.ok_or(Unclear::TooLarge)?;
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<Cel, Unclear> {
        self.take(text.len())?;
        Ok(Cel::from(text))
    }

    /// Integers stay such, however they are signed, so that they compare.
    fn value(&mut self, value: &Value) -> Result<Cel, Unclear> {
        self.take(0)?;
        Ok(match value {
            Value::Null => Cel::Null,
            Value::Bool(value) => Cel::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(signed), _) => Cel::Int(signed),
                (None, Some(unsigned)) => Cel::UInt(unsigned),
                (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => self.text(text)?,
            Value::Array(all) => {
                let all = all.iter().map(|value| self.value(value));
                Cel::from(all.collect::<Result<Vec<_>, _>>()?)
            }
            Value::Object(all) => {
                let mut map = HashMap::with_capacity(all.len());
                for (key, value) in all {
                    self.take(key.len())?;
                    map.insert(key.clone(), self.value(value)?);
                }
                Cel::Map(map.into())
            }
        })
    }
}

/// The standard library, which takes its time to build.
static LIBRARY: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// The values of the names that are used.
pub(super) fn scope<'a>(
    uses: &BTreeSet<Variable>,
    about: &About<'_>,
) -> Result<Scope<'a, 'a>, Unclear> {
    let mut room = Room {
        values: Expression::VALUES,
        bytes: Expression::BYTES,
    };
    let room = &mut room;
    let mut scope = Scope::with_env(LIBRARY.clone());
    let exchange = about.exchange;
    let args = uses.contains(&Variable::Args) || uses.contains(&Variable::Params);
    let args = Some(about.body).filter(|_| args);
    let args = args.and_then(|body| body.get("params")?.get("arguments"));
    let args = args.map(|args| room.value(args)).transpose()?;
    for name in uses {
        let value = match name {
            Variable::Direction => room.text(about.direction)?,
            Variable::Method => room.text(about.method.unwrap_or_default())?,
            Variable::Name => room.text(about.name.unwrap_or_default())?,
            Variable::Era => {
                let call = exchange.and_then(|exchange| exchange.asked());
                room.text(call.map_or("", |call| Era::as_str(call.era)))?
            }
            Variable::Principal => {
                let principal = exchange.and_then(|exchange| exchange.principal());
                room.text(principal.map_or("", |principal| principal))?
            }
            Variable::HttpMethod => room.text(about.http_method.as_str())?,
            Variable::Path => room.text(about.path)?,
            Variable::Headers => headers(about.headers, room)?,
            Variable::Args => args.clone().unwrap_or_else(empty),
            Variable::Params => params(about.body, args.as_ref(), room)?,
            Variable::Result | Variable::Error => room.value(&about.body[name.as_str()])?,
        };
        scope.add_variable_from_value(name.as_str(), value);
    }
    Ok(scope)
}

fn empty() -> Cel {
    Cel::Map(HashMap::<String, Cel>::new().into())
}

fn headers(all: &HeaderMap, room: &mut Room) -> Result<Cel, Unclear> {
    let mut headers: HashMap<String, Cel> = HashMap::new();
    for (name, value) in all {
        if let Ok(text) = value.to_str()
            && !headers.contains_key(name.as_str())
        {
            headers.insert(name.as_str().to_owned(), room.text(text)?);
        }
    }
    Ok(Cel::Map(headers.into()))
}

/// The parameters of a message, with these arguments, which are a part of them and looked into once.
fn params(body: &Value, args: Option<&Cel>, room: &mut Room) -> Result<Cel, Unclear> {
    let members = match body.get("params") {
        Some(Value::Object(members)) => members,
        Some(other) => return room.value(other),
        None => return Ok(empty()),
    };
    room.take(0)?;
    let mut map = HashMap::with_capacity(members.len());
    for (key, value) in members {
        room.take(key.len())?;
        let value = match args {
            Some(args) if key == "arguments" => args.clone(),
            Some(_) | None => room.value(value)?,
        };
        map.insert(key.clone(), value);
    }
    Ok(Cel::Map(map.into()))
}
