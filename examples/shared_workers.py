"""Workers that share a subscription: each job goes to one of them, and waits while there is none."""

import asyncio

import fastmq
from fastmq.client import Client, Properties

JOBS, WORKERS = 30, 3


async def work(name: str, broker: fastmq.Broker, ready: asyncio.Barrier, done: asyncio.Queue[str]) -> None:
    lasting = Properties(session_expiry_interval=60, receive_maximum=1)  # one job at a time
    async with Client(broker.host, broker.port, client_id=name, properties=lasting) as client:
        await client.subscribe("$share/workers/jobs", qos=1)
        await ready.wait()
        async for _job in client:
            await asyncio.sleep(0.001)
            done.put_nowait(name)


async def main() -> None:
    done: asyncio.Queue[str] = asyncio.Queue()
    ready = asyncio.Barrier(WORKERS + 1)
    async with fastmq.Broker(shared__strategy="least_inflight") as broker:
        workers = [asyncio.create_task(work(f"worker-{n}", broker, ready, done)) for n in range(WORKERS)]
        await ready.wait()
        for number in range(JOBS):
            await broker.publish("jobs", f"job {number}", qos=1)
        async with asyncio.timeout(10):
            names = [await done.get() for _ in range(JOBS)]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    print(f"{len(names)} jobs, {len(set(names))} workers")


if __name__ == "__main__":
    asyncio.run(main())
