//! The network between the gateway and its clients breaks, at any byte, and without a word.

use std::time::Duration;

use super::{Scene, report, rounds};
use crate::support::{Fault, Manner, Network, Node};

async fn behind_a_network() -> (Scene, Network) {
    let mut node = Node::new(&[]);
    node.start().await;
    let network = Network::seeded(&node.gateway(), fastrand::u64(..)).await;
    let address = network.address;
    (Scene::around(node, address).await, network)
}

#[tokio::test]
async fn connections_that_are_cut_in_mid_frame_lose_and_repeat_nothing() {
    let (mut scene, network) = behind_a_network().await;
    let count = rounds(1, 20);
    for _ in 0..count {
        for below in [1500, 6000, 30_000] {
            let fault = Fault::CutAtRandomByte { below };
            let before = network.struck(&fault);
            network.set([fault.clone()]);
            scene.flows(150).await;
            network.clear();
            assert!(network.struck(&fault) > before, "it was cut");
        }
        scene.node.kill().await;
        scene.node.start().await;
    }
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("cut in mid-frame", count, &verdict);
}

#[tokio::test]
async fn clients_that_vanish_without_a_word_come_back_to_all_of_it() {
    let (scene, network) = behind_a_network().await;
    let gateway = scene.node.gateway();
    let count = rounds(2, 20);
    let fault = Fault::Offline(Manner::Silent);
    for _ in 0..count {
        scene.flows(300).await;
        let before = network.struck(&fault);
        network.set([fault.clone()]);
        // Nobody says anything any more; WebSockets are taken for gone.
        gateway
            .scrape_until("WebSockets to be given up", |scrape| {
                scrape.value("tribus_connections{transport=\"ws\"}") == 0.0
            })
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        network.clear();
        scene.flows(300).await;
        assert!(network.struck(&fault) > before, "it was gone");
    }
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("vanished without FIN", count, &verdict);
}
