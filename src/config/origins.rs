//! Which values of a config came from the file, which of them from the environment, and which from the command line.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Node, Shape};

/// Which values are no defaults, by key path; those of the file that refer to environment variables as they stand there.
///
/// Two configs that mean the same are equal wherever their values came from, so all origins are equal to each other.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    templates: BTreeMap<String, String>,
    written: BTreeSet<String>,
    /// What the command line says instead.
    given: BTreeSet<String>,
}

impl Origins {
    pub(super) fn of(node: &Node) -> Self {
        let mut origins = Self::default();
        origins.collect(node);
        origins
    }

    /// The command line says what this is, whatever the file says; a section has it as its `address`.
    pub(super) fn give(&mut self, path: &str) {
        let address = format!("{path}.address");
        let section = format!("{path}.");
        let has_section = self.written.iter().any(|key| key.starts_with(&section));
        let path = if has_section { &address } else { path };
        self.templates.remove(path);
        self.written.remove(path);
        self.given.insert(path.to_owned());
    }

    /// What stands in the file at this key path, if it refers to the environment.
    pub(super) fn at(&self, path: &str) -> Option<&str> {
        self.templates.get(path).map(String::as_str)
    }

    /// Where each value comes from that is no default: `file`, `environment` or `command line`.
    pub fn all(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let given = self.given.iter().map(|path| (&**path, "command line"));
        let written = self.written.iter().map(|path| {
            let from_environment = self.templates.contains_key(path);
            let origin = if from_environment {
                "environment"
            } else {
                "file"
            };
            (path.as_str(), origin)
        });
        written.chain(given)
    }

    /// Whether something in the list at this path is known here.
    pub(super) fn in_list(&self, path: &str) -> bool {
        let mut below = self
            .templates
            .keys()
            .filter_map(|key| key.strip_prefix(path));
        below.any(|rest| rest.starts_with('['))
    }

    /// The name of a key below this path whose value is known here, in the spelling of the file: header names ignore case.
    pub(super) fn spelling(&self, path: &str, name: &str) -> Option<String> {
        let below = self
            .templates
            .keys()
            .filter_map(|key| key.strip_prefix(path)?.strip_prefix('.'));
        below
            .into_iter()
            .find(|key| key.eq_ignore_ascii_case(name))
            .map(str::to_owned)
    }

    fn collect(&mut self, node: &Node) {
        match &node.shape {
            Shape::Empty => {}
            Shape::Text(text) => {
                self.written.insert(node.place.path.clone());
                if let Some(template) = &text.template {
                    self.templates
                        .insert(node.place.path.clone(), template.clone());
                }
            }
            Shape::List(items) => items.iter().for_each(|item| self.collect(item)),
            Shape::Map(entries) => entries.iter().for_each(|(_, value)| self.collect(value)),
        }
    }
}

impl PartialEq for Origins {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
