//! What is on disk is not what was written.

use std::{fs, os::unix::fs::FileExt, path::Path};

use super::{Scene, report, rounds};
use crate::support::Node;

/// Small segments, so that there are sealed ones.
const SETTINGS: &[(&str, &str)] = &[
    ("RETENTION__BYTES", "16MiB"),
    ("BUS__DISK__MEMORY", "64KiB"),
];
/// Enough for a second segment of a MiB.
const FIRST: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Damage {
    BitOfActive,
    BitOfSealed,
    /// Of what the events themselves are in.
    PagesOfSealed,
    CutOfActive,
    Label,
    LabelGone,
    Reached,
    Trims,
    SealedGone,
}

const ALL: [Damage; 9] = [
    Damage::BitOfActive,
    Damage::BitOfSealed,
    Damage::PagesOfSealed,
    Damage::CutOfActive,
    Damage::Label,
    Damage::LabelGone,
    Damage::Reached,
    Damage::Trims,
    Damage::SealedGone,
];

impl Damage {
    /// How many logs there must be in the end, where that is sure: everything is read once more.
    /// Of an oldest segment that is gone nobody can tell that retention did not take it.
    fn logs(self) -> Option<usize> {
        match self {
            Self::PagesOfSealed | Self::Label | Self::LabelGone => Some(2),
            Self::Reached | Self::Trims | Self::SealedGone => Some(1),
            Self::BitOfActive | Self::BitOfSealed | Self::CutOfActive => None,
        }
    }

    /// Whether clients must be told.
    fn resets(self) -> Option<bool> {
        match self {
            Self::SealedGone => Some(true),
            _ => self.logs().map(|logs| logs > 1),
        }
    }

    fn strike(self, scene: &Scene) {
        let segments = scene.node.segments();
        let (active, sealed) = segments.split_last().expect("a segment");
        let log = scene.node.log();
        match self {
            Self::BitOfActive => flip_bit(active),
            Self::BitOfSealed => sealed.iter().for_each(|sealed| flip_bit(sealed)),
            Self::PagesOfSealed => flip_all_from(sealed.first().expect("a sealed segment"), 8192),
            Self::CutOfActive => {
                let file = fs::File::options()
                    .write(true)
                    .open(active)
                    .expect("a segment");
                let len = file.metadata().expect("a length").len();
                file.set_len(fastrand::u64(0..len)).expect("a cut");
            }
            Self::Label => flip_bit(&log.join("log.json")),
            Self::LabelGone => fs::remove_file(log.join("log.json")).expect("a label"),
            Self::Reached => flip_bit(&log.join("reached")),
            Self::Trims => fs::write(log.join("trims"), b"nonsense").expect("trims"),
            Self::SealedGone => fs::remove_file(&sealed[0]).expect("a sealed segment"),
        }
    }
}

fn flip_bit(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let bit = fastrand::usize(0..8 * bytes.len());
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).expect("a changed file");
}

fn flip_all_from(path: &Path, start: usize) {
    let file = fs::File::options()
        .write(true)
        .read(true)
        .open(path)
        .expect("a file");
    let mut bytes = fs::read(path).expect("a file");
    bytes[start..].iter_mut().for_each(|byte| *byte ^= 0xff);
    file.write_all_at(&bytes, 0).expect("a changed file");
}

#[tokio::test]
async fn damage_is_answered_with_a_reset_and_never_with_silence() {
    let count = rounds(1, 12);
    let mut told = Vec::new();
    for _ in 0..count {
        // Each in a log of its own: what one damage has spoilt, another can not.
        let strokes = ALL.map(|damage| async move {
            let mut scene = Scene::begin(SETTINGS).await;
            scene.flood(FIRST).await;
            scene.flows(100).await;
            if fastrand::bool() {
                scene.node.kill().await;
            } else {
                scene.node.terminate().await;
            }
            damage.strike(&scene);
            if !scene.node.try_to_start(&[], &[]).await {
                let ended = scene.node.ended().await;
                // A changed number of the format.
                let is_newer = ended.stderr.contains("newer Tribus");
                assert!(is_newer, "{damage:?}: {}", ended.stderr);
                return None;
            }
            scene.flows(100).await;
            let verdict = scene.finish().await;
            if let Some(logs) = damage.logs() {
                assert_eq!(verdict.logs, logs, "{damage:?}: {verdict}");
            }
            if let Some(told) = damage.resets() {
                assert_eq!(verdict.resets() > 0, told, "{damage:?}: {verdict}");
            }
            Some((damage, verdict))
        });
        for stroke in strokes {
            told.extend(stroke.await);
        }
    }
    for damage in ALL {
        let of_it = told
            .iter()
            .filter(|(other, _)| *other as u8 == damage as u8);
        let of_it: Vec<_> = of_it.map(|(_, verdict)| verdict).collect();
        let resets: usize = of_it.iter().map(|verdict| verdict.resets()).sum();
        let deliveries: usize = of_it.iter().map(|verdict| verdict.deliveries).sum();
        let acknowledged: usize = of_it.iter().map(|verdict| verdict.acknowledged).sum();
        let came_to = format!(
            "{acknowledged} events acknowledged, {deliveries} deliveries checked, {resets} resets"
        );
        report(&format!("damage {damage:?}"), of_it.len(), &came_to);
    }
}

#[tokio::test]
async fn a_log_that_was_given_up_is_counted_until_it_is_removed() {
    let mut node = Node::new(&[]);
    node.start().await;
    let gateway = node.gateway();
    gateway.publish("load:1", 1.into()).await;
    let whole = gateway.scrape().await;
    assert_eq!(whole.value("tribus_log_set_aside_bytes"), 0.0);
    node.terminate().await;
    flip_all_from(&node.segments()[0], 4096);
    node.start().await;
    gateway
        .scrape_until("the log that was given up to be counted", |scrape| {
            let is_beside = scrape.value("tribus_log_set_aside_bytes") > 4096.0;
            is_beside && scrape.value("tribus_log_stored_bytes") > 4096.0
        })
        .await;
    let names = fs::read_dir(node.log()).expect("a log");
    let paths = names.map(|name| name.expect("a name").path());
    let mut lost = paths.filter(|path| path.to_string_lossy().contains("/lost-"));
    fs::remove_dir_all(lost.next().expect("a log that was given up")).expect("it is removed");
    gateway
        .scrape_until("nothing to be beside it", |scrape| {
            scrape.value("tribus_log_set_aside_bytes") == 0.0
        })
        .await;
    node.terminate().await;
}
