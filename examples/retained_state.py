"""Retained messages: who comes later learns the present state at once; an empty one takes the state away."""

import asyncio

import fastmq
from fastmq.client import Client


async def states(broker: fastmq.Broker) -> dict[str, str]:
    """What a client that has just come is told. Retained messages come before the mark that follows."""
    found = {}
    async with Client(broker.host, broker.port) as client:
        await client.subscribe("lamps/+/state", "end", qos=1)
        await client.publish("end", qos=1)
        async for message in client:
            if message.topic == "end":
                break
            found[message.topic.split("/")[1]] = message.payload.decode()
    return dict(sorted(found.items()))


async def main() -> None:
    async with fastmq.Broker() as broker:
        async with Client(broker.host, broker.port, client_id="lamps") as lamps:
            for name, state in [("hall", "on"), ("kitchen", "off"), ("hall", "off"), ("desk", "on")]:
                await lamps.publish(f"lamps/{name}/state", state, qos=1, retain=True)
        print("now:", await states(broker))
        await broker.publish("lamps/desk/state", b"", retain=True)
        print("later:", await states(broker))


if __name__ == "__main__":
    asyncio.run(main())
