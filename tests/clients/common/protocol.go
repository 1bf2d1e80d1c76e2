package main

// The protocol between a test bot and the harness, for the bots written in Go: what a bot is told by its environment, the JSON
// lines that it prints, and the JSON lines that it reads. See ../README.md. scripts/clients-setup puts it beside the bot.

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
)

var (
	gatewayURL = required("GATEWAY_URL")
	apiURL     = required("API_URL")
	token      = required("TOKEN")
	shards     = number(required("SHARDS"))
	intents    = number(optional("INTENTS", "53608447"))
	compress   = os.Getenv("COMPRESS")
)

func required(name string) string {
	value := os.Getenv(name)
	if value == "" {
		fmt.Fprintf(os.Stderr, "the environment variable %s is not set; tests/clients/README.md lists all of them\n", name)
		os.Exit(2)
	}
	return value
}

func optional(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		fmt.Fprintf(os.Stderr, "not a number: %s\n", text)
		os.Exit(2)
	}
	return value
}

type fields map[string]any

var output sync.Mutex

// emit prints one event as one line.
func emit(event string, more fields) {
	line := fields{"event": event}
	for key, value := range more {
		line[key] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	os.Stdout.Write(append(text, '\n'))
}

// fail tells the harness of something that should not happen.
func fail(err any) {
	fmt.Fprintln(os.Stderr, err)
	emit("error", fields{"message": fmt.Sprint(err)})
}

var numbered = regexp.MustCompile(`^n:(\d+)`)

// message reports a message whose content is `n:<k>`, perhaps with padding behind it.
func message(shard int, content string) {
	if found := numbered.FindStringSubmatch(content); found != nil {
		emit("message", fields{"shard": shard, "n": number(found[1])})
	}
}

// shardOf is the shard that Discord assigns a guild to.
func shardOf(guild uint64) int {
	return int((guild >> 22) % uint64(shards))
}

// announcements are the guilds in the READY of each shard.
type announcements struct {
	sync.Mutex
	guilds map[int]map[string]bool
}

// ready takes the guilds of a READY and reports them.
func (a *announcements) ready(shard int, guilds []string) {
	a.Lock()
	defer a.Unlock()
	if a.guilds == nil {
		a.guilds = map[int]map[string]bool{}
	}
	a.guilds[shard] = map[string]bool{}
	for _, guild := range guilds {
		a.guilds[shard][guild] = true
	}
	emit("ready", fields{"shard": shard, "guilds": guilds})
}

// guild reports a guild that has arrived. A join is how the documentation tells one from a guild coming up: it is not in READY.
func (a *announcements) guild(shard int, id string, members int, unavailable bool) {
	a.Lock()
	defer a.Unlock()
	join := !a.guilds[shard][id]
	emit("guild", fields{"shard": shard, "id": id, "members": members, "unavailable": unavailable, "join": join})
}

// answers collects the chunks of member requests.
type answers struct {
	sync.Mutex
	sums map[string][2]int
}

// chunk takes one chunk; with the last one of an answer, the harness is told the sum.
func (a *answers) chunk(guild string, members, count int) {
	a.Lock()
	defer a.Unlock()
	if a.sums == nil {
		a.sums = map[string][2]int{}
	}
	sum := a.sums[guild]
	sum[0], sum[1] = sum[0]+members, sum[1]+1
	if sum[1] == count {
		delete(a.sums, guild)
		emit("members", fields{"guild": guild, "count": sum[0]})
	} else {
		a.sums[guild] = sum
	}
}

// wire dials connections and can cut the newest one, as a network failure would.
type wire struct {
	sync.Mutex
	newest net.Conn
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	connection, err := (&net.Dialer{}).DialContext(ctx, network, address)
	w.Lock()
	defer w.Unlock()
	w.newest = connection
	return connection, err
}

func (w *wire) cut() {
	w.Lock()
	defer w.Unlock()
	if connection, ok := w.newest.(*net.TCPConn); ok {
		// Nothing can be written any more, not even a close frame, and the end of what is read is no close from here.
		connection.CloseWrite()
		connection.CloseRead()
	}
}

type command struct {
	Cmd, Guild, Status, Name string
	Shard                    int
}

// listen reads commands for ever and calls the function of that name with the command. The end of standard input means that the
// harness is gone: the bot ends too.
func listen(handlers map[string]func(command) error) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var wanted command
		if err := json.Unmarshal(lines.Bytes(), &wanted); err != nil {
			fail(err)
			continue
		}
		if wanted.Cmd == "exit" {
			break
		}
		handler, known := handlers[wanted.Cmd]
		if !known {
			fail("unknown command " + wanted.Cmd)
		} else if err := handler(wanted); err != nil {
			fail(err)
		}
	}
	os.Exit(0)
}
