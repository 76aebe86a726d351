//! The chain: asks the interceptors, one after another, and does what they decide.

use std::sync::Arc;

use http::{HeaderMap, Request, response};

use super::{
    Asked, Block, Blocked, Context, Decision, InterceptSettings, Interceptor, Interest, Message,
    Mock, NotChanged, PauseFull, Unreadable,
    paused::{PauseSettings, Resolution, Snapshot},
};
use crate::{
    error::BoxError,
    mcp::{CallFacts, ShortText},
};

/// The interceptors of a route, in their order.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) links: Vec<Arc<dyn Interceptor>>,
    pub(super) settings: InterceptSettings,
}

/// Who of the chain wants something of an exchange, and what.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    who: Vec<(usize, Interest)>,
    /// What they want together.
    pub(super) all: Interest,
}

/// What is left to do after a hook.
pub(super) enum Verdict {
    Pass,
    Mock(Mock),
}

/// How far an exchange has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing has been sent.
    Asking,
    /// The upstream has answered.
    Answering,
}

/// In a request: the chain that changed the call last. A request that is sent again comes without it, as its client sent it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChangedBy(pub(super) usize);

impl ChangedBy {
    pub(super) fn of<B>(request: &Request<B>) -> Option<usize> {
        request.extensions().get::<Self>().map(|by| by.0)
    }
}

impl Chain {
    /// What tells it from others, as long as it is there.
    pub(super) fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// Who wants this exchange; `None` if nobody does.
    pub(super) fn wanted(&self, asked: &Asked<'_>) -> Option<Wanted> {
        let mut wanted = Wanted::default();
        for (place, link) in self.links.iter().enumerate() {
            let interest = link.wants(asked);
            if interest.any() {
                wanted.all = wanted.all.or(interest);
                wanted.who.push((place, interest));
            }
        }
        (!wanted.who.is_empty()).then_some(wanted)
    }

