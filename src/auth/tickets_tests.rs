use std::{future::Future, pin::pin, task::Context, task::Poll, task::Waker};

use super::super::test_keys::{self, T0, at};
use super::*;

const ANYWHERE: Redeem = Redeem {
    stream_endpoint: false,
    has_last_event_id: false,
};
const STREAM: Redeem = Redeem {
    stream_endpoint: true,
    has_last_event_id: false,
};
const RECONNECT: Redeem = Redeem {
    stream_endpoint: true,
    has_last_event_id: true,
};

/// Good until an hour after T0.
fn alice() -> Arc<Identity> {
    Arc::new(test_keys::identity("alice", T0 + 3600))
}

fn issue(store: &TicketStore, usage: TicketUse) -> String {
    let ticket = store.issue(alice(), usage, at(0));
    ticket.expect("room for a ticket").text
}

fn is_ready(future: impl Future<Output = ()>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    pin!(future).poll(&mut context) == Poll::Ready(())
}

#[test]
fn a_ticket_is_good_once() {
    let store = TicketStore::new();
    for how in [ANYWHERE, STREAM, RECONNECT] {
        let text = issue(&store, TicketUse::Once);
        let redeemed = store.redeem(&text, how, at(29)).expect("good");
        assert_eq!(&*redeemed.identity.subject, "alice");
        assert!(redeemed.claim.is_none());
        let again = store.redeem(&text, how, at(29));
        assert_eq!(again.unwrap_err(), TicketError::Unknown);
    }
}

#[test]
fn a_ticket_is_good_for_thirty_seconds() {
    let store = TicketStore::new();
    for usage in [TicketUse::Once, TicketUse::Stream] {
        let text = issue(&store, usage);
        let late = store.redeem(&text, RECONNECT, at(30));
        assert_eq!(late.unwrap_err(), TicketError::Unknown);
        let back = store.redeem(&text, RECONNECT, at(1));
        assert_eq!(back.unwrap_err(), TicketError::Unknown, "it is forgotten");
    }
}

/// Another node takes it on with the time that is left of it.
#[test]
fn a_ticket_that_is_told_to_another_store_lives_no_longer() {
    let store = TicketStore::new();
    issue(&store, TicketUse::Once);
    let told = store.all(at(20));
    let (replaced, adopted) = (TicketStore::new(), TicketStore::new());
    replaced.replace(told.clone());
    adopted.adopt(told[0].clone(), at(20)).expect("room");
    for other in [replaced, adopted] {
        assert_eq!(other.outstanding(at(29)), 1);
        assert_eq!(other.outstanding(at(30)), 0);
    }
}

/// What was used there is used here, streams that have begun go on, and what is not there is gone.
#[tokio::test]
async fn a_store_takes_over_what_another_has() {
    let (store, other) = (TicketStore::new(), TicketStore::new());
    let stream = issue(&store, TicketUse::Stream);
    let unused = issue(&store, TicketUse::Once);
    other.replace(store.all(at(0)));
    let gone = issue(&other, TicketUse::Once);
    let claim = other.redeem(&stream, STREAM, at(0)).expect("good").claim;
    let mut lease = claim.expect("a claim").take_over();
    store.redeem(&unused, ANYWHERE, at(0)).expect("good");
    store.set_used(&TicketHash::of(&stream).expect("a hash"));
    other.replace(store.all(at(0)));
    assert!(!is_ready(lease.superseded()));
    for text in [&unused, &gone] {
        assert_eq!(
            other.redeem(text, ANYWHERE, at(0)).unwrap_err(),
            TicketError::Unknown
        );
    }
    assert_eq!(
        other.redeem(&stream, STREAM, at(0)).unwrap_err(),
        TicketError::NotAReconnect
    );
    other.take_over(&TicketHash::of(&stream).expect("a hash"));
    assert!(is_ready(lease.superseded()));
}

#[test]
fn a_ticket_never_outlives_its_token() {
    let store = TicketStore::new();
    let short = Arc::new(test_keys::identity("alice", T0 + 10));
    let ticket = store.issue(Arc::clone(&short), TicketUse::Once, at(0));
    let ticket = ticket.expect("a ticket");
    assert_eq!(ticket.expires_at, at(10));
    let late = store.redeem(&ticket.text, ANYWHERE, at(15));
    assert_eq!(late.unwrap_err(), TicketError::Expired);
}

#[test]
fn texts_are_unguessable_and_not_stored() {
    let store = TicketStore::new();
    let (one, two) = (
        issue(&store, TicketUse::Once),
        issue(&store, TicketUse::Once),
    );
    assert_ne!(one, two);
    assert_eq!(URL_SAFE_NO_PAD.decode(&one).expect("base64url").len(), 24);
    let stored = store.lock();
    assert!(
        stored
            .tickets
            .contains_key(&TicketHash::of(&one).expect("a ticket"))
    );
    drop(stored);
    let ticket = store.issue(alice(), TicketUse::Once, at(0)).expect("room");
    assert!(!format!("{ticket:?}").contains(&ticket.text));
    for wrong in ["", "x", &"A".repeat(32), &"A".repeat(100_000)] {
        let refused = store.redeem(wrong, ANYWHERE, at(0));
        assert_eq!(refused.unwrap_err(), TicketError::Unknown);
    }
}

