//! The cache and the ETF codec compared with plain models of them, on generated and hostile input. These tests start no
//! process.

mod cache_model;
mod etf;
mod packed;
mod spellings;
