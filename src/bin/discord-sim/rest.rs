//! The REST routes that libraries call at login. Any other route is answered with Discord's 404.

use crate::gateway::Gateway;
use crate::http::{Request, Response};
use std::time::Instant;
use world::json::Object;

const SOUNDS: &str = r#"[{"name":"quack","sound_id":"1","volume":1.0,"emoji_id":null,"emoji_name":"🦆","available":true},{"name":"airhorn","sound_id":"2","volume":1.0,"emoji_id":null,"emoji_name":"🔊","available":true}]"#;

/// Answers a request that is not for the control API.
pub fn handle(gateway: &Gateway, request: &Request, now: Instant) -> Response {
    let not_found = || Response::error(404, "404: Not Found", 0);
    let path = request.path.as_str();
    let route = ["/api/v10/", "/api/v9/", "/api/"].iter().find_map(|prefix| path.strip_prefix(prefix));
    let Some(route) = route else { return not_found() };
    let known = matches!(
        route,
        "gateway"
            | "gateway/bot"
            | "users/@me"
            | "oauth2/applications/@me"
            | "applications/@me"
            | "soundboard-default-sounds"
    );
    if !known {
        return not_found();
    }
    if request.method != "GET" {
        return Response::error(405, "405: Method Not Allowed", 0);
    }
    if route == "gateway" {
        return Response::ok(Object::new().str("url", &gateway.options.url).finish());
    }
    let token = request.authorization.as_deref().and_then(|value| value.strip_prefix("Bot "));
    if token != Some(gateway.options.token.as_str()) {
        return Response::error(401, "401: Unauthorized", 0);
    }
    Response::ok(match route {
        "gateway/bot" => {
            let (remaining, reset_after) = gateway.remaining(now);
            let limit = Object::new()
                .int("total", gateway.options.total)
                .int("remaining", remaining)
                .int("reset_after", reset_after)
                .int("max_concurrency", gateway.options.max_concurrency as u64)
                .finish();
            Object::new()
                .str("url", &gateway.options.url)
                .int("shards", gateway.shards.len() as u64)
                .raw("session_start_limit", &limit)
                .finish()
        }
        "users/@me" => gateway.world.current_user(),
        "soundboard-default-sounds" => SOUNDS.to_owned(),
        _ => application(gateway),
    })
}

fn application(gateway: &Gateway) -> String {
    let owner = Object::new()
        .id("id", 80_351_110_224_678_912)
        .str("username", "nelly")
        .str("discriminator", "0")
        .str("global_name", "Nelly")
        .null("avatar")
        .int("public_flags", 64)
        .int("flags", 64)
        .finish();
    let guilds = (0..gateway.shards.len()).map(|shard| gateway.world.guilds_of(shard).count() as u64).sum();
    Object::new()
        .id("id", gateway.world.application())
        .str("name", "simulated-bot")
        .null("icon")
        .str("description", "A bot of the simulator")
        .str("summary", "")
        .null("type")
        .raw("bot", &gateway.world.current_user())
        .bool("bot_public", true)
        .bool("bot_require_code_grant", false)
        .str("verify_key", "1e0a356058d627ca38a5c8c9648818061d49e49bd9da9e3ab17d98ad4d6b42a8")
        .int("flags", 27_828_224)
        .int("approximate_guild_count", guilds)
        .int("approximate_user_install_count", 0)
        .raw("rpc_origins", "[]")
        .raw("redirect_uris", "[]")
        .raw("tags", "[]")
        .null("interactions_endpoint_url")
        .null("role_connections_verification_url")
        .raw("integration_types_config", r#"{"0":{"oauth2_install_params":{"scopes":["bot"],"permissions":"2048"}}}"#)
        .null("team")
        .raw("owner", &owner)
        .finish()
}
