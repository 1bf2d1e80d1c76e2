import discord4j.common.util.Snowflake;
import discord4j.core.DiscordClient;
import discord4j.core.GatewayDiscordClient;
import discord4j.core.event.domain.Event;
import discord4j.core.event.domain.guild.GuildCreateEvent;
import discord4j.core.event.domain.guild.MemberChunkEvent;
import discord4j.core.event.domain.lifecycle.ReadyEvent;
import discord4j.core.event.domain.lifecycle.ReconnectStartEvent;
import discord4j.core.event.domain.lifecycle.ResumeEvent;
import discord4j.core.event.domain.message.MessageCreateEvent;
import discord4j.core.object.presence.ClientActivity;
import discord4j.core.object.presence.ClientPresence;
import discord4j.core.object.presence.Status;
import discord4j.core.shard.ShardingStrategy;
import discord4j.discordjson.json.gateway.RequestGuildMembers;
import discord4j.gateway.DefaultGatewayClient;
import discord4j.gateway.GatewayOptions;
import discord4j.gateway.GatewayReactorResources;
import discord4j.gateway.intent.IntentSet;
import discord4j.gateway.json.ShardGatewayPayload;
import discord4j.rest.request.RouterOptions;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Collectors;
import reactor.core.publisher.Mono;
import reactor.netty.Connection;

/** The test bot on Discord4J. What it is told, prints and reads is in tests/clients/README.md. */
public final class Bot {
    // recipe:start
    /** A shard that connects to the proxy, whatever gateway Discord's REST API names. */
    static final class ThroughTheProxy extends DefaultGatewayClient {
        final String gatewayUrl;

        ThroughTheProxy(GatewayOptions options, String gatewayUrl) {
            super(options);
            this.gatewayUrl = gatewayUrl;
        }

        @Override
        public Mono<Void> execute(String url) {
            return super.execute(gatewayUrl + "/" + url.substring(url.indexOf('?')));
        }
    }

    // recipe:end
    /** The newest connection of each shard. */
    private static final Map<Integer, Connection> CONNECTIONS = new ConcurrentHashMap<>();

    /** The guilds in the READY of each shard. */
    private static final Map<Integer, Set<Snowflake>> ANNOUNCED = new ConcurrentHashMap<>();

    public static void main(String[] arguments) {
        Protocol.watchLog();
        DiscordClient client = DiscordClient.builder(Protocol.TOKEN).setExtraOptions(Bot::restOfTheTest).build();
        // recipe:start
        // A bucket for each shard: the library waits 6 s between two shards of one bucket, and the proxy needs no such wait.
        var sharding = ShardingStrategy.builder().count(Protocol.SHARDS).maxConcurrency(Protocol.SHARDS).build();
        var login = client.gateway().setSharding(sharding);
        // recipe:end
        login = login.setExtraOptions(Bot::thatRemembersItsConnection);
        // One subscription for all types: each has a thread of its own, so the order between two of them is any.
        login.setEnabledIntents(IntentSet.of(Protocol.INTENTS))
            .withEventDispatcher(events -> events.on(Event.class).doOnNext(Bot::report));
        // recipe:start
        GatewayDiscordClient bot = login.login(options -> new ThroughTheProxy(options, Protocol.GATEWAY_URL)).block();
        // recipe:end
        Protocol.listen(Map.of(
            // requestMembers() listens for the answer only after it has sent the request, and the answer can be faster.
            "members", command -> {
                Snowflake guild = Snowflake.of(command.text("guild"));
                int shard = (int) ((guild.asLong() >> 22) % Protocol.SHARDS);
                var request = RequestGuildMembers.builder().guildId(guild.asString()).query("").limit(0).nonce(NONCE).build();
                bot.getGatewayClientGroup().unicast(ShardGatewayPayload.requestGuildMembers(request, shard))
                    .subscribe(null, Protocol::fail);
            },
            "presence", command -> bot.updatePresence(ClientPresence.of(
                Status.of(command.text("status")), ClientActivity.playing(command.text("name"))))
                .subscribe(null, Protocol::fail),
            "reconnect", command -> CONNECTIONS.get(command.number("shard")).channel().close()));
        bot.onDisconnect().block();
        Protocol.fail("every shard has given up");
    }

