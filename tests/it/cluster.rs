//! Three gateways on one log in a server under load, with clients that hop between them.

pub mod faults;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use crate::{
    durability::{CATCH_UP, publish_end, until_ready_is},
    support::{Checker, Hopper, Load, Node, Relay, Verdict},
};

pub const NODES: usize = 3;
/// What the clients want, by wildcards and by name.
const TOPICS: [&[&str]; 4] = [&["load:*"], &["load:*"], &["load:1", "load:6"], &["load:3"]];

/// Where the log is.
pub trait LogServer {
    const NAME: &str;

    fn address(&self) -> SocketAddr;

    /// Sends its process a signal.
    fn signal(&self, name: &str);
}

pub struct Cluster<S> {
    pub server: S,
    /// Each node's way to the server.
    pub relays: Vec<Relay>,
    pub nodes: Vec<Node>,
    pub checker: Arc<Checker>,
    load: Load,
    hoppers: Vec<JoinHandle<()>>,
    /// The cursor of whoever was there before the first event.
    pub start: String,
}

impl<S: LogServer> Cluster<S> {
    pub const NAMESPACE: &str = "cluster";

    /// On a server that runs; with settings by their variables' names without `TRIBUS__`.
    pub async fn around(engine: &str, server: S, settings: &[(&str, &str)]) -> Self {
        let address = server.address();
        let of_engine = |name: &str| format!("BUS__{}__{name}", engine.to_uppercase());
        let (mut relays, mut nodes) = (Vec::new(), Vec::new());
        for _ in 0..NODES {
            let relay = Relay::to(address).await;
            let mut node = Node::new(&[
                ("BUS__ENGINE", engine),
                ("BUS__NAMESPACE", Self::NAMESPACE),
                (&of_engine("URL"), &format!("{engine}://{}", relay.address)),
                (&of_engine("MEMORY"), "64KiB"),
                (&of_engine("TIMEOUT"), "2s"),
            ]);
            for (name, value) in settings {
                node.set(name, value);
            }
            node.start().await;
            until_ready_is(&node.gateway(), 200).await;
            relays.push(relay);
            nodes.push(node);
        }
        let checker = Arc::new(Checker::default());
        let (status, start) = nodes[0].gateway().poll("topics=load:*").await;
        assert_eq!(status, 200, "{start}");
        let start = start["cursor"].as_str().expect("a cursor").to_owned();
        let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
        let hoppers = TOPICS.iter().enumerate().map(|(number, topics)| {
            let name = format!("client-{number}");
            Hopper::start_among(&checker, &addresses, &name, topics, &start)
        });
        Self {
            hoppers: hoppers.collect(),
            load: Load::start_among(&checker, &addresses),
            server,
            relays,
            nodes,
            checker,
            start,
        }
    }

    /// Until so many more events are acknowledged.
    pub async fn flows(&self, events: u64) {
        let total = self.checker.acknowledged() + events;
        self.checker.until_acknowledged(total).await;
    }

    pub async fn lost_logs(&self) -> f64 {
        let mut lost = 0.0;
        for node in &self.nodes {
            let scrape = node.gateway().scrape().await;
            lost += scrape.value("tribus_log_lost_total");
        }
        lost
    }

    /// Everyone comes to the end, one more client from the beginning of the log too.
    pub async fn finish(mut self) -> Verdict {
        self.load.stop().await;
        self.hoppers.push(Hopper::start_among(
            &self.checker,
            &self
                .nodes
                .iter()
                .map(|node| node.address)
                .collect::<Vec<_>>(),
            "late",
            TOPICS[0],
            &self.start,
        ));
        let gateway = self.nodes[0].gateway();
        let coming = futures_util::future::join_all(self.hoppers);
        tokio::pin!(coming);
        let until = tokio::time::Instant::now() + CATCH_UP;
        while tokio::time::Instant::now() < until {
            publish_end(&gateway, &self.checker).await;
            // Where they were told to start afresh after it, they wait for another one.
            let while_awaited = Duration::from_secs(5);
            if let Ok(ended) = tokio::time::timeout(while_awaited, &mut coming).await {
                ended.into_iter().for_each(|ended| ended.expect("no panic"));
                for node in &mut self.nodes {
                    node.terminate().await;
                }
                return self.checker.sound();
            }
        }
        self.checker.sound();
        panic!("clients did not come to the end within {CATCH_UP:?}");
    }

    /// As [`Cluster::finish`]: nothing was lost, and nobody was told so.
    pub async fn finish_whole(self, fault: &str, rounds: usize) {
        let verdict = self.finish().await;
        assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
        crate::durability::report(fault, rounds, &verdict);
    }

    /// As [`Cluster::finish`]: something was lost, and whoever missed it was told.
    pub async fn finish_with_a_loss(self, fault: &str, rounds: usize) {
        let lost = self.lost_logs().await;
        let verdict = self.finish().await;
        assert!(verdict.resets() > 0 && lost >= 1.0, "{lost}: {verdict}");
        crate::durability::report(fault, rounds, &verdict);
    }
}
