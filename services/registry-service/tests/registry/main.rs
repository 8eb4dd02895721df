//! registry-service as its own processes, on the embedded agent and on a real Consul. Every scenario runs on both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod api;
mod backend;
mod failures;
mod input;
mod replicas;
mod support;

/// Each scenario becomes two tests: one on the embedded agent, one on real Consul.
macro_rules! on_both {
    ($($scenario:path => $name:ident),* $(,)?) => {
        mod on_agent {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $scenario(crate::support::Platform::on_agent().await).await;
            })*
        }
        mod on_consul {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $scenario(crate::support::Platform::on_consul().await).await;
            })*
        }
    };
}

on_both! {
    crate::api::whole_life => whole_life,
    crate::api::filters_and_status => filters_and_status,
    crate::api::pages_and_list_filters => pages_and_list_filters,
    crate::api::heartbeats_keep_a_lease => heartbeats_keep_a_lease,
    crate::api::long_polls => long_polls,
    crate::api::instances_of_other_agents_are_found => instances_of_other_agents_are_found,
    crate::access::scopes_decide => scopes_decide,
    crate::access::owners_are_kept_apart => owners_are_kept_apart,
    crate::input::bad_input_is_named => bad_input_is_named,
    crate::input::what_kit_serves_is_there => what_kit_serves_is_there,
    crate::replicas::written_at_one_read_at_the_other => written_at_one_read_at_the_other,
    crate::replicas::a_race_has_one_winner => a_race_has_one_winner,
    crate::replicas::a_replica_dies => a_replica_dies,
    crate::failures::consul_dies_and_comes_back => consul_dies_and_comes_back,
    crate::failures::consul_is_not_there_at_start => consul_is_not_there_at_start,
}
