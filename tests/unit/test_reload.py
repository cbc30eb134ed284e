"""SIGHUP: what changes at once, what waits for a restart, and that wrong settings change nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fastmq.auth import hashes
from fastmq.config.acl import Allow
from fastmq.config.auth import Http, PasswordFile
from fastmq.config.bans import ClientId
from fastmq.config.listener import Listener
from fastmq.config.reload import merged
from fastmq.config.schema import AclSettings, AuthSettings, BanSettings, Config, LimitsSettings, MqttSettings
from tests.brokerproc import HOST, BrokerProcess, await_condition, ended_cleanly
from tests.wireclient import Client, ConnectionEnded
from tests.wireclient import properties as p
from tests.wireclient.encode import Will

NOT_AUTHORIZED, BANNED = 0x87, 0x8A


def test_what_can_change_does_and_the_rest_waits() -> None:
    old = Config(acl=AclSettings(file="a"))
    new = Config(
        acl=AclSettings(rules=(Allow(topics=("a",)),), deny_action="disconnect"),
        auth=AuthSettings(allow_anonymous=False, chain=(PasswordFile(path="x"),)),
        bans=BanSettings(rules=(ClientId(value="c"),)),
        limits=LimitsSettings(messages_per_s=5, connections_max=7, output_max_bytes=70_000),
        mqtt=MqttSettings(maximum_qos=1, keepalive_max_s=600),
    )
    found = merged(old, new)
    assert found.waiting == ["mqtt.maximum_qos", "limits.output_max_bytes", "acl.deny_action"]
    assert found.changed == [
        "mqtt.keepalive_max_s", "limits.connections_max", "limits.messages_per_s", "auth.allow_anonymous", "auth.chain",
        "acl.rules", "acl.file", "bans.rules",
    ]  # fmt: skip
    assert found.config == replace(
        old, auth=new.auth, bans=new.bans, limits=LimitsSettings(messages_per_s=5, connections_max=7),
        acl=AclSettings(rules=(Allow(topics=("a",)),)), mqtt=MqttSettings(keepalive_max_s=600),
    )  # fmt: skip
    assert merged(old, old) == (old, [], [])


@pytest.mark.parametrize(
    "new",
    [
        Config(acl=AclSettings(file="a")),
        Config(auth=AuthSettings(allow_anonymous=False, chain=(Http(url="http://x"),))),
    ],
)
def test_rules_do_not_begin_or_end_while_clients_are_connected(new: Config) -> None:
    old = Config()
    for before, after in ((old, new), (new, old)):
        found = merged(before, after)
        assert found.changed == []
        assert found.config == before
        assert found.waiting


def test_listeners_keep_their_sockets() -> None:
    old = Config(listen=(Listener("tcp", "a", 1), Listener("tcp", "b", 1)))
    hot = replace(old, listen=(Listener("tcp", "a", 1, allow_anonymous="no", messages_per_s=9), old.listen[1]))
    assert merged(old, hot) == (hot, ["listen"], [])
    for listen in (old.listen[:1], (Listener("tcp", "a", 2), old.listen[1]), old.listen[::-1]):
        assert merged(old, replace(old, listen=listen)) == (old, [], ["listen"])


@contextmanager
def serving(path: Path) -> Iterator[BrokerProcess]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("FASTMQ_")}
    command = [sys.executable, "-m", "fastmq", "serve", "-c", str(path)]
    with ended_cleanly(BrokerProcess("fastmq", command, env, rf"listening on tcp://{HOST}:(\d+)")) as broker:
        yield broker


def test_sighup(tmp_path: Path) -> None:
    users, path = tmp_path / "users", tmp_path / "fastmq.toml"
    users.write_text(f"ada:{hashes.make(b'secret', 'sha512')}\n")
    head = f'listen = ["tcp://{HOST}:0"]\n[store]\ndurability = "none"\n'

    def settings(*rules: dict[str, object], more: str = "") -> None:
        lines = [f"[[acl.rules]]\n{''.join(f'{key} = {json.dumps(value)}{chr(10)}' for key, value in rule.items())}"
                 for rule in rules]  # fmt: skip
        path.write_text(head + more + "".join(lines))

    def allow(topic: str) -> dict[str, object]:
        return {"permission": "allow", "topics": [topic]}

    settings(allow("a"))
    with serving(path) as broker, ExitStack() as stack:

        def client() -> Client:
            made = Client((broker.host, broker.port))
            stack.callback(made.close)
            return made

        def hup(says: str) -> None:
            count = broker.log_text().count(says)
            os.kill(broker.pid, signal.SIGHUP)
            await_condition(lambda: broker.log_text().count(says) > count, 10, says)

        inside = client()
        inside.connect("inside")
        assert inside.publish("b", qos=1) == NOT_AUTHORIZED
        settings(allow("b"))
        hup("read the settings again changed=acl.rules")
        await_condition(lambda: inside.publish("b", qos=1) != NOT_AUTHORIZED)
        assert inside.publish("a", qos=1) == NOT_AUTHORIZED

        chain = f'[auth]\nallow_anonymous = false\n[[auth.chain]]\nmethod = "file"\npath = "{users}"\n'
        ban = '[[bans.rules]]\nby = "client_id"\nvalue = "bad"\n'
        settings(allow("b"), more=chain + ban)
        hup("changed=auth.allow_anonymous,auth.chain,bans.rules")
        assert client().connect("c1").code == NOT_AUTHORIZED
        assert client().connect("c1", username="ada", password=b"secret").code == 0
        assert client().connect("bad", username="ada", password=b"secret").code == BANNED
        inside.ping()  # who is inside stays

        for wrong in (
            "[auth]\nallow_anonymous = 5\n",
            "nonsense",
            f'[[auth.chain]]\nmethod = "file"\npath = "{tmp_path}/none"\n',
        ):
            settings(allow("b"), more=wrong)
            hup("the settings are wrong; those of before stay")
            assert client().connect("c1").code == NOT_AUTHORIZED
            assert client().connect("c2", username="ada", password=b"secret").code == 0

        settings(allow("b"), more='[mqtt]\nmaximum_qos = 1\n[auth]\nallow_anonymous = true\n[log]\nlevel = "warning"\n')
        os.kill(broker.pid, signal.SIGHUP)
        await_condition(lambda: "some settings wait for a restart settings=mqtt.maximum_qos" in broker.log_text())
        assert client().connect("c3").code == 0
        assert "client=c3" not in broker.log_text()  # the level is another
        inside.ping()


def test_limits_of_those_who_are_not_let_in_yet(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.toml"

    def settings(timeout_s: float, keepalive_max_s: int, connect_max: int) -> None:
        path.write_text(
            f'listen = ["tcp://{HOST}:0", "ws://{HOST}:0"]\n[store]\ndurability = "none"\n[mqtt]\n'
            f"connect_timeout_s = {timeout_s}\nkeepalive_max_s = {keepalive_max_s}\n"
            f"[limits]\nconnect_max_bytes = {connect_max}\n"
        )

    settings(60.0, 65_535, 100_000)
    with serving(path) as broker, ExitStack() as stack:
        ports = [broker.port, int(broker.await_log(rf"listening on ws://{HOST}:(\d+)")[1])]
        client = Client((HOST, ports[0]))
        stack.callback(client.close)
        assert client.connect("a", keep_alive=1000, will=Will("w", bytes(20_000))).value(p.SERVER_KEEP_ALIVE) is None
        settings(1.0, 600, 1024)
        os.kill(broker.pid, signal.SIGHUP)
        broker.await_log("read the settings again")
        again, large = Client((HOST, ports[0])), Client((HOST, ports[0]))
        stack.callback(again.close)
        stack.callback(large.close)
        assert (p.SERVER_KEEP_ALIVE, 600) in again.connect("c", keep_alive=1000).props
        with pytest.raises((ConnectionEnded, ConnectionError)):
            large.connect("b", will=Will("w", bytes(20_000)))
        for port in ports:
            with socket.create_connection((HOST, port)) as silent:
                silent.sendall(b"G" if port == ports[1] else b"\x10")
                silent.settimeout(20)  # it would be a minute
                while silent.recv(1000):
                    pass
