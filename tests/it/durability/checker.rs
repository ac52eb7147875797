//! The checker finds what is wrong with made-up histories, one defect each.

use serde_json::{Value, json};

use crate::{
    hopping::filter::Wanted,
    support::{Checker, END},
};

/// A history of single and of batches, all acknowledged in the log `l`, that begins at `l-0`.
struct Story {
    checker: Checker,
    events: Vec<Value>,
    client: usize,
}

impl Story {
    /// One publish for each of these counts.
    fn of(counts: &[u64]) -> Self {
        let checker = Checker::default();
        let mut events: Vec<Value> = Vec::new();
        for count in counts {
            let (number, mut bodies) = checker.publish(0, *count, false);
            let first = events.len() as u64 + 1;
            for (body, sequence) in bodies.iter_mut().zip(first..) {
                body["id"] = json!(format!("l-{sequence}"));
            }
            let ids = ids(first, *count);
            checker.acknowledge(number, &ids);
            events.extend(bodies);
        }
        let (number, mut end) = checker.publish_end();
        end["id"] = json!(format!("l-{}", events.len() + 1));
        checker.acknowledge(number, &ids(events.len() as u64 + 1, 1));
        events.push(end);
        let client = checker.enter("client", Wanted::topics(&["load:*", END]), "l-0");
        Self {
            checker,
            events,
            client,
        }
    }

    fn see(&self, events: impl IntoIterator<Item = usize>) {
        for event in events {
            self.checker.see_event(self.client, &self.events[event]);
        }
    }

    #[track_caller]
    fn is_wrong_with(&self, what: &str) {
        let wrong = self.checker.check().expect_err("it is wrong");
        assert!(wrong.iter().any(|so| so.contains(what)), "{wrong:?}");
    }
}

fn ids(first: u64, count: u64) -> Vec<String> {
    (first..first + count).map(|at| format!("l-{at}")).collect()
}

#[test]
fn a_history_in_which_all_is_well_is_sound() {
    let story = Story::of(&[1, 3, 1]);
    story.see(0..2);
    story.checker.see_cursor(story.client, "l-2");
    story.see(2..6);
    let verdict = story.checker.sound();
    assert_eq!((verdict.acknowledged, verdict.deliveries), (6, 6));
    assert_eq!((verdict.resets(), verdict.logs), (0, 1));
}

#[test]
fn an_event_that_a_client_missed_is_found_by_the_event_or_the_cursor_after_it() {
    let story = Story::of(&[1, 1, 1]);
    story.see([0, 2, 3]);
    story.is_wrong_with("client missed event 0 of publish 1, l-2");
    let story = Story::of(&[1, 1, 1]);
    story.see([0]);
    story.checker.see_cursor(story.client, "l-2");
    story.see([2, 3]);
    story.is_wrong_with("client missed event 0 of publish 1, l-2");
}

#[test]
fn an_event_that_comes_twice_or_late_is_found() {
    let story = Story::of(&[1, 1]);
    story.see([0, 0, 1, 2]);
    story.is_wrong_with("l-1 again");
    let story = Story::of(&[1, 1]);
    story.see([1, 0, 2]);
    story.is_wrong_with("l-1 again");
}

#[test]
fn a_reset_excuses_what_was_missed_and_nothing_else() {
    let story = Story::of(&[1, 1, 1]);
    story.see([0]);
    story.checker.see_reset(story.client, "expired", "l-2");
    story.see([2, 3]);
    assert_eq!(story.checker.sound().resets(), 1);
    let story = Story::of(&[1, 1, 1]);
    story.see([0]);
    story.checker.see_reset(story.client, "expired", "l-2");
    story.see([3]);
    story.is_wrong_with("l-3");
}

#[test]
fn a_client_that_stays_and_does_not_come_to_the_end_is_found() {
    let story = Story::of(&[1, 1]);
    story.see([0]);
    story.is_wrong_with("not to the end");
}

#[test]
fn another_log_without_a_reset_is_found_where_something_of_either_was_missed() {
    let story = Story::of(&[1, 1]);
    story.see([0]);
    story.checker.see_cursor(story.client, "m-9");
    story.is_wrong_with("client missed event 0 of publish 1, l-2");

    let story = Story::of(&[1]);
    story.see([0, 1]);
    let (number, _) = story.checker.publish(0, 1, false);
    story.checker.acknowledge(number, &["m-3".to_owned()]);
    story.checker.see_cursor(story.client, "m-3");
    story.is_wrong_with("client missed event 0 of publish 2, m-3");

    let story = Story::of(&[1]);
    story.see([0, 1]);
    let (number, mut bodies) = story.checker.publish(0, 1, false);
    story.checker.acknowledge(number, &["m-3".to_owned()]);
    bodies[0]["id"] = json!("m-3");
    story.checker.see_event(story.client, &bodies[0]);
    let (number, mut end) = story.checker.publish_end();
    story.checker.acknowledge(number, &["m-4".to_owned()]);
    end["id"] = json!("m-4");
    story.checker.see_event(story.client, &end);
    assert_eq!(story.checker.sound().logs, 2);
}

#[test]
fn an_offset_that_stands_for_two_events_is_found_also_where_neither_was_acknowledged() {
    let story = Story::of(&[1]);
    let (number, _) = story.checker.publish(0, 1, false);
    story.checker.acknowledge(number, &ids(1, 1));
    story.is_wrong_with("l-1 stands for two");

    let checker = Checker::default();
    let seen = [0, 0].map(|_| {
        let (_, mut bodies) = checker.publish(0, 1, false);
        bodies[0]["id"] = json!("l-1");
        bodies.remove(0)
    });
    for event in &seen {
        let client = checker.enter("client", Wanted::topics(&["load:*"]), "l-0");
        checker.see_event(client, event);
    }
    let wrong = checker.check().expect_err("it is wrong");
    assert!(wrong.iter().any(|so| so.contains("l-1 stands for two")));
}

