//! Rate limits.

use ziggurat_layers::rate_limit::{Allowance, RateLimitSettings, Selector};

use super::Section;
use crate::config::Per;
use crate::config::node::join;
use crate::config::value::Worded;
use crate::config::yaml::Tree;

/// All limits of a route: a single one without a list, unless the file has one.
pub(super) fn limits(section: &mut Section<'_>, limits: &[RateLimitSettings]) {
    let path = join(&section.path, "rate_limit");
    match limits {
        [] => section.bare("rate_limit", "off"),
        [one] if !section.origins.in_list(&path) => {
            section.section("rate_limit", |section| limit(section, one));
        }
        many => {
            let all = many.iter().enumerate().map(|(index, settings)| {
                let mut section = Section::new(&format!("{path}[{index}]"), section.origins);
                limit(&mut section, settings);
                section.finish()
            });
            let all = all.collect();
            section.put("rate_limit", Tree::List(all));
        }
    }
}

fn limit(section: &mut Section<'_>, settings: &RateLimitSettings) {
    section.text("name", &settings.name);
    let mut per: Vec<Per> = settings.per.iter().copied().map(Per::Key).collect();
    if per.is_empty() {
        per.push(Per::Route);
    }
    let per = per.into_iter().map(|per| Tree::bare(per.word()));
    section.items("per", per.collect());
    if let Some(expression) = &settings.expression {
        section.text("expression", expression.as_str());
    }
    selector(section, &settings.selector);
    allowance(section, &settings.allowance);
    if !settings.tiers.is_empty() {
        let path = join(&section.path, "tiers");
        let tiers = settings.tiers.iter().enumerate().map(|(index, tier)| {
            let mut section = Section::new(&format!("{path}[{index}]"), section.origins);
            selector(&mut section, &tier.selector);
            allowance(&mut section, &tier.allowance);
            section.finish()
        });
        let tiers = tiers.collect();
        section.put("tiers", Tree::List(tiers));
    }
    section.bare("keys", settings.keys);
    section.bare("ipv6_prefix", settings.ipv6_prefix);
}

fn selector(section: &mut Section<'_>, selector: &Selector) {
    if selector.is_empty() {
        return;
    }
    section.section("match", |section| {
        let clients = selector.clients.iter().map(ToString::to_string);
        listed(section, "tools", &selector.tools);
        listed(section, "methods", &selector.methods);
        listed(section, "clients", &clients.collect::<Vec<_>>());
    });
}

fn listed<S: AsRef<str>>(section: &mut Section<'_>, key: &str, list: &[S]) {
    if !list.is_empty() {
        section.list(key, list);
    }
}

fn allowance(section: &mut Section<'_>, allowance: &Allowance) {
    section.bare_or_off("rate", allowance.rate);
    if let Some(quota) = allowance.quota() {
        section.bare("burst", quota.burst());
    }
    section.bare_or_off("streams", allowance.streams);
}
