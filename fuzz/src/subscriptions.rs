//! What every accepted request to subscribe keeps to, whichever way it came.

use std::collections::HashMap;

use tribus::{
    protocol::{Start, SubscribeRequest, SubscriptionLimits},
    subscription::{Conditions, FilterSet},
    topic::TopicFilter,
};

/// Small, so that the bound is met.
pub const LIMITS: SubscriptionLimits = SubscriptionLimits {
    subscriptions: 8,
    patterns: 4,
};

pub fn check(request: &SubscribeRequest) {
    let subscriptions = &request.subscriptions;
    assert!(subscriptions.len() <= LIMITS.subscriptions);
    let mut filters = FilterSet::default();
    let mut conditions = HashMap::new();
    for subscription in subscriptions {
        let text = subscription.filter.as_str();
        assert_eq!(TopicFilter::parse(text).as_ref(), Ok(&subscription.filter));
        assert_eq!(subscription.after, 0);
        if let Some(conditions) = &subscription.conditions {
            check_conditions(conditions);
        }
        let before = conditions.insert(&subscription.filter, &subscription.conditions);
        assert!(
            before.is_none_or(|before| *before == subscription.conditions),
            "{text}"
        );
        assert_eq!(filters.insert(subscription.clone()), before.is_none());
    }
    assert_eq!(filters.len(), conditions.len());
    check_start(&request.start);
}

fn check_conditions(conditions: &Conditions) {
    assert!(!conditions.is_empty());
    if let Some(names) = &conditions.events {
        assert!((1..=64).contains(&names.len()));
        assert!(names.iter().all(|name| !name.is_empty()));
    }
    let keys: HashMap<_, _> = conditions.tags.iter().cloned().collect();
    assert!(conditions.tags.len() <= 32 && keys.len() == conditions.tags.len());
}

fn check_start(start: &Start) {
    match start {
        Start::Now | Start::Earliest => {}
        Start::After(cursor) => assert_eq!(cursor.to_string().parse().as_ref(), Ok(cursor)),
        Start::Rewind(count) => assert!((1..=100).contains(count)),
    }
}
