use std::{
    collections::HashMap,
    mem::{Discriminant, discriminant},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{Fault, Path};

/// How a network is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Connections go dead and stay so; new ones wait until the network is back.
    Silent,
    /// Connections are reset, new ones too.
    Reset,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    WebSocket,
    Stream,
    Poll,
    Publish,
    Other,
}

/// The faults of now.
#[derive(Clone, Debug, Default)]
pub struct Weather(Arc<[Fault]>);

impl Weather {
    pub fn of(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self(faults.into_iter().collect())
    }

    pub fn has(&self, fault: &Fault) -> bool {
        self.0.contains(fault)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    pub fn find<T>(&self, find: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(find)
    }

    pub fn offline(&self) -> Option<Manner> {
        self.find(|fault| match fault {
            Fault::Offline(manner) => Some(*manner),
            _ => None,
        })
    }
}

/// What came, and what happened to it.
#[derive(Default)]
pub struct Tally {
    requests: Mutex<HashMap<Kind, usize>>,
    strikes: Mutex<HashMap<Discriminant<Fault>, usize>>,
}

impl Tally {
    pub fn requests(&self, kind: Kind) -> usize {
        *locked(&self.requests).entry(kind).or_default()
    }

    pub fn struck(&self, fault: &Fault) -> usize {
        *locked(&self.strikes)
            .entry(discriminant(fault))
            .or_default()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it was held")
}

impl Path {
    pub fn weather(&self) -> Weather {
        self.weather.borrow().clone()
    }

    pub fn offline(&self) -> Option<Manner> {
        self.weather().offline()
    }

    pub fn strike(&self, fault: &Fault) {
        *locked(&self.tally.strikes)
            .entry(discriminant(fault))
            .or_default() += 1;
    }

    pub fn came(&self, kind: Kind) {
        *locked(&self.tally.requests).entry(kind).or_default() += 1;
    }

    /// Waits for weather in which there is something to find.
    pub async fn until<T>(&self, find: impl Fn(&Weather) -> Option<T>) -> T {
        let mut weather = self.weather.clone();
        loop {
            if let Some(found) = find(&weather.borrow_and_update()) {
                return found;
            }
            if weather.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits until the weather lets nothing get as old as what began then.
    pub async fn until_too_old(
        &self,
        began: Instant,
        longest: impl Fn(&Fault) -> Option<Duration>,
    ) -> Fault {
        let mut weather = self.weather.clone();
        loop {
            let now = weather.borrow_and_update().clone();
            let fault = now.find(|fault| longest(fault).map(|age| (fault.clone(), began + age)));
            tokio::select! {
                fault = due(fault) => return fault,
                Ok(()) = weather.changed() => {}
            }
        }
    }
}

async fn due(fault: Option<(Fault, Instant)>) -> Fault {
    match fault {
        Some((fault, at)) => {
            tokio::time::sleep_until(at).await;
            fault
        }
        None => std::future::pending().await,
    }
}
