"""Many messages at once, through clients that each do one thing after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.wireclient import Ack, Client, Publish, encode

PATIENCE_S = 15.0


def pump(client: Client, topic: str, payloads: Iterable[bytes], qos: int, window: int = 50) -> list[int]:
    """Publishes all, `window` of them at a time, to the end of each exchange; returns their reasons."""
    if qos == 0:
        for payload in payloads:
            client.send(encode.publish(client.version, topic, payload))
        client.ping()
        return []
    codes = []
    unfinished: set[int] = set()

    def finish(left: int) -> None:
        while len(unfinished) > left:
            ack = client.expect(Ack, PATIENCE_S)
            if ack.kind == "PUBREC" and ack.code < 0x80:
                codes.append(ack.code)
                client.send(encode.ack(client.version, encode.PUBREL, ack.packet_id))
                continue
            if ack.kind != "PUBCOMP":
                codes.append(ack.code)
            unfinished.remove(ack.packet_id)

    for payload in payloads:
        finish(window - 1)
        packet_id = client.next_id()
        unfinished.add(packet_id)
        client.send(encode.publish(client.version, topic, payload, qos=qos, packet_id=packet_id))
    finish(0)
    return codes


def gather(clients: Sequence[Client], count: int, timeout_s: float = PATIENCE_S) -> list[list[Publish]]:
    """What each receives, until it is so many together and nothing more is on its way."""
    found: list[list[Publish]] = [[] for _ in clients]
    deadline = time.monotonic() + timeout_s
    while sum(map(len, found)) < count:
        assert time.monotonic() < deadline, f"{[len(each) for each in found]} of {count} messages have come"
        for each, client in zip(found, clients, strict=True):
            each += client.arrived()
        time.sleep(0.002)
    time.sleep(0.05)
    for each, client in zip(found, clients, strict=True):
        each += client.arrived()
    return found


@contextmanager
def meanwhile(*works: Callable[[], Any]) -> Iterator[None]:
    """Does these in threads of their own while the block runs; what they raise, the block's end raises."""
    failures: list[BaseException] = []

    def run(work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(PATIENCE_S)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads)
