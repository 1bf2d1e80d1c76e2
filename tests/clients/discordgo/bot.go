// The test bot on discordgo. What it is told, prints and reads is in tests/clients/README.md.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/bwmarrin/discordgo"
	"github.com/gorilla/websocket"
)

// recipe:start
// connect makes all shards connect to the proxy. The library asks REST for its gateway; the proxy answers that one request.
func connect(gatewayURL string, session func(shard int) *discordgo.Session) error {
	discordgo.EndpointGateway = "http" + strings.TrimPrefix(gatewayURL, "ws") + "/api/v9/gateway"
	for shard := range shards {
		if err := session(shard).Open(); err != nil { // no wait in between: the proxy needs none
			return err
		}
	}
	return nil
}

// recipe:end

func main() {
	discordgo.Logger = func(level, caller int, format string, a ...any) {
		text := fmt.Sprintf(format, a...)
		fmt.Fprintln(os.Stderr, level, text)
		if level == discordgo.LogError {
			fail(text)
		}
	}
	var announced announcements
	var answered answers
	sessions := make([]*discordgo.Session, shards)
	wires := make([]wire, shards)
	go listen(map[string]func(command) error{
		"members": func(c command) error {
			var guild uint64
			fmt.Sscan(c.Guild, &guild)
			return sessions[shardOf(guild)].RequestGuildMembers(c.Guild, "", 0, "", false)
		},
		"presence": func(c command) error {
			for _, session := range sessions {
				activity := &discordgo.Activity{Name: c.Name}
				update := discordgo.UpdateStatusData{Status: c.Status, Activities: []*discordgo.Activity{activity}}
				if err := session.UpdateStatusComplex(update); err != nil {
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
	err := connect(gatewayURL, func(shard int) *discordgo.Session {
		session, err := discordgo.New("Bot " + token)
		if err != nil {
			fail(err)
		}
		session.ShardID, session.ShardCount = shard, shards
		session.Identify.Intents = discordgo.Intent(intents)
		session.LogLevel = discordgo.LogInformational
		session.SyncEvents = true
		session.Compress = compress != "none"
		session.Identify.Compress = session.Compress
		session.Dialer = &websocket.Dialer{NetDialContext: wires[shard].dial}
		session.AddHandler(func(_ *discordgo.Session, event *discordgo.Ready) {
			var guilds []string
			for _, guild := range event.Guilds {
				guilds = append(guilds, guild.ID)
			}
			announced.ready(shard, guilds)
		})
		session.AddHandler(func(_ *discordgo.Session, event *discordgo.GuildCreate) {
			announced.guild(shard, event.ID, event.MemberCount, event.Unavailable)
		})
		session.AddHandler(func(_ *discordgo.Session, event *discordgo.MessageCreate) {
			message(shard, event.Content)
		})
		session.AddHandler(func(_ *discordgo.Session, event *discordgo.GuildMembersChunk) {
			answered.chunk(event.GuildID, len(event.Members), event.ChunkCount)
		})
		session.AddHandler(func(_ *discordgo.Session, _ *discordgo.Resumed) {
			emit("resumed", fields{"shard": shard})
		})
		session.AddHandler(func(_ *discordgo.Session, _ *discordgo.Disconnect) {
			emit("reconnecting", fields{"shard": shard})
		})
		sessions[shard] = session
		return session
	})
	if err != nil {
		fail(err)
		os.Exit(1)
	}
	select {}
}
