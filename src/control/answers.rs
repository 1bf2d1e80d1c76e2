//! The answers to HTTP requests: what each route returns, and which requests are forwarded to Discord's API.
//!
//! Promises: however many clients ask for `/metrics` and `/health`, each data core is asked for its report once in
//! [`REPORTS_REUSED_FOR`], and the text of `/metrics` is made once in [`REPORTS_REUSED_FOR`]. The log has at most one
//! line a minute about wrong tokens.

use super::{
    Control, ExternalQueue, REPORT_LIMIT, ReportRequest, RestFailure,
    api_request::ApiRequest,
    connection::ClientConnection,
    forward,
    http::{Response, Route},
    metrics::ControlFigures,
    pool::Place,
    seconds,
    status::CoreReports,
};
use crate::{data_core::ToCore, downstream::budget::Refusal, protocol::close::FatalClose, upstream::session::Status};
use std::{cell::RefCell, future::poll_fn, net::SocketAddr, rc::Rc, task::Poll, time::Duration};

/// How long gathered reports, and the texts of `/metrics` and `/status.json`, are used again.
pub const REPORTS_REUSED_FOR: Duration = Duration::from_secs(1);

/// Counts a request as one that is being forwarded until it is dropped. The flag says that the request comes without
/// the bot's token: such a request is counted by its place in [`Control::tokenless`] instead.
struct ForwardCount<'a>(&'a RefCell<ControlFigures>, bool);

impl<'a> ForwardCount<'a> {
    fn new(figures: &'a RefCell<ControlFigures>, tokenless: bool) -> Self {
        let mut all = figures.borrow_mut();
        all.forwarded += 1;
        all.forwarding += usize::from(!tokenless);
        Self(figures, tokenless)
    }
}

impl Drop for ForwardCount<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().forwarding -= usize::from(!self.1);
    }
}

/// Sends `answer`, if there is one, and ends the connection.
async fn send_and_close(mut connection: ClientConnection, answer: Option<Response>) {
    if let Some(response) = answer {
        connection.outbox.raw(&response.encode());
    }
    connection.linger().await;
}

impl Control {
    /// Counts and logs a client that has shown a wrong token, or none.
    pub(super) fn note_wrong_token(&self, peer: Option<SocketAddr>) {
        self.figures.borrow_mut().wrong_tokens += 1;
        if let Some(held_back) = self.token_log.borrow_mut().poll(self.now()) {
            let peer = peer.map_or_else(|| "a client that is gone".to_owned(), |peer| peer.to_string());
            tracing::warn!(held_back, "{peer} was refused: it showed a wrong token or none");
        }
    }

    /// Counts and logs a connection that is refused because nearly all files that the process may open are open.
    pub(super) fn refuse(&self, peer: SocketAddr) {
        self.figures.borrow_mut().refused += 1;
        if let Some(held_back) = self.files_log.borrow_mut().poll(self.now()) {
            tracing::warn!(
                held_back,
                "{peer} was refused: the last {} open files are reserved for shards; raise LimitNOFILE= of the unit or `ulimit -n`",
                self.reserved_files
            );
        }
    }

    /// The reports of all data cores, gathered again when they are older than [`REPORTS_REUSED_FOR`].
    pub(super) async fn reports(self: &Rc<Self>) -> Rc<CoreReports> {
        self.reports.get(self.now(), || self.clone().gather()).await
    }

