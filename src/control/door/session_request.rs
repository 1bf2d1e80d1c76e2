//! Reads IDENTIFY or RESUME from a gateway connection, checks it, and hands the connection to the data core of its
//! shard.
//!
//! Promises: heartbeats are answered meanwhile, also while the shards have not been started. A client that is refused is
//! closed with a code and a reason, except after a RESUME for which there is no session: that client may identify on
//! the same connection. The data core decides whether a session is there ([`SessionRequest`]).
//!
//! Bounded: [`IDENTIFY_LIMIT`] for each wait, and [`MAX_REFUSED_RESUMES`] on one connection.

use crate::{
    control::{
        Control,
        access::{TokenHolder, WRONG_TOKEN},
        connection::{ClientConnection, ConnectionEnd, Payload},
        pool::Place,
    },
    data_core::{NewClient, SessionRequest, ToCore, close_for, command_text},
    downstream::{
        outbox::Outbox,
        session::{Claim, Options, SessionId},
        visitor::Visitor,
    },
    net::within,
    protocol::{
        close::{self, Close},
        command::{Command, Identify, Resume},
        intents::Intents,
        opcode, payload,
    },
};
use std::{rc::Rc, time::Duration};

/// RESUMEs that are refused on one connection without a session between them, by the door or by a data core. After the
/// last one the door closes the connection. Libraries send one.
const MAX_REFUSED_RESUMES: u32 = 3;
/// The close after [`MAX_REFUSED_RESUMES`].
const NO_SESSION: Close = Close::NoSession;
/// Longest wait for IDENTIFY or RESUME, from HELLO or from op 9. Libraries that pause between op 9 and IDENTIFY stay
/// far below this limit.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(60);
/// Time between two checks whether the shards have been started.
const START_PAUSE: Duration = Duration::from_millis(100);

/// Close code and reason for clients that connect while the proxy stops. With this code libraries try again with the
/// session that they have.
const RESTARTING: Close = Close::Stopping;

/// What the door needs of the URL that a client connected to.
#[derive(Clone, Copy)]
pub(super) struct UrlParameters {
    /// The version of the gateway's API.
    pub version: u8,
    /// The session that the path names; `None`: the path names none.
    pub session: Option<SessionId>,
}

/// How the door handles a command before IDENTIFY or RESUME.
#[derive(Clone, Copy)]
pub(super) enum EarlyCommands {
    /// The connection is closed.
    Refused,
    /// The command is ignored: the client may have sent it before it read that its session is over. The close code for
    /// such a command would be 4003, after which some libraries never reconnect.
    Ignored,
}

/// How the wait for IDENTIFY or RESUME ended.
enum Outcome {
    Identify(Identify),
    Resume(Resume),
    /// The connection was lost.
    Lost,
    /// The client closed the connection with this code.
    Closed(Option<u16>),
    Refused(Close),
}

impl From<ConnectionEnd> for Outcome {
    fn from(end: ConnectionEnd) -> Self {
        match end {
            ConnectionEnd::Lost => Self::Lost,
            ConnectionEnd::Closed(code) => Self::Closed(code),
            ConnectionEnd::Violated(violation) => Self::Refused(close_for(violation)),
        }
    }
}

/// Waits for IDENTIFY or RESUME and hands the connection to the data core of the shard. `refused_resumes` were refused
/// on this connection before.
pub(super) async fn receive_and_hand_over(
    control: Rc<Control>,
    place: Place,
    mut connection: ClientConnection,
    url: UrlParameters,
    mut early: EarlyCommands,
    mut refused_resumes: u32,
) {
    let version = url.version;
    loop {
        if refused_resumes >= MAX_REFUSED_RESUMES {
            return connection.close(Some(NO_SESSION.code()), NO_SESSION.reason()).await;
        }
        let outcome = within(IDENTIFY_LIMIT, next_outcome(&mut connection, early)).await;
        let close = match outcome {
            None => Close::NoIdentify,
            Some(Outcome::Lost) => return,
            Some(Outcome::Closed(code)) => return connection.close(code, "").await,
            Some(Outcome::Refused(close)) => close,
            Some(Outcome::Identify(identify)) => {
                match check_identify(&control, &mut connection, &identify, version).await {
                    Ok((wish, holder)) => {
                        return send_to_core(&control, place, connection, wish, holder, version, refused_resumes);
                    }
                    Err(close) => close,
                }
            }
            Some(Outcome::Resume(resume)) => match check_resume(&control, &mut connection, &resume, url).await {
                Err(close) => close,
                Ok((Some(wish), holder)) => {
                    return send_to_core(&control, place, connection, wish, holder, version, refused_resumes);
                }
                Ok((None, _)) => {
                    refused_resumes += 1;
                    // The connection stays open so that the client can identify on it. After a close, some libraries
                    // reconnect and resume in a loop.
                    connection.outbox.message(&[payload::INVALID_SESSION]);
                    early = EarlyCommands::Ignored;
                    continue;
                }
            },
        };
        return connection.close(Some(close.code()), close.reason()).await;
    }
}

