"""Who may not connect: bans, clients that connect too often, rates of connects, limits of listeners, large CONNECTs."""

from __future__ import annotations

import functools
import json
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastmq.broker.bans import CLIENTS_MAX, Bans
from fastmq.config import bans
from fastmq.config.schema import BanSettings
from fastmq.testing import BackgroundBroker
from tests.brokerdoors import issue, know, listener
from tests.brokerproc import HOST, BrokerProcess, await_condition, ended_cleanly, running_broker, start_fastmq
from tests.wireclient import Client, ConnectionEnded, encode

BANNED, TOO_FAST, TOO_LARGE = 0x8A, 0x9F, 0x95
VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])


@pytest.mark.parametrize(
    ("ban", "banned", "welcome"),
    [
        (bans.ClientId(value="c1"), ("c1", "ada", "10.0.0.1"), ("c10", "ada", "10.0.0.1")),
        (bans.Username(value="ada"), ("c1", "ada", ""), ("ada", None, "")),
        (bans.Username(value="ada"), ("c1", "ada", ""), ("c1", "Ada", "")),
        (bans.Address(value="10.0.0.0/8"), ("c1", None, "10.9.9.9"), ("c1", None, "11.0.0.1")),
        (bans.Address(value="10.0.0.1"), ("c1", None, "::ffff:10.0.0.1"), ("c1", None, "")),
        (bans.Address(value="2001:db8::/32"), ("c1", None, "2001:db8::1"), ("c1", None, "2001:db9::1")),
        (bans.ClientIdRegex(value="robot-[0-9]+"), ("robot-7", None, ""), ("xrobot-7", None, "")),
        (bans.UsernameRegex(value="a.a"), ("c1", "ada", ""), ("c1", None, "")),
    ],
)
def test_bans(ban: bans.Ban, banned: tuple[str, str | None, str], welcome: tuple[str, str | None, str]) -> None:
    checked = Bans(BanSettings(rules=(ban,)))
    assert checked.why(*banned) == f"banned by its {ban.told[1]}"
    assert checked.why(*welcome) == ""


def test_a_ban_ends() -> None:
    until = datetime(2027, 1, 31, 12, tzinfo=UTC)
    for text in ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00", "2027-01-31T13:00:00+01:00"):
        now = [until.timestamp() - 1]
        checked = Bans(
            BanSettings(rules=(bans.ClientId(value="c1", until=text, reason="noise"),)),
            clock=functools.partial(now.__getitem__, 0),
        )
        assert checked.why("c1", None, "") == "banned by its client_id: noise"
        now[0] += 1
        assert checked.why("c1", None, "") == ""


def test_who_connects_too_often_is_banned_for_a_while() -> None:
    now = [0.0]
    checked = Bans(BanSettings(flapping=True, flapping_connects=3, flapping_window_s=10), clock=lambda: now[0])
    for at in (0.0, 6.0, 12.0, 18.0, 24.0):
        now[0] = at
        assert checked.why("slow", None, "") == ""
    for at, why in (
        (30.0, ""),
        (31.0, ""),
        (32.0, "it connects too often"),
        (331.0, "it connects too often"),
        (332.0, ""),
    ):
        now[0] = at
        assert checked.why("fast", None, "") == why
        assert checked.why("", None, "") == ""  # the broker names it
    for number in range(CLIENTS_MAX + 100):
        checked.why(f"c{number}", None, "")
    assert len(checked._connects) <= CLIENTS_MAX


@VERSIONS
def test_a_banned_client_hears_it(version: int) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    rules = [{"by": "client_id", "value": "c1"}, {"by": "username", "value": "eve", "until": soon}]
    with running_broker({"bans.rules": json.dumps(rules)}) as broker, ExitStack() as stack:
        refused = BANNED if version == 5 else 5

        def connects(name: str, user: str | None = None) -> int:
            client = Client((broker.host, broker.port), version)
            stack.callback(client.close)
            return client.connect(name, username=user).code

        assert connects("c1") == refused
        assert connects("c2", "eve") == refused
        assert connects("c2") == 0
        await_condition(lambda: connects("c2", "eve") == 0, 10)
        broker.await_log("reason=BANNED")