    /** REST, too, is the test's: the library asks there for the gateway and for the number of IDENTIFYs that are left. */
    private static RouterOptions restOfTheTest(RouterOptions options) {
        return new RouterOptions(options.getToken(), options.getReactorResources(), options.getExchangeStrategies(),
            options.getResponseTransformers(), options.getGlobalRateLimiter(), options.getRequestQueueFactory(),
            Protocol.API_URL + "/v10");
    }

    private static GatewayOptions thatRemembersItsConnection(GatewayOptions options) {
        int shard = options.getIdentifyOptions().getShardInfo().getIndex();
        GatewayReactorResources resources = options.getReactorResources();
        var http = resources.getHttpClient().doOnConnected(connection -> CONNECTIONS.put(shard, connection));
        return new GatewayOptions(options.getToken(), resources.mutate().httpClient(http).build(),
            options.getPayloadReader(), options.getPayloadWriter(), options.getReconnectOptions(),
            options.getIdentifyOptions(), options.getInitialObserver(), options.getIdentifyLimiter(),
            options.getMaxMissedHeartbeatAck());
    }

    /** Marks the requests of the harness: the library asks for the members of large guilds by itself. */
    private static final String NONCE = "harness";

    /** Members so far in the answer for each guild whose members were asked for. */
    private static final Map<Snowflake, Integer> ANSWERS = new ConcurrentHashMap<>();

    private static void members(MemberChunkEvent chunk) {
        if (!chunk.getNonce().equals(Optional.of(NONCE))) {
            return;
        }
        Snowflake guild = chunk.getGuildId();
        ANSWERS.merge(guild, chunk.getMembers().size(), Integer::sum);
        if (chunk.getChunkIndex() + 1 == chunk.getChunkCount()) {
            Protocol.emit("members", "guild", guild.asString(), "count", ANSWERS.remove(guild));
        }
    }

    private static void report(Event event) {
        if (event instanceof ReadyEvent ready) {
            ready(ready);
        } else if (event instanceof GuildCreateEvent guild) {
            guild(guild);
        } else if (event instanceof MessageCreateEvent message) {
            message(message);
        } else if (event instanceof MemberChunkEvent chunk) {
            members(chunk);
        } else if (event instanceof ResumeEvent) {
            Protocol.emit("resumed", "shard", event.getShardInfo().getIndex());
        } else if (event instanceof ReconnectStartEvent) {
            Protocol.emit("reconnecting", "shard", event.getShardInfo().getIndex());
        }
    }

    private static void ready(ReadyEvent event) {
        int shard = event.getShardInfo().getIndex();
        Set<Snowflake> guilds = event.getGuilds().stream().map(ReadyEvent.Guild::getId).collect(Collectors.toSet());
        ANNOUNCED.put(shard, guilds);
        Protocol.emit("ready", "shard", shard, "guilds", guilds.stream().map(Snowflake::asString).toList());
    }

    private static void guild(GuildCreateEvent event) {
        int shard = event.getShardInfo().getIndex();
        // The library has no opinion; this is how the documentation tells a join from a guild coming up.
        boolean join = !ANNOUNCED.get(shard).contains(event.getGuild().getId());
        Protocol.emit("guild", "shard", shard, "id", event.getGuild().getId().asString(),
            "members", event.getGuild().getMemberCount(), "unavailable", false, "join", join);
    }

    private static void message(MessageCreateEvent event) {
        Long number = Protocol.numberOf(event.getMessage().getContent());
        if (number != null) {
            Protocol.emit("message", "shard", event.getShardInfo().getIndex(), "n", number);
        }
    }
}
