// zigbee2mqtt's way: a retained state, a retained will as its opposite, cleared by an empty payload.
import { assert, connect, run, take, tear, texts, topic } from "./scenario.mjs";

await run(async () => {
  const state = `${topic}/bridge/state`;
  const will = { topic: state, payload: Buffer.from("offline"), qos: 1, retain: true };
  const watcher = await connect();
  await watcher.subscribeAsync(state, { qos: 1 });

  const polite = await connect({ will });
  await polite.publishAsync(state, "online", { qos: 1, retain: true });
  await polite.endAsync();
  const late = await connect();
  await late.subscribeAsync(state, { qos: 1 });
  assert.deepEqual(texts(await take(late, 1)), ["online"]);
  assert.equal(late.inbox[0].packet.retain, true);

  await tear(await connect({ will }));
  assert.deepEqual(texts(await take(watcher, 2)), ["online", "offline"]);
  assert.deepEqual(watcher.inbox.map(({ packet }) => packet.retain), [false, false]);
  const later = await connect();
  await later.subscribeAsync(state, { qos: 1 });
  assert.deepEqual(texts(await take(later, 1)), ["offline"]);
  await watcher.publishAsync(state, "", { qos: 1, retain: true });
});
