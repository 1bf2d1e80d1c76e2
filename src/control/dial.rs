//! Making connections to Discord for the data cores, which have neither names nor TLS handshakes to wait for.

use super::Control;
use crate::{
    data_core::ToCore,
    net::{dial::dial, within},
    upstream::session::CONNECT_TIMEOUT,
    websocket::Endpoint,
};
use rustls::ClientConfig;
use std::{collections::HashMap, rc::Rc, sync::Arc};

/// The attempts that are under way: at most one a shard.
#[derive(Default)]
pub struct Dialler(HashMap<u32, glommio::Task<()>>);

impl Dialler {
    /// Starts an attempt, which makes an earlier one for the same shard void. The core of the shard is told what came of it.
    pub fn start(&mut self, control: Rc<Control>, tls: Arc<ClientConfig>, shard: u32, attempt: u64, url: String) {
        // Dropping a task ends it, and with it its connection.
        self.0.remove(&shard);
        let task = glommio::spawn_local(async move {
            let mut query = "v=10&encoding=json".to_owned();
            if let Some(name) = control.config.upstream_compression.name() {
                query.push_str("&compress=");
                query.push_str(name);
            }
            let (url, endpoint) = control.approved(shard, url);
            let result = match endpoint {
                Err(what) => Err(what),
                Ok(endpoint) => match within(CONNECT_TIMEOUT, dial(&endpoint, &query, tls)).await {
                    Some(Ok(dialled)) => Ok(Box::new(dialled)),
                    Some(Err(error)) => Err(format!("{url}: {error}")),
                    None => Err(format!("{url} does not answer within {} s", CONNECT_TIMEOUT.as_secs())),
                },
            };
            if control.cores()[control.index_of(shard)].send(ToCore::Dialled { shard, attempt, result }).is_err() {
                tracing::warn!(shard, "the shard's core is too busy for its connection, which it will ask for again");
            }
        });
        self.0.insert(shard, task);
    }
}

impl Control {
    /// Where a shard connects that wants to connect to `wanted`. Discord names the URL to resume at; when that is none that a
    /// shard may connect to, it is the one of `/gateway/bot`, at which a session can be resumed, too.
    fn approved(&self, shard: u32, wanted: String) -> (String, Result<Endpoint, String>) {
        let general = self.gateway.borrow().as_ref().map_or_else(|| wanted.clone(), |known| known.url.clone());
        let follow = || {
            let (first, wanted) = (Endpoint::parse(&general)?, Endpoint::parse(&wanted)?);
            self.hosts.follow(&first, &wanted).map(|()| wanted)
        };
        match follow() {
            Err(what) if wanted != general => {
                tracing::warn!(shard, "the shard connects to {general} instead of {wanted}: {what}");
                let endpoint = Endpoint::parse(&general)
                    .and_then(|first| self.hosts.allow(&first).map(|()| first))
                    .map_err(|what| format!("{general}: {what}"));
                (general, endpoint)
            }
            followed => (wanted, followed),
        }
    }
}