    async fn gather(self: Rc<Self>) -> Rc<CoreReports> {
        let number = self.next_report_request.get();
        self.next_report_request.set(number + 1);
        let request = ReportRequest { missing: self.cores().len(), ..ReportRequest::default() };
        self.report_requests.borrow_mut().insert(number, request);
        for core in self.cores() {
            let _ = core.send(ToCore::Report(number));
        }
        let complete = poll_fn(|cx| match self.report_requests.borrow_mut().get_mut(&number) {
            Some(request) if request.missing > 0 => {
                request.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        });
        let _ = crate::net::within(REPORT_LIMIT, complete).await;
        let reports = self.report_requests.borrow_mut().remove(&number).map_or_else(Vec::new, |done| done.reports);
        Rc::new(CoreReports::new(self.now(), reports))
    }

    /// The answer to a request that is neither a gateway connection nor forwarded.
    pub(super) async fn respond(self: &Rc<Self>, route: Route, peer: SocketAddr) -> Response {
        let unknown = || Response::text("503 Service Unavailable", "the number of shards is not known yet\n");
        match route {
            Route::ShardCount => {
                self.shard_count().map_or_else(unknown, |count| Response::text("200 OK", count.to_string()))
            }
            Route::Operator(operator, shown) => self.operate(operator, shown, peer).await,
            Route::Health => self.health().await,
            Route::GatewayUrl => {
                let url = serde_json::json!({"url": self.config.externally_accessible_url});
                Response::json("200 OK", url.to_string())
            }
            Route::GatewayBot(token) => match self.shard_count() {
                _ if self.holder_of(token.as_deref().unwrap_or(""), Some(peer)).is_none() => unauthorized(),
                None => unknown(),
                Some(shards) => {
                    // With a bucket for each shard, libraries start all shards at once.
                    let body = serde_json::json!({
                        "url": self.config.externally_accessible_url,
                        "shards": shards,
                        "session_start_limit": {
                            "total": shards.max(1000),
                            "remaining": shards.max(1000),
                            "reset_after": 14_400_000,
                            "max_concurrency": shards.clamp(16, u32::from(u16::MAX)),
                        },
                    });
                    Response::json("200 OK", body.to_string())
                }
            },
            Route::Refused(response) => response,
            Route::Api(..) => not_forwarded(),
            Route::Gateway(..) => Response::text("400 Bad Request", "a gateway connection has to be upgraded\n"),
        }
    }

    /// The control core's own figures for `/metrics`.
    pub(super) fn figures(&self) -> ControlFigures {
        let mut figures = *self.figures.borrow();
        figures.panics += self.tasks.panics();
        figures.client_memory = (self.memory.used(), self.memory.limit());
        let of = |refusal| (self.memory.refused(refusal), self.memory.dropped(refusal));
        (figures.memory_refused, figures.source_refused) = (of(Refusal::Process), of(Refusal::Source));
        figures.source_memory = (self.memory.sources(), self.memory.limit_of_a_source());
        if let Some(queue) = &*self.queue.borrow() {
            figures.identifies = queue.granted();
            figures.identifies_remaining = queue.remaining();
            figures.identifies_waiting = queue.waiting();
        }
        figures.external_waiting = self.external_queue.as_ref().map_or(0, ExternalQueue::waiting);
        figures.unauthenticated = self.unauthenticated.taken();
        figures.revoked_unauthenticated = self.unauthenticated.revoked();
        figures.revoked_scrapes = self.scrapes.revoked();
        figures.tokenless = self.tokenless.taken();
        figures.revoked_tokenless = self.tokenless.revoked();
        figures
    }

    /// Forwards a request for Discord's API, or answers it when the configuration, the token or a limit does not allow
    /// that. Then ends the connection.
    pub(super) async fn forward(
        self: Rc<Self>,
        place: Place,
        connection: ClientConnection,
        request: ApiRequest,
        peer: SocketAddr,
    ) {
        let token = crate::protocol::token::bare(request.authorization.as_deref().unwrap_or(""));
        let refusal = if self.config.rest_proxy.is_none() {
            not_forwarded()
        } else if self.accepts_token(token) {
            if self.figures.borrow().forwarding < forward::MAX_FORWARDED {
                drop(place);
                return self.forward_and_close(connection, request, false).await;
            }
            let body = r#"{"message":"gateway-proxy: too many requests at a time","code":0}"#;
            Response::json("503 Service Unavailable", body)
        } else if !request.has_own_token {
            self.note_wrong_token(Some(peer));
            unauthorized()
        } else if !self.config.rest_proxy_without_token {
            self.note_wrong_token(Some(peer));
            Response::json(
                "401 Unauthorized",
                r#"{"message":"401: Unauthorized: gateway-proxy passes on what has no bot token only with `rest_proxy_without_token` in its configuration","code":0}"#,
            )
        } else if !self.tokenless_rate.borrow_mut().allows(peer.ip().into(), self.now()) {
            Response::json(
                "429 Too Many Requests\r\nRetry-After: 1",
                r#"{"message":"gateway-proxy: too many requests without the bot's token from this address","retry_after":1.0,"global":false,"code":0}"#,
            )
        } else {
            drop(place);
            let pool = self.tokenless.clone();
            let passed = |place| {
                Box::pin(async move {
                    let _place = place;
                    self.forward_and_close(connection, request.without_authorization(), true).await;
                })
            };
            return pool.run_unless_revoked(peer.ip().into(), passed).await;
        };
        send_and_close(connection, Some(refusal)).await;
    }

    async fn forward_and_close(&self, mut connection: ClientConnection, request: ApiRequest, tokenless: bool) {
        let Some(address) = &self.config.rest_proxy else { return };
        let counted = ForwardCount::new(&self.figures, tokenless);
        let answer = Box::pin(forward::forward(&mut connection, &request, address)).await;
        self.figures.borrow_mut().forward_failures += u64::from(answer.is_some());
        drop(counted);
        send_and_close(connection, answer).await;
    }

    async fn health(self: &Rc<Self>) -> Response {
        let rest = match &*self.rest_failure.borrow() {
            Some(RestFailure { what, again_at }) => {
                let wait = again_at.saturating_sub(self.now());
                format!("GET /gateway/bot: {what}; trying again in {} s\n", seconds(wait))
            }
            None => String::new(),
        };
        let queue =
            self.queue_failure.borrow().as_ref().map(|what| format!("identify_queue {what}\n")).unwrap_or_default();
        let rest = rest + &queue;
        let Some(count) = self.gateway.borrow().as_ref().map(|info| info.shards) else {
            let text = format!("GET /gateway/bot has not been answered yet\n{rest}");
            return Response::text("503 Service Unavailable", text);
        };
        let expected = self.config.shard_range(count).map_or(0, |range| range.len());
        let reports = &self.reports().await.shards;
        let mut text = String::new();
        for report in reports.iter().filter(|report| report.status != Status::Active) {
            let state = match (report.status, report.fatal) {
                (_, Some(FatalClose { code, advice })) => format!("closed for good by Discord ({code}): {advice}"),
                (status, None) => format!("{status:?}").to_lowercase(),
            };
            text.push_str(&format!("shard {}: {state}\n", report.shard));
        }
        if reports.len() < expected {
            text.push_str(&format!("{} of {expected} shards report\n", reports.len()));
        }
        if !text.is_empty() {
            // A failed `/gateway/bot` or external queue can be the reason why a shard is not active.
            text.push_str(&rest);
        }
        if text.is_empty() {
            Response::text("200 OK", format!("all {expected} shards are ready\n"))
        } else {
            Response::text("503 Service Unavailable", text)
        }
    }
}

fn unauthorized() -> Response {
    Response::json("401 Unauthorized", r#"{"message":"401: Unauthorized","code":0}"#)
}

fn not_forwarded() -> Response {
    Response::json(
        "404 Not Found",
        r#"{"message":"gateway-proxy serves only /gateway and /gateway/bot of Discord's API: set `rest_proxy` in its configuration to the host:port of an HTTP proxy for the rest, or point only the library's gateway URL here","code":0}"#,
    )
}
