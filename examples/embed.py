"""A broker inside an asyncio program: the program publishes, subscribes, and knows who is there."""

import asyncio

import fastmq
from fastmq.client import Client


async def sensor(host: str, port: int) -> None:
    """Any MQTT client will do, in any language, on any machine that reaches the port."""
    async with Client(host, port, client_id="sensor-1") as client:
        for degrees in (20.5, 21.0, 21.5):
            await client.publish("sensors/1/temperature", str(degrees), qos=1)


async def main() -> None:
    async with fastmq.Broker() as broker:  # a free port; listen="tcp://0.0.0.0:1883" for everybody
        print("listening on", broker.url)
        async with broker.subscribe("sensors/#") as messages:
            reporting = asyncio.create_task(sensor(broker.host, broker.port))
            highest = 0.0
            for _ in range(3):
                message = await anext(messages)
                highest = max(highest, float(message.payload))
            await reporting
        await broker.publish("sensors/1/highest", str(highest), retain=True)
        print("highest:", highest)


if __name__ == "__main__":
    asyncio.run(main())
