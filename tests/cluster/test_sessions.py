"""Sessions of clients that come to any worker: each has one home, and is there once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from threading import Barrier

import pytest

from tests.brokerproc import BrokerProcess, await_condition
from tests.cluster.brokers import at, is_gone, joined, named, worker_of, workers
from tests.cluster.flows import gather, meanwhile, pump
from tests.wireclient import Client, Disconnect, Will, encode
from tests.wireclient import properties as p

SESSION_TAKEN_OVER = 0x8E
LASTS = [(p.SESSION_EXPIRY, 300)]
HOMES = pytest.mark.parametrize("home", [0, 1])
RACERS = 20
_numbers = count()


@pytest.fixture(scope="module")
def shared() -> Iterator[BrokerProcess]:
    with workers(2) as broker:
        yield broker


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def will_of(name: str, delay_s: int = 1) -> Will:
    return Will(f"{name}/will", b"gone", qos=1, props=[(p.WILL_DELAY, delay_s)])


def fresh(home: int) -> str:
    """A client identifier that nobody has had."""
    return named(home, f"s{next(_numbers)}")


@HOMES
@pytest.mark.parametrize("version", [4, 5])
def test_a_client_identifier_is_used_once(shared: BrokerProcess, stack: ExitStack, home: int, version: int) -> None:
    name = fresh(home)
    last = joined(shared, stack, name, version)
    for _ in range(8):
        newer = joined(shared, stack, name, version)
        last.expect_disconnect(SESSION_TAKEN_OVER)
        newer.ping()
        last = newer


@HOMES
@pytest.mark.parametrize("clean", [True, False])
def test_of_many_at_once_one_stays(shared: BrokerProcess, stack: ExitStack, home: int, clean: bool) -> None:
    name = fresh(home)
    clients = [Client((shared.host, shared.port)) for _ in range(RACERS)]
    for each in clients:
        stack.callback(each.close)
    barrier = Barrier(RACERS)

    def come(client: Client) -> None:
        barrier.wait(10)
        client.send(encode.connect(5, client_id=name, clean=clean, props=LASTS))

    with meanwhile(*(partial(come, each) for each in clients)):
        pass
    for each in clients:
        assert each.recv().code == 0  # type: ignore[union-attr]
    # In any order, but each that came before the last one hears of it.
    staying: list[Client] = []
    for each in clients:
        try:
            packet = each.recv(0.3 if staying else 2.0)
        except TimeoutError:
            staying.append(each)
            continue
        assert isinstance(packet, Disconnect)
        assert packet.code == SESSION_TAKEN_OVER
        each.expect_closed()
    assert len(staying) == 1
    staying[0].ping()


@HOMES
def test_a_session_goes_on_wherever_its_client_comes(shared: BrokerProcess, stack: ExitStack, home: int) -> None:
    name = fresh(home)
    publishers = [at(shared, stack, index, f"{name}-p") for index in (0, 1)]
    first = joined(shared, stack, name, clean=False, props=LASTS)
    first.subscribe((f"{name}/one", 1), (f"{name}/two/#", 2), props=[(p.SUBSCRIPTION_ID, 7)])
    first.drop()
    for turn in range(6):
        for publisher in publishers:
            assert set(pump(publisher, f"{name}/one", [b"1-%d" % n for n in range(20)], 1)) == {0}
            assert set(pump(publisher, f"{name}/two/x", [b"2-%d" % n for n in range(20)], 2)) == {0}
        client = joined(shared, stack, name, 5, clean=False, props=LASTS)
        assert client.connack is not None
        assert client.connack.session_present
        messages = gather([client], 80)[0]
        assert [m.payload for m in messages] == [
            b"%d-%d" % (kind, n) for _ in (0, 1) for kind in (1, 2) for n in range(20)
        ]
        assert {(m.qos, m.value(p.SUBSCRIPTION_ID)) for m in messages} == {(1, 7), (2, 7)}
        assert not any(m.dup for m in messages), turn
        client.drop()
    last = joined(shared, stack, name)  # clean
    assert last.connack is not None
    assert not last.connack.session_present
    assert publishers[0].publish(f"{name}/one", b"", qos=1) == 0x10


@HOMES
def test_exchanges_go_on_where_they_were(shared: BrokerProcess, stack: ExitStack, home: int) -> None:
    """Half of a QoS 2 exchange over one connection, the other half over the next."""
    name = fresh(home)
    watcher = at(shared, stack, 1 - home, f"{name}-w")
    watcher.subscribe((f"{name}/#", 2))
    for turn in range(1, 7):
        client = joined(shared, stack, name, clean=False, props=LASTS)
        packet = encode.publish(5, f"{name}/x", b"%d" % turn, qos=2, packet_id=turn)
        client.send(packet)
        client.expect_ack("PUBREC", turn)
        client.close()
        client = joined(shared, stack, name, clean=False, props=LASTS)
        client.send(encode.publish(5, f"{name}/x", b"%d" % turn, qos=2, packet_id=turn, dup=True))
        client.expect_ack("PUBREC", turn)
        client.close()
        client = joined(shared, stack, name, clean=False, props=LASTS)
        client.send(encode.ack(5, encode.PUBREL, turn))
        client.expect_ack("PUBCOMP", turn)
        client.close()
        assert watcher.receive().payload == b"%d" % turn
        watcher.expect_silence()


def test_who_brings_no_name_gets_one(shared: BrokerProcess, stack: ExitStack) -> None:
    names = set()
    for _ in range(12):
        client = joined(shared, stack, "", props=LASTS)
        assert client.connack is not None
        name = client.connack.value(p.ASSIGNED_CLIENT_ID)
        assert isinstance(name, str)
        names.add(name)
        client.subscribe((f"given/{name}", 1))
        client.drop()
        for _ in range(4):  # its session is found again from everywhere
            again = joined(shared, stack, name, clean=False, props=LASTS)
            assert again.connack is not None
            assert again.connack.session_present
            again.publish(f"given/{name}", b"x", qos=1)
            again.receive()
            again.drop()
        joined(shared, stack, name).drop()
    assert len(names) == 12
    assert len({worker_of(shared, name) for name in names}) == 2
    for _ in range(12):
        joined(shared, stack, "", 4).ping()


def test_wills_wait_where_the_session_is(shared: BrokerProcess, stack: ExitStack) -> None:
    """A delayed will is not sent when its client is back in time, at whatever connection."""
    watcher = at(shared, stack, 0, f"w{next(_numbers)}")
    for home in (0, 1):
        name = fresh(home)
        watcher.subscribe((f"{name}/#", 1))
        for _ in range(4):
            joined(shared, stack, name, clean=False, props=LASTS, will=will_of(name)).close()
        kept = joined(shared, stack, name, clean=False, props=LASTS, will=will_of(name))
        with pytest.raises(TimeoutError):
            watcher.recv(1.5)
        kept.close()
        assert watcher.receive(10).payload == b"gone"


def test_who_is_taken_over_leaves_a_will_to_all(shared: BrokerProcess, stack: ExitStack) -> None:
    for home in (0, 1):
        name = fresh(home)
        watchers = [at(shared, stack, index, f"{name}-w") for index in (0, 1)]
        for each in watchers:
            each.subscribe((f"{name}/#", 1))
        first = joined(shared, stack, name, will=will_of(name, 0))
        second = joined(shared, stack, name)
        await_condition(partial(is_gone, first))
        for each in watchers:
            assert each.receive().payload == b"gone"
        second.ping()
