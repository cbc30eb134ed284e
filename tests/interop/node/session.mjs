// A persistent session queues while its client is away; a clean start forgets it.
import { assert, connect, persistent, run, take, texts, topic, version } from "./scenario.mjs";

await run(async () => {
  const away = persistent(`${topic}/away`);
  const first = await connect(away);
  assert.equal(first.connack.sessionPresent, false);
  await first.subscribeAsync([`${topic}/a`, `${topic}/b`], { qos: 1 });
  await first.endAsync();

  const pub = await connect();
  for (let n = 0; n < 100; n += 1) await pub.publishAsync(`${topic}/${"ab"[n % 2]}`, `${n}`, { qos: 1 });
  const second = await connect(away);
  if (version !== 3) assert.equal(second.connack.sessionPresent, true);
  assert.deepEqual(texts(await take(second, 100)), Array.from({ length: 100 }, (_, n) => `${n}`));
  await second.endAsync();

  const third = await connect({ ...away, clean: true });
  assert.equal(third.connack.sessionPresent, false);
  await pub.publishAsync(`${topic}/a`, "forgotten", { qos: 1 });
  await third.subscribeAsync(`${topic}/end`, { qos: 1 });
  await pub.publishAsync(`${topic}/end`, "end", { qos: 1 });
  assert.deepEqual(texts(await take(third, 1)), ["end"]);
});