/// Reads payloads until IDENTIFY or RESUME, and answers heartbeats.
async fn next_outcome(connection: &mut ClientConnection, early: EarlyCommands) -> Outcome {
    connection
        .read_until(|payload, outbox| {
            handle_payload(payload, outbox, early).unwrap_or_else(|close| Some(Outcome::Refused(close)))
        })
        .await
}

fn handle_payload(payload: Payload<'_>, outbox: &mut Outbox, early: EarlyCommands) -> Result<Option<Outcome>, Close> {
    let (bytes, binary) = match payload {
        Payload::Text(bytes) => (bytes, false),
        Payload::Binary(bytes) => (bytes, true),
    };
    let text = command_text(outbox.encoding(), bytes, binary)?;
    let decode = |_| Close::Undocumented;
    let command = Command::parse(&text).map_err(decode)?;
    Ok(Some(match command.op {
        opcode::HEARTBEAT => {
            outbox.message(&[payload::HEARTBEAT_ACK]);
            return Ok(None);
        }
        opcode::IDENTIFY => Outcome::Identify(command.identify().map_err(decode)?),
        opcode::RESUME => Outcome::Resume(command.resume().map_err(decode)?),
        _ if matches!(early, EarlyCommands::Ignored) => return Ok(None),
        _ => return Err(Close::NotIdentified),
    }))
}

/// The shard that a client wants, and what the client has sent to the door.
type Wish = (u32, SessionRequest);

/// Checks a RESUME: the token at once, and the shard once the shards have been started. Returns the shard with the
/// session that the RESUME is for, as far as the door can tell, and who the client is. `None`: no shard of this proxy
/// can have the session. The error is the close for the client.
async fn check_resume(
    control: &Control,
    connection: &mut ClientConnection,
    resume: &Resume,
    url: UrlParameters,
) -> Result<(Option<Wish>, TokenHolder), Close> {
    let holder = control.holder_of(resume.bare_token(), connection.peer()).ok_or(WRONG_TOKEN)?;
    wait_for_shards(control, connection).await?;
    let wish = locate_session(control, connection, resume, url).await?;
    if let Some((shard, _)) = &wish
        && let Some(close) = control.refuses_shard(&holder, *shard, connection.peer())
    {
        return Err(close);
    }
    Ok((wish, holder))
}

/// The shard and the session that a RESUME is for, as far as the door can tell; `None`: the RESUME lacks its id or
/// sequence, or no shard of this proxy can have the session. May wait until all shards have reported the ids of their
/// sessions with Discord. The error is the close for the client.
async fn locate_session(
    control: &Control,
    connection: &mut ClientConnection,
    resume: &Resume,
    url: UrlParameters,
) -> Result<Option<Wish>, Close> {
    let (Some(id), Some(sequence)) = (resume.session_id.as_deref(), resume.seq) else { return Ok(None) };
    let is_here = |id: &SessionId| control.core_of(id.shard()).is_some();
    // An id of Discord's can have the same form as one of the proxy's, so the form does not tell them apart.
    let resume_key = url.session.filter(|resume_key| is_here(resume_key) && resume_key.as_str() != id);
    let named = match resume_key {
        Some(resume_key) => Some(resume_key.shard()),
        None => wait_for(control, connection, |control| control.shard_of_upstream_id(id)).await?,
    };
    Ok(match (named, SessionId::parse(id).filter(is_here)) {
        (Some(shard), _) => {
            Some((shard, SessionRequest::Resume { claim: Claim::Upstream { id: id.to_owned(), resume_key }, sequence }))
        }
        (None, Some(id)) => Some((id.shard(), SessionRequest::Resume { claim: Claim::Own(id), sequence })),
        (None, None) => None,
    })
}

