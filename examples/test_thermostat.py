"""Tests of a program that speaks MQTT, here with paho: the fixture `mqtt_broker` is there once fastmq is installed.

Run with `pytest examples/test_thermostat.py`.
"""

from collections.abc import Iterator

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from fastmq.testing import BackgroundBroker


class Thermostat:
    """The program under test: heats below 20 degrees."""

    def __init__(self, host: str, port: int) -> None:
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, "thermostat")
        self.client.will_set("heating", "unknown")
        self.client.on_connect = lambda client, *_: client.subscribe("temperature", 1)
        self.client.on_subscribe = lambda client, *_: client.publish("ready")
        self.client.on_message = self.on_message
        self.client.connect(host, port)
        self.client.loop_start()

    def on_message(self, client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        client.publish("heating", "on" if float(message.payload) < 20 else "off", qos=1)


@pytest.fixture
def thermostat(mqtt_broker: BackgroundBroker) -> Iterator[Thermostat]:
    ready = mqtt_broker.messages("ready")
    thermostat = Thermostat(mqtt_broker.host, mqtt_broker.port)
    ready.wait()
    yield thermostat
    thermostat.client.disconnect()
    thermostat.client.loop_stop()


def test_it_heats_when_it_is_cold(mqtt_broker: BackgroundBroker, thermostat: Thermostat) -> None:
    heating = mqtt_broker.messages("heating")
    mqtt_broker.publish("temperature", "17.5", qos=1)
    mqtt_broker.publish("temperature", "20.5", qos=1)
    assert [message.payload for message in heating.wait(2)] == [b"on", b"off"]


def test_nobody_believes_a_dead_thermostat(mqtt_broker: BackgroundBroker, thermostat: Thermostat) -> None:
    heating = mqtt_broker.messages("heating")
    mqtt_broker.advance(seconds=91)  # one and a half keep-alives without a sign of life
    assert heating.wait()[0].payload == b"unknown"
