"""The broker's counters as a metrics page, in the text format that Prometheus reads; here asked once, by ourselves."""

import asyncio

import fastmq
from fastmq.client import Client


def page(broker: fastmq.Broker) -> str:
    lines = [f"fastmq_{name} {value}" for name, value in sorted(broker.stats().items())]
    for client in broker.clients():
        name = client.client_id.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        lines.append(f'fastmq_client_queued{{client="{name}"}} {client.queued}')
    return "\n".join(lines) + "\n"


async def main() -> None:
    async with fastmq.Broker() as broker:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n"
            writer.write((head + page(broker)).encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server, Client(broker.host, broker.port, client_id="c"):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            for line in (await reader.read()).decode().splitlines():
                if line.startswith(("fastmq_connections ", "fastmq_connects ", "fastmq_client")):
                    print(line)
            writer.close()


if __name__ == "__main__":
    asyncio.run(main())
