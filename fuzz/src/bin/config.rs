//! A config, rules and all, as it is written: whatever the text says, it is read, or refused with a place in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ziggurat::config::Config;

const NAME: &str = "fuzz.yaml";

fuzz_target!(
    init: ziggurat_fuzz::quiet_readers(),
    |text: &str| {
        match Config::parse(text, NAME) {
            Ok((config, _)) => drop(config.to_yaml()),
            Err(errors) => assert!(errors.to_string().contains(NAME), "{errors}"),
        }
    }
);
