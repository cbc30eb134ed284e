"""Run mosquitto_pub and mosquitto_sub as their users do, and read what they print."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.brokerproc import BrokerProcess, OutputTail, await_condition

VERSIONS: Final = ("mqttv31", "mqttv311", "mqttv5")
TIMEOUT_S: Final = 10.0


def command(program: str, broker: BrokerProcess, *args: str | int) -> list[str]:
    return [program, "-h", broker.host, "-p", str(broker.port), *map(str, args)]


def publish(broker: BrokerProcess, *args: str | int, stdin: bytes | None = None) -> str:
    """mosquitto_pub to its end; what it printed."""
    done = subprocess.run(
        command("mosquitto_pub", broker, *args),
        input=stdin if stdin is not None else b"",
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    printed = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, f"mosquitto_pub exited with {done.returncode}: {printed}"
    return printed


def subscribe_once(broker: BrokerProcess, *args: str | int) -> subprocess.CompletedProcess[bytes]:
    """mosquitto_sub to its end, for options that make it end by itself."""
    return subprocess.run(command("mosquitto_sub", broker, *args), capture_output=True, timeout=TIMEOUT_S)


class MosquittoSub:
    """A running mosquitto_sub that has its SUBACK. Prints messages as JSON lines among its debug lines (-d)."""

    def __init__(self, broker: BrokerProcess, *args: str | int, output: str = "%j") -> None:
        # stdbuf: mosquitto_sub does not flush into a pipe by itself.
        self._command = ["stdbuf", "-oL", *command("mosquitto_sub", broker, "-d", "-F", output, *args)]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        self._output = OutputTail(self._process.stdout)
        if self._output.await_match(r"^Subscribed \(mid: ", TIMEOUT_S) is None:
            self.kill()
            raise AssertionError(f"no SUBACK: {' '.join(self._command)}\n{self.printed()}")

    def __enter__(self) -> MosquittoSub:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Vanish without DISCONNECT, as a device that lost power."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.join(TIMEOUT_S)

    def leave(self) -> None:
        """DISCONNECT and end, as after Ctrl-C."""
        # Its signal handler must not interrupt the library at work: wait until it sleeps in select().
        state = Path(f"/proc/{self._process.pid}/stat")
        await_condition(lambda: state.read_text().rpartition(")")[2].split()[0] == "S", what="mosquitto_sub sleeps")
        self._process.send_signal(signal.SIGINT)
        self._process.wait(TIMEOUT_S)
        self._output.join(TIMEOUT_S)

    def await_debug(self, pattern: str) -> None:
        found = self._output.await_match(pattern, TIMEOUT_S)
        assert found is not None, f"mosquitto_sub never printed {pattern!r}:\n{self.printed()}"

    def printed(self) -> str:
        return self._output.text()[-3000:]

    def messages(self, count: int) -> list[dict[str, Any]]:
        """The first `count` messages, once they are here, but never more than have come."""
        lines = self._output.await_lines(lambda now: len(json_lines(now)) >= count, TIMEOUT_S)
        messages = json_lines(lines)
        assert len(messages) >= count, f"{len(messages)} of {count} messages came:\n{self.printed()}"
        return messages

    def payloads(self, count: int) -> list[str]:
        return [message["payload"] for message in self.messages(count)]

    def await_message(self, payload: str) -> None:
        """Until a message with this payload is here."""
        found = self._output.await_match(rf'"payload":"{re.escape(payload)}"', TIMEOUT_S)
        assert found is not None, f"{payload!r} never came:\n{self.printed()}"

    def await_end(self) -> int:
        """Wait for an end by -C or -W; the exit code."""
        code = self._process.wait(TIMEOUT_S)
        self._output.join(TIMEOUT_S)
        return code


def json_lines(lines: Sequence[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines if line.startswith("{")]
