//! Texts with variables, as they stand in the file, without the secrets that stand between and within the references.
//!
//! A reference shows nothing but a name and a default, so it stays, and what is masked is the text around it: `s3cr3t-${REGION}` is `***${REGION}`. Where a
//! variable is all that a secret place has (`--token=${TOKEN}`, `Bearer ${TOKEN}`, `://user:${PASSWORD}@`) there is nothing to mask but its default.

use ziggurat_layers::secret::{looks_like_secret, suggests_secret};

use super::{MASK, is_of_word, is_secret, mask_argument, mask_query};

/// A text in which each reference, or each secret place that has nothing but references, is one character.
struct Holed {
    text: String,
    holes: Vec<Hole>,
}

/// What stands in the file where that character is.
struct Hole {
    written: String,
    /// Its defaults are likely secrets.
    secret: bool,
}

/// Stands for a hole: no letter, and part of a word.
const HOLE: char = '\u{fffc}';

/// What may stand between a name and its value.
const FILL: [char; 4] = [' ', '"', '\'', '\\'];

/// The words before a secret that say how it is used.
const SCHEMES: &[&str] = &["bearer", "basic", "token", "apikey"];

/// A text with variables, as it may be shown under this name: secrets in it and likely secrets among the defaults are masked.
pub(in crate::config) fn mask_template(name: &str, template: &str) -> String {
    // All of a secret is one: no part of it may pass for the name of another.
    let named = suggests_secret(name);
    let place = if named { |_: &str| None } else { Place::before };
    let Some(holed) = Holed::new(template, place) else {
        return MASK.to_owned();
    };
    if named {
        return holed.masked(&holed.text, 0);
    }
    let shown = mask_argument(&holed.text);
    if shown == holed.text {
        return holed.shown(&shown, 0);
    }
    let clean = shown.strip_suffix(MASK).unwrap_or_default();
    let clean = if holed.text.starts_with(clean) {
        clean
    } else {
        ""
    };
    let tail = &holed.text[clean.len()..];
    holed.shown(clean, 0) + &holed.masked(tail, count(clean))
}

/// The same for a URL, of which only the query has secrets.
pub(in crate::config) fn mask_url_template(template: &str) -> String {
    let Some(holed) = Holed::new(template, Place::before) else {
        return MASK.to_owned();
    };
    // The variable before it may have the question mark.
    let query = holed.text.find(['?', '&']).unwrap_or(holed.text.len());
    let (start, query) = holed.text.split_at(query);
    let mut shown = holed.shown(start, 0);
    let mut first = count(start);
    for pair in query.split_inclusive(['?', '&']) {
        shown += &match pair.split_once('=') {
            Some((name, value)) if is_secret(name, value) => {
                let (value, end) = match value.strip_suffix(['?', '&']) {
                    Some(cut) => (cut, &value[cut.len()..]),
                    None => (value, ""),
                };
                let value = holed.masked(value, first + count(name));
                format!("{}={value}{end}", holed.shown(name, first))
            }
            _ => holed.shown(pair, first),
        };
        first += count(pair);
    }
    shown
}

// === impl Holed ===

impl Holed {
    /// Nothing if the text has the character that stands for a hole. `place` finds a place for a secret at the end of a text.
    fn new(template: &str, place: fn(&str) -> Option<Place>) -> Option<Self> {
        let mut this = Self {
            text: String::with_capacity(template.len()),
            holes: Vec::new(),
        };
        let mut rest = template;
        while let Some(start) = rest.find("${") {
            let (before, reference) = rest.split_at(start);
            this.text += before;
            if before.ends_with('$') {
                this.text += "${";
                rest = &reference[2..];
                continue;
            }
            let end = reference.find('}').map_or(reference.len(), |end| end + 1);
            let (reference, after) = reference.split_at(end);
            rest = this.add(reference, place(&this.text), after);
        }
        this.text += rest;
        let is_sound = !template.contains(HOLE);
        is_sound.then_some(this)
    }

