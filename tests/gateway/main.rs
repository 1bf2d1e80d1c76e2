//! The proxy between `discord-sim` and clients that speak the Gateway protocol by themselves, and the simulator alone.
//! Each test starts the processes that it needs.

mod bad_clients;
mod door;
mod encodings;
mod fidelity;
mod forward;
mod nostrum;
mod requirements;
mod rest;
mod restart;
mod simulator;
mod upstream;
mod voice;
