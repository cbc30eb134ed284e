"""A store in streams of NATS JetStream, whose servers and owners fail: they are killed, stopped and started again."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastmq.errors import Fenced, StoreError
from fastmq.store.jetstream import PART_BYTES, Stream
from fastmq.store.records import Clock, Message, Record, Retained, Session, decode, encode
from fastmq.store.replicated import ReplicatedStore, number_of
from tests.brokerproc import await_condition
from tests.nats_servers import CLUSTER, NatsServers, free_ports, nats_servers

pytestmark = pytest.mark.timeout(180)  # NATS takes up to 6 s for another leader
PATIENCE_S = 60.0
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def all_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with nats_servers(tmp_path_factory.mktemp("nats")) as made:
        yield made


@pytest.fixture
def servers(all_servers: NatsServers) -> Iterator[NatsServers]:
    """Three that are there, whatever the test before did."""
    yield all_servers
    for index in range(3):
        if index in all_servers.running:
            all_servers.signal(signal.SIGCONT, index)
        else:
            all_servers.start(index)
    all_servers.await_quorum()


@pytest.fixture
def node() -> str:
    return secrets.token_hex(8)


@contextmanager
def stream(servers: NatsServers, node: str, **settings: object) -> Iterator[Stream]:
    with closing(Stream(servers.client(**settings), CLUSTER, node, 0)) as made:
        made.open(secrets.token_hex(8))
        yield made


@contextmanager
def store(path: Path, servers: NatsServers, node: str, snapshot_bytes: int = 1 << 30) -> Iterator[ReplicatedStore]:
    of = Stream(servers.client(), CLUSTER, node, 0)
    with closing(ReplicatedStore(path, of, owner=secrets.token_hex(8), snapshot_bytes=snapshot_bytes)) as made:
        yield made


def batches(servers: NatsServers, node: str) -> list[tuple[int, bytes]]:
    with stream(servers, node) as found:
        return [(each.number, each.records) for each in found.read()]


def append_until(made: Stream, number: int, records: bytes, timeout_s: float = PATIENCE_S) -> None:
    """Like the broker: again and again."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return made.append(number, records)
        except StoreError:
            if time.monotonic() > deadline:
                raise


# -- who may append ----------------------------------------------------------------------------------------------------


def test_the_owner_of_before_is_fenced(servers: NatsServers, node: str) -> None:
    with stream(servers, node) as first:
        first.append(1, b"one")
        first.check()
        with stream(servers, node) as second:
            assert [(each.number, each.records) for each in second.read()] == [(1, b"one")]
            assert second.term == first.term + 1
            for _ in range(2):
                with pytest.raises(Fenced):
                    first.append(2, b"of the first")
            with pytest.raises(Fenced):
                first.check()
            with pytest.raises(Fenced):
                first.keep_workers(7)
            second.append(2, b"of the second")
            second.check()
            with pytest.raises(Fenced):
                first.append(2, b"of the first")
    assert batches(servers, node) == [(1, b"one"), (2, b"of the second")]


