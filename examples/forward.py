"""A forwarder: what an embedded broker hears goes on to another broker, under a prefix, its properties with it.

The client comes back by itself when the connection is lost; meanwhile the subscription's bounded queue fills.
"""

import asyncio

import fastmq
from fastmq.client import Client, Properties, Reconnect


async def forward(site: fastmq.Broker, host: str, port: int, prefix: str, ready: asyncio.Event) -> None:
    async with (
        site.subscribe("sensors/#", qos=1, messages_max=100_000) as messages,
        Client(host, port, client_id=f"forward-{prefix}", reconnect=Reconnect()) as upstream,
    ):
        ready.set()
        async for message in messages:
            topic = f"{prefix}/{message.topic}"
            await upstream.publish(topic, message.payload, message.qos, message.retain, message.properties)


async def main() -> None:
    async with fastmq.Broker() as site, fastmq.Broker() as centre, asyncio.timeout(10):
        ready = asyncio.Event()
        forwarding = asyncio.create_task(forward(site, centre.host, centre.port, "berlin", ready))
        await ready.wait()
        async with centre.subscribe("berlin/#") as arrived:
            async with Client(site.host, site.port) as sensor:
                unit = Properties(user_properties=[("unit", "celsius")])
                await sensor.publish("sensors/roof", b"-3.5", qos=1, properties=unit)
            message = await anext(arrived)
            print(message.topic, message.payload.decode(), dict(message.properties.user_properties)["unit"])
        forwarding.cancel()


if __name__ == "__main__":
    asyncio.run(main())
