"""The last will: what the broker says for a client that went without saying goodbye. Here after a delay (MQTT 5)."""

import asyncio
from contextlib import suppress

import fastmq
from fastmq.client import Client, ConnectionLost, Properties, Will
from fastmq.reasons import Reason


def device(broker: fastmq.Broker) -> Client:
    return Client(
        broker.host,
        broker.port,
        client_id="device-7",
        clean_start=False,
        keepalive=0,
        will=Will("devices/7", b"offline", qos=1, retain=True, properties=Properties(will_delay_interval=30)),
        properties=Properties(session_expiry_interval=300),
    )


async def main() -> None:
    async with fastmq.Broker() as broker, broker.subscribe("devices/#") as news, asyncio.timeout(10):
        client = device(broker)
        await client.connect()
        await client.publish("devices/7", b"online", qos=1, retain=True)
        print((await anext(news)).payload.decode())

        broker.disconnect("device-7", Reason.UNSPECIFIED_ERROR)  # as a broken network would
        with suppress(ConnectionLost):
            await client.receive()
        broker.advance(29)  # the broker's clock, not ours; a real device has half a minute to come back
        print("after 29 s:", "nothing" if news.waiting == 0 else "too early")
        broker.advance(2)
        print("after 31 s:", (await anext(news)).payload.decode())


if __name__ == "__main__":
    asyncio.run(main())
