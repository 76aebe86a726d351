//! When a rule applies.

use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::{Asked, Context, Direction, Expression, Interest, Message};
use crate::{
    expression::{About, Sees},
    mcp::{CallFacts, Kind, MessageFacts, Method, Verb, headers::LAST_EVENT_ID},
    pattern::Pattern,
};

/// What must fit for a rule to apply. An empty list says nothing; of a list, one must fit.
#[derive(Debug, Clone, PartialEq)]
pub struct When {
    /// Which way the message goes.
    pub direction: Direction,
    /// The method of MCP: of the request, of the request that is answered, or of what the server says. On plain HTTP that of HTTP.
    pub methods: Vec<Pattern>,
    /// The tool of a `tools/call`. Together with `prompts` and `resources`: one of all must fit. What the server says by the way is said of the
    /// call on whose stream it comes. Where a client resumes a stream nobody knows of which call that is: then it cannot be told.
    pub tools: Vec<Pattern>,
    /// The prompt of a `prompts/get`.
    pub prompts: Vec<Pattern>,
    /// The URI of a `resources/read`, `resources/subscribe` or `resources/unsubscribe`.
    pub resources: Vec<Pattern>,
    /// The path of the request.
    pub paths: Vec<Pattern>,
    /// Headers of the request: each must be there, and one of its values fit.
    pub headers: Vec<(HeaderName, Pattern)>,
    /// Who the client is; nobody fits where that is not known.
    pub principals: Vec<Pattern>,
    /// What must be true.
    pub expression: Option<Expression>,
}

impl When {
    /// Whatever goes this way.
    pub fn new(direction: Direction) -> Self {
        Self {
            direction,
            methods: Vec::new(),
            tools: Vec::new(),
            prompts: Vec::new(),
            resources: Vec::new(),
            paths: Vec::new(),
            headers: Vec::new(),
            principals: Vec::new(),
            expression: None,
        }
    }

    /// What a rule may want of an exchange.
    pub(super) fn interest(&self, asked: &Asked<'_>) -> Interest {
        let nothing = Interest::default();
        if !any(&self.paths, asked.path) || !self.fits_client(asked) {
            return nothing;
        }
        let Some(call) = asked.call else {
            // Plain HTTP: the head, and no message.
            let method = any(&self.methods, asked.method.as_str()) && !self.names_something();
            return match self.direction {
                Direction::Request if method => Interest {
                    request: true,
                    ..nothing
                },
                Direction::Response if method => Interest {
                    head: true,
                    ..nothing
                },
                Direction::Request | Direction::Response | Direction::Server => nothing,
            };
        };
        match self.direction {
            Direction::Request => Interest {
                request: call
                    .messages()
                    .iter()
                    .any(|message| self.fits_asked(message)),
                ..nothing
            },
            Direction::Response => Interest {
                messages: self.may_answer(call),
                ..nothing
            },
            Direction::Server => Interest {
                messages: match call.verb {
                    Verb::Get => !self.names_something() || is_resumed(call, asked.headers),
                    _ => !call.is_fire_and_forget() && self.fits_stream(call),
                },
                ..nothing
            },
        }
    }

    /// A request fits, whose answer will; or a stream is resumed on which any may come.
    fn may_answer(&self, call: &CallFacts) -> bool {
        call.verb == Verb::Get || call.requests().any(|message| self.fits_asked(message))
    }

    fn names_something(&self) -> bool {
        !(self.tools.is_empty() && self.prompts.is_empty() && self.resources.is_empty())
    }

    fn fits_asked(&self, message: &MessageFacts) -> bool {
        self.fits_method(message.method.as_ref().map(|m| m.as_str())) && self.fits_name(message)
    }

    fn fits_method(&self, method: Option<&str>) -> bool {
        self.methods.is_empty() || method.is_some_and(|method| any(&self.methods, method))
    }

    fn fits_name(&self, message: &MessageFacts) -> bool {
        if !self.names_something() {
            return true;
        }
        let patterns = match message.method.as_ref().map(|m| m.as_str()) {
            Some("tools/call") => &self.tools,
            Some("prompts/get") => &self.prompts,
            Some("resources/read" | "resources/subscribe" | "resources/unsubscribe") => {
                &self.resources
            }
            Some(_) | None => return false,
        };
        let name = message.name.as_deref();
        name.is_some_and(|name| patterns.iter().any(|pattern| pattern.fits(name)))
    }

    /// What comes on the stream of this call may fit, as far as the call's name tells.
    fn fits_stream(&self, call: &CallFacts) -> bool {
        !self.names_something()
            || call
                .messages()
                .iter()
                .any(|message| self.fits_name(message))
    }

