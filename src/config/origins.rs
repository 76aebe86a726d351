//! Which values of a config came from the environment.

use std::collections::BTreeMap;

use super::node::{Node, Shape};

/// The values that refer to environment variables, by key path, as they stand in the file.
///
/// Two configs that mean the same are equal wherever their values came from, so all origins are equal to each other.
#[derive(Clone, Debug, Default)]
pub struct Origins(BTreeMap<String, String>);

impl Origins {
    pub(super) fn of(node: &Node) -> Self {
        let mut origins = Self::default();
        origins.collect(node);
        origins
    }

    /// What stands in the file at this key path, if it refers to the environment.
    pub(super) fn at(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Whether something in the list at this path is known here.
    pub(super) fn in_list(&self, path: &str) -> bool {
        let mut below = self.0.keys().filter_map(|key| key.strip_prefix(path));
        below.any(|rest| rest.starts_with('['))
    }

    /// The name of a key below this path whose value is known here, in the spelling of the file: header names ignore case.
    pub(super) fn spelling(&self, path: &str, name: &str) -> Option<String> {
        let below = self
            .0
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
                if let Some(template) = &text.template {
                    self.0.insert(node.place.path.clone(), template.clone());
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
