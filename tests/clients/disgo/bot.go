// The test bot on disgo. What it is told, prints and reads is in tests/clients/README.md.
package main

import (
	"context"
	"log/slog"
	"os"
	"sync"

	"github.com/disgoorg/disgo"
	"github.com/disgoorg/disgo/bot"
	"github.com/disgoorg/disgo/discord"
	"github.com/disgoorg/disgo/events"
	"github.com/disgoorg/disgo/gateway"
	"github.com/disgoorg/disgo/rest"
	"github.com/disgoorg/disgo/sharding"
	"github.com/disgoorg/snowflake/v2"
	"github.com/gorilla/websocket"
)

// recipe:start
// oneByOne starts the shards one after the other, without a wait: the library can give two that start at the same time
// the same number.
type oneByOne struct{ sync.Mutex }

func (o *oneByOne) Close(context.Context)                 {}
func (o *oneByOne) WaitBucket(context.Context, int) error { o.Lock(); return nil }
func (o *oneByOne) UnlockBucket(int)                      { o.Unlock() }

// throughTheProxy makes all shards connect to the proxy.
func throughTheProxy(gatewayURL string, shards int) bot.ConfigOpt {
	all := make([]int, shards)
	for shard := range all {
		all[shard] = shard
	}
	return bot.WithShardManagerConfigOpts(
		sharding.WithShardCount(shards),
		sharding.WithShardIDs(all...),
		sharding.WithShardSplitCount(shards+1), // without it the library sends commands for any guild to shard 0
		sharding.WithRateLimiter(&oneByOne{}),
		sharding.WithGatewayConfigOpts(gateway.WithURL(gatewayURL)),
	)
}

// recipe:end

// The library logs what it can not read as an error.
type failing struct{ slog.Handler }

func (f failing) Handle(ctx context.Context, record slog.Record) error {
	if record.Level >= slog.LevelError {
		text := record.Message
		record.Attrs(func(attribute slog.Attr) bool {
			text += " " + attribute.String()
			return true
		})
		fail(text)
	}
	return f.Handler.Handle(ctx, record)
}

func (f failing) WithAttrs(attributes []slog.Attr) slog.Handler {
	return failing{f.Handler.WithAttrs(attributes)}
}

func (f failing) WithGroup(name string) slog.Handler {
	return failing{f.Handler.WithGroup(name)}
}

func main() {
	slog.SetDefault(slog.New(failing{slog.NewTextHandler(os.Stderr, nil)}))
	var announced announcements
	wires := make([]wire, shards)
	create := func(token string, events gateway.EventHandlerFunc, closed gateway.CloseHandlerFunc, options ...gateway.ConfigOpt) gateway.Gateway {
		var chosen gateway.Config
		for _, option := range options {
			option(&chosen)
		}
		dialer := &websocket.Dialer{NetDialContext: wires[chosen.ShardID].dial}
		options = append(options, gateway.WithDialer(dialer))
		return gateway.New(token, events, func(gateway gateway.Gateway, err error) {
			fail(err)
			closed(gateway, err)
		}, options...)
	}
	client, err := disgo.New(token,
		throughTheProxy(gatewayURL, shards),
		bot.WithShardManagerConfigOpts(
			sharding.WithGatewayCreateFunc(create),
			sharding.WithGatewayConfigOpts(
				gateway.WithIntents(gateway.Intents(intents)),
				gateway.WithEnableRawEvents(true),
				gateway.WithCompress(compress != "none"),
			),
		),
		bot.WithRestClientConfigOpts(rest.WithURL(apiURL+"/v10")),
		bot.WithEventListeners(&events.ListenerAdapter{
			OnReady: func(event *events.Ready) {
				var guilds []string
				for _, guild := range event.Guilds {
					guilds = append(guilds, guild.ID.String())
				}
				announced.ready(event.ShardID(), guilds)
			},
			OnGuildReady: func(event *events.GuildReady) {
				announced.guild(event.ShardID(), event.GuildID.String(), event.Guild.MemberCount, false)
			},
			OnGuildAvailable: func(event *events.GuildAvailable) {
				announced.guild(event.ShardID(), event.GuildID.String(), event.Guild.MemberCount, false)
			},
			OnGuildJoin: func(event *events.GuildJoin) {
				announced.guild(event.ShardID(), event.GuildID.String(), event.Guild.MemberCount, false)
			},
			OnGuildMessageCreate: func(event *events.GuildMessageCreate) {
				message(event.ShardID(), event.Message.Content)
			},
			// OnResumed is never called: RESUMED has no data, and the library looks for the type of the data.
			OnRaw: func(event *events.Raw) {
				if event.EventType == gateway.EventTypeResumed {
					emit("resumed", fields{"shard": event.ShardID()})
				}
			},
		}),
	)
	if err != nil {
		fail(err)
		os.Exit(1)
	}
	go listen(map[string]func(command) error{
		"members": func(c command) error {
			guild, err := snowflake.Parse(c.Guild)
			if err != nil {
				return err
			}
			members, err := client.MemberChunkingManager().RequestMembersWithQuery(guild, "", 0)
			if err == nil {
				emit("members", fields{"guild": c.Guild, "count": len(members)})
			}
			return err
		},
		"presence": func(c command) error {
			for shard := range shards {
				err := client.SetPresenceForShard(context.Background(), shard,
					gateway.WithOnlineStatus(discord.OnlineStatus(c.Status)), gateway.WithPlayingActivity(c.Name))
				if err != nil {
					return err
				}
			}
			return nil
		},
		"reconnect": func(c command) error {
			wires[c.Shard].cut()
			return nil
		},
	})
	// recipe:start
	err = client.OpenShardManager(context.Background())
	// recipe:end
	if err != nil {
		fail(err)
		os.Exit(1)
	}
	select {}
}
