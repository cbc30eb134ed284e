// Node-RED's use of MQTT 5: request and response, user properties, content type, expiry, options of a subscription.
import { assert, connect, run, take, texts, topic } from "./scenario.mjs";

await run(async () => {
  const [asker, answerer] = [await connect(), await connect()];
  await answerer.subscribeAsync(`${topic}/ask`, { qos: 1, properties: { subscriptionIdentifier: 9 } });
  await asker.subscribeAsync(`${topic}/answer`, { qos: 1 });
  const properties = {
    payloadFormatIndicator: true,
    messageExpiryInterval: 100,
    responseTopic: `${topic}/answer`,
    correlationData: Buffer.from([0, 255, 7]),
    contentType: "application/json",
    userProperties: { one: "1", many: ["a", "b", "a"], "schlüssel": "größe" },
  };
  await asker.publishAsync(`${topic}/ask`, "{}", { qos: 1, properties });
  const [{ packet }] = await take(answerer, 1);
  const got = { ...packet.properties };
  assert.ok(got.messageExpiryInterval >= 98 && got.messageExpiryInterval <= 100);
  assert.equal(got.subscriptionIdentifier, 9);
  delete got.subscriptionIdentifier;
  got.userProperties = { ...got.userProperties };
  assert.deepEqual({ ...got, messageExpiryInterval: 100 }, properties);

  await answerer.publishAsync(got.responseTopic, "re", {
    qos: 1,
    properties: { correlationData: got.correlationData },
  });
  const [answer] = await take(asker, 1);
  assert.deepEqual(answer.packet.properties.correlationData, Buffer.from([0, 255, 7]));

  // Subscription options.
  await asker.publishAsync(`${topic}/kept`, "state", { qos: 1, retain: true });
  await asker.subscribeAsync(`${topic}/kept`, { qos: 1, nl: true, rap: true, rh: 2 });
  await asker.publishAsync(`${topic}/kept`, "own", { qos: 1, retain: true });
  await answerer.publishAsync(`${topic}/kept`, "foreign", { qos: 1, retain: true });
  assert.deepEqual(texts(await take(asker, 2)), ["re", "foreign"]);
  assert.equal(asker.inbox[1].packet.retain, true);
  await answerer.publishAsync(`${topic}/kept`, "", { qos: 1, retain: true });
});
