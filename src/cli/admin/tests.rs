//! What the words of the command line become, and what is said where nobody answers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::json;

use super::words::{Member, commands, word};
use super::*;
use crate::cli;

fn read(words: &[&str]) -> Result<Admin, clap::Error> {
    let line = ["ziggurat", "admin"].iter().chain(words);
    match cli::Command::from_line(line)? {
        cli::Command::Admin(admin) => Ok(admin),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_operation_is_a_command_and_takes_what_its_body_takes() {
    for operation in commands() {
        let members = Member::of(&operation);
        let mut words = vec![word(&operation)];
        for member in members.iter().filter(|member| member.required) {
            words.push(match (&member.words[..], member.number) {
                ([first, ..], _) => first,
                ([], true) => "7",
                ([], false) => "x",
            });
        }
        let admin = read(&words).unwrap();
        assert_eq!(admin.operation, operation.name);
        assert_eq!(admin.body.is_some(), operation.body.is_some());
        if words.len() > 1 {
            words.pop();
            assert!(read(&words).is_err(), "{words:?} lacks a word");
        }
    }
}

#[test]
fn words_become_the_body() {
    let admin = read(&[
        "set-weight",
        "tools",
        "a:1",
        "--weight",
        "5",
        "--reason",
        "less",
        "--json",
    ])
    .unwrap();
    assert!(admin.json);
    assert_eq!(
        admin.body,
        Some(json!({"upstream": "tools", "endpoint": "a:1", "weight": 5, "reason": "less"}))
    );
    let admin = read(&["--admin", "h:1", "force-circuit", "tools", "a:1", "open"]).unwrap();
    assert_eq!(admin.address, "h:1");
    assert_eq!(
        admin.body,
        Some(json!({"upstream": "tools", "endpoint": "a:1", "state": "open"}))
    );
    assert!(read(&["force-circuit", "tools", "a:1", "ajar"]).is_err());
    assert!(read(&["set-weight", "tools", "a:1", "--weight", "much"]).is_err());
    assert!(read(&[]).is_err());
    assert_eq!(read(&["openapi"]).unwrap().operation, "openapi.json");
}

#[tokio::test]
async fn where_nobody_answers_it_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let admin = read(&["--admin", &address, "build"]).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(admin.ask(&mut out, &mut err).await.unwrap(), 3);
    let said = String::from_utf8(err).unwrap();
    assert!(
        said.contains(&address) && said.contains("is ziggurat running"),
        "{said}"
    );
    assert!(out.is_empty());
}
