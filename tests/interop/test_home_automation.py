"""What homes do to a broker: Home Assistant's discovery burst, zigbee2mqtt's large state, Tasmota's lost Wi-Fi."""

from __future__ import annotations

import json
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from tests.brokerproc import BrokerProcess
from tests.interop.conftest import StartBroker
from tests.interop.mosquitto_clients import MosquittoSub, publish
from tests.interop.paho_clients import VERSIONS, PahoClient

every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)

DEVICES = 2000
COMPONENTS = ("sensor", "switch", "light", "binary_sensor")


def discovery_topic(root: str, number: int) -> str:
    return f"{root}/homeassistant/{COMPONENTS[number % 4]}/0x{number:016x}/state/config"


def discovery_payload(root: str, number: int) -> str:
    """About 600 bytes, as zigbee2mqtt announces a device."""
    config = {
        "name": f"Device {number}",
        "unique_id": f"0x{number:016x}_state",
        "state_topic": f"{root}/zigbee2mqtt/device{number}",
        "availability": [{"topic": f"{root}/zigbee2mqtt/bridge/state"}],
        "value_template": "{{ value_json.state }}",
        "device": {"identifiers": [f"zigbee2mqtt_0x{number:016x}"], "model": "plug", "manufacturer": "x" * 300},
    }
    return json.dumps(config)


@pytest.fixture
def discovered(start_broker: StartBroker, topic: str) -> BrokerProcess:
    """A broker of its own that keeps the discovery messages of a well equipped house."""
    broker = start_broker({})
    with PahoClient(broker) as bridge:
        for number in range(DEVICES):
            bridge.paho.publish(discovery_topic(topic, number), discovery_payload(topic, number), 1, retain=True)
        bridge.publish(f"{topic}/homeassistant/status", "online", 1, retain=True)
    return broker


@every_version
@pytest.mark.parametrize("qos", [0, 1])
def test_the_whole_discovery_burst_arrives(
    discovered: BrokerProcess, topic: str, version: MQTTProtocolVersion, qos: int
) -> None:
    with PahoClient(discovered, version) as assistant:
        assistant.subscribe(f"{topic}/homeassistant/#", qos)
        messages = assistant.received(DEVICES + 1)
        assert all(message.retain for message in messages)
        expected = {discovery_topic(topic, n): discovery_payload(topic, n) for n in range(DEVICES)}
        expected[f"{topic}/homeassistant/status"] = "online"
        assert {message.topic: message.payload.decode() for message in messages} == expected
        assert len(messages) == len(expected)
        # Live messages flow on behind the burst.
        assistant.publish(f"{topic}/homeassistant/status", "live", 1)
        assert assistant.payloads(DEVICES + 2)[-1] == "live"


@every_version
def test_a_restart_of_home_assistant_subscribes_in_batches(
    discovered: BrokerProcess, topic: str, version: MQTTProtocolVersion
) -> None:
    """Discovery first, then 300 overlapping filters in one SUBSCRIBE; birth goes out, devices answer."""
    filters = [(f"{topic}/zigbee2mqtt/device{n}", 0) for n in range(295)]
    filters += [
        (f"{topic}/zigbee2mqtt/#", 0),
        (f"{topic}/zigbee2mqtt/+", 1),
        (f"{topic}/+/bridge/state", 0),
        (f"{topic}/homeassistant/status", 0),
        (f"{topic}/homeassistant/+/+/+/config", 0),
    ]
    will = {"topic": f"{topic}/homeassistant/status", "payload": "offline", "qos": 0, "retain": True}
    with PahoClient(discovered) as bridge, PahoClient(discovered, version, will=will) as assistant:
        bridge.subscribe(f"{topic}/homeassistant/status")
        assert bridge.payloads(1) == ["online"]
        assert assistant.subscribe(f"{topic}/homeassistant/#") == [0]
        assert assistant.subscribe(filters) == [qos for _, qos in filters]
        assistant.publish(f"{topic}/homeassistant/status", "online", 1, retain=True)
        assert bridge.payloads(2)[1] == "online"
        for number in range(295):
            bridge.publish(f"{topic}/zigbee2mqtt/device{number}", "ON", 1)
        bridge.publish(f"{topic}/zigbee2mqtt/end", "end", 1)

        def states() -> set[str]:
            return {m.topic for m in list(assistant.messages) if m.payload == b"ON"}

        assistant.await_(lambda: len(states()) == 295, "the state of 295 devices")
        assert states() == {f"{topic}/zigbee2mqtt/device{n}" for n in range(295)}
        configs = {m.topic for m in list(assistant.messages) if m.topic.endswith("/config")}
        assert configs == {discovery_topic(topic, n) for n in range(DEVICES)}
        codes = assistant.unsubscribe([name for name, _ in filters[:295]])
        assert codes == ([0] * 295 if version == MQTTProtocolVersion.MQTTv5 else [])  # a code each only in version 5
        assistant.vanish()
        assert bridge.payloads(3)[2] == "offline"


