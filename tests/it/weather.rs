//! What comes over a gateway in production while clients are on it: a restart and the storm of
//! those who come back, and keys that are changed under load. Certificates are in
//! `tls::certificates`, a backend of the auth hook that fails in `hook::circuit`.

mod client;
mod keys;
mod storm;