def test_a_flapping_client_does_not_hurt_others() -> None:
    settings = {"bans.flapping": True, "bans.flapping_connects": 5}
    with running_broker(settings) as broker, ExitStack() as stack:
        codes = []
        for name in ["flap"] * 8 + ["calm"]:
            client = Client((broker.host, broker.port))
            stack.callback(client.close)
            codes.append(client.connect(name).code)
        assert codes == [0] * 4 + [BANNED] * 4 + [0]


def connect_many(broker: BackgroundBroker, stack: ExitStack, n: int) -> list[int]:
    codes = []
    for at in range(n):
        client = Client((broker.host, broker.port))
        stack.callback(client.close)
        codes.append(client.connect(f"c{at}").code)
    return codes


@pytest.mark.parametrize("key", ["connects_per_s", "address_connects_per_s"])
def test_rates_of_connects(key: str) -> None:
    settings: dict[str, Any] = {f"limits__{key}": 10}
    with BackgroundBroker(**settings) as broker, ExitStack() as stack:
        codes = connect_many(broker, stack, 20)
        assert codes[:10] == [0] * 10
        assert TOO_FAST in codes[10:]
        await_condition(lambda: connect_many(broker, stack, 1) == [0])


def test_a_listener_has_so_many_connections_and_no_more(tmp_path: Any) -> None:
    issue(tmp_path)
    for door in ("tcp", "tls", "ws"):
        url = listener(door, tmp_path, connections_max=3)
        with ended_cleanly(start_fastmq(listen=url)) as broker, ExitStack() as stack:
            know(door, (broker.host, broker.port), tmp_path)
            clients = [entered(broker, stack) for _ in range(3)]
            for at, each in enumerate(clients):
                assert each.connect(f"c{at}").code == 0
            with pytest.raises((ConnectionEnded, ConnectionError, OSError)):
                entered(broker, stack).connect("c3")
            clients[0].disconnect()
            await_condition(functools.partial(connects, broker, stack), 5)


def entered(broker: BrokerProcess, stack: ExitStack) -> Client:
    client = Client((broker.host, broker.port))
    stack.callback(client.close)
    return client


def connects(broker: BrokerProcess, stack: ExitStack) -> bool:
    try:
        return entered(broker, stack).connect("again").code == 0
    except (ConnectionEnded, ConnectionError, OSError):
        return False


@VERSIONS
def test_a_large_connect_is_refused_before_it_is_read(version: int) -> None:
    settings: dict[str, Any] = {"limits__connect_max_bytes": 2000}
    with BackgroundBroker(**settings) as broker, ExitStack() as stack:
        client = Client((broker.host, broker.port), version)
        stack.callback(client.close)
        client.send(encode.connect(version, client_id="c1", username="u", password=b"x" * 3000)[:10])
        client.expect_refused(TOO_LARGE, silence_allowed=True)
        good = Client((broker.host, broker.port), version)
        stack.callback(good.close)
        assert good.connect("c1").code == 0
        assert good.publish("t", b"x" * 10_000, qos=1) == (0x10 if version == 5 else 0)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"by": "name", "value": "x"}, "bans.rules[0].by: must be one of client_id, username, address"),
        ({"by": "client_id"}, "bans.rules[0].value: must be set"),
        ({"by": "address", "value": "10.0.0.1/8"}, "bans.rules[0].value: 10.0.0.1/8 has host bits set"),
        ({"by": "client_id_regex", "value": "("}, "bans.rules[0].value: is no regular expression"),
        ({"by": "client_id", "value": "x", "until": "tomorrow"}, "bans.rules[0].until: must be a time like"),
    ],
)
def test_bans_that_cannot_be(rule: dict[str, str], says: str) -> None:
    with pytest.raises(RuntimeError) as refused, running_broker({"bans.rules": json.dumps([rule])}):
        pass
    assert says in str(refused.value)


def test_more_listeners_than_there_may_be() -> None:
    many = json.dumps([f"tcp://{HOST}:0"] * 65)
    with pytest.raises(RuntimeError, match="there are at most 64 listeners"):
        start_fastmq(listen=many)