#[test]
fn a_stream_ticket_is_good_for_streams_only() {
    let store = TicketStore::new();
    let text = issue(&store, TicketUse::Stream);
    let elsewhere = store.redeem(&text, ANYWHERE, at(1));
    assert_eq!(elsewhere.unwrap_err(), TicketError::WrongEndpoint);
    assert!(store.redeem(&text, STREAM, at(2)).is_ok(), "not used up");
    let elsewhere = store.redeem(&text, ANYWHERE, at(3));
    assert_eq!(elsewhere.unwrap_err(), TicketError::WrongEndpoint);
}

#[test]
fn a_stream_ticket_reconnects_until_the_token_ends() {
    let store = TicketStore::new();
    let text = issue(&store, TicketUse::Stream);
    let refused_for_another_reason = store.redeem(&text, STREAM, at(1));
    drop(refused_for_another_reason.expect("good"));
    let redeemed = store.redeem(&text, STREAM, at(1)).expect("good");
    redeemed.claim.expect("a claim").take_over();
    let again = store.redeem(&text, STREAM, at(2));
    assert_eq!(again.unwrap_err(), TicketError::NotAReconnect);
    for seconds in [3, 31, 3599, 3604] {
        assert!(store.redeem(&text, RECONNECT, at(seconds)).is_ok());
    }
    for seconds in [3605, 3606] {
        let late = store.redeem(&text, RECONNECT, at(seconds));
        assert_eq!(late.unwrap_err(), TicketError::Expired);
    }
}

#[test]
fn a_new_stream_takes_over_from_the_older() {
    let store = TicketStore::new();
    let text = issue(&store, TicketUse::Stream);
    let lease = |how| {
        let redeemed = store.redeem(&text, how, at(1)).expect("good");
        redeemed.claim.expect("a claim").take_over()
    };
    let mut first = lease(STREAM);
    assert!(!first.is_superseded() && !is_ready(first.superseded()));
    let mut second = lease(RECONNECT);
    assert!(first.is_superseded() && is_ready(first.superseded()));
    assert!(!second.is_superseded() && !is_ready(second.superseded()));
    drop(first);
    drop(store.redeem(&text, RECONNECT, at(1)));
    assert!(!second.is_superseded(), "by a request that began no stream");
    let third = lease(RECONNECT);
    assert!(second.is_superseded() && !third.is_superseded());
}

#[test]
fn a_waiting_stream_is_woken_by_the_takeover() {
    let store = TicketStore::new();
    let text = issue(&store, TicketUse::Stream);
    let redeemed = store.redeem(&text, STREAM, at(1)).expect("good");
    let mut lease = redeemed.claim.expect("a claim").take_over();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let takeover = async {
            tokio::task::yield_now().await;
            let redeemed = store.redeem(&text, RECONNECT, at(2)).expect("good");
            redeemed.claim.expect("a claim").take_over()
        };
        let both = async { tokio::join!(lease.superseded(), takeover) };
        let limit = std::time::Duration::from_secs(5);
        tokio::time::timeout(limit, both).await.expect("woken")
    });
}

#[test]
fn a_lease_outlives_the_store() {
    let store = TicketStore::new();
    let text = issue(&store, TicketUse::Stream);
    let redeemed = store.redeem(&text, STREAM, at(1)).expect("good");
    let mut lease = redeemed.claim.expect("a claim").take_over();
    drop(store);
    assert!(!lease.is_superseded() && !is_ready(lease.superseded()));
}

#[test]
fn a_full_store_says_so_until_tickets_end() {
    let store = TicketStore::with_capacity(2);
    let issue = |subject: &str, seconds| {
        let identity = Identity {
            subject: subject.into(),
            ..(*alice()).clone()
        };
        store.issue(Arc::new(identity), TicketUse::Once, at(seconds))
    };
    issue("alice", 0).expect("a place");
    let used = issue("bob", 0).expect("a place").text;
    assert_eq!(issue("carol", 29).unwrap_err(), IssueError::Full);
    assert!(store.redeem(&used, ANYWHERE, at(29)).is_ok());
    assert!(issue("carol", 29).is_ok());
    assert_eq!(issue("dave", 29).unwrap_err(), IssueError::Full);
    assert!(issue("dave", 30).is_ok());
    let inner = store.lock();
    assert_eq!(inner.tickets.len(), inner.ends.len());
}

#[test]
fn one_subject_can_not_take_all_places() {
    let store = TicketStore::with_capacity(8);
    issue(&store, TicketUse::Once);
    let used = issue(&store, TicketUse::Once);
    let more = store.issue(alice(), TicketUse::Once, at(1));
    assert_eq!(more.unwrap_err(), IssueError::TooMany);
    assert!(store.redeem(&used, ANYWHERE, at(1)).is_ok());
    assert!(store.issue(alice(), TicketUse::Once, at(1)).is_ok());
    assert!(store.issue(alice(), TicketUse::Once, at(90)).is_ok());
    assert_eq!(store.lock().by_subject.len(), 1);
}
