//! The JavaScript client, against the real gateway.

mod delivery;
mod networks;
mod package;
mod react;
