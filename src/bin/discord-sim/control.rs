//! The control API under `/sim/`: it shows the simulator's state, makes events, and causes faults.

use crate::gateway::{Cut, MAX_EVENTS};
use crate::http::{Request, Response};
use crate::server::{BREATH, Server};
use std::time::{Duration, Instant};
use world::json::{self, Object};
use world::{Event, Wish, known_event};

/// Number of events that are made before the task yields to other tasks.
const SLICE: u64 = 128;

/// Maximum number of changes of each kind in one `/sim/lose`. They are made without yielding, so that no client sees
/// only some of them.
const MAX_WHILE_LOST: u64 = 32;

/// Maximum number of events of one request. With more, the first ones would leave the replay buffer before they are
/// sent.
const MAX_AT_ONCE: u64 = MAX_EVENTS as u64;

/// Maximum number of RESUMEs that one `/sim/refuse-resume` refuses.
const MAX_REFUSALS: u64 = 1_000;

/// Largest message in bytes that `/sim/emit` makes.
const LARGEST_MESSAGE: usize = 16 << 20;

fn wrong(what: &str) -> Response {
    Response::error(400, what, 0)
}

fn number(request: &Request, name: &str) -> Result<Option<u64>, Response> {
    match request.get(name) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| wrong(&format!("{name} has to be a number, not {text:?}"))),
    }
}

fn flag(request: &Request, name: &str) -> bool {
    matches!(request.get(name), Some("1" | "true" | ""))
}

/// The shards that the parameter `shard` names: one, or `all`.
fn shards(server: &Server, request: &Request) -> Result<Vec<usize>, Response> {
    let count = server.gateway.borrow().shards.len();
    match request.get("shard") {
        Some("all") => Ok((0..count).collect()),
        Some(text) => match text.parse() {
            Ok(shard) if shard < count => Ok(vec![shard]),
            _ => Err(wrong(&format!("shard has to be all or 0 to {}, not {text:?}", count - 1))),
        },
        None if count == 1 => Ok(vec![0]),
        None => Err(wrong("which shard? (shard=N or shard=all)")),
    }
}

/// Answers a request under `/sim/`.
pub async fn handle(server: &Server, request: &Request, body: &[u8]) -> Response {
    match route(server, request, body).await {
        Ok(response) | Err(response) => response,
    }
}

