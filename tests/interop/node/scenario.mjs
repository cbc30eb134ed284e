// What all MQTT.js scenarios share. A scenario is run as `node NAME.mjs HOST PORT VERSION TOPIC`, asserts by itself
// and exits non-zero with the reason on stderr.
import assert from "node:assert/strict";
import { once } from "node:events";
import mqtt from "mqtt";

const [host, port, versionText] = process.argv.slice(2);
export const version = Number(versionText);
export const topic = process.argv[5];
export const isV5 = version === 5;
const TIMEOUT_MS = 8000;

const open = new Set();

export function options(extra = {}) {
  return {
    host,
    port: Number(port),
    protocol: "mqtt",
    protocolId: version === 3 ? "MQIsdp" : "MQTT",
    protocolVersion: version,
    reconnectPeriod: 0,
    connectTimeout: TIMEOUT_MS,
    ...extra,
  };
}

// A connected client that keeps its messages in `inbox`.
export async function connect(extra = {}) {
  const client = mqtt.connect(options(extra));
  open.add(client);
  client.inbox = [];
  client.on("message", (name, payload, packet) => {
    client.inbox.push({ topic: name, payload, packet });
    client.emit("inbox");
  });
  client.setMaxListeners(100);
  await new Promise((resolve, reject) => {
    client.once("connect", (connack) => {
      client.connack = connack;
      resolve();
    });
    client.once("error", reject);
    client.once("close", () => reject(new Error("closed before CONNACK")));
  });
  client.on("error", (error) => fail(error));
  return client;
}

// The messages so far, as soon as there are `count`.
export async function take(client, count) {
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  while (client.inbox.length < count) {
    await once(client, "inbox", { signal }).catch(() => {
      throw new Error(`${client.inbox.length} of ${count} messages came`);
    });
  }
  return client.inbox;
}

export const texts = (messages) => messages.map(({ payload }) => payload.toString());

// Lose the connection without DISCONNECT.
export async function tear(client) {
  const closed = once(client, "close");
  client.stream.destroy();
  await closed;
}

// Options of a session that outlives its connection.
export function persistent(clientId, extra = {}) {
  const properties = isV5 ? { sessionExpiryInterval: 300, ...extra.properties } : undefined;
  return { clean: false, clientId: clientId.replaceAll("/", "-").slice(-23), ...extra, properties };
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

export async function run(scenario) {
  setTimeout(() => fail(new Error("the scenario hangs")), 2 * TIMEOUT_MS).unref();
  try {
    await scenario();
    await Promise.all([...open].map((client) => client.endAsync(true)));
  } catch (error) {
    fail(error);
  }
}

export { assert, once };
