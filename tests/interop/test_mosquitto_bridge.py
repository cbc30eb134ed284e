"""Debian's mosquitto as a bridge towards the broker, as administrators join sites: both ways, all versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess, start_mosquitto
from tests.interop.mosquitto_clients import MosquittoSub, publish

# In the first two, mosquitto's defaults let it call itself a bridge first: protocol level 0x83 or 0x84. A broker that
# does not know these says "unacceptable protocol version" in the form of 3.1.1, and it tries again with 3 or 4.
every_version = pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv50"])


def bridge_name(topic: str) -> str:
    return topic.replace("/", "-")


@contextmanager
def bridging(broker: BrokerProcess, folder: Path, topic: str, version: str) -> Iterator[BrokerProcess]:
    """A local mosquitto whose topics `up` go to the broker and whose topics `down` come from it."""
    local = start_mosquitto(
        {},
        folder,
        [
            "max_inflight_messages 20",  # from 0, which means no limit, it makes a Receive Maximum that is forbidden
            "connection home",
            f"remote_clientid {bridge_name(topic)}",
            f"address {broker.host}:{broker.port}",
            f"bridge_protocol_version {version}",
            f"topic up/# out 2 {topic}/ {topic}/",
            f"topic down/# in 2 {topic}/ {topic}/",
            "restart_timeout 1",
        ],
    )
    try:
        yield local
        local.stop()
    finally:
        local.kill()


@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_cross_the_bridge_in_order(
    broker: BrokerProcess, tmp_path: Path, topic: str, version: str, qos: int
) -> None:
    words = [f"word {n}" for n in range(15)]
    stdin = "\n".join(words).encode() + b"\n"
    publish(broker, "-t", f"{topic}/down/ready", "-m", "kept", "-r", "-q", 1)
    with (
        bridging(broker, tmp_path, topic, version) as local,
        MosquittoSub(broker, "-t", f"{topic}/up/#", "-q", 2) as far,
        MosquittoSub(local, "-t", f"{topic}/down/#", "-q", 2) as near,
    ):
        near.await_message("kept")  # the bridge is connected and has subscribed
        publish(local, "-t", f"{topic}/up/x", "-q", qos, "-l", stdin=stdin)
        publish(broker, "-t", f"{topic}/down/x", "-q", qos, "-l", stdin=stdin)
        up, down = far.messages(15), near.messages(16)[1:]
    for arrived in (up, down):
        assert [message["payload"] for message in arrived] == words
        assert {message["qos"] for message in arrived} == {qos}
    publish(broker, "-t", f"{topic}/down/ready", "-r", "-n")


@every_version
def test_the_bridge_tells_its_state(broker: BrokerProcess, tmp_path: Path, topic: str, version: str) -> None:
    """Retained under $SYS, where mosquitto's dashboards look; 0 is its will."""
    with MosquittoSub(broker, "-t", f"$SYS/broker/connection/{bridge_name(topic)}/state") as state:
        with bridging(broker, tmp_path, topic, version):
            assert state.payloads(1)[-1] == "1"
        assert state.payloads(2)[-1] == "0"


@every_version
def test_retained_messages_cross_the_bridge(broker: BrokerProcess, tmp_path: Path, topic: str, version: str) -> None:
    publish(broker, "-t", f"{topic}/down/before", "-m", "kept there", "-r", "-q", 1)
    with bridging(broker, tmp_path, topic, version) as local:
        publish(local, "-t", f"{topic}/up/now", "-m", "kept here", "-r", "-q", 1)
        with MosquittoSub(broker, "-t", f"{topic}/up/#", "-q", 1) as far:
            # More than once is right: queued for the bridge, and again as retained when it subscribes locally.
            assert set(far.payloads(1)) == {"kept here"}
        with MosquittoSub(local, "-t", f"{topic}/down/#", "-q", 1) as near:
            assert set(near.payloads(1)) == {"kept there"}
            # Published while the bridge is up, and still retained beyond it: why a bridge says that it is one.
            publish(broker, "-t", f"{topic}/down/live", "-m", "kept too", "-r", "-q", 1)
            near.await_message("kept too")
        with MosquittoSub(local, "-t", f"{topic}/down/live", "-q", 1) as late:
            assert [(message["payload"], message["retain"]) for message in late.messages(1)] == [("kept too", 1)]
    for name in ("down/before", "down/live", "up/now"):
        publish(broker, "-t", f"{topic}/{name}", "-r", "-n")
