"""A session that outlives its connection: QoS 1 messages wait for the client, each once, in order."""

import asyncio

import fastmq
from fastmq.client import Client, Properties


def reader(broker: fastmq.Broker) -> Client:
    return Client(
        broker.host,
        broker.port,
        client_id="reader",  # the session is known by it
        clean_start=False,
        properties=Properties(session_expiry_interval=3600),
    )


async def main() -> None:
    async with fastmq.Broker() as broker, asyncio.timeout(10):
        async with reader(broker) as client:
            await client.subscribe("orders/#", qos=1)

        async with Client(broker.host, broker.port) as shop:  # while the reader is away
            for number in range(5):
                await shop.publish("orders/new", f"order {number}", qos=1)
        print("waiting:", broker.clients()[0].queued)

        async with reader(broker) as client:
            assert client.connack is not None
            print("session present:", client.connack.session_present)
            orders = [(await client.receive()).payload.decode() for _ in range(5)]
        print("received:", ", ".join(orders))


if __name__ == "__main__":
    asyncio.run(main())
