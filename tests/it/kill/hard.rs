//! Ziggurat itself is killed.

use std::fs;

use super::load::{self, Load, family, nobody_is_left};
use crate::harness::{process, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ziggurat_that_is_killed_hard_under_load_leaves_no_child_and_no_grandchild() {
    for isolation in ["per_session", "shared"] {
        let settings = format!("isolation: {isolation}, warm: 2, max: 64");
        let mut z = load::demo(&settings).up().await;
        let mut load = Load::start(&z);
        load.is_on(&z).await;
        let reaper = process::children(z.pid())
            .into_iter()
            .find(|pid| process::command_line(*pid).contains("reaper"));
        // It does not see that its clients go.
        process::signal(z.pid(), "STOP");
        load.abort().await;
        process::signal(z.pid(), "KILL");
        z.ended().await;
        until("the reaper is done", async || {
            !process::is_alive(reaper.unwrap())
        })
        .await;
        nobody_is_left(&fs::read_to_string(family(&z)).unwrap(), 4).await;
    }
}
