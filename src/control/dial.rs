//! Makes connections to Discord for the data cores, so that no data core waits for a name lookup or a TLS handshake.

use super::Control;
use crate::{
    data_core::ToCore,
    net::{
        dial::{ConnectError, dial},
        within,
    },
    upstream::session::CONNECT_TIMEOUT,
    websocket::Endpoint,
};
use rustls::ClientConfig;
use std::{collections::HashMap, rc::Rc, sync::Arc};

/// The newest attempt to connect of each shard, under way or finished.
#[derive(Default)]
pub struct Dialler(HashMap<u32, glommio::Task<()>>);

impl Dialler {
    /// Starts an attempt to connect a shard to `url`, and ends an earlier one of that shard. The shard's core gets the
    /// result with the number of the attempt.
    pub fn start(&mut self, control: Rc<Control>, tls: Arc<ClientConfig>, shard: u32, attempt: u64, url: String) {
        // Dropping the task of the earlier attempt ends it and closes its connection.
        self.0.remove(&shard);
        let task = glommio::spawn_local(async move {
            let mut query = "v=10&encoding=json".to_owned();
            if let Some(name) = control.config.upstream_compression.name() {
                query.push_str("&compress=");
                query.push_str(name);
            }
            let (url, endpoint) = control.approved(shard, url);
            let result = match endpoint {
                Err(error) => Err(error),
                Ok(endpoint) => match within(CONNECT_TIMEOUT, dial(&endpoint, &query, tls)).await {
                    Some(Ok(dialled)) => Ok(Box::new(dialled)),
                    Some(Err(source)) => Err(ConnectError::Dial { url, source }),
                    None => Err(ConnectError::Timeout { url, limit: CONNECT_TIMEOUT }),
                },
            };
            let result = result.map_err(Box::new);
            if control.cores()[control.index_of(shard)].send(ToCore::Dialled { shard, attempt, result }).is_err() {
                tracing::warn!(
                    shard,
                    "a connection to Discord was dropped: the mailbox of its data core is full; the shard will ask for another one"
                );
            }
        });
        self.0.insert(shard, task);
    }
}

impl Control {
    /// The URL that a shard connects to when it wants to connect to `wanted`.
    ///
    /// `wanted` can be the URL that Discord gave the shard to resume at. If shards may not connect to that URL, this is
    /// the URL of `/gateway/bot`, at which a session can be resumed too. The error says why the shard may not connect
    /// to the URL that is returned with it.
    fn approved(&self, shard: u32, wanted: String) -> (String, Result<Endpoint, ConnectError>) {
        let general = self.gateway.borrow().as_ref().map_or_else(|| wanted.clone(), |known| known.url.clone());
        let allow_after = || {
            let (first, wanted) = (Endpoint::parse(&general)?, Endpoint::parse(&wanted)?);
            self.hosts.allow_after(&first, &wanted)?;
            Ok(wanted)
        };
        match allow_after() {
            Err(what) if wanted != general => {
                tracing::warn!(shard, "the shard connects to {general} instead of {wanted}: {what}");
                let first = || {
                    let first = Endpoint::parse(&general)?;
                    self.hosts.allow(&first)?;
                    Ok(first)
                };
                let named =
                    |source: ConnectError| ConnectError::General { url: general.clone(), source: source.into() };
                let endpoint = first().map_err(named);
                (general, endpoint)
            }
            followed => (wanted, followed),
        }
    }
}
