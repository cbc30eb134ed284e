"""Rates: what is counted, who waits, and who is not hurt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq._meter import Rates
from fastmq.testing import BackgroundBroker
from tests.brokerproc import HOST, await_condition, ended_cleanly, start_fastmq
from tests.wireclient import Client, encode

TOO_FAST = 0x96


@given(
    st.integers(0, 2000),
    st.integers(0, 100_000),
    st.lists(st.tuples(st.integers(0, 1_000_000), st.integers(0, 5000)), max_size=50),
)
def test_buckets_against_exact_arithmetic(messages_per_s: int, bytes_per_s: int, sent: list[tuple[int, int]]) -> None:
    rates = Rates(messages_per_s, bytes_per_s, 2.0)
    now = 0
    have = [Fraction(max(1, 2 * messages_per_s)), Fraction(max(1, 2 * bytes_per_s))]
    for size, pause in sent:
        now += pause
        waits = [0]
        for at, (rate, n) in enumerate(((messages_per_s, 1), (bytes_per_s, size))):
            if rate:
                have[at] = min(have[at] + Fraction(pause * rate, 1000), Fraction(max(1, 2 * rate))) - n
                if have[at] < 0:
                    waits.append(int(-have[at] * 1000 / rate) + 1)
        assert abs(rates.charge(size, now) - max(waits)) <= 1  # doubles


@contextmanager
def limited(**limits: float) -> Iterator[tuple[BackgroundBroker, ExitStack]]:
    settings: dict[str, Any] = {f"limits__{key}": value for key, value in limits.items()}
    with BackgroundBroker(**settings) as broker, ExitStack() as clients:
        yield broker, clients


def join(broker: BackgroundBroker, clients: ExitStack, name: str, user: str | None = None) -> Client:
    client = Client((broker.host, broker.port))
    clients.callback(client.close)
    assert client.connect(name, username=user).code == 0
    return client


def blast(client: Client, n: int, size: int = 10) -> None:
    client.send(b"".join(encode.publish(5, "t", b"x" * size, qos=1, packet_id=1 + at) for at in range(n)))


def acknowledged(client: Client, n: int) -> float:
    """Seconds until n acknowledgements have come."""
    start = time.monotonic()
    for at in range(n):
        client.expect_ack("PUBACK", 1 + at, code=0x10)
    return time.monotonic() - start


def test_who_sends_too_fast_is_paused_and_loses_nothing() -> None:
    with limited(messages_per_s=100) as (broker, clients):
        client, other = join(broker, clients, "fast"), join(broker, clients, "other")
        blast(client, 200)  # 100 at once, 100 within a second
        other.publish("t", qos=1)
        other.ping()
        assert 0.8 <= acknowledged(client, 200) < 3
        client.ping()
        assert broker.stats()["publish_throttled"] >= 1


def test_bytes_count_too() -> None:
    with limited(bytes_per_s=100_000) as (broker, clients):
        client = join(broker, clients, "fast")
        blast(client, 20, 10_000)
        assert 0.8 <= acknowledged(client, 20) < 4


def test_keep_alive_does_not_end_who_is_paused() -> None:
    with limited(messages_per_s=10, pause_max_s=60) as (broker, clients):
        client = Client((broker.host, broker.port))
        clients.callback(client.close)
        client.connect("fast", keep_alive=1)
        blast(client, 40)
        assert 2.5 <= acknowledged(client, 40) < 6


def test_who_would_have_to_wait_too_long_is_disconnected() -> None:
    with limited(bytes_per_s=1000, pause_max_s=2) as (broker, clients):
        client = join(broker, clients, "huge")
        blast(client, 1, 10_000)
        client.expect_ack("PUBACK", 1, code=0x10)
        client.expect_disconnect(TOO_FAST)


def test_clients_of_a_user_share_its_rate() -> None:
    with limited(user_messages_per_s=100) as (broker, clients):
        first, second = join(broker, clients, "a", "ada"), join(broker, clients, "b", "ada")
        other, nameless = join(broker, clients, "c", "bob"), join(broker, clients, "d")
        blast(first, 100)
        acknowledged(first, 100)
        blast(second, 100)
        blast(other, 90)
        assert acknowledged(other, 90) < 0.5
        blast(nameless, 300)
        assert acknowledged(nameless, 300) < 0.5
        assert 0.5 <= acknowledged(second, 100) < 3


def test_a_listener_has_a_rate_of_its_own() -> None:
    listeners = [{"url": f"tcp://{HOST}:0", "messages_per_s": 100}, {"url": f"tcp://{HOST}:0"}]
    with ended_cleanly(start_fastmq(listen=json.dumps(listeners))) as broker, ExitStack() as clients:
        ports = [int(line.rpartition(":")[2]) for line in broker.log_text().splitlines() if "listening" in line]
        await_condition(lambda: broker.log_text().count("listening") == 2)
        ports = [int(line.rpartition(":")[2]) for line in broker.log_text().splitlines() if "listening" in line]
        made = [Client((HOST, port)) for port in (ports[0], ports[0], ports[1])]
        for at, client in enumerate(made):
            clients.callback(client.close)
            client.connect(f"c{at}")
            blast(client, 100)
        assert acknowledged(made[2], 100) < 0.5
        assert 0.5 <= acknowledged(made[0], 100) + acknowledged(made[1], 100) < 4


@pytest.mark.parametrize("version", [3, 4, 5])
def test_rates_hold_for_every_version_and_qos(version: int) -> None:
    with limited(messages_per_s=50) as (broker, clients):
        client = Client((broker.host, broker.port), version)
        clients.callback(client.close)
        client.connect("fast")
        start = time.monotonic()
        client.send(b"".join(encode.publish(version, "t", b"x", qos=0) for _ in range(100)))
        client.ping()
        assert 0.8 <= time.monotonic() - start < 3


# -- what clients are sent ---------------------------------------------------------------------------------------------


def subscriber(broker: BackgroundBroker, clients: ExitStack, name: str, user: str | None = None, **more: Any) -> Client:
    client = Client((broker.host, broker.port), more.pop("version", 5))
    clients.callback(client.close)
    assert client.connect(name, username=user, **more).code == 0
    client.subscribe(("t", 2))
    return client


def received(client: Client, n: int) -> tuple[float, list[bytes]]:
    """Seconds until n messages have come, and their payloads."""
    start = time.monotonic()
    payloads = client.receive_payloads(n)
    return time.monotonic() - start, payloads


def numbered(client: Client, n: int, qos: int, size: int = 10) -> list[bytes]:
    payloads = [b"%*d" % (size, at) for at in range(n)]
    for payload in payloads:
        client.publish("t", payload, qos=qos)
    return payloads


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("qos", [1, 2])
def test_who_may_be_sent_less_gets_all_of_it_later_and_in_order(version: int, qos: int) -> None:
    with limited(messages_out_per_s=100) as (broker, clients):
        slow, sender = subscriber(broker, clients, "slow", version=version), join(broker, clients, "sender")
        sent = numbered(sender, 200, qos)
        took, payloads = received(slow, 200)
        assert payloads == sent
        assert 0.5 <= took < 4
        slow.ping()
        assert broker.stats()["publish_dropped"] == 0


def test_a_publisher_does_not_wait_for_who_may_be_sent_less() -> None:
    with limited(messages_out_per_s=10) as (broker, clients):
        subscriber(broker, clients, "slow")
        sender = join(broker, clients, "sender")
        start = time.monotonic()
        numbered(sender, 900, 1)
        assert time.monotonic() - start < 5
        (state,) = [each for each in broker.clients() if each.client_id == "slow"]
        assert state.queued + state.in_flight > 800


def test_qos_0_above_the_rate_is_dropped_and_counted() -> None:
    with limited(messages_out_per_s=50) as (broker, clients):
        slow, sender = subscriber(broker, clients, "slow"), join(broker, clients, "sender")
        for at in range(200):
            sender.send(encode.publish(5, "t", b"%d" % at, qos=0))
        sender.ping()
        stats = broker.stats()
        assert 50 <= stats["publish_sent"] < 90
        assert stats["dropped_rate"] == stats["publish_dropped"] == 200 - stats["publish_sent"]
        time.sleep(0.3)
        sender.publish("t", b"again")
        assert slow.receive_payloads(stats["publish_sent"] + 1)[-1] == b"again"


def test_bytes_that_are_sent_count_too() -> None:
    with limited(bytes_out_per_s=100_000) as (broker, clients):
        slow, sender = subscriber(broker, clients, "slow"), join(broker, clients, "sender")
        sent = numbered(sender, 20, 1, 10_000)
        took, payloads = received(slow, 20)
        assert payloads == sent
        assert 0.5 <= took < 4


def test_retained_messages_and_what_was_queued_are_held_to_it() -> None:
    week = (((17), 604_800),)
    with limited(messages_out_per_s=100) as (broker, clients):
        sender = join(broker, clients, "sender")
        away = subscriber(broker, clients, "away", clean=False, props=week)
        away.disconnect()
        numbered(sender, 150, 1)
        for at in range(150):
            sender.publish(f"kept/{at}", b"k", qos=1, retain=True)
        back = Client((broker.host, broker.port))
        clients.callback(back.close)
        back.connect("away", clean=False, props=week)
        took, _ = received(back, 150)
        assert 0.2 <= took < 3
        back.subscribe(("kept/+", 0))
        took, payloads = received(back, 150)
        assert payloads == [b"k"] * 150
        assert took >= 0.7


def test_a_group_gives_what_one_member_may_not_have_to_another() -> None:
    with limited(user_messages_out_per_s=20) as (broker, clients):
        slow, free = join(broker, clients, "slow", "ada"), join(broker, clients, "free")
        for client in (slow, free):
            client.subscribe(("$share/g/t", 1))
        sender = join(broker, clients, "sender")
        numbered(sender, 200, 1)
        took, _ = received(free, 160)
        assert took < 1


def test_users_and_listeners_have_rates_of_what_they_are_sent() -> None:
    listeners = [{"url": f"tcp://{HOST}:0", "messages_out_per_s": 100}, {"url": f"tcp://{HOST}:0"}]
    with ended_cleanly(start_fastmq(listen=json.dumps(listeners))) as broker, ExitStack() as clients:
        await_condition(lambda: broker.log_text().count("listening") == 2)
        ports = [int(line.rpartition(":")[2]) for line in broker.log_text().splitlines() if "listening" in line]
        made = [Client((HOST, port)) for port in (ports[0], ports[0], ports[1])]
        for at, client in enumerate(made):
            clients.callback(client.close)
            client.connect(f"c{at}")
            client.subscribe(("t", 1))
        sender = Client((HOST, ports[1]))
        clients.callback(sender.close)
        sender.connect("sender")
        numbered(sender, 100, 1)
        assert received(made[2], 100)[0] < 0.5
        assert 0.4 <= received(made[0], 100)[0] + received(made[1], 100)[0] < 4


def test_a_client_that_leaves_while_it_is_held_back_ends_cleanly() -> None:
    with limited(messages_out_per_s=5) as (broker, clients):
        sender = join(broker, clients, "sender")
        for at in range(20):
            slow = subscriber(broker, clients, f"s{at}", clean=at % 2 == 0, props=((17, at % 3),))
            numbered(sender, 20, 1)
            slow.close()
        time.sleep(0.6)
        sender.ping()


# -- sessions of a user ------------------------------------------------------------------------------------------------


def test_a_user_may_have_so_many_sessions() -> None:
    week = ((17, 604_800),)
    with limited(user_sessions_max=2) as (broker, clients):

        def code(name: str, user: str | None) -> int:
            client = Client((broker.host, broker.port))
            clients.callback(client.close)
            return client.connect(name, username=user, clean=False, props=week).code

        assert [code("a", "ada"), code("b", "ada"), code("c", "ada"), code("c", "bob")] == [0, 0, 0x97, 0]
        assert [code("a", "ada"), code("d", None), code("e", None), code("f", None)] == [0, 0, 0, 0]
        ending = Client((broker.host, broker.port))
        clients.callback(ending.close)
        ending.connect("b", username="ada", clean=True)
        ending.disconnect()
        await_condition(lambda: code("c2", "ada") == 0)
        assert {each.client_id: each.username for each in broker.clients()}["c2"] == "ada"
        assert [code("c2", "bob"), code("g", "bob"), code("h", "ada"), code("i", "ada")] == [0, 0x97, 0, 0x97]
