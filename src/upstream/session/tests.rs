//! Tests of the session machine: payloads, closes and the time go in, and the tests read its actions.
//!
//! Each file tests one subject. [`driver`] is what the tests share.

mod backoff;
mod by_hand;
mod close_codes;
mod driver;
mod identify;
mod invariants;
mod malformed;
mod op_7_and_9;
mod refused_resumes;
mod restart;
mod sequences;
mod timeouts;

use super::*;
use driver::*;

const SECOND: Duration = Duration::from_secs(1);
