//! The laws of a `Service`, held against every layer of the crate, with plain HTTP and with MCP.
//!
//! A layer stands once in the table ([`rows`]); a [law](law) is a function. Below each layer is a [`leaf`] that is hard to please, and that
//! counts what it is owed. Time stands still unless everybody waits, so a wake-up that is lost shows at once. That the laws have
//! teeth is shown by layers with the usual [`mistakes`].

mod law;
mod leaf;
mod mistakes;
mod rig;
mod rows;
mod table;

/// A test for each law.
macro_rules! hold {
    ($($law:ident)*) => {
        $(
            #[test]
            fn $law() {
                let broken = rig::broken(rows::rows, law::$law);
                assert!(broken.is_empty(), "broken by\n{}", broken.join("\n"));
            }
        )*
    };
}

hold! {
    a_service_is_called_only_when_it_is_ready
    a_layer_is_ready_when_its_service_is
    a_clone_works_on_its_own
    calls_on_clones_go_on_beside_each_other
    no_wake_up_is_lost_while_a_service_is_not_ready
    no_wake_up_is_lost_while_a_response_head_is_awaited
    no_wake_up_is_lost_while_a_body_is_awaited
    a_call_that_was_never_polled_gives_all_back
    a_call_that_is_dropped_before_its_head_gives_all_back
    a_caller_that_does_not_wait_for_readiness_gives_all_back
    a_body_that_is_dropped_unread_gives_all_back
    a_body_that_is_dropped_in_the_middle_gives_all_back
    a_call_ends_with_its_body_though_that_is_kept
    a_failed_call_gives_all_back
    a_failed_body_gives_all_back
    a_response_passes_unchanged
    a_body_is_honest_about_its_length_and_its_end
    an_empty_body_is_over_at_once
    an_error_of_a_body_keeps_its_source
    an_error_keeps_its_source
    an_error_of_readiness_keeps_its_source
    a_request_passes_unchanged
    a_repeated_request_is_the_same
    a_panic_in_a_call_poisons_nothing
    a_panic_in_a_future_poisons_nothing
    a_panic_in_a_body_poisons_nothing
    a_call_is_not_polled_before_it_is_asked
}