def test_of_many_that_want_it_one_goes_on(servers: NatsServers, node: str) -> None:
    """Each opens it, and appends as soon as it can."""
    fenced, done = [], []

    def own(mine: int) -> None:
        with stream(servers, node) as made:
            after = max([each.number for each in made.read()], default=0)
            try:
                for number in range(after + 1, after + 6):
                    append_until(made, number, b"%d of %d" % (number, mine))
                    done.append((number, b"%d of %d" % (number, mine)))
            except Fenced:
                fenced.append(mine)

    threads = [threading.Thread(target=own, args=(mine,)) for mine in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = batches(servers, node)
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    assert set(done) <= set(found), "what was acknowledged is there"
    assert len(fenced) < 5


def test_the_number_of_workers_is_kept_and_fences_nobody(servers: NatsServers, node: str) -> None:
    with stream(servers, node) as first:
        assert first.workers == 0
        first.keep_workers(3)
        first.append(1, b"one")
        term = first.term
    with stream(servers, node) as second:
        assert (second.workers, second.term) == (3, term + 1)
        second.keep_workers(2)
        assert (second.workers, second.term) == (2, term + 1)
        second.append(2, b"two")


# -- what an append leaves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 5 * PART_BYTES + 7])
def test_a_batch_of_any_size_comes_back_whole(servers: NatsServers, node: str, size: int) -> None:
    records = os.urandom(size)
    with stream(servers, node) as made:
        made.append(1, b"before")
        made.append(2, records)
        made.append(3, b"after")
    assert batches(servers, node) == [(1, b"before"), (2, records), (3, b"after")]


def test_nobody_sees_a_batch_whose_owner_died_between_its_parts(servers: NatsServers, node: str) -> None:
    with stream(servers, node) as made:
        made.append(1, b"one")
        publish = made._connection.js.publish
        parts: list[Any] = []

        async def dying(*arguments: Any, **options: Any) -> Any:
            if len(parts) == 2:
                raise OSError("killed")
            parts.append(arguments)
            return await publish(*arguments, **options)

        made._connection.js.publish = dying
        with pytest.raises(StoreError):
            made.append(2, bytes(3 * PART_BYTES))
    assert batches(servers, node) == [(1, b"one")]
    with stream(servers, node) as next_one:
        assert len(list(next_one.read())) == 1
        next_one.append(2, b"two")
    assert batches(servers, node) == [(1, b"one"), (2, b"two")]


def test_an_append_whose_answer_was_lost_is_there_once(servers: NatsServers, node: str) -> None:
    with stream(servers, node, timeout_s=0.5) as made:
        append_until(made, 1, b"one")
        publish = made._connection.js.publish

        async def without_answer(*arguments: Any, **options: Any) -> Any:
            await publish(*arguments, **options)
            raise TimeoutError

        for number, records in ((2, b"two"), (3, bytes(2 * PART_BYTES))):
            made._connection.js.publish = without_answer
            with pytest.raises(StoreError):
                made.append(number, records)
            made._connection.js.publish = publish
            append_until(made, number, records)
        append_until(made, 4, b"four")
    assert batches(servers, node) == [(1, b"one"), (2, b"two"), (3, bytes(2 * PART_BYTES)), (4, b"four")]


def test_servers_that_stand_still_lose_and_double_nothing(servers: NatsServers, node: str) -> None:
    with stream(servers, node, timeout_s=1.0) as made:
        append_until(made, 1, b"one")
        servers.signal(signal.SIGSTOP, 0, 1)
        with pytest.raises(StoreError):
            made.append(2, b"two")
        servers.signal(signal.SIGCONT, 0, 1)
        append_until(made, 2, b"two")
        append_until(made, 3, b"three")
    assert batches(servers, node) == [(1, b"one"), (2, b"two"), (3, b"three")]


def test_without_a_quorum_nothing_is_acknowledged_and_later_it_goes_on(servers: NatsServers, node: str) -> None:
    with stream(servers, node, timeout_s=1.0) as made:
        append_until(made, 1, b"one")
        servers.stop(0)
        append_until(made, 2, b"two of three are enough")
        servers.stop(1)
        with pytest.raises(StoreError):
            made.append(3, b"three")
        servers.start(0)
        append_until(made, 3, b"three")
    assert batches(servers, node) == [(1, b"one"), (2, b"two of three are enough"), (3, b"three")]


def test_servers_killed_in_turn_lose_nothing_that_was_appended(servers: NatsServers, node: str) -> None:
    stop = threading.Event()

    def killer() -> None:
        for index in (0, 1, 2):
            if stop.wait(2.0):
                return
            servers.kill(index)
            if stop.wait(6.0):
                return

    killing = threading.Thread(target=killer)
    expected = []
    with stream(servers, node, timeout_s=2.0) as made:
        killing.start()
        number = 0
        while killing.is_alive():
            number += 1
            expected.append((number, b"%d" % number * 100))
            append_until(made, *expected[-1])
        stop.set()
    assert len(expected) > 20
    assert batches(servers, node) == expected


def test_a_server_that_is_killed_while_it_is_read_from(servers: NatsServers, node: str) -> None:
    expected = [(number, b"%d" % number) for number in range(1, 301)]
    with stream(servers, node) as made:
        for number, records in expected:
            append_until(made, number, records)
    with stream(servers, node) as made:
        found = []
        for each in made.read():
            found.append((each.number, each.records))
            if each.number in (70, 140, 210):
                servers.kill(each.number // 70 - 1)
                if each.number == 210:
                    continue
                servers.await_quorum()
    assert found == expected


# -- files and snapshots -----------------------------------------------------------------------------------------------


def retained(number: int, size: int = 1000) -> tuple[Record, ...]:
    topic = f"t/{number}"
    return Message(number, 1, False, 0, None, topic, b"", bytes([number % 251]) * size), Retained(number)


def append(made: ReplicatedStore, *numbers: int) -> None:
    for number in numbers:
        made.append(encode(Clock(1000), *retained(number)), True)


def loaded(made: ReplicatedStore) -> list[int]:
    return [each.message for each in decode(b"".join(made.load())) if isinstance(each, Retained)]


def settle(made: ReplicatedStore) -> None:
    while made.maintain(0.001) or made._copying is not None:
        time.sleep(0.01)


def test_a_host_with_an_empty_disk_has_it_all(tmp_path: Path, servers: NatsServers, node: str) -> None:
    with store(tmp_path / "a.db", servers, node) as made:
        assert loaded(made) == []
        append(made, *range(1, 50))
        settle(made)
    with store(tmp_path / "b.db", servers, node) as made:
        assert loaded(made) == list(range(1, 50))
        append(made, 50)
    # The first host's file follows, too.
    with store(tmp_path / "a.db", servers, node) as made:
        assert loaded(made) == list(range(1, 51))


def test_a_snapshot_takes_the_place_of_batches(tmp_path: Path, servers: NatsServers, node: str) -> None:
    with store(tmp_path / "a.db", servers, node, snapshot_bytes=65_536) as made:
        assert loaded(made) == []
        for first in range(1, 400, 100):
            append(made, *range(first, first + 100))
            settle(made)
        assert made.stat()["snapshots"] >= 2
        assert made.stat()["stream_bytes"] < 200_000
    numbers = [number for number, _ in batches(servers, node)]
    assert 0 < len(numbers) < 200 or not numbers, "older ones are purged"
    with store(tmp_path / "b.db", servers, node) as made:
        assert loaded(made) == list(range(1, 401))
        append(made, 401)
    with store(tmp_path / "c.db", servers, node) as made:
        assert loaded(made) == list(range(1, 402))


def test_a_file_that_is_older_than_the_snapshot_is_replaced(tmp_path: Path, servers: NatsServers, node: str) -> None:
    with store(tmp_path / "a.db", servers, node) as made:
        loaded(made)
        append(made, 1, 2, 3)
    with store(tmp_path / "b.db", servers, node, snapshot_bytes=65_536) as made:
        loaded(made)
        append(made, *range(4, 204))
        settle(made)
    assert number_of(tmp_path / "a.db") == 3
    with store(tmp_path / "a.db", servers, node) as made:
        assert loaded(made) == list(range(1, 204))
    assert len(list(tmp_path.glob("a.db*"))) > 1, "the older one is set aside"


def test_a_damaged_file_is_set_aside_and_made_again(tmp_path: Path, servers: NatsServers, node: str) -> None:
    path = tmp_path / "a.db"
    with store(path, servers, node) as made:
        loaded(made)
        append(made, *range(1, 20))
        settle(made)
    path.write_bytes(b"no database" * 1000)
    with store(path, servers, node) as made:
        assert loaded(made) == list(range(1, 20))
        append(made, 20)
    assert [each for each in tmp_path.iterdir() if each.read_bytes().startswith(b"no database")]


def test_a_store_that_was_a_host_s_alone_is_taken_over(tmp_path: Path, servers: NatsServers, node: str) -> None:
    """As when `store.engine` is changed: the stream knows nothing of what the file has."""
    from fastmq.store.sqlite import SqliteStore

    with closing(SqliteStore(tmp_path / "a.db")) as alone:
        list(alone.load())
        for number in range(1, 20):
            alone.append(encode(Clock(1000), *retained(number)), True)
    with store(tmp_path / "a.db", servers, node) as made:
        assert loaded(made) == list(range(1, 20))
        append(made, 20)
    with store(tmp_path / "b.db", servers, node) as made:
        assert loaded(made) == list(range(1, 21))


def test_a_fenced_store_appends_nothing(tmp_path: Path, servers: NatsServers, node: str) -> None:
    session = encode(Clock(1000), Session(1, "c", 300, 0, 0))
    with store(tmp_path / "a.db", servers, node) as first:
        loaded(first)
        first.append(session, True)
        with store(tmp_path / "b.db", servers, node) as second:
            loaded(second)
            with pytest.raises(Fenced):
                append(first, 1)
            with pytest.raises(Fenced):
                append(first, 1)
            append(second, 2)
    with store(tmp_path / "c.db", servers, node) as third:
        assert loaded(third) == [2]


def test_an_idle_owner_finds_out_that_it_is_fenced(tmp_path: Path, servers: NatsServers, node: str) -> None:
    with store(tmp_path / "a.db", servers, node) as first:
        loaded(first)

        def is_fenced() -> bool:
            try:
                first.maintain(0.001)
            except Fenced:
                return True
            return False

        assert not is_fenced()
        with store(tmp_path / "b.db", servers, node):
            await_condition(is_fenced, PATIENCE_S)


# -- the servers as children -------------------------------------------------------------------------------------------


def test_a_killed_server_is_started_again(servers: NatsServers) -> None:
    before = servers.running[0].pid
    servers.kill(0)
    await_condition(lambda: servers.running[0].pid != before, PATIENCE_S)
    servers.await_quorum()


def test_a_server_ends_with_its_broker(tmp_path: Path, servers: NatsServers) -> None:
    """Even if that has no time to end it."""
    port = free_ports(2)
    program = f"""
import time
from pathlib import Path
from fastmq.config.cluster import ClusterSettings
from fastmq.config.jetstream import JetStreamSettings
from fastmq.store.nats_server import NatsServer
settings = JetStreamSettings(serve=True, listen="127.0.0.1:{port}", cluster_listen="127.0.0.1:{port + 1}")
with NatsServer(settings, ClusterSettings(name="x"), "n", Path({str(tmp_path)!r}), sync=False) as server:
    while not server.pid:
        time.sleep(0.01)
    print(server.pid, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        pid = int(broker.stdout.readline())
        os.kill(pid, 0)
        broker.kill()
        broker.wait()

    def is_gone() -> bool:
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"

    await_condition(is_gone, PATIENCE_S)
