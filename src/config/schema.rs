//! The JSON Schema of a config file, for editors that complete and check as one types.

use serde_json::Value;

use super::Config;
use super::raw::RawConfig;
use super::read::Read;

impl Config {
    /// The JSON Schema of the file, made of the same definitions that read it.
    pub fn schema() -> Value {
        let mut schema = RawConfig::schema();
        schema.insert(
            "$schema".to_owned(),
            "https://json-schema.org/draft/2020-12/schema".into(),
        );
        schema.insert("title".to_owned(), "ziggurat".into());
        schema.to_value()
    }
}
