import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import net.dv8tion.jda.api.GatewayEncoding;
import net.dv8tion.jda.api.JDA;
import net.dv8tion.jda.api.OnlineStatus;
import net.dv8tion.jda.api.entities.Activity;
import net.dv8tion.jda.api.entities.Guild;
import net.dv8tion.jda.api.events.ExceptionEvent;
import net.dv8tion.jda.api.events.RawGatewayEvent;
import net.dv8tion.jda.api.events.guild.GuildAvailableEvent;
import net.dv8tion.jda.api.events.guild.GuildJoinEvent;
import net.dv8tion.jda.api.events.guild.GuildReadyEvent;
import net.dv8tion.jda.api.events.message.MessageReceivedEvent;
import net.dv8tion.jda.api.events.session.ReadyEvent;
import net.dv8tion.jda.api.events.session.SessionDisconnectEvent;
import net.dv8tion.jda.api.events.session.SessionRecreateEvent;
import net.dv8tion.jda.api.events.session.SessionResumeEvent;
import net.dv8tion.jda.api.events.session.ShutdownEvent;
import net.dv8tion.jda.api.hooks.ListenerAdapter;
import net.dv8tion.jda.api.requests.GatewayIntent;
import net.dv8tion.jda.api.requests.RestConfig;
import net.dv8tion.jda.api.sharding.DefaultShardManagerBuilder;
import net.dv8tion.jda.api.sharding.ShardManager;
import net.dv8tion.jda.api.utils.Compression;
import net.dv8tion.jda.api.utils.ConcurrentSessionController;
import net.dv8tion.jda.api.utils.data.DataArray;
import net.dv8tion.jda.internal.JDAImpl;

/** The test bot on JDA. What it is told, prints and reads is in tests/clients/README.md. */
public final class Bot extends ListenerAdapter {
    // recipe:start
    /** Connects to the proxy, and starts all shards at once. */
    static final class ThroughTheProxy extends ConcurrentSessionController {
        final String gatewayUrl;
        final int shards;

        ThroughTheProxy(String gatewayUrl, int shards) {
            this.gatewayUrl = gatewayUrl;
            this.shards = shards;
            setConcurrency(1000);
        }

        @Override
        public String getGateway() {
            return gatewayUrl;
        }

        @Override
        public ShardedGateway getShardedGateway(JDA api) {
            return new ShardedGateway(gatewayUrl, shards, 1000);
        }
    }

    // recipe:end
    public static void main(String[] arguments) {
        Protocol.watchLog("Got an unexpected", "Missed 2 heartbeats", "RateLimit");
        var intents = GatewayIntent.getIntents(Protocol.INTENTS);
        // recipe:start
        var builder = DefaultShardManagerBuilder.createDefault(Protocol.TOKEN, intents)
            .setSessionController(new ThroughTheProxy(Protocol.GATEWAY_URL, Protocol.SHARDS));
        // recipe:end
        if (Protocol.LOGIN.equals("rest")) {
            builder.setSessionController(new ConcurrentSessionController());
        }
        ShardManager bot = builder
            .setRawEventsEnabled(true)
            .setRestConfig(new RestConfig().setBaseUrl(Protocol.API_URL + "/v10/"))
            .setGatewayEncoding(Protocol.COMPRESS.startsWith("etf") ? GatewayEncoding.ETF : GatewayEncoding.JSON)
            .setCompression(Protocol.COMPRESS.endsWith("none") ? Compression.NONE : Compression.ZLIB)
            .addEventListeners(new Bot())
            .build();
        Protocol.listen(Map.of(
            "members", command -> {
                String guild = command.text("guild");
                bot.getGuildById(guild).loadMembers()
                    .onSuccess(members -> Protocol.emit("members", "guild", guild, "count", members.size()))
                    .onError(Protocol::fail);
            },
            "presence", command -> bot.setPresence(
                OnlineStatus.fromKey(command.text("status")), Activity.playing(command.text("name"))),
            // What a user can call ends the session. A close with this code is what the library itself does to RESUME.
            "reconnect", command -> ((JDAImpl) bot.getShardById(command.number("shard"))).getClient().close(4900)));
    }

    private static int shard(JDA jda) {
        return jda.getShardInfo().getShardId();
    }

    private static void guild(Guild guild, boolean join) {
        Protocol.emit("guild", "shard", shard(guild.getJDA()), "id", guild.getId(), "members", guild.getMemberCount(),
            "unavailable", false, "join", join);
    }

    /** The guilds in the READY of each shard: of those that are down the library says nothing before they come up. */
    private final Map<Integer, List<String>> announced = new ConcurrentHashMap<>();

    @Override
    public void onRawGateway(RawGatewayEvent event) {
        if (event.getType().equals("READY")) {
            List<String> guilds = new ArrayList<>();
            DataArray list = event.getPayload().getArray("guilds");
            for (int i = 0; i < list.length(); i++) {
                guilds.add(list.getObject(i).getString("id"));
            }
            announced.put(shard(event.getJDA()), guilds);
        }
    }

    private void ready(JDA jda) {
        List<String> guilds = new ArrayList<>();
        jda.getGuilds().forEach(guild -> guilds.add(guild.getId()));
        announced.get(shard(jda)).stream().filter(id -> jda.getGuildById(id) == null).forEach(guilds::add);
        Protocol.emit("ready", "shard", shard(jda), "guilds", guilds);
    }

    @Override
    public void onReady(ReadyEvent event) {
        ready(event.getJDA());
    }

    @Override
    public void onSessionRecreate(SessionRecreateEvent event) {
        ready(event.getJDA());
    }

    @Override
    public void onGuildReady(GuildReadyEvent event) {
        guild(event.getGuild(), false);
    }

    @Override
    public void onGuildAvailable(GuildAvailableEvent event) {
        guild(event.getGuild(), false);
    }

    @Override
    public void onGuildJoin(GuildJoinEvent event) {
        guild(event.getGuild(), true);
    }

    @Override
    public void onMessageReceived(MessageReceivedEvent event) {
        Long number = Protocol.numberOf(event.getMessage().getContentRaw());
        if (number != null) {
            Protocol.emit("message", "shard", shard(event.getJDA()), "n", number);
        }
    }

    @Override
    public void onSessionResume(SessionResumeEvent event) {
        Protocol.emit("resumed", "shard", shard(event.getJDA()));
    }

    @Override
    public void onSessionDisconnect(SessionDisconnectEvent event) {
        Protocol.emit("reconnecting", "shard", shard(event.getJDA()));
    }

    @Override
    public void onShutdown(ShutdownEvent event) {
        Protocol.fail("shard " + shard(event.getJDA()) + " gave up with code " + event.getCode());
    }

    @Override
    public void onException(ExceptionEvent event) {
        Protocol.fail(event.getCause());
    }
}