async fn route(server: &Server, request: &Request, body: &[u8]) -> Result<Response, Response> {
    let now = Instant::now();
    let reading = matches!(request.path.as_str(), "/sim/stats" | "/sim/guilds" | "/sim/guild" | "/sim/message");
    if !reading && request.method != "POST" {
        return Err(Response::error(405, "405: Method Not Allowed", 0));
    }
    let affected = |count: usize| Ok(Response::ok(Object::new().int("connections", count as u64).finish()));
    let each = |act: &mut dyn FnMut(usize) -> usize| -> Result<Response, Response> {
        let count = shards(server, request)?.into_iter().map(act).sum();
        affected(count)
    };
    match request.path.as_str() {
        "/sim/stats" => Ok(Response::ok(server.gateway.borrow().stats(now))),
        "/sim/guilds" => guilds(server, request),
        "/sim/guild" => {
            let gateway = server.gateway.borrow();
            let guild = number(request, "id")?.and_then(|id| gateway.world.guild(id));
            let guild = guild.ok_or_else(|| Response::error(404, "no such guild", 0))?;
            Ok(Response::ok(guild.create(None, false, gateway.world.bot())))
        }
        "/sim/message" => {
            let [shard] = shards(server, request)?[..] else { return Err(wrong("which shard?")) };
            let message = number(request, "number")?.ok_or_else(|| wrong("which number?"))?;
            let guild = server.gateway.borrow().world.guild_of_message(shard, message);
            let guild = guild.ok_or_else(|| Response::error(404, "no such message, or too old", 0))?;
            Ok(Response::ok(Object::new().id("guild", guild).finish()))
        }
        "/sim/emit" => emit(server, request).await,
        "/sim/mutate" => mutate(server, request).await,
        "/sim/traffic" => {
            let rate = request.get("rate").and_then(|rate| rate.parse::<f64>().ok());
            let rate =
                rate.filter(|rate| (0.0..=1e7).contains(rate)).ok_or_else(|| wrong("rate has to be 0 to 1e7"))?;
            server.rate.set(rate);
            let steady = request.get("steady").is_some_and(|steady| steady == "1");
            server.steady.set(steady);
            Ok(Response::ok(format!(r#"{{"rate":{rate},"steady":{steady}}}"#)))
        }
        "/sim/dispatch" => {
            let name = request.get("type").ok_or_else(|| wrong("which type?"))?;
            let data = std::str::from_utf8(body).map_err(|_| wrong("the body has to be UTF-8"))?;
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !plain {
                return Err(wrong("a type is letters, digits and _"));
            }
            each(&mut |shard| server.gateway.borrow_mut().dispatch(shard, name, data))
        }
        "/sim/raw" => each(&mut |shard| server.gateway.borrow_mut().say(shard, body)),
        "/sim/wire" => each(&mut |shard| server.gateway.borrow_mut().put_on_wire(shard, body)),
        "/sim/drop" => {
            let code = number(request, "code")?;
            let code = code.map(|code| u16::try_from(code).ok().filter(|code| (1000..5000).contains(code)));
            let how = match code {
                Some(None) => return Err(wrong("code has to be a close code")),
                Some(Some(code)) => Cut::Close(code),
                None if flag(request, "freeze") => Cut::Freeze,
                None => Cut::Reset,
            };
            let end = flag(request, "end_session");
            each(&mut |shard| server.gateway.borrow_mut().cut(shard, how, end, now))
        }
        "/sim/lose" => lose(server, request, now),
        "/sim/refuse-resume" => {
            let code = number(request, "code")?.unwrap_or(4000);
            let code = u16::try_from(code).ok().filter(|code| (1000..5000).contains(code));
            let code = code.ok_or_else(|| wrong("code has to be a close code"))?;
            let count = number(request, "count")?.unwrap_or(1).min(MAX_REFUSALS);
            each(&mut |shard| server.gateway.borrow_mut().refuse_resumes(shard, count as usize, code))
        }
        "/sim/mute" => {
            let (only, until_resume) = (request.get("type"), flag(request, "until_resume"));
            each(&mut |shard| server.gateway.borrow_mut().mute(shard, only, until_resume))
        }
        "/sim/reconnect" => each(&mut |shard| server.gateway.borrow_mut().ask_to_reconnect(shard)),
        "/sim/heartbeat" => each(&mut |shard| server.gateway.borrow_mut().ask_for_heartbeat(shard)),
        "/sim/invalid" => {
            let resumable = flag(request, "resumable");
            each(&mut |shard| server.gateway.borrow_mut().invalidate(shard, resumable, now))
        }
        "/sim/refuse" | "/sim/hang" => {
            let seconds = request.get("seconds").and_then(|text| text.parse::<f64>().ok());
            let seconds = seconds.filter(|seconds| (0.0..=86_400.0).contains(seconds));
            let seconds = seconds.ok_or_else(|| wrong("seconds has to be 0 to 86400"))?;
            let until = now + Duration::from_secs_f64(seconds);
            let fault = if request.path == "/sim/refuse" { &server.refuse_until } else { &server.hang_until };
            fault.set(until);
            Ok(Response::ok(format!(r#"{{"seconds":{seconds}}}"#)))
        }
        "/sim/remaining" => {
            let value = number(request, "value")?.ok_or_else(|| wrong("which value?"))?;
            server.gateway.borrow_mut().set_remaining(value);
            Ok(Response::ok(format!(r#"{{"remaining":{value}}}"#)))
        }
        "/sim/voice-move" | "/sim/voice-server" => voice(server, request),
        "/sim/guild-leave" | "/sim/guild-unavailable" | "/sim/guild-available" | "/sim/guild-join" => {
            guild_event(server, request)
        }
        _ => Err(Response::error(404, "404: Not Found", 0)),
    }
}

/// Handles the requests about voice: a moderator moves the bot to another voice channel or disconnects it, or Discord
/// moves the bot's voice server.
fn voice(server: &Server, request: &Request) -> Result<Response, Response> {
    let guild = number(request, "guild")?.ok_or_else(|| wrong("which guild?"))?;
    let mut gateway = server.gateway.borrow_mut();
    let changed = match request.path.as_str() {
        "/sim/voice-move" => gateway.move_from_voice(guild, number(request, "channel")?),
        _ => gateway.move_voice_server(guild),
    };
    Ok(Response::ok(Object::new().bool("changed", changed).finish()))
}

fn guilds(server: &Server, request: &Request) -> Result<Response, Response> {
    let shards = shards(server, request)?;
    let gateway = server.gateway.borrow();
    let rows = shards.into_iter().flat_map(|shard| gateway.world.guilds_of(shard)).map(|guild| {
        Object::new()
            .id("id", guild.id())
            .bool("unavailable", !guild.available())
            .int("members", guild.member_count() as u64)
            .finish()
    });
    Ok(Response::ok(json::array(rows)))
}

/// Makes Discord lose the session of a shard: the shard's connections are reset, its sessions end, and the requested
/// changes of the world are sent to no session. All of this happens without yielding, so that no client can identify in
/// between.
fn lose(server: &Server, request: &Request, now: Instant) -> Result<Response, Response> {
    let changes = number(request, "changes")?.unwrap_or(0);
    if changes > MAX_WHILE_LOST {
        return Err(wrong(&format!("changes is at most {MAX_WHILE_LOST}")));
    }
    let shards = shards(server, request)?;
    let leave = number(request, "leave")?;
    let mut gateway = server.gateway.borrow_mut();
    let gateway = &mut *gateway;
    if leave.is_some_and(|id| gateway.world.guild(id).is_none() || !shards.contains(&gateway.world.shard_of(id))) {
        return Err(wrong("there is no such guild on this shard"));
    }
    let (mut connections, mut events) = (0, 0);
    for shard in shards {
        connections += gateway.cut(shard, Cut::Reset, true, now);
        events += gateway.world.change_everything(shard, changes).len() as u64;
        if flag(request, "join") {
            gateway.world.join(shard);
        }
    }
    if let Some(id) = leave {
        gateway.world.leave(id);
    }
    Ok(Response::ok(Object::new().int("connections", connections as u64).int("events", events).finish()))
}

fn guild_event(server: &Server, request: &Request) -> Result<Response, Response> {
    let mut gateway = server.gateway.borrow_mut();
    let gateway = &mut *gateway;
    let event: Option<Event> = if request.path == "/sim/guild-join" {
        let shard = *shards_of(gateway.shards.len(), request)?.first().unwrap_or(&0);
        Some(gateway.world.join(shard))
    } else {
        let id = number(request, "id")?.ok_or_else(|| wrong("which id?"))?;
        if gateway.world.guild(id).is_none() {
            return Err(Response::error(404, "no such guild", 0));
        }
        match request.path.as_str() {
            "/sim/guild-leave" => gateway.world.leave(id),
            path => gateway.world.set_available(id, path == "/sim/guild-available"),
        }
    };
    let Some(event) = event else { return Ok(Response::ok(r#"{"changed":false}"#)) };
    let shard = gateway.world.shard_of(event.guild);
    gateway.publish(shard, &event);
    Ok(Response::ok(Object::new().bool("changed", true).id("id", event.guild).int("shard", shard as u64).finish()))
}

fn shards_of(count: usize, request: &Request) -> Result<Vec<usize>, Response> {
    let shard = request.get("shard").and_then(|text| text.parse().ok());
    match shard {
        Some(shard) if shard < count => Ok(vec![shard]),
        None if count == 1 => Ok(vec![0]),
        _ => Err(wrong(&format!("shard has to be 0 to {}", count - 1))),
    }
}

fn count(request: &Request) -> Result<u64, Response> {
    let count = number(request, "count")?.unwrap_or(1);
    if count > MAX_AT_ONCE {
        return Err(wrong(&format!("count is at most {MAX_AT_ONCE}")));
    }
    Ok(count)
}

async fn emit(server: &Server, request: &Request) -> Result<Response, Response> {
    let count = count(request)?;
    let shards = shards(server, request)?;
    let guild = number(request, "guild")?;
    let size = number(request, "size")?.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    if size.is_some_and(|size| size > LARGEST_MESSAGE) {
        return Err(wrong(&format!("size is at most {LARGEST_MESSAGE}")));
    }
    if let Some(id) = guild {
        let gateway = server.gateway.borrow();
        if gateway.world.guild(id).is_none() || shards != [gateway.world.shard_of(id)] {
            return Err(wrong("there is no such guild on this shard"));
        }
    }
    let mut rows = Vec::new();
    for shard in shards {
        let first = server.gateway.borrow().world.last_number(shard) + 1;
        let mut left = count;
        while left > 0 {
            {
                let mut gateway = server.gateway.borrow_mut();
                let gateway = &mut *gateway;
                for _ in 0..left.min(SLICE) {
                    let Some(event) = gateway.world.message(shard, guild, size) else {
                        return Err(wrong("the shard has no available guild"));
                    };
                    gateway.publish(shard, &event);
                }
            }
            left -= left.min(SLICE);
            glommio::timer::sleep(BREATH).await;
        }
        let last = server.gateway.borrow().world.last_number(shard);
        rows.push(Object::new().int("shard", shard as u64).int("first", first).int("last", last).finish());
    }
    Ok(Response::ok(match rows.as_slice() {
        [row] => row.clone(),
        rows => Object::new().raw("shards", &json::array(rows)).finish(),
    }))
}

async fn mutate(server: &Server, request: &Request) -> Result<Response, Response> {
    let count = count(request)?;
    let shards = shards(server, request)?;
    let wish = match request.get("type") {
        None => Wish::State,
        Some(name) if known_event(name) => Wish::Only(name),
        Some(name) => return Err(wrong(&format!("{name:?} is no event that the simulator makes"))),
    };
    let mut events = 0;
    for shard in shards {
        let mut left = count;
        while left > 0 {
            for _ in 0..left.min(SLICE) {
                events += server.happen(shard, wish);
            }
            left -= left.min(SLICE);
            glommio::timer::sleep(BREATH).await;
        }
    }
    Ok(Response::ok(Object::new().int("events", events).finish()))
}
