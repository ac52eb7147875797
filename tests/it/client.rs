//! The JavaScript client, against the real gateway.

mod application;
mod delivery;
mod gaps;
mod networks;
mod package;
mod pages;
mod patience;
mod react;