@every_version
def test_a_retained_message_of_several_megabytes(
    start_broker: StartBroker, topic: str, version: MQTTProtocolVersion
) -> None:
    """zigbee2mqtt's bridge/devices, in a broker whose packet limit was raised; the next one breaks the limit."""
    broker = start_broker({"mqtt.packet_max_bytes": 8 << 20})
    devices = json.dumps([{"ieee_address": f"0x{n:016x}", "definition": "x" * 1000} for n in range(4000)])
    assert len(devices) > 4_000_000
    with PahoClient(broker, version) as bridge, PahoClient(broker, version) as early:
        early.subscribe(f"{topic}/#", 1)
        bridge.publish(f"{topic}/bridge/devices", devices, 1, retain=True)
        assert early.payloads(1) == [devices]
        with PahoClient(broker, version) as late:
            late.subscribe(f"{topic}/bridge/#", 1)
            assert [(m.payload.decode(), m.retain) for m in late.received(1)] == [(devices, True)]
        over_limit = PahoClient(broker, version).connect()
        over_limit.paho.publish(f"{topic}/bridge/devices", b"x" * (9 << 20), 1)
        over_limit.await_(lambda: len(over_limit.disconnects) == 1, "the end of a connection that sends too much")
        over_limit.leave()
        bridge.publish(f"{topic}/bridge/state", "online", 1)
        assert early.payloads(2)[1] == "online"


def lose_wifi_and_return(broker: BrokerProcess, topic: str, version: MQTTProtocolVersion) -> list[tuple[str, bool]]:
    """What a watcher of tele/LWT sees while a device loses its Wi-Fi and connects again under its fixed id."""
    lwt = f"{topic}/tele/LWT"
    will: dict[str, Any] = {"topic": lwt, "payload": "Offline", "qos": 1, "retain": True}
    client_id = topic.replace("/", "")[-20:]
    with PahoClient(broker, version) as watcher:
        watcher.subscribe(lwt, 1)
        first = PahoClient(broker, version, client_id, will=will).connect()
        first.publish(lwt, "Online", 1, retain=True)
        # The old connection still looks alive to the broker when the new one comes.
        with PahoClient(broker, version, client_id, will=will) as second:
            second.publish(lwt, "Online", 1, retain=True)
            seen = [(m.payload.decode(), m.retain) for m in watcher.received(3)]
            first.await_(lambda: len(first.disconnects) == 1, "the end of the old connection")
            first.leave()
            with PahoClient(broker, version) as late:
                late.subscribe(lwt, 1)
                assert late.payloads(1) == ["Online"], "the retained state must be that of the new connection"
            second.vanish()
            assert watcher.payloads(4)[3] == "Offline"
        watcher.publish(lwt, "", 1, retain=True)
    return seen


@every_version
def test_tasmota_after_a_lost_wifi(broker: BrokerProcess, topic: str, version: MQTTProtocolVersion) -> None:
    """The will of the connection that is taken over comes before anything that the new one says. [MQTT-3.1.4-3]"""
    assert lose_wifi_and_return(broker, topic, version) == [("Online", False), ("Offline", False), ("Online", False)]


def test_tasmota_commands_by_mosquitto_pub(broker: BrokerProcess, topic: str) -> None:
    """cmnd/DEVICE/POWER in, stat/DEVICE/RESULT and retained tele/DEVICE/STATE out, through group topics too."""
    with PahoClient(broker, client_id=topic.replace("/", "")[-20:]) as device:
        device.subscribe([(f"{topic}/cmnd/lamp/#", 0), (f"{topic}/cmnd/tasmotas/#", 0)])
        with MosquittoSub(broker, "-t", f"{topic}/stat/+/RESULT") as panel:
            for address in ("lamp", "tasmotas"):
                publish(broker, "-t", f"{topic}/cmnd/{address}/POWER", "-m", "TOGGLE")
            for message in device.received(2):
                device.publish(f"{topic}/stat/lamp/RESULT", json.dumps({"POWER": message.payload.decode()}))
            assert panel.payloads(2) == ['{"POWER": "TOGGLE"}'] * 2
