// The test bot on arikawa. What it is told, prints and reads is in tests/clients/README.md.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/diamondburned/arikawa/v3/discord"
	"github.com/diamondburned/arikawa/v3/gateway"
	"github.com/diamondburned/arikawa/v3/utils/json/option"
	"github.com/diamondburned/arikawa/v3/utils/ws"
)

// recipe:start
// identifier makes the IDENTIFY of a shard. It has no rate limit, because the proxy needs no wait between two shards.
func identifier(token string, intents uint, shard, shards int) gateway.Identifier {
	identify := gateway.DefaultIdentifyCommand(token)
	identify.Intents = option.NewUint(intents)
	identify.SetShard(shard, shards)
	return gateway.Identifier{IdentifyCommand: identify}
}

// connect makes a gateway that connects to the proxy. Give it to session.NewWithGateway, or read its events yourself.
func connect(gatewayURL string, identifier gateway.Identifier) *gateway.Gateway {
	return gateway.NewCustomWithIdentifier(gateway.AddGatewayParams(gatewayURL), identifier, nil)
}

// recipe:end

func main() {
	var announced announcements
	var answered answers
	gateways := make([]*gateway.Gateway, shards)
	wires := make([]wire, shards)
	for shard := range shards {
		id := identifier(token, uint(intents), shard, shards)
		id.Compress = compress != "none"
		gateways[shard] = connect(wires[shard].relay(strings.TrimPrefix(gatewayURL, "ws://")), id)
		go run(shard, gateways[shard], &announced, &answered)
	}
	listen(map[string]func(command) error{
		"members": func(c command) error {
			id, err := discord.ParseSnowflake(c.Guild)
			if err != nil {
				return err
			}
			request := &gateway.RequestGuildMembersCommand{GuildIDs: []discord.GuildID{discord.GuildID(id)}, Query: option.NewString("")}
			return gateways[shardOf(uint64(id))].Send(context.Background(), request)
		},
		"presence": func(c command) error {
			update := &gateway.UpdatePresenceCommand{
				Status:     discord.Status(c.Status),
				Activities: []discord.Activity{{Name: c.Name}},
			}
			for _, gateway := range gateways {
				if err := gateway.Send(context.Background(), update); err != nil {
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
}

// relay listens for the connections of one shard and passes them on, because the library lets nobody get at its connections.
// It returns the URL to connect to.
func (w *wire) relay(address string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
		os.Exit(1)
	}
	go func() {
		for {
			inner, err := listener.Accept()
			if err != nil {
				fail(err)
				return
			}
			outer, err := w.dial(context.Background(), "tcp", address)
			if err != nil {
				inner.Close()
				continue
			}
			pass := func(to, from net.Conn) {
				io.Copy(to, from)
				to.Close()
				from.Close()
			}
			go pass(inner, outer)
			go pass(outer, inner)
		}
	}()
	return "ws://" + listener.Addr().String()
}

// run reports the events of one shard until it gives up.
func run(shard int, connection *gateway.Gateway, announced *announcements, answered *answers) {
	for op := range connection.Connect(context.Background()) {
		switch event := op.Data.(type) {
		case *gateway.ReadyEvent:
			var guilds []string
			for _, guild := range event.Guilds {
				guilds = append(guilds, guild.ID.String())
			}
			announced.ready(shard, guilds)
		case *gateway.ResumedEvent:
			emit("resumed", fields{"shard": shard})
		case *gateway.GuildCreateEvent:
			announced.guild(shard, event.ID.String(), int(event.MemberCount), event.Unavailable)
		case *gateway.MessageCreateEvent:
			message(shard, event.Content)
		case *gateway.GuildMembersChunkEvent:
			answered.chunk(event.GuildID.String(), len(event.Members), event.ChunkCount)
		case *ws.CloseEvent:
			fmt.Fprintln(os.Stderr, shard, event)
			emit("reconnecting", fields{"shard": shard})
		case *ws.BackgroundErrorEvent:
			fail(event)
		}
	}
	fail(fmt.Sprintf("shard %d gave up: %v", shard, connection.LastError()))
}
