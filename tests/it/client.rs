//! The JavaScript client, against the real gateway.

mod application;
mod beginnings;
mod delivery;
mod devices;
mod diagnosis;
mod endings;
mod gaps;
mod networks;
mod options;
mod package;
mod pages;
mod patience;
mod publishing;
mod react;
mod refusals;
mod tabs;
mod tokens;
