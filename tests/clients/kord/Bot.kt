// The test bot on Kord. What it is told, prints and reads is in tests/clients/README.md.

import dev.kord.common.entity.PresenceStatus
import dev.kord.common.entity.Snowflake
import dev.kord.core.Kord
import dev.kord.core.behavior.requestMembers
import dev.kord.core.builder.kord.KordBuilder
import dev.kord.gateway.builder.Shards
import dev.kord.core.cache.CachingGateway
import dev.kord.core.event.gateway.DisconnectEvent
import dev.kord.core.event.gateway.ReadyEvent
import dev.kord.core.event.gateway.ResumedEvent
import dev.kord.core.event.guild.GuildCreateEvent
import dev.kord.core.event.message.MessageCreateEvent
import dev.kord.gateway.Close
import dev.kord.gateway.DefaultGateway
import dev.kord.gateway.Gateway
import dev.kord.gateway.Intent
import dev.kord.gateway.Intents
import dev.kord.gateway.PrivilegedIntent
import dev.kord.gateway.ratelimit.IdentifyRateLimiter
import io.ktor.client.HttpClient
import io.ktor.client.engine.okhttp.OkHttp
import io.ktor.client.plugins.api.createClientPlugin
import io.ktor.http.URLProtocol
import java.net.URI
import java.util.function.Consumer
import kotlin.coroutines.Continuation
import kotlin.coroutines.intrinsics.suspendCoroutineUninterceptedOrReturn
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking

// recipe:start
/** Makes all shards connect to the proxy at once. Each has a bucket of its own, because the proxy needs no wait between two. */
fun KordBuilder.throughTheProxy(gatewayUrl: String, shardCount: Int) {
    val limiter = IdentifyRateLimiter(maxConcurrency = shardCount, Dispatchers.Default)
    sharding { Shards(shardCount) }
    gateways { resources, shards ->
        shards.map {
            DefaultGateway {
                url = "$gatewayUrl/?v=10&encoding=json&compress=zlib-stream"
                client = resources.httpClient
                identifyRateLimiter = limiter
            }
        }
    }
}

// recipe:end
/** The library asks Discord's REST API for its number of shards; here the test's. */
val restOfTheTest = HttpClient(OkHttp) {
    install(createClientPlugin("RestOfTheTest") {
        val api = URI(Protocol.API_URL)
        onRequest { request, _ ->
            if (request.url.host == "discord.com") {
                request.url.protocol = URLProtocol.HTTP
                request.url.host = api.host
                request.url.port = api.port
            }
        }
    })
}

/** What the library does for op 7. What a user can call ends the session. */
suspend fun reconnect(gateway: Gateway) {
    val inner = CachingGateway::class.java.declaredFields.first { Gateway::class.java.isAssignableFrom(it.type) }
    inner.isAccessible = true
    val connection = inner.get(gateway)
    val restart = DefaultGateway::class.java.methods.first { it.name.startsWith("restart") }
    suspendCoroutineUninterceptedOrReturn { done: Continuation<Unit> -> restart.invoke(connection, Close.Reconnecting, done) }
}

@OptIn(PrivilegedIntent::class)
fun main() = runBlocking(Dispatchers.Default) {
    Protocol.watchLog()
    // recipe:start
    val bot = Kord(Protocol.TOKEN) {
        throughTheProxy(Protocol.GATEWAY_URL, Protocol.SHARDS)
        // recipe:end
        httpClient = restOfTheTest
        // recipe:start
    }
    // recipe:end
    Protocol.listen(
        mapOf(
            "members" to Consumer<Protocol.Command> { command ->
                val guild = command.text("guild")
                launch {
                    var count = 0
                    bot.unsafe.guild(Snowflake(guild)).requestMembers().collect { chunk -> count += chunk.members.size }
                    Protocol.emit("members", "guild", guild, "count", count)
                }
            },
            "presence" to Consumer<Protocol.Command> { command ->
                launch {
                    bot.editPresence {
                        status = PresenceStatus.from(command.text("status"))
                        playing(command.text("name"))
                    }
                }
            },
            "reconnect" to Consumer<Protocol.Command> { command ->
                launch { reconnect(bot.gateway.gateways.getValue(command.number("shard"))) }
            },
        ),
    )
    val announced = mutableMapOf<Int, Set<Snowflake>>()
    launch {
        // One after the other: a listener of its own for each event would not see them in order.
        bot.events.collect { event ->
            when (event) {
                is ReadyEvent -> {
                    announced[event.shard] = event.guildIds
                    Protocol.emit("ready", "shard", event.shard, "guilds", event.guildIds.map { it.toString() })
                }
                is GuildCreateEvent -> {
                    // The library has no opinion; this is how the documentation tells a join from a guild coming up.
                    val join = event.guild.id !in announced.getValue(event.shard)
                    Protocol.emit(
                        "guild", "shard", event.shard, "id", event.guild.id.toString(),
                        "members", event.guild.memberCount, "unavailable", false, "join", join,
                    )
                }
                is MessageCreateEvent ->
                    Protocol.numberOf(event.message.content)?.let { Protocol.emit("message", "shard", event.shard, "n", it) }
                is ResumedEvent -> Protocol.emit("resumed", "shard", event.shard)
                // After op 7 the library says that it has tried too often, and goes on.
                is DisconnectEvent.RetryLimitReachedEvent -> {}
                is DisconnectEvent -> Protocol.emit("reconnecting", "shard", event.shard)
            }
        }
    }
    // recipe:start
    bot.login {
        intents = Intents { /* those that the bot needs */
            // recipe:end
            Intent.entries.filter { Protocol.INTENTS and (1 shl it.shift) != 0 }.forEach { +it }
            // recipe:start
        }
    }
    // recipe:end
}
