// Every QoS: each message once, in order, bytes unharmed; also a large one.
import { assert, connect, run, take, topic } from "./scenario.mjs";

await run(async () => {
  for (const qos of [0, 1, 2]) {
    const [sub, pub] = [await connect(), await connect()];
    const granted = await sub.subscribeAsync(`${topic}/${qos}/#`, { qos });
    assert.deepEqual(granted.map((grant) => grant.qos), [qos]);
    const sent = Array.from({ length: 300 }, (_, n) => pub.publishAsync(`${topic}/${qos}/${n % 7}`, `${n}`, { qos }));
    await Promise.all(sent);
    const large = Buffer.alloc(900_000, Buffer.from([0, 1, 254, 255]));
    await pub.publishAsync(`${topic}/${qos}/large`, large, { qos });
    await pub.publishAsync(`${topic}/${qos}/empty`, "", { qos });
    const got = await take(sub, 302);
    got.slice(0, 300).forEach((message, n) => {
      assert.equal(message.payload.toString(), `${n}`);
      assert.equal(message.topic, `${topic}/${qos}/${n % 7}`);
      assert.equal(message.packet.qos, qos);
      assert.equal(message.packet.dup, false);
    });
    assert.ok(got[300].payload.equals(large));
    assert.equal(got[301].payload.length, 0);
    await sub.unsubscribeAsync(`${topic}/${qos}/#`);
    await sub.subscribeAsync(`${topic}/${qos}/end`, { qos });
    await pub.publishAsync(`${topic}/${qos}/0`, "unwanted", { qos });
    await pub.publishAsync(`${topic}/${qos}/end`, "end", { qos });
    assert.equal((await take(sub, 303))[302].payload.toString(), "end");
  }
});
