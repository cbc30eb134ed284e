// Aliases both ways: MQTT.js assigns them by itself while publishing, and resolves those that the broker assigns.
import { assert, connect, run, take, topic } from "./scenario.mjs";

await run(async () => {
  const pub = await connect({ autoAssignTopicAlias: true });
  const sub = await connect({ properties: { topicAliasMaximum: 8 } });
  const plain = await connect();
  await sub.subscribeAsync(`${topic}/#`, { qos: 1 });
  await plain.subscribeAsync(`${topic}/#`, { qos: 1 });
  assert.ok(pub.connack.properties.topicAliasMaximum >= 8);
  // More topics than aliases, some far more frequent than others, so that aliases are assigned anew.
  const names = Array.from({ length: 600 }, (_, n) => `${topic}/${n % 3 ? n % 5 : n % 90}`);
  for (const name of names) pub.publish(name, name, { qos: 1 });
  for (const receiver of [sub, plain]) {
    const got = await take(receiver, names.length);
    assert.deepEqual(got.map((message) => message.payload.toString()), names);
    assert.deepEqual(got.map((message) => message.topic), names);
  }
});
