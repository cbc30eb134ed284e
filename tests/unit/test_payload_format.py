"""`mqtt.check_payload_format`: a payload that is called UTF-8 and is not is refused (MQTT 5, section 3.3.2.3.2)."""

import asyncio

import pytest

from fastmq.broker.worker import Worker
from fastmq.client import Client, Refused
from fastmq.config.listener import Listener
from fastmq.config.schema import Config, MqttSettings
from fastmq.packets import Properties


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize(("payload", "is_text"), [("grün".encode(), True), (b"\xff\xfe", False)])
def test_text_that_is_none(checks: bool, payload: bytes, is_text: bool) -> None:
    async def publish() -> int:
        config = Config(listen=(Listener("tcp", "127.0.0.1", 0),), mqtt=MqttSettings(check_payload_format=checks))
        worker = Worker(config)
        await worker.start()
        try:
            async with Client("127.0.0.1", worker.listeners[0].port, version=5) as client:
                await client.subscribe("t", qos=1)
                await client.publish("t", payload, qos=1, properties=Properties(payload_format_indicator=1))
                return worker.hub.stats()["dropped_denied"]
        finally:
            await worker.stop()

    if checks and not is_text:
        with pytest.raises(Refused, match=r"(?i)payload.format"):
            asyncio.run(publish())
    else:
        assert asyncio.run(publish()) == 0
