//! One consumer that hops at random between the transports, with the last stream cursor of any
//! frame, gets every event once and in order.
//!
//! A failure prints its seed; `TRIBUS_SEED` repeats it, as far as the threads' timing allows, and
//! `TRIBUS_HOPS` sets how many hops each consumer makes.

mod consumer;
pub mod filter;
mod publishers;
mod tide;

use std::{collections::BTreeMap, env, sync::Arc};

use consumer::{Consumer, MANY_SUBSCRIPTIONS, Plan};
use filter::Wanted;
use futures_util::future::join_all;
use publishers::{Publisher, Way};
use tide::Tide;
pub use tide::sequence_of;

use crate::support::TestGateway;

/// What publishers do while the consumers hop.
struct Sea {
    hops: usize,
    /// The most bytes of filler in one event.
    filler: usize,
    /// How far publishers may run ahead of the slowest consumer.
    ahead: u64,
}

impl Sea {
    fn of(hops: usize) -> Self {
        Self {
            hops,
            filler: 64,
            ahead: 1500,
        }
    }
}

fn number_from(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

/// Lets consumers hop while publishers publish in each of their tenants; what they saw, by kind.
async fn hop(plans: Vec<Plan>, sea: Sea) -> BTreeMap<String, usize> {
    let seed = number_from("TRIBUS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let hops = number_from("TRIBUS_HOPS").map_or(sea.hops, |hops| hops as usize);
    println!("TRIBUS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let gateway = Arc::new(TestGateway::with("heartbeat = \"400ms\"").await);
    let tide = Tide::new(sea.ahead);
    let mut consumers = Vec::new();
    for plan in &plans {
        let seed = rng.u64(..);
        consumers.push(Consumer::new(&gateway, &tide, plan.clone(), seed).await);
    }
    let mut tenants: Vec<_> = plans.iter().map(|plan| plan.tenant).collect();
    tenants.dedup();
    let ways = [Way::Single, Way::Batch, Way::WebSocket, Way::Single];
    let publishers: Vec<_> = tenants
        .into_iter()
        .flat_map(|tenant| ways.map(|way| (tenant, way)))
        .enumerate()
        .map(|(number, (tenant, way))| {
            let way = (number, way);
            let mut publisher = Publisher::new(&gateway, &tide, way, tenant, rng.u64(..));
            publisher.filler = sea.filler;
            tokio::spawn(publisher.run())
        })
        .collect();
    let hopping = consumers.into_iter().map(|mut consumer| async move {
        consumer.hop(hops).await;
        consumer.rest();
        consumer
    });
    let consumers = join_all(hopping).await;
    tide.stop();
    for publisher in publishers {
        publisher.await.expect("the publisher ends well");
    }
    let mut kinds = BTreeMap::new();
    for consumer in consumers {
        for (kind, count) in consumer.finish().await {
            *kinds.entry(kind).or_default() += count;
        }
    }
    println!("{kinds:?}");
    kinds
}

#[tokio::test]
async fn a_consumer_that_hops_between_all_transports_gets_every_event_once_and_in_order() {
    let topics = [
        "order:*",
        "order:3:items",
        "user:1",
        "straße:übergang",
        "repo:**",
    ];
    let kinds = hop(vec![Plan::of(Wanted::topics(&topics))], Sea::of(2500)).await;
    for kind in ["event", "connected", "subscribed", "live", "pong"] {
        assert!(
            kinds.contains_key(kind),
            "no cursor came by {kind}: {kinds:?}"
        );
    }
}

#[tokio::test]
async fn a_hopping_consumer_of_literal_topics_gets_every_event_once_and_in_order() {
    let topics = [
        "order:1",
        "order:2",
        "order:2:items",
        "user:0",
        "user:2",
        "nobody:here",
    ];
    hop(vec![Plan::of(Wanted::topics(&topics))], Sea::of(120)).await;
}

#[tokio::test]
async fn the_cursors_of_heartbeats_on_quiet_topics_are_as_good_as_any() {
    let plan = Plan {
        wait: 0,
        ..Plan::of(Wanted::topics(&["order:1", "user:*"]))
    };
    // Publishers wait for the consumer's cursor, which heartbeats alone move on.
    let sea = Sea {
        ahead: 12,
        ..Sea::of(40)
    };
    let kinds = hop(vec![plan], sea).await;
    assert!(
        kinds.contains_key("heartbeat"),
        "the topics were not quiet: {kinds:?}"
    );
}

#[tokio::test]
async fn hopping_with_event_names_and_tags_gets_every_event_once_and_in_order() {
    let wanted = Wanted::topics(&["order:**", "user:*"])
        .events(&["created", "updated"])
        .tag("region", "eu");
    hop(vec![Plan::of(wanted)], Sea::of(120)).await;
}

#[tokio::test]
async fn hopping_with_several_subscriptions_gets_every_event_once_and_in_order() {
    let plan = Plan {
        wanted: vec![
            Wanted::topics(&["order:*", "user:1"]).events(&["created"]),
            Wanted::topics(&["order:7", "order:*:items"]),
            Wanted::topics(&["**"])
                .tag("kind", "test")
                .tag("region", "us"),
        ],
        ways: MANY_SUBSCRIPTIONS,
        ..Plan::of(Wanted::default())
    };
    hop(vec![plan], Sea::of(120)).await;
}

#[tokio::test]
async fn hopping_consumers_of_two_tenants_get_the_events_of_their_own() {
    let of_tenant = |tenant| Plan {
        tenant,
        ..Plan::of(Wanted::topics(&["order:*", "repo:a/b:**"]))
    };
    hop(
        vec![
            of_tenant(Some("acme")),
            of_tenant(Some("globex")),
            of_tenant(None),
        ],
        Sea::of(80),
    )
    .await;
}

#[tokio::test]
async fn hopping_with_small_poll_pages_gets_every_event_once_and_in_order() {
    let plan = Plan {
        page: 7,
        ways: &[
            consumer::Way::Poll,
            consumer::Way::PollPost,
            consumer::Way::WsMsgpack,
        ],
        ..Plan::of(Wanted::topics(&["order:*", "once:*"]))
    };
    hop(vec![plan], Sea::of(200)).await;
}

#[tokio::test]
async fn a_hopping_consumer_that_reads_slowly_gets_every_event_once_and_in_order() {
    let plan = Plan {
        slow: true,
        ..Plan::of(Wanted::topics(&["**"]))
    };
    let sea = Sea {
        filler: 4000,
        ..Sea::of(150)
    };
    hop(vec![plan], sea).await;
}
