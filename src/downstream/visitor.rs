//! What the door knows of a client when it hands the client's connection to a data core.

use super::credential::Credential;
use std::{net::SocketAddr, sync::Arc};

/// See the module's description. It goes along with the connection, also when the connection comes back to the door.
#[derive(Clone, Debug, Default)]
pub struct Visitor {
    /// The API version in the client's URL.
    pub version: u8,
    /// The client's own address, also where a reverse proxy has made the connection and named the client. `None`: the
    /// client was gone already.
    pub address: Option<SocketAddr>,
    /// The credential whose secret the client has shown; `None`: the client has shown the bot's token.
    pub credential: Option<Arc<Credential>>,
    /// RESUMEs that were refused on this connection since its last session, by the door or by a data core.
    pub refused_resumes: u32,
}
