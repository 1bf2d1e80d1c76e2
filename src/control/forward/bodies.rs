//! The bodies of a forwarded request and of its response, on their way between the two connections, and the state that
//! both connections share.
//!
//! hyper reads and writes the bodies, and bounds them to one buffer in each direction. The wrappers here note in
//! the exchange what hyper does not report: that the client has to send the next bytes, and that a response is over.

use super::super::http::Response;
use crate::net::within;
use atomic_waker::AtomicWaker;
use hyper::{
    Error, Request, StatusCode, Version,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::EXPECT,
};
use std::{
    cell::{Cell, RefCell},
    error::Error as _,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

/// Longest wait for `rest_proxy` to agree to a body whose client asks for that with `Expect: 100-continue`. After it the
/// client is told to send the body (RFC 9110, 10.1.1: a server need not answer the expectation).
const EXPECT_LIMIT: Duration = Duration::from_secs(1);

/// The state of a request that is being forwarded. The two connections change it, and so does the task that polls both.
#[derive(Default)]
pub struct Exchange {
    /// Bytes have moved since the task last looked.
    pub moved: Cell<bool>,
    /// Bytes received from the client, without those that came with the head.
    pub received: Cell<u64>,
    /// The client has closed its side of the connection. As other proxies do, this one takes that as the client not
    /// wanting the response any more.
    pub client_gone: Cell<bool>,
    /// The client has to send the next byte of the body.
    pub waits_for_client: Cell<bool>,
    /// hyper was given the head of the response for the client. No other response can be sent any more.
    pub answered: Cell<bool>,
    /// hyper was given all that will come of the response.
    ended: Cell<bool>,
    /// The client's socket has all that hyper had for it.
    pub flushed: Cell<bool>,
    /// The error response for the client, because there is none of `rest_proxy`.
    pub failure: RefCell<Option<Response>>,
}

impl Exchange {
    /// Sets the response in place of that of `rest_proxy`, unless the client is already getting one.
    pub fn fail(&self, response: Response) {
        if !self.answered.get() {
            self.failure.borrow_mut().get_or_insert(response);
        }
    }

    /// Nothing more is going to happen: the client has the whole response, or wants none, or has to get another one.
    pub fn is_over(&self) -> bool {
        self.client_gone.get() || self.failure.borrow().is_some() || (self.ended.get() && self.flushed.get())
    }

    fn end(&self) {
        self.ended.set(true);
        // hyper flushes what it has after it has asked for the next part of the body.
        self.flushed.set(false);
    }
}

/// The text of an error of hyper, with its cause.
pub fn describe(error: &Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// The body of a request. It comes from the client's connection and goes to that of `rest_proxy`.
pub struct RequestBody {
    incoming: Incoming,
    /// Is ready as soon as the client may be asked for the body; `None`: the client may be asked now.
    agreement: Option<Pin<Box<dyn Future<Output = ()>>>>,
    exchange: Rc<Exchange>,
}

impl RequestBody {
    /// Gives a request this kind of body. A client that asks with `Expect: 100-continue` is not told to send its body
    /// before `rest_proxy` has agreed, or for [`EXPECT_LIMIT`].
    pub fn wrap(request: Request<Incoming>, exchange: Rc<Exchange>) -> Request<Self> {
        let asks = request.version() == Version::HTTP_11
            && request
                .headers()
                .get(EXPECT)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let mut request = request.map(|incoming| Self { incoming, agreement: None, exchange });
        if asks {
            let agreed = Arc::new((AtomicBool::new(false), AtomicWaker::new()));
            let setter = agreed.clone();
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    setter.0.store(true, Relaxed);
                    setter.1.wake();
                }
            });
            request.body_mut().agreement = Some(Box::pin(async move {
                let given = poll_fn(|cx| {
                    agreed.1.register(cx.waker());
                    if agreed.0.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }
                });
                let _ = within(EXPECT_LIMIT, given).await;
            }));
        }
        request
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(agreement) = &mut self.agreement {
            ready!(agreement.as_mut().poll(cx));
            self.agreement = None;
        }
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        self.exchange.waits_for_client.set(frame.is_pending());
        if let Poll::Ready(Some(Err(error))) = &frame {
            let message = format!("gateway-proxy: the body of the request is malformed: {}", describe(error));
            let body = serde_json::json!({ "message": message, "code": 0 }).to_string();
            self.exchange.fail(Response::json("400 Bad Request", body));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.exchange.waits_for_client.set(false);
    }
}

/// The body of a response. It comes from the connection of `rest_proxy` and goes to that of the client.
pub struct ResponseBody {
    incoming: Incoming,
    broken: bool,
    exchange: Rc<Exchange>,
}

impl ResponseBody {
    /// A body that marks the exchange as over when hyper has all of it.
    pub fn new(incoming: Incoming, exchange: Rc<Exchange>) -> Self {
        Self { incoming, broken: false, exchange }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    /// A body that breaks off stays pending: with an error hyper would drop the bytes before it that the client has not
    /// taken yet. The exchange is over as soon as the client has them.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.broken {
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if let Some(Err(error)) = &frame {
            tracing::debug!("a response of `rest_proxy` broke off: {}", describe(error));
            self.broken = true;
            self.exchange.end();
            return Poll::Pending;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.exchange.end();
    }
}