    pub(super) fn fits_request(
        &self,
        context: &Context,
        message: Option<&mut Message>,
    ) -> Result<bool, String> {
        if self.direction != Direction::Request {
            return Ok(false);
        }
        match message {
            Some(message) => {
                let fits = message.facts().is_none_or(|facts| self.fits_asked(facts));
                Ok(fits && self.is_true(context, Some(message))?)
            }
            // A GET or DELETE of MCP has no message that a rule could be about.
            None if context.call().is_some() => Ok(false),
            None => self.is_true(context, None),
        }
    }

    pub(super) fn fits_head(&self, context: &Context) -> Result<bool, String> {
        Ok(self.direction == Direction::Response && self.is_true(context, None)?)
    }

    pub(super) fn fits_message(
        &self,
        context: &Context,
        message: &mut Message,
    ) -> Result<bool, String> {
        let Some((facts, call)) = message.facts().zip(context.call()) else {
            return Ok(false);
        };
        let fits = match (self.direction, facts.kind) {
            (Direction::Response, Kind::Response) => match context.asked(message) {
                Some(asked) => self.fits_asked(asked),
                None if self.methods.is_empty() && !self.names_something() => true,
                None => return Err(UNKNOWN.to_owned()),
            },
            (Direction::Server, Kind::Notification | Kind::Request) => {
                let method = facts.method.as_ref().map(|m| m.as_str());
                let fits = self.fits_method(method);
                if fits && self.names_something() && is_resumed(call, context.headers()) {
                    return Err(UNKNOWN.to_owned());
                }
                fits && self.fits_stream(call)
            }
            _ => false,
        };
        Ok(fits && self.is_true(context, Some(message))?)
    }

    fn fits_client(&self, asked: &Asked<'_>) -> bool {
        let has = |(name, pattern): &(HeaderName, Pattern)| {
            let mut values = asked.headers.get_all(name).iter();
            values.any(|value| value.to_str().is_ok_and(|text| pattern.fits(text)))
        };
        let known = self.principals.is_empty()
            || asked
                .principal
                .is_some_and(|principal| any(&self.principals, principal));
        known && self.headers.iter().all(has)
    }

    fn is_true(&self, context: &Context, message: Option<&mut Message>) -> Result<bool, String> {
        let Some(expression) = &self.expression else {
            return Ok(true);
        };
        let Some(message) = message else {
            return expression.is_true(&about(context, self.direction));
        };
        let direction = message.direction();
        let known = context.asked(message);
        let asks = match direction {
            Direction::Request => false,
            Direction::Response => expression.uses(Sees::Name) || expression.uses(Sees::Method),
            Direction::Server => expression.uses(Sees::Name) && says_of_a_call(context),
        };
        if asks && known.is_none() && context.call().is_some() {
            return Err(UNKNOWN.to_owned());
        }
        let (body, facts) = if expression.uses(Sees::Body) {
            message.read().map_err(|error| error.to_string())?
        } else {
            (&Value::Null, message.facts())
        };
        let asked = match direction {
            Direction::Request => facts,
            Direction::Response | Direction::Server => known,
        };
        let of = match direction {
            Direction::Server => facts,
            Direction::Request | Direction::Response => asked,
        };
        expression.is_true(&About {
            method: of
                .and_then(|facts| facts.method.as_ref())
                .map(Method::as_str),
            name: asked.and_then(|asked| asked.name.as_deref()),
            body,
            ..about(context, direction)
        })
    }
}

/// What is known without a message.
fn about(context: &Context, direction: Direction) -> About<'_> {
    About {
        exchange: Some(context.exchange()),
        http_method: context.method(),
        path: context.path(),
        headers: context.headers(),
        direction: direction.as_str(),
        method: None,
        name: None,
        body: &Value::Null,
    }
}

/// Who could say that it was something else gets around no rule.
const UNKNOWN: &str = "it belongs to a request that is not known here";

/// A client resumes a stream, perhaps that of a call, and nobody knows of which.
fn is_resumed(call: &CallFacts, headers: &HeaderMap) -> bool {
    call.verb == Verb::Get && headers.contains_key(LAST_EVENT_ID)
}

/// What a server says by the way may belong to a call.
fn says_of_a_call(context: &Context) -> bool {
    context
        .call()
        .is_some_and(|call| is_resumed(call, context.headers()) || call.requests().next().is_some())
}

/// An empty list fits everything.
fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.fits(text))
}
