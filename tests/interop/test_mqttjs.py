"""MQTT.js (zigbee2mqtt and Node-RED stand on it): the scenarios in node/*.mjs, in the versions that it speaks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess

NODE = Path(__file__).resolve().parent / "node"


def run_scenario(name: str, broker: BrokerProcess, version: int, topic: str) -> None:
    assert (NODE / "node_modules" / "mqtt").is_dir(), "the npm packages are missing; run tests/provision.sh"
    command = ["node", str(NODE / f"{name}.mjs"), broker.host, str(broker.port), str(version), topic]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=18)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("name", ["delivery", "retained_and_will", "reconnect", "session"])
def test_scenario(broker: BrokerProcess, topic: str, name: str, version: int) -> None:
    run_scenario(name, broker, version, topic)


@pytest.mark.parametrize("name", ["v5_properties", "v5_aliases"])
def test_scenario_of_version_5(broker: BrokerProcess, topic: str, name: str) -> None:
    run_scenario(name, broker, 5, topic)
