//! Rules: interceptors that are written down, and not programmed.
//!
//! A [`Rule`] says when it applies ([`When`]) and what it does ([`Action`]). All that `when` names must fit. Direction, method, name, path, headers and principal decide before
//! anything is read; an [`Expression`] (CEL, with the feature `cel`) looks into the message. Rules read headers and names as the body has them: the
//! layer refuses a request whose headers say something else. A call that a rule gives another name goes by that from there on; its answer is known by
//! the name that its client used. A rule that cannot be judged, or whose change does not fit, goes by [`OnError`].
//!
//! ```
//! use std::sync::Arc;
//! use ziggurat_layers::intercept::{
//!     Direction, InterceptLayer, InterceptSettings,
//!     rules::{Action, OnError, Rule, RuleSet, When},
//! };
//!
//! let rule = Rule {
//!     name: "no-shell".into(),
//!     when: When { tools: vec!["shell*".into()], ..When::new(Direction::Request) },
//!     action: Action::Block("no shell here".into()),
//!     on_error: OnError::Block,
//! };
//! let rules = RuleSet { rules: vec![rule], dry_run: false };
//! let layer = InterceptLayer::new(InterceptSettings::default(), rules.interceptors("/mcp"));
//! # let _ = layer;
//! ```

mod template;
mod when;

use std::{sync::Arc, time::Duration};

use ::metrics::Counter;
use http::{HeaderMap, HeaderName, HeaderValue, response};

use self::template::Known;
pub use self::{
    template::{BadTemplate, Respond, Template},
    when::When,
};
use super::{
    Asked, Block, Context, Decision, Direction, Edit, Hook, Interceptor, Interest, Message,
    PauseSettings,
};
pub use crate::expression::{BadExpression, Expression};
use crate::metrics::{counter, names};

/// The rules of a route, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuleSet {
    /// The rules.
    pub rules: Vec<Rule>,
    /// They only count and log what they would do.
    pub dry_run: bool,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name, in logs and metrics.
    pub name: Arc<str>,
    /// When it applies.
    pub when: When,
    /// What it does then.
    pub action: Action,
    /// What happens where that cannot be told, or done.
    pub on_error: OnError,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// It counts, and lets the next rule see.
    Continue,
    /// It changes the message, or headers.
    Modify(Change),
    /// It refuses, with these words.
    Block(String),
    /// It answers.
    Mock(Respond),
    /// It has the exchange wait for so long.
    Delay(Duration),
    /// It has the exchange wait for an operator.
    Pause(PauseSettings),
}

/// What is changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// In the message: all of it, or nothing.
    pub edits: Vec<Edit>,
    /// Headers that are set: of the request, or on plain HTTP of the response.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers that are removed.
    pub remove_headers: Vec<HeaderName>,
}

/// What a rule does that cannot be judged or carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// The exchange is refused, so that nobody gets around a rule by making it fail.
    #[default]
    Block,
    /// As if the rule had not matched.
    Skip,
}

/// A rule at work.
#[derive(Debug)]
struct Working {
    rule: Rule,
    dry_run: bool,
    hits: Counter,
    errors: Counter,
}

// === impl RuleSet ===

impl RuleSet {
    /// The interceptors of the route of this name, which is the label of their counters.
    pub fn interceptors(&self, route: &str) -> Vec<Arc<dyn Interceptor>> {
        let count = |rule: &Rule, action: &str| {
            let labels = [("route", route), ("rule", &*rule.name), ("action", action)];
            counter(names::INTERCEPT_HITS, &labels)
        };
        let all = self.rules.iter().map(|rule| {
            let action = if self.dry_run {
                "dry_run"
            } else {
                rule.action.as_str()
            };
            let working: Arc<dyn Interceptor> = Arc::new(Working {
                hits: count(rule, action),
                errors: count(rule, "error"),
                rule: rule.clone(),
                dry_run: self.dry_run,
            });
            working
        });
        all.collect()
    }
}

impl Action {
    /// The word of metrics and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Modify(_) => "modify",
            Self::Block(_) => "block",
            Self::Mock(_) => "mock",
            Self::Delay(_) => "delay",
            Self::Pause(_) => "pause",
        }
    }
}

// === impl Working ===

