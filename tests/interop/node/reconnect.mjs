// MQTT.js reconnects by itself. With clean:false the broker keeps the session: what was published meanwhile arrives,
// once and in order. With clean:true the client subscribes again by itself.
import { assert, connect, once, persistent, run, take, tear, texts, topic, version } from "./scenario.mjs";

async function lives(sub, pub, name, expectPresent) {
  for (let round = 0; round < 3; round += 1) {
    const back = once(sub, "connect");
    await tear(sub);
    const [connack] = await back;
    if (version !== 3) assert.equal(connack.sessionPresent, expectPresent);
  }
  if (!expectPresent) {
    // The new SUBSCRIBE is on its way: unheard messages are lost by right, so ask until one is heard.
    const heard = once(sub, "inbox");
    const asking = setInterval(() => pub.publish(name, "probe", { qos: 1 }), 20);
    await heard;
    clearInterval(asking);
    await pub.publishAsync(name, "last probe", { qos: 1 });
    while (!texts(sub.inbox).includes("last probe")) await once(sub, "inbox");
    sub.inbox.length = 0;
  }
}

await run(async () => {
  const pub = await connect();
  const kept = await connect(persistent(`${topic}/kept`, { reconnectPeriod: 20 }));
  await kept.subscribeAsync(`${topic}/kept`, { qos: 2 });
  const fresh = await connect({ reconnectPeriod: 20 });
  await fresh.subscribeAsync(`${topic}/fresh`, { qos: 2 });

  await lives(kept, pub, `${topic}/kept`, true);
  await lives(fresh, pub, `${topic}/fresh`, false);
  const expected = Array.from({ length: 300 }, (_, n) => `${n}`);
  const sent = expected.map((text) => pub.publishAsync(`${topic}/kept`, text, { qos: 2 }));
  await take(kept, 50);
  await tear(kept);
  await Promise.all(sent);
  await Promise.all(expected.map((text) => pub.publishAsync(`${topic}/fresh`, text, { qos: 2 })));
  assert.deepEqual(texts(await take(fresh, 300)), expected);
  await pub.publishAsync(`${topic}/kept`, "end", { qos: 2 });
  const got = texts(await take(kept, 301));
  assert.deepEqual(got.slice(0, 300).sort((a, b) => a - b), expected);
  assert.equal(got[300], "end");
});