    /// Makes a hole for this reference, and for what introduces it if there is nothing else in that place; says what is left of the text after it.
    fn add<'t>(&mut self, reference: &str, place: Option<Place>, mut after: &'t str) -> &'t str {
        let mut hole = Hole {
            written: reference.to_owned(),
            secret: false,
        };
        if let Some(place) = place {
            hole.secret = true;
            if place.ends_at(after) {
                let (start, first) = (place.start, count(&self.text[..place.start]));
                let opening = self.written(&self.text[start..], first);
                hole.written.insert_str(0, &opening);
                if place.kind == Kind::User {
                    hole.written.push('@');
                    after = &after[1..];
                }
                self.text.truncate(start);
                self.holes.truncate(first);
            }
        }
        self.text.push(HOLE);
        self.holes.push(hole);
        after
    }

    /// A part of the text as it stands in the file; `first` is how many holes are before it.
    fn written(&self, part: &str, first: usize) -> String {
        self.fill(
            part,
            first,
            |text| text.to_owned(),
            |hole| hole.written.clone(),
        )
    }

    /// The same, with the defaults masked that are likely secrets.
    fn shown(&self, part: &str, first: usize) -> String {
        let hole = |hole: &Hole| references(&hole.written, hole.secret);
        self.fill(part, first, |text| text.to_owned(), hole)
    }

    /// The same, with all masked that says something, but for the names of the variables.
    fn masked(&self, part: &str, first: usize) -> String {
        let mask = |text: &str| {
            if text.chars().any(char::is_alphanumeric) {
                MASK.to_owned()
            } else {
                text.to_owned()
            }
        };
        let text = part.trim_start_matches(FILL);
        let scheme = text.split(' ').next().unwrap_or_default();
        let is_scheme = SCHEMES
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known));
        let kept = part.len() - text.len() + if is_scheme { scheme.len() } else { 0 };
        let (kept, part) = part.split_at(kept);
        let space = &part[..part.len() - part.trim_start().len()];
        let part = &part[space.len()..];
        let rest = self.fill(part, first, mask, |hole| references(&hole.written, true));
        format!("{kept}{space}{rest}")
    }

    fn fill(
        &self,
        part: &str,
        first: usize,
        text: impl Fn(&str) -> String,
        hole: impl Fn(&Hole) -> String,
    ) -> String {
        let mut holes = self.holes.iter().skip(first);
        let mut texts = part.split(HOLE);
        let mut filled = texts.next().map(&text).unwrap_or_default();
        for next in texts {
            filled += &holes.next().map(&hole).unwrap_or_default();
            filled += &text(next);
        }
        filled
    }
}

fn count(text: &str) -> usize {
    text.matches(HOLE).count()
}

/// A text of which only the references count, their defaults masked if they are likely secrets: `${TOKEN:-***}`.
fn references(written: &str, secret: bool) -> String {
    let mut shown = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        let end = reference.find('}').unwrap_or(reference.len());
        let (reference, after) = reference.split_at(end);
        shown += before;
        shown += &match reference.split_once(":-") {
            Some((name, default))
                if !default.is_empty() && (secret || is_secret(name, default)) =>
            {
                format!("{name}:-{MASK}")
            }
            Some((name, default)) => format!("{name}:-{}", mask_argument(&mask_query(default))),
            None => reference.to_owned(),
        };
        rest = after;
    }
    shown + rest
}

/// A place for a secret at the end of a text: `--token=`, `X-Api-Key: `, `Authorization: Bearer `, `?key=`, `://user:`.
struct Place {
    /// Where what introduces it begins.
    start: usize,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The value is a word.
    Word,
    /// The value goes to the end of a line, as that of a header does.
    Line,
    /// The value goes to the `@` of a URL.
    User,
}

impl Place {
    fn before(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(HOLE);
        if let Some(at) = text.rfind("://") {
            let (start, user) = (at + 3, &text[at + 3..]);
            let open = user.strip_suffix(':');
            let is_name = |name: &str| name.chars().all(is_of_user) && !looks_like_secret(name);
            if user.is_empty() || open.is_some_and(is_name) {
                let kind = Kind::User;
                return Some(Self { start, kind });
            }
        }
        let trimmed = text.trim_end_matches(FILL);
        let (word, before) = last_word(trimmed);
        let scheme = ["bearer", "basic"].contains(&&*word.to_ascii_lowercase());
        let introduced = if scheme {
            before.trim_end_matches(FILL)
        } else {
            trimmed
        };
        let named = introduced.trim_end_matches([':', '=']);
        let (name, before) = last_word(named.trim_end_matches(FILL));
        let start = before.len();
        let kind = if introduced.ends_with(':') {
            Kind::Line
        } else {
            Kind::Word
        };
        let is_option = name.starts_with('-') && trimmed.len() < text.len();
        if (named.len() < introduced.len() || is_option) && suggests_secret(name) {
            return Some(Self { start, kind });
        }
        let start = trimmed.len() - word.len();
        let kind = Kind::Line;
        scheme.then_some(Self { start, kind })
    }

    /// Whether nothing of the value is left after the reference.
    fn ends_at(&self, after: &str) -> bool {
        let Some(next) = after.chars().next() else {
            return self.kind != Kind::User;
        };
        match self.kind {
            Kind::User => next == '@',
            Kind::Word => !is_of_word(next),
            Kind::Line => "\"'`,}".contains(next),
        }
    }
}

fn is_of_user(letter: char) -> bool {
    !letter.is_whitespace() && !"/@:?#".contains(letter)
}