    /// Those who want something of this kind.
    fn links<'a>(
        &'a self,
        wanted: &'a Wanted,
        what: impl Fn(&Interest) -> bool + 'a,
    ) -> impl Iterator<Item = &'a dyn Interceptor> {
        let who = wanted
            .who
            .iter()
            .filter(move |(_, interest)| what(interest));
        who.filter_map(|(place, _)| self.links.get(*place).map(|link| &**link))
    }

    /// Shows a message of the client, or a request without one.
    pub(super) async fn request(
        &self,
        wanted: &Wanted,
        context: &Context,
        headers: &mut HeaderMap,
        mut message: Option<&mut Message>,
    ) -> Result<Verdict, BoxError> {
        let mut named = Named::of(message.as_deref());
        for (place, link) in self.links.iter().enumerate() {
            let link = &**link;
            if !wanted.request(place) && !named.is_wanted(link, context) {
                continue;
            }
            let decision = link.request(context, headers, message.as_deref_mut()).await;
            let verdict = self
                .carry_out(
                    decision,
                    link,
                    context,
                    Stage::Asking,
                    message.as_deref_mut(),
                )
                .await?;
            if let Verdict::Mock(_) = verdict {
                return Ok(verdict);
            }
            named.follow(context, message.as_deref());
        }
        Ok(Verdict::Pass)
    }

    /// Shows the head of a response.
    pub(super) async fn head(
        &self,
        wanted: &Wanted,
        context: &Context,
        head: &mut response::Parts,
    ) -> Result<Verdict, BoxError> {
        for link in self.links(wanted, |interest| interest.head) {
            let decision = link.response(context, head).await;
            let verdict = self
                .carry_out(decision, link, context, Stage::Answering, None)
                .await?;
            if let Verdict::Mock(_) = verdict {
                return Ok(verdict);
            }
        }
        Ok(Verdict::Pass)
    }

    /// Shows a message of the server.
    pub(super) async fn message(
        &self,
        wanted: &Wanted,
        context: &Context,
        message: &mut Message,
    ) -> Result<Verdict, BoxError> {
        for link in self.links(wanted, |interest| interest.messages) {
            let decision = link.message(context, message).await;
            let verdict = self
                .carry_out(decision, link, context, Stage::Answering, Some(message))
                .await?;
            if let Verdict::Mock(_) = verdict {
                return Ok(verdict);
            }
        }
        Ok(Verdict::Pass)
    }

    async fn carry_out(
        &self,
        decision: Decision,
        link: &dyn Interceptor,
        context: &Context,
        stage: Stage,
        message: Option<&mut Message>,
    ) -> Result<Verdict, BoxError> {
        match decision {
            Decision::Continue => Ok(Verdict::Pass),
            Decision::Delay(time) => {
                let time = time.min(Decision::LONGEST_DELAY);
                let waited = self.settings.paused.delay(time).await;
                waited.map_err(|full| stage.full(full))?;
                Ok(Verdict::Pass)
            }
            Decision::Block(block) => Err(stage.blocked(block)),
            Decision::Unreadable(problem) => Err(stage.unreadable(problem)),
            Decision::Mock(mock) => Ok(Verdict::Mock(mock)),
            Decision::Pause(settings) => {
                self.pause(settings, link, context, stage, message).await?;
                Ok(Verdict::Pass)
            }
        }
    }

    async fn pause(
        &self,
        settings: PauseSettings,
        link: &dyn Interceptor,
        context: &Context,
        stage: Stage,
        message: Option<&mut Message>,
    ) -> Result<(), BoxError> {
        let snapshot = Snapshot::of(link.name(), context, message.as_deref(), stage);
        let decided = self.settings.paused.wait(settings, snapshot).await;
        match decided.map_err(|full| stage.full(full))? {
            Resolution::Resume => Ok(()),
            Resolution::ResumeWith(text) => {
                let changed = match message {
                    Some(message) => message.replace(text),
                    None => Err(NotChanged::Unreadable("it has no message".to_owned())),
                };
                changed.map_err(|error| stage.unreadable(error.to_string()))
            }
            Resolution::Block(block) => Err(stage.blocked(block)),
        }
    }
}

impl Wanted {
    /// The link at this place wants the request.
    fn request(&self, place: usize) -> bool {
        let at = self.who.binary_search_by_key(&place, |(place, _)| *place);
        at.is_ok_and(|at| self.who[at].1.request)
    }
}

/// The name under which a message goes on: who did not want it by its old name may by its new one.
struct Named {
    name: Option<ShortText>,
    /// The call with nothing but the message that was renamed.
    call: Option<CallFacts>,
}

impl Named {
    fn of(message: Option<&Message>) -> Self {
        let facts = message.and_then(Message::facts);
        Self {
            name: facts.and_then(|facts| facts.name.clone()),
            call: None,
        }
    }

    fn is_wanted(&self, link: &dyn Interceptor, context: &Context) -> bool {
        let wants = |call| link.wants(&context.as_asked(call)).request;
        self.call.as_ref().is_some_and(wants)
    }

    fn follow(&mut self, context: &Context, message: Option<&Message>) {
        let Some(facts) = message.and_then(Message::facts) else {
            return;
        };
        if facts.name == self.name {
            return;
        }
        self.name.clone_from(&facts.name);
        self.call = context.call().map(|call| call.only(facts.clone()));
    }
}

impl Stage {
    fn sent(self) -> bool {
        self == Self::Answering
    }

    pub(super) fn blocked(self, block: Block) -> BoxError {
        Blocked {
            message: block.message,
            sent: self.sent(),
        }
        .into()
    }

    fn full(self, full: PauseFull) -> PauseFull {
        PauseFull {
            sent: self.sent(),
            ..full
        }
    }

    pub(super) fn unreadable(self, problem: impl Into<String>) -> BoxError {
        Unreadable {
            problem: problem.into(),
            sent: self.sent(),
        }
        .into()
    }
}
