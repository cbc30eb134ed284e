"""Request and response in MQTT 5: the question says where the answer goes, and carries a mark to know it by."""

import asyncio
from itertools import count

import fastmq
from fastmq.client import Client, Properties


class Asker:
    """Asks over one connection, several questions at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._answers = f"answers/{client.client_id}"
        self._open: dict[bytes, asyncio.Future[bytes]] = {}
        self._marks = count()

    async def listen(self) -> None:
        async for message in self._client:
            self._open.pop(message.properties.correlation_data or b"").set_result(message.payload)

    async def start(self) -> None:
        await self._client.subscribe(self._answers, qos=1)

    async def ask(self, topic: str, question: bytes) -> bytes:
        mark = str(next(self._marks)).encode()
        self._open[mark] = asyncio.get_running_loop().create_future()
        properties = Properties(response_topic=self._answers, correlation_data=mark)
        await self._client.publish(topic, question, qos=1, properties=properties)
        return await self._open[mark]


async def answer(client: Client) -> None:
    async for question in client:
        back = Properties(correlation_data=question.properties.correlation_data)
        square = int(question.payload) ** 2
        await client.publish(question.properties.response_topic or "", str(square), qos=1, properties=back)


async def main() -> None:
    async with (
        fastmq.Broker() as broker,
        Client(broker.host, broker.port) as server,
        Client(broker.host, broker.port) as client,
    ):
        await server.subscribe("questions/square", qos=1)
        asker = Asker(client)
        await asker.start()
        tasks = [asyncio.create_task(answer(server)), asyncio.create_task(asker.listen())]
        squares = await asyncio.gather(*(asker.ask("questions/square", str(n).encode()) for n in range(5)))
        print("squares:", *(square.decode() for square in squares))
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
