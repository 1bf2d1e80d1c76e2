'use strict';
// The protocol between a test bot and the harness, for the bots written in JavaScript: what a bot is told by its
// environment, the JSON lines that it prints, and the JSON lines that it reads. See ../README.md.

const readline = require('node:readline');

function required(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`the environment variable ${name} is not set; tests/clients/README.md lists all of them`);
    process.exit(2);
  }
  return value;
}

/** What every bot is configured with. */
const settings = {
  GATEWAY_URL: required('GATEWAY_URL'),
  API_URL: required('API_URL'),
  LOGIN: process.env.LOGIN ?? '',
  TOKEN: required('TOKEN'),
  SHARDS: Number(required('SHARDS')),
  INTENTS: Number(process.env.INTENTS ?? 53608447),
  COMPRESS: process.env.COMPRESS ?? '',
};

/** Prints one event as one line. */
function emit(event, fields = {}) {
  process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
}

function text(error) {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

/** Tells the harness of something that should not happen. */
function fail(error, fields = {}) {
  console.error(error);
  emit('error', { message: text(error), ...fields });
}

/** The number k of a message whose content is `n:<k>`, perhaps with padding behind it; else null. */
function numberOf(content) {
  const found = /^n:(\d+)/.exec(content ?? '');
  return found ? Number(found[1]) : null;
}

/** The shard that Discord assigns a guild to. */
function shardOf(guild) {
  return Number((BigInt(guild) >> 22n) % BigInt(settings.SHARDS));
}

/**
 * Reads commands for ever and calls the function of that name in `handlers` with the command. The end of standard
 * input means that the harness is gone: the bot ends too.
 */
function listen(handlers) {
  const all = { exit: () => process.exit(0), ...handlers };
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', async (line) => {
    try {
      const command = JSON.parse(line);
      const handler = all[command.cmd];
      if (!handler) throw new Error(`unknown command ${command.cmd}`);
      await handler(command);
    } catch (error) {
      fail(error);
    }
  });
  lines.on('close', () => process.exit(0));
}

process.on('unhandledRejection', (error) => fail(error));
process.on('uncaughtException', (error) => {
  fail(error);
  process.exit(1);
});

module.exports = { ...settings, emit, fail, listen, numberOf, shardOf, text };
