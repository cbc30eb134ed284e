"""A real, headless Node-RED with a flow that listens, transforms and answers over MQTT."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.brokerproc import BrokerProcess, OutputTail, free_port

NODE: Final = Path(__file__).resolve().parent / "node"
START_TIMEOUT_S: Final = 18.0

SETTINGS: Final = """
module.exports = {
    uiHost: "127.0.0.1", uiPort: %(port)d, userDir: %(folder)s, flowFile: "flows.json",
    credentialSecret: false, disableEditor: true, httpAdminRoot: false,
    telemetry: { enabled: false, updateNotification: false },
    logging: { console: { level: "info", metrics: false, audit: false } },
};
"""

# Upper case, one more user property, from red/VERSION/in/... to red/VERSION/out/...
TRANSFORM: Final = """
msg.topic = msg.topic.replace("/in/", "/out/");
msg.payload = msg.payload.toUpperCase();
if (msg.userProperties) msg.userProperties.through = "node-red";
delete msg.retain;
return msg;
"""


def flow_of(version: int, root: str, broker: BrokerProcess) -> list[dict[str, Any]]:
    """mqtt in -> function -> mqtt out, with a birth and a will message; as the editor saves it."""
    tab, server, source, change, sink = (f"{name}{version}" for name in ("tab", "server", "in", "change", "out"))
    status = f"{root}/{version}/status"
    return [
        {"id": tab, "type": "tab", "label": f"version {version}"},
        {
            "id": server,
            "type": "mqtt-broker",
            "broker": broker.host,
            "port": str(broker.port),
            "clientid": "",
            "autoConnect": True,
            "usetls": False,
            "protocolVersion": str(version),
            "keepalive": "60",
            "cleansession": True,
            "autoUnsubscribe": True,
            "birthTopic": status,
            "birthQos": "1",
            "birthRetain": "true",
            "birthPayload": "birth",
            "birthMsg": {},
            "closeTopic": status,
            "closeQos": "1",
            "closeRetain": "true",
            "closePayload": "close",
            "closeMsg": {},
            "willTopic": status,
            "willQos": "1",
            "willRetain": "true",
            "willPayload": "will",
            "willMsg": {},
            "userProps": "",
            "sessionExpiry": "",
        },
        {
            "id": source,
            "type": "mqtt in",
            "z": tab,
            "topic": f"{root}/{version}/in/#",
            "qos": "2",
            "datatype": "utf8",
            "broker": server,
            "nl": False,
            "rap": True,
            "rh": 0,
            "inputs": 0,
            "wires": [[change]],
        },
        {"id": change, "type": "function", "z": tab, "func": TRANSFORM, "outputs": 1, "wires": [[sink]]},
        {
            "id": sink,
            "type": "mqtt out",
            "z": tab,
            "topic": "",
            "qos": "",
            "retain": "",
            "respTopic": "",
            "contentType": "",
            "userProps": "",
            "correl": "",
            "expiry": "",
            "broker": server,
            "wires": [],
        },
    ]


class NodeRed:
    """Node-RED, started, with every flow connected to the broker."""

    def __init__(self, folder: Path, root: str, versions: tuple[int, ...], broker: BrokerProcess) -> None:
        program = NODE / "node_modules" / "node-red" / "red.js"
        assert program.is_file(), "the npm packages are missing; run tests/provision.sh"
        flows = [node for version in versions for node in flow_of(version, root, broker)]
        (folder / "flows.json").write_text(json.dumps(flows))
        settings = folder / "settings.js"
        settings.write_text(SETTINGS % {"port": free_port(), "folder": json.dumps(str(folder))})
        self._process = subprocess.Popen(
            ["node", str(program), "--settings", str(settings)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        self._output = OutputTail(self._process.stdout)

        def connected(lines: list[str]) -> int:
            return sum("Connected to broker" in line for line in lines)

        lines = self._output.await_lines(lambda now: connected(now) == len(versions), START_TIMEOUT_S)
        if connected(lines) != len(versions):
            self.kill()
            raise AssertionError("Node-RED did not connect:\n" + self._output.text())

    def printed(self) -> str:
        return self._output.text()

    def kill(self) -> None:
        """Vanish without DISCONNECT."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._output.join(5)

    def stop(self) -> None:
        """End in order."""
        self._process.terminate()
        self._process.wait(10)
        self._output.join(5)
