"""Node-RED, a whole application of others: what goes in through mosquitto_pub comes out transformed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess
from tests.interop.mosquitto_clients import MosquittoSub, publish
from tests.interop.node_red import NodeRed

ROOT = "interop/red"
VERSIONS = {3: "mqttv31", 4: "mqttv311", 5: "mqttv5"}
every_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="module")
def node_red(shared_broker: BrokerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeRed]:
    red = NodeRed(tmp_path_factory.mktemp("node-red"), ROOT, tuple(VERSIONS), shared_broker)
    yield red
    red.kill()


@every_version
def test_a_flow_transforms_messages_in_order(broker: BrokerProcess, node_red: NodeRed, version: int) -> None:
    words = [f"größe {n}" for n in range(200)]
    with MosquittoSub(broker, "-V", VERSIONS[version], "-t", f"{ROOT}/{version}/out/#", "-q", 2) as sub:
        args = ("-V", VERSIONS[version], "-t", f"{ROOT}/{version}/in/a/b", "-q", 1)
        publish(broker, *args, "-l", stdin="\n".join(words).encode() + b"\n")
        messages = sub.messages(200)
    assert [message["payload"] for message in messages] == [word.upper() for word in words], node_red.printed()
    assert {message["topic"] for message in messages} == {f"{ROOT}/{version}/out/a/b"}
    assert {message["qos"] for message in messages} == {1}


def test_version_5_properties_pass_through(broker: BrokerProcess, node_red: NodeRed) -> None:
    sent = {"content-type": "text/plain", "response-topic": "where/to", "correlation-data": "order 7"}
    args = [part for name, value in sent.items() for part in ("-D", "publish", name, value)]
    args += ["-D", "publish", "user-property", "from", "mosquitto_pub"]
    with MosquittoSub(broker, "-V", "mqttv5", "-t", f"{ROOT}/5/out/x", "-q", 1) as sub:
        publish(broker, "-V", "mqttv5", "-t", f"{ROOT}/5/in/x", "-q", 1, "-m", "hello", *args)
        (message,) = sub.messages(1)
    assert message["payload"] == "HELLO", node_red.printed()
    properties = message["properties"]
    assert properties["user-properties"] == {"from": "mosquitto_pub", "through": "node-red"}
    assert {name: properties[name] for name in sent} == sent


def test_birth_will_and_close_messages(broker: BrokerProcess, node_red: NodeRed, tmp_path: Path, topic: str) -> None:
    with MosquittoSub(broker, "-t", f"{topic}/+/status", "-q", 1) as watcher:
        dying = NodeRed(tmp_path, topic, (4, 5), broker)
        try:
            assert {message["payload"] for message in watcher.messages(2)} == {"birth"}
        finally:
            dying.kill()
        assert [message["payload"] for message in watcher.messages(4)[2:]] == ["will", "will"]
    with MosquittoSub(broker, "-t", f"{ROOT}/+/status", "-q", 1) as watcher:
        assert [message["payload"] for message in watcher.messages(3)] == ["birth"] * 3
        node_red.stop()
        assert [message["payload"] for message in watcher.messages(6)[3:]] == ["close"] * 3
