//! What the answer of GET `/gateway/bot` causes: it starts the shards, and later renews the IDENTIFY budget and the
//! gateway URL. The last process may have saved an answer, with which shards can start without Discord's REST API.

use super::{
    Control, Failure, RestFailure,
    external_queue::ExternalQueue,
    identify::{IdentifyQueue, SessionStartLimit},
    rest::{self, GatewayInfo, RestError},
    saved_gateway::SavedGateway,
    seconds,
};
use crate::data_core::ToCore;
use std::time::Duration;

impl Control {
    /// Schedules another GET `/gateway/bot` after `backoff`, or after the time for which the answer asks when that is
    /// longer.
    pub(super) fn retry_rest(&self, error: &RestError, backoff: Duration) {
        let (what, retry_after) = (error.to_string(), error.retry_after());
        let wait = retry_after.map_or(backoff, |asked| asked.max(backoff));
        let reason =
            if retry_after.is_some_and(|asked| asked >= backoff) { ", as the answer asks (Retry-After)" } else { "" };
        let url = rest::url(self.config.twilight_http_proxy.as_deref());
        tracing::warn!("GET {url}: {what}; trying again in {} s{reason}", seconds(wait));
        *self.rest_failure.borrow_mut() = Some(RestFailure { what, again_at: self.now() + wait });
        let _ = self.ask_rest.try_send(wait);
    }

    /// Handles an answer of `/gateway/bot`. If the shards have not been started, the answer starts them. Otherwise it
    /// renews the IDENTIFY budget, and its URL replaces the one that the shards were started with, which may come from
    /// the file of the last process.
    pub(super) fn apply_gateway_info(&self, info: GatewayInfo) -> Result<(), Failure> {
        if let Some(queue) = &mut *self.queue.borrow_mut() {
            let waiting = self.external_queue.as_ref().map_or(0, ExternalQueue::waiting);
            queue.renew(info.budget, waiting, self.now());
        } else {
            return self.start(info.url, info.shards, Some(info.budget));
        }
        let mut gateway = self.gateway.borrow_mut();
        if let Some(known) = gateway.as_mut().filter(|known| known.url != info.url) {
            tracing::info!("Discord's gateway is at {} now, and no longer at {}", info.url, known.url);
            known.url.clone_from(&info.url);
            for core in self.cores() {
                let _ = core.send(ToCore::GatewayUrl(info.url.clone()));
            }
        }
        Ok(())
    }

    /// Starts the data cores with their shards. Without `budget`, shards that have to identify wait until
    /// `/gateway/bot` has told it.
    pub(super) fn start(
        &self,
        url: String,
        recommended: u32,
        budget: Option<SessionStartLimit>,
    ) -> Result<(), Failure> {
        let shards = self.config.shard_range(recommended)?;
        let count = self.config.shards.unwrap_or(recommended);
        tracing::info!(
            shards = shards.len(),
            of = count,
            recommended,
            identifies_left = budget.map(|budget| budget.remaining),
            max_concurrency = budget.map(|budget| budget.max_concurrency),
            "starting"
        );
        let queue = match budget {
            Some(budget) => {
                let queue = IdentifyQueue::new(budget, self.now(), shards.clone());
                if queue.is_exhausted() {
                    tracing::error!(
                        "only {} of {} IDENTIFYs are left, and {} shards have to start: no shard identifies for {} s, until Discord renews them",
                        budget.remaining,
                        budget.total,
                        shards.len(),
                        budget.reset_after.as_secs()
                    );
                }
                queue
            }
            None => IdentifyQueue::without_budget(shards.clone()),
        };
        *self.queue.borrow_mut() = Some(queue);
        if let Some(directory) = self.state_dir() {
            SavedGateway::forget(&directory);
        }
        let cores = self.starter.start(shards.len())?;
        let cores = self.cores.get_or_init(|| cores);
        for (index, core) in cores.iter().enumerate() {
            let own: Vec<u32> = shards.clone().filter(|shard| self.index_of(*shard) == index).collect();
            let config = self.core_config(index, own, count, url.clone());
            if core.send(ToCore::Start(Box::new(config))).is_err() {
                return Err(Failure::DataCoreEnded(index));
            }
        }
        *self.gateway.borrow_mut() = Some(SavedGateway { url, shards: recommended });
        Ok(())
    }
}
