//! The routes for operators: checks who may use them, and answers them.
//!
//! With `http_token` in the configuration, each of these routes asks for that token. Without it, the routes that only
//! show something are open to all clients that reach the port, the configuration can be read again only from the
//! proxy's machine, and no shard can be repaired.

use super::{
    Control,
    http::{Operator, Response},
    metrics, page, status,
};
use crate::{
    data_core::{Repair, ToCore},
    upstream::loss::Reason,
};
use serde_json::json;
use std::{net::SocketAddr, rc::Rc};

/// Header line that keeps an answer out of caches.
const NO_STORE: &str = "Cache-Control: no-store\r\n";

impl Control {
    /// Answers a request of an operator at `peer`. `shown` is the `http_token` that the request shows.
    pub(super) async fn operate(self: &Rc<Self>, what: Operator, shown: Option<String>, peer: SocketAddr) -> Response {
        if let Some(refusal) = self.refuses(what, shown.as_deref(), peer) {
            return refusal;
        }
        match what {
            Operator::Page => page::response("200 OK"),
            Operator::Status(shard) => self.status_of(shard).await,
            Operator::Metrics => {
                let body = self.metrics.get(self.now(), || self.clone().metrics_text()).await;
                Response { content_type: prometheus::TEXT_FORMAT, ..Response::text("200 OK", &*body) }
            }
            Operator::Reload => match self.reload("POST /admin/reload") {
                Ok(reloaded) => {
                    let body = json!({
                        "applied": reloaded.differences.live,
                        "needs_restart": reloaded.differences.restart,
                        "warnings": reloaded.warnings,
                    });
                    Response::json("200 OK", body.to_string())
                }
                Err(why) => Response::json("422 Unprocessable Entity", json!({"error": why.to_string()}).to_string()),
            },
            Operator::Repair(shard, repair) => {
                let text = match repair {
                    Repair::Reconnect => "an operator makes it reconnect and resume",
                    Repair::Identify => "an operator makes it begin a new session",
                };
                self.tell_shard(shard, ToCore::Repair(shard, repair, Reason::ByHand), text, peer)
            }
            Operator::Trace(shard, on) => {
                let text = if on { "an operator begins a trace of its frames" } else { "an operator ends its trace" };
                self.tell_shard(shard, ToCore::Trace(shard, on), text, peer)
            }
        }
    }

    /// The response that refuses the request; `None`: the request may be answered.
    fn refuses(&self, what: Operator, shown: Option<&str>, peer: SocketAddr) -> Option<Response> {
        let live = self.live();
        let Some(token) = &live.http_token else {
            return match what {
                Operator::Repair(..) | Operator::Trace(..) => Some(Response::text(
                    "403 Forbidden",
                    "a shard can be repaired and traced only with `http_token` in the configuration\n",
                )),
                Operator::Reload if !peer.ip().to_canonical().is_loopback() => Some(Response::text(
                    "403 Forbidden",
                    "without `http_token` in the configuration it can be read again only from the machine of the proxy\n",
                )),
                _ => None,
            };
        };
        if shown.is_some_and(|shown| token.matches(shown)) {
            return None;
        }
        if shown.is_some() {
            self.note_wrong_token(Some(peer));
        }
        Some(match what {
            // The response contains the page also without a token: the page holds no secret, and its script asks for
            // the token.
            Operator::Page => page::response("401 Unauthorized"),
            _ => Response {
                headers: "WWW-Authenticate: Bearer\r\n".into(),
                ..Response::text(
                    "401 Unauthorized",
                    "show the `http_token` of the configuration: Authorization: Bearer <http_token>\n",
                )
            },
        })
    }

    async fn metrics_text(self: Rc<Self>) -> Rc<str> {
        let reports = self.reports().await;
        let waits = self.waits.borrow();
        let found = self.found.borrow();
        let shown = self.noted.shown(&self.live().clients);
        metrics::render(&reports, self.figures(), &waits, &found, self.reloads.get(), self.started, &shown).into()
    }

    /// The document of `/status.json`, which is made once in
    /// [`REPORTS_REUSED_FOR`](super::answers::REPORTS_REUSED_FOR), with the details of one shard if `shard` names one.
    async fn status_of(self: &Rc<Self>, shard: Option<u32>) -> Response {
        let text = self.status.get(self.now(), || self.clone().status_text()).await;
        let mut body = String::from(&*text);
        if let Some(id) = shard {
            let reports = self.reports().await;
            let Some(report) = reports.shards.iter().find(|report| report.shard == id) else {
                return Response::json(
                    "404 Not Found",
                    json!({"error": format!("there is no shard {id} here")}).to_string(),
                );
            };
            let details = status::details(report, self.now());
            body.truncate(body.len() - 1);
            body.push_str(",\"shard\":");
            body.push_str(&details);
            body.push('}');
        }
        Response { headers: NO_STORE.into(), ..Response::json("200 OK", body) }
    }

    async fn status_text(self: Rc<Self>) -> Rc<str> {
        let reports = self.reports().await;
        status::document(&self, &reports).into()
    }

    /// Sends a message about a shard to its data core, because an operator at `peer` wants it. `text` says what the
    /// operator does.
    fn tell_shard(&self, shard: u32, message: ToCore, text: &'static str, peer: SocketAddr) -> Response {
        let Some(core) = self.core_of(shard) else {
            let why = if self.running_shards().is_some() {
                format!("there is no shard {shard} here")
            } else {
                "the shards have not been started yet".to_owned()
            };
            return Response::json("404 Not Found", json!({"error": why}).to_string());
        };
        if core.send(message).is_err() {
            let why = "the mailbox of the shard's data core is full: try again";
            return Response::json("503 Service Unavailable", json!({"error": why}).to_string());
        }
        tracing::warn!(shard, %peer, "{text}");
        self.feed.borrow_mut().note(self.now(), Some(shard), text);
        Response::json("202 Accepted", json!({"shard": shard, "accepted": text}).to_string())
    }
}