/// What there is to change.
enum Subject<'a> {
    Request(&'a mut HeaderMap, Option<&'a mut Message>),
    Head(&'a mut response::Parts),
    Message(&'a mut Message),
}

impl Working {
    /// What comes of a rule whose `when` has said yes, no, or that it cannot tell.
    fn act(&self, fits: Result<bool, String>, context: &Context, subject: Subject<'_>) -> Decision {
        match fits {
            Ok(false) => return Decision::Continue,
            Ok(true) => {}
            Err(problem) => return self.fails(context, &problem),
        }
        let (rule, action) = (&*self.rule.name, self.rule.action.as_str());
        let request_id = context.exchange().id();
        if self.dry_run {
            self.hits.increment(1);
            tracing::info!(rule, action, request_id, "a rule would have applied");
            return Decision::Continue;
        }
        match self.carry_out(context, subject) {
            Ok(decision) => {
                self.hits.increment(1);
                tracing::debug!(rule, action, request_id, "a rule applied");
                decision
            }
            Err(problem) => self.fails(context, &problem),
        }
    }

    fn carry_out(&self, context: &Context, subject: Subject<'_>) -> Result<Decision, String> {
        Ok(match &self.rule.action {
            Action::Continue => Decision::Continue,
            Action::Modify(change) => {
                change.make(subject)?;
                Decision::Continue
            }
            Action::Block(message) => Decision::Block(Block {
                message: message.clone(),
            }),
            Action::Mock(respond) => {
                let message = match subject {
                    Subject::Request(_, message) => message,
                    Subject::Message(message) => Some(message),
                    Subject::Head(_) => None,
                };
                let asked = message.as_deref().and_then(|m| match m.direction() {
                    Direction::Request => m.facts().cloned(),
                    Direction::Response | Direction::Server => context.asked(m).cloned(),
                });
                let body = match message {
                    Some(message) => Some(message.value().map_err(|e| e.to_string())?),
                    None => None,
                };
                let known = Known {
                    asked: asked.as_ref(),
                    body,
                    context,
                };
                Decision::Mock(respond.fill(&known)?)
            }
            Action::Delay(time) => Decision::Delay(*time),
            Action::Pause(settings) => Decision::Pause(*settings),
        })
    }

    /// It cannot be judged, or not be carried out.
    fn fails(&self, context: &Context, problem: &str) -> Decision {
        self.errors.increment(1);
        let request_id = context.exchange().id();
        tracing::warn!(
            rule = &*self.rule.name,
            request_id,
            problem,
            "a rule failed"
        );
        match self.rule.on_error {
            OnError::Block if !self.dry_run => {
                Decision::Unreadable("a rule for it could not be applied".to_owned())
            }
            OnError::Block | OnError::Skip => Decision::Continue,
        }
    }
}

impl Interceptor for Working {
    fn name(&self) -> &str {
        &self.rule.name
    }

    fn wants(&self, asked: &Asked<'_>) -> Interest {
        self.rule.when.interest(asked)
    }

    fn request<'a>(
        &'a self,
        context: &'a Context,
        headers: &'a mut HeaderMap,
        mut message: Option<&'a mut Message>,
    ) -> Hook<'a> {
        let fits = self.rule.when.fits_request(context, message.as_deref_mut());
        Hook::now(self.act(fits, context, Subject::Request(headers, message)))
    }

    fn response<'a>(&'a self, context: &'a Context, head: &'a mut response::Parts) -> Hook<'a> {
        let fits = self.rule.when.fits_head(context);
        Hook::now(self.act(fits, context, Subject::Head(head)))
    }

    fn message<'a>(&'a self, context: &'a Context, message: &'a mut Message) -> Hook<'a> {
        let fits = self.rule.when.fits_message(context, message);
        Hook::now(self.act(fits, context, Subject::Message(message)))
    }
}

impl Change {
    fn make(&self, subject: Subject<'_>) -> Result<(), String> {
        let (headers, message) = match subject {
            Subject::Request(headers, message) => (Some(headers), message),
            Subject::Head(head) => (Some(&mut head.headers), None),
            Subject::Message(message) => (None, Some(message)),
        };
        if !self.edits.is_empty() {
            let message = message.ok_or("there is no message to change")?;
            message
                .apply(&self.edits)
                .map_err(|error| error.to_string())?;
        }
        if let Some(headers) = headers {
            for name in &self.remove_headers {
                headers.remove(name);
            }
            for (name, value) in &self.set_headers {
                headers.insert(name.clone(), value.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