#[test]
fn one_event_at_two_offsets_is_found() {
    let story = Story::of(&[1]);
    let mut again = story.events[0].clone();
    again["id"] = json!("l-5");
    story.see([0]);
    story.checker.see_event(story.client, &again);
    story.is_wrong_with("publish 0 is at l-5 and at l-1");
}

#[test]
fn half_of_a_batch_that_was_not_acknowledged_is_found() {
    let story = Story::of(&[1]);
    let (_, mut bodies) = story.checker.publish(1, 2, false);
    for (body, id) in bodies.iter_mut().zip(["l-3", "l-4"]) {
        body["id"] = json!(id);
    }
    let others = story
        .checker
        .enter("other", Wanted::topics(&["load:*"]), "l-2");
    story.see([0, 1]);
    story.checker.see_event(story.client, &bodies[1]);
    story.checker.see_event(others, &bodies[0]);
    story.checker.see_event(others, &bodies[1]);
    story.is_wrong_with("client missed event 0 of publish 2, l-3");
}

#[test]
fn an_event_that_was_taken_back_is_found() {
    let story = Story::of(&[1]);
    let (_, mut bodies) = story.checker.publish(1, 1, false);
    bodies[0]["id"] = json!("l-3");
    let other = story
        .checker
        .enter("other", Wanted::topics(&["load:*", END]), "l-1");
    story.checker.see_event(other, &story.events[1]);
    story.checker.see_event(other, &bodies[0]);
    // The one passes over what the other one saw.
    story.see([0, 1]);
    story.checker.see_cursor(story.client, "l-3");
    story.is_wrong_with("client missed event 0 of publish 2, l-3");
}

#[test]
fn an_event_that_was_changed_invented_or_not_wanted_is_found() {
    let story = Story::of(&[1]);
    let mut changed = story.events[0].clone();
    changed["data"]["filler"] = json!("y");
    story.checker.see_event(story.client, &changed);
    story.is_wrong_with("was published, and");

    let story = Story::of(&[1]);
    let mut invented = story.events[0].clone();
    invented["data"]["publish"] = json!(99);
    story.checker.see_event(story.client, &invented);
    story.is_wrong_with("nobody published");

    let story = Story::of(&[1]);
    let other = story
        .checker
        .enter("other", Wanted::topics(&["load:7", END]), "l-0");
    story.checker.see_event(other, &story.events[0]);
    story.is_wrong_with("other did not want event 0 of publish 0");
}

#[test]
fn a_torn_batch_and_answers_out_of_order_are_found() {
    let story = Story::of(&[1]);
    let (number, _) = story.checker.publish(0, 2, false);
    let torn = ["l-3", "l-5"].map(str::to_owned);
    story.checker.acknowledge(number, &torn);
    story.is_wrong_with("a batch is torn apart");

    let checker = Checker::default();
    for at in [2, 1] {
        let (number, _) = checker.publish(0, 1, false);
        checker.acknowledge(number, &ids(at, 1));
    }
    let wrong = checker.check().expect_err("it is wrong");
    assert!(wrong[0].contains("an earlier one at l-2"), "{wrong:?}");
}

#[test]
fn a_publish_without_a_key_that_is_in_two_logs_is_found() {
    let story = Story::of(&[1]);
    let other = story
        .checker
        .enter("other", Wanted::topics(&["load:*", END]), "m-0");
    let mut event = story.events[0].clone();
    event["id"] = json!("m-1");
    story.checker.see_event(other, &event);
    story.is_wrong_with("publish 0 is in two logs");
}

/// What is sent over one connection without waiting, in a history that is sound otherwise: which of it
/// is where, and which is refused.
fn piped(places: &[(usize, u64)], refused: &[usize]) -> Story {
    let story = Story::of(&[1]);
    let connection = story.checker.connect();
    let sent: Vec<_> = (0..4)
        .map(|_| story.checker.publish_over(connection, false))
        .collect();
    for at in refused {
        story.checker.refuse(sent[*at].0);
    }
    story.see([0, 1]);
    for (at, sequence) in places {
        let mut event = sent[*at].1.clone();
        event["id"] = json!(format!("l-{sequence}"));
        story.checker.see_event(story.client, &event);
    }
    story
}

#[test]
fn of_what_is_in_flight_at_an_end_the_first_ones_may_be_there() {
    piped(&[], &[]).checker.sound();
    piped(&[(0, 3), (1, 4)], &[]).checker.sound();
    piped(&[(0, 3), (2, 4)], &[1]).checker.sound();
}

#[test]
fn what_is_left_out_or_out_of_order_of_one_connection_is_found() {
    piped(&[(0, 3), (2, 4)], &[]).is_wrong_with("publish 3 is left out, and 4,");
    piped(&[(1, 3)], &[0]).checker.sound();
    piped(&[(1, 3)], &[]).is_wrong_with("publish 2 is left out, and 3,");
    piped(&[(1, 3), (0, 4)], &[])
        .is_wrong_with("publish 3 is at l-3, and 2, which was sent before");
}

#[test]
fn a_reset_may_hide_what_was_left_out_but_no_wrong_order() {
    let story = piped(&[(1, 3)], &[]);
    story.checker.see_reset(story.client, "expired", "l-3");
    story.checker.sound();
    let story = piped(&[(1, 3), (0, 4)], &[]);
    story.checker.see_reset(story.client, "expired", "l-4");
    story.is_wrong_with("which was sent before");
}
