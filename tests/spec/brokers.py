"""The broker under test: a process of its own on a free loopback port.

SPEC_BROKER chooses it: nothing is fastmq from this checkout, `fastmq-durable` the same with a store in a folder of its
own, `mosquitto` the one on PATH (to check the tests against a second implementation), `host:port` a running one.
SPEC_DOOR is how fastmq is reached: `tcp`, or `tls`, `ws`, `wss`. SPEC_WORKERS is how many processes it has.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.brokerdoors import know, listener
from tests.brokerproc import Setting, ended_cleanly, start_fastmq, start_mosquitto
from tests.wireclient import client

Address = tuple[str, int]
Settings = Mapping[str, Setting]

CHOICE = os.environ.get("SPEC_BROKER", "fastmq")
OURS = ("fastmq", "fastmq-durable")
DOOR = os.environ.get("SPEC_DOOR", "tcp")
WORKERS = int(os.environ.get("SPEC_WORKERS", "1"))

_MOSQUITTO_NAMES = {
    "mqtt.packet_max_bytes": "max_packet_size",
    "mqtt.keepalive_max_s": "max_keepalive",
    "mqtt.maximum_qos": "max_qos",
    "mqtt.retain_available": "retain_available",
    "auth.allow_anonymous": "allow_anonymous",
    "queue.messages_max": "max_queued_messages",
}


@contextlib.contextmanager
def running(settings: Settings, program: str = "") -> Iterator[Address]:
    """Start a broker with settings ("section.key": value), yield its address, stop it.

    `program` is a module that runs fastmq in a way that no setting can.
    """
    if program and CHOICE not in OURS:
        pytest.skip("only fastmq can be run by a program of the tests")
    if CHOICE not in (*OURS, "mosquitto"):
        if settings:
            pytest.skip("a broker that already runs cannot be given settings")
        host, _, its_port = CHOICE.rpartition(":")
        yield host, int(its_port)
        return
    with tempfile.TemporaryDirectory(prefix="spec-") as folder:
        if CHOICE == "fastmq-durable":
            settings = {"store.path": f"{folder}/fastmq.db", **settings}
        if WORKERS > 1 and CHOICE in OURS and not program:
            settings = {"workers.count": WORKERS, **settings}
            client.crossing_s = 0.05
        started = (
            start_mosquitto({}, Path(folder), _mosquitto_lines(settings))
            if CHOICE == "mosquitto"
            else start_fastmq(settings, program, listener(DOOR, Path(folder)))
        )
        with ended_cleanly(started) as broker:
            if CHOICE in OURS and not program:
                know(DOOR, (broker.host, broker.port), Path(folder))
            yield broker.host, broker.port


def _mosquitto_lines(settings: Settings) -> list[str]:
    unknown = [key for key in settings if key not in _MOSQUITTO_NAMES]
    if unknown:
        pytest.skip(f"mosquitto has no setting like {', '.join(unknown)}")
    return [f"{_MOSQUITTO_NAMES[key]} {str(value).lower()}" for key, value in settings.items()]
