//! The locks between the log's writer and its readers: those of the standard library, or with the
//! feature `shuttle`, for tests only, ones under which a test runs through many interleavings of
//! its threads.

#[cfg(not(feature = "shuttle"))]
pub use std::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