/// Waits until the shards have been started, and answers the client's heartbeats meanwhile. Returns how many shards the
/// bot has.
async fn wait_for_shards(control: &Control, connection: &mut ClientConnection) -> Result<u32, Close> {
    wait_for(control, connection, Control::running_shards).await
}

/// Asks every [`START_PAUSE`] until `ask` returns a value, and answers the client's heartbeats meanwhile. Any other
/// payload, the end of the connection, and the stop of the proxy end the wait. The error is the close for the client.
async fn wait_for<T>(
    control: &Control,
    connection: &mut ClientConnection,
    mut ask: impl FnMut(&Control) -> Option<T>,
) -> Result<T, Close> {
    loop {
        if control.stopping.get() {
            return Err(RESTARTING);
        }
        if let Some(answer) = ask(control) {
            return Ok(answer);
        }
        let outcome = crate::net::race(async { Some(next_outcome(connection, EarlyCommands::Refused).await) }, async {
            glommio::timer::sleep(START_PAUSE).await;
            None
        });
        match outcome.await {
            None => {}
            Some(Outcome::Identify(_) | Outcome::Resume(_)) => {
                return Err(Close::AlreadyIdentified);
            }
            Some(Outcome::Refused(close)) => return Err(close),
            Some(Outcome::Closed(code)) => return Err(Close::Answer(code.unwrap_or(close::NORMAL))),
            Some(Outcome::Lost) => return Err(Close::Answer(close::NORMAL)),
        }
    }
}

/// Checks an IDENTIFY: the token at once; the number of shards and the shard once the shards have been started. Returns
/// the shard with the options of the session, and who the client is. The error is the close for the client.
async fn check_identify(
    control: &Rc<Control>,
    connection: &mut ClientConnection,
    identify: &Identify,
    version: u8,
) -> Result<(Wish, TokenHolder), Close> {
    let holder = control.holder_of(identify.bare_token(), connection.peer()).ok_or(WRONG_TOKEN)?;
    let count = wait_for_shards(control, connection).await?;
    let (shard, of) = identify.shard;
    if of != count {
        tracing::warn!(
            shard,
            of,
            count,
            "a client's IDENTIFY is refused: it names another number of shards than the bot has"
        );
        return Err(Close::WrongShardCount);
    }
    if control.core_of(shard).is_none() {
        return Err(Close::ShardNotHere);
    }
    if let Some(close) = control.refuses_shard(&holder, shard, connection.peer()) {
        return Err(close);
    }
    let intents = identify.intents.map_or(Intents::ALL, Intents);
    let beyond = intents.without(Intents(control.intents()));
    if identify.intents.is_some() && beyond != Intents::default() {
        tracing::warn!(
            shard,
            "a client identifies with intents that `intents` of the configuration does not have: bits {:#x}",
            beyond.0
        );
    }
    let compress = identify.compress == Some(true) && control.live().client_compression;
    let options = Options { intents, version, compress, library: identify.library() };
    let library = options.library.name();
    let client = match &holder {
        TokenHolder::Bot => None,
        TokenHolder::Client(credential) => Some(&*credential.name),
    };
    tracing::debug!(shard, intents = intents.0, compress, library, client, "a client identifies");
    Ok(((shard, SessionRequest::Identify(options)), holder))
}

fn send_to_core(
    control: &Control,
    place: Place,
    connection: ClientConnection,
    (shard, request): Wish,
    holder: TokenHolder,
    version: u8,
    refused_resumes: u32,
) {
    drop(place);
    let visitor = Visitor { version, address: connection.peer(), credential: holder.credential(), refused_resumes };
    let Ok(parts) = connection.into_parts() else { return };
    if let Some(core) = control.core_of(shard) {
        let new_client = NewClient { parts, shard, request, visitor };
        if core.send(ToCore::Client(Box::new(new_client))).is_err() {
            tracing::warn!(shard, "client dropped: the mailbox of its data core is full");
        }
    }
}
