//! Tests of a whole shard without sockets: payloads go in, and the tests read what clients receive.
//!
//! Each file tests one subject. [`world`] and [`client`] are what the tests share: a shard with a test in the place of
//! Discord, and a client that checks what it is sent.

mod client;
mod client_sessions;
mod commands;
mod culprit;
mod event_log;
mod heartbeats;
mod in_flight;
mod intents;
mod known_members;
mod member_requests;
mod prefetch;
mod ready;
mod renewal;
mod restart;
mod silent_clients;
mod snapshot;
mod voice;
mod world;

use super::*;
use crate::{
    log::Limits,
    protocol::{close, intents::Intents},
};
use client::{Client, payloads, request};
use serde_json::{Value, json};
use world::{HELLO, World, sent_upstream, settings};

const SECOND: Duration = Duration::from_secs(1);