/// The name at the end of a text, and what is before it.
fn last_word(text: &str) -> (&str, &str) {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let before = text.trim_end_matches(is_of_name);
    (&text[before.len()..], before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_of_a_variable_is_masked_where_it_is_likely_a_secret() {
        for (name, template, shown) in [
            ("API_TOKEN", "${A:-x}", "${A:-***}"),
            (
                "GREETING",
                "${API_TOKEN:-x} and ${B:-y}",
                "${API_TOKEN:-***} and ${B:-y}",
            ),
            ("GREETING", "${A:-sk-123}", "${A:-***}"),
            ("authorization", "Bearer ${A:-x}!", "Bearer ${A:-***}!"),
            ("API_TOKEN", "${A} ${B:-}", "${A} ${B:-}"),
            ("LOG_LEVEL", "${A:-info}", "${A:-info}"),
            ("command", "--token=${A:-x}", "--token=${A:-***}"),
            (
                "command",
                "--token=${A:-x}${B:-y}",
                "--token=${A:-***}${B:-***}",
            ),
            ("command", "X-Api-Key: ${A:-x}", "X-Api-Key: ${A:-***}"),
            (
                "command",
                "--header=Authorization: Bearer ${A:-x}",
                "--header=Authorization: Bearer ${A:-***}",
            ),
            ("command", "--level=${A:-info}", "--level=${A:-info}"),
            (
                "DB",
                "postgres://u:${A:-x}@h:1/d",
                "postgres://u:${A:-***}@h:1/d",
            ),
            ("RUN", "${A:-run --api-key x}", "${A:-***}"),
        ] {
            assert_eq!(mask_template(name, template), shown, "{name}");
        }
    }

    #[test]
    fn the_query_of_a_url_is_masked_around_its_variables() {
        for (template, shown) in [
            (
                "http://a/?key=${A:-x}&page=${B:-1}",
                "http://a/?key=${A:-***}&page=${B:-1}",
            ),
            (
                "${A:-http://a/?page=1&token=x}",
                "${A:-http://a/?page=1&token=***}",
            ),
            (
                "http://${H}/?token=x-${R:-y}&b=${C}",
                "http://${H}/?token=***${R:-***}&b=${C}",
            ),
            ("http://a/${P}?b=1&token=x", "http://a/${P}?b=1&token=***"),
            ("${BASE}&token=x", "${BASE}&token=***"),
        ] {
            assert_eq!(mask_url_template(template), shown);
        }
    }

    #[test]
    fn what_stands_beside_a_variable_is_masked_where_it_is_likely_a_secret() {
        for (name, template, shown) in [
            (
                "DATABASE_URL",
                "postgres://u:x1@${DB:-db}/x",
                "***${DB:-***}***",
            ),
            ("DATABASE_URL", "postgres://u:x1-${R}@h/x", "***${R}***"),
            ("command", "API_TOKEN=x1 exec run ${D}", "API_TOKEN=***${D}"),
            ("command", "cd ${D}; API_TOKEN=x1 run", "***${D}***"),
            (
                "command",
                "--header=Authorization: Bearer x1 ${R:-eu}",
                "--header=Authorization: Bearer ***${R:-***}",
            ),
            ("command", "X-Api-Key: ${A} x1", "X-Api-Key: ${A}***"),
            ("command", "--token=${A}-x1", "--token=${A}***"),
            (
                "command",
                "run --token=${A} --api-key x1",
                "***--token=${A}***",
            ),
            ("API_TOKEN", "x1-token=${R}", "***${R}"),
            ("command", "Cookie: a=${A}; b=x1", "Cookie: ***${A}***"),
            ("API_TOKEN", "x1-${R:-x}", "***${R:-***}"),
            ("authorization", "Bearer x1-${R:-x}", "Bearer ***${R:-***}"),
            ("authorization", "x1 ${R}", "***${R}"),
            ("authorization", "${R} x1", "${R}***"),
            ("password", "x1$${${R}", "***${R}"),
            ("LOG", "${A} ghp_x1", "${A}***"),
            ("LOG", "ghp_x1${A}", "***${A}"),
            ("LOG", "\u{fffc}${A}", "***"),
        ] {
            assert_eq!(mask_template(name, template), shown, "{template}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for template in [
            "postgres://${U}:${PW}@${H}/${D}",
            "https://${T}@h:80/x",
            "sh -c 'API_TOKEN=${T} exec run --port=80'",
            "API_TOKEN=${T} exec run --port=80",
            "cd ${D}; API_TOKEN=${T} run",
            "curl -H 'X-Api-Key: ${K}' http://a",
            "run --api-key ${K} --verbose",
            "Bearer ${T}",
            r#"{"authorization": "Bearer ${T}"}"#,
            "--header=Cookie: session=${S}",
            "costs ${N:-5}, or $${five}",
            "${A}${B}/x y",
            "has(args.x) && args.token == '${L}'",
            "",
        ] {
            assert_eq!(mask_template("value", template), template);
        }
    }
}
