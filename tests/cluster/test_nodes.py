"""A cluster of real processes: what is published anywhere arrives everywhere, and a client has one session."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.brokerdoors import know, listener
from tests.brokerproc import HOST, BrokerProcess, await_condition
from tests.cluster.brokers import is_gone, joined
from tests.cluster.nodes import NAMES, Nodes, nodes
from tests.wireclient import Ack, Client, ConnectionEnded, Disconnect, Publish, encode
from tests.wireclient import properties as p

LASTS = [(p.SESSION_EXPIRY, 300)]
WORKERS = pytest.mark.parametrize("workers", [1, 2])
TAKEN_OVER = 0x8E
NO_SUBSCRIBERS, SERVER_UNAVAILABLE, USE_ANOTHER_SERVER = 0x10, 0x88, 0x9C


def received(client: Client, count: int, timeout_s: float = 10.0) -> list[bytes]:
    """So many payloads; QoS 1 and 2 are acknowledged."""
    found: list[bytes] = []
    while len(found) < count:
        try:
            packet = client.recv(timeout_s)
        except TimeoutError as error:
            error.add_note(f"of {count}, there came {found}")
            raise
        if isinstance(packet, Publish):
            found.append(packet.payload)
            if packet.qos:
                client.send(encode.ack(5, encode.PUBACK if packet.qos == 1 else encode.PUBREC, packet.packet_id))
        elif isinstance(packet, Ack) and packet.kind == "PUBREL":
            client.send(encode.ack(5, encode.PUBCOMP, packet.packet_id))
    return found


def times(broker: BrokerProcess, line: str, count: int) -> bool:
    """Whether something was logged that often."""
    return broker.log_text().count(line) >= count


def subscribed(cluster: Nodes, stack: ExitStack, node: str, name: str, topic_filter: str, qos: int = 2) -> Client:
    client = joined(cluster[node], stack, name)
    assert client.subscribe((topic_filter, qos)).codes == [qos]
    return client


@WORKERS
def test_what_is_published_anywhere_arrives_everywhere(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, workers=workers) as cluster, ExitStack() as stack:
        subscribers = [subscribed(cluster, stack, node, f"s-{node}", "t/#") for node in NAMES]
        publishers = [joined(cluster[node], stack, f"p-{node}") for node in NAMES]
        for number in range(20):
            for qos in (0, 1, 2):
                for node, publisher in zip(NAMES, publishers, strict=True):
                    publisher.publish("t/1", b"%s/%d/%d" % (node.encode(), qos, number), qos=qos)
        for subscriber in subscribers:
            got = received(subscriber, 180)
            for node in NAMES:
                for qos in (0, 1, 2):
                    mine = [each for each in got if each.startswith(b"%s/%d/" % (node.encode(), qos))]
                    assert mine == [b"%s/%d/%d" % (node.encode(), qos, number) for number in range(20)]


@WORKERS
def test_a_group_has_members_at_all_nodes(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, workers=workers, settings={"shared.prefer": "even"}) as cluster, ExitStack() as stack:
        members = [subscribed(cluster, stack, node, f"m-{node}", "$share/g/t/#", 1) for node in NAMES]
        publisher = joined(cluster["alpha"], stack, "p")
        time.sleep(0.2)  # until alpha has heard of all members
        found: Counter[bytes] = Counter()
        lock = threading.Lock()

        def take(member: Client) -> None:
            while True:
                try:
                    (payload,) = received(member, 1, 2.0)
                except (TimeoutError, ConnectionEnded):
                    return
                with lock:
                    found[payload] += 1

        threads = [threading.Thread(target=take, args=(member,)) for member in members]
        for thread in threads:
            thread.start()
        for number in range(90):
            publisher.publish("t/1", b"%d" % number, qos=1)
        for thread in threads:
            thread.join()
        assert found == Counter(b"%d" % number for number in range(90))


@WORKERS
def test_a_node_that_comes_later_has_what_is_retained(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, 2, workers=workers) as cluster, ExitStack() as stack:
        publisher = joined(cluster["alpha"], stack, "p")
        for number in range(200):
            publisher.publish(f"t/{number}", b"%d" % number, qos=1, retain=True)
        publisher.publish("t/7", b"", qos=1, retain=True)
        cluster.start("gamma")
        cluster.await_all()
        wanted = {b"%d" % number for number in range(200) if number != 7}

        def all_there() -> bool:
            with ExitStack() as inner:
                reader = subscribed(cluster, inner, "gamma", "r", "t/#", 1)
                found = set()
                while True:
                    try:
                        found |= set(received(reader, 1, 0.3))
                    except TimeoutError:
                        return found == wanted

        await_condition(all_there, 10, "gamma has what is retained")


@WORKERS
def test_a_session_is_the_same_wherever_its_client_connects(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, workers=workers) as cluster, ExitStack() as stack:
        client = joined(cluster["alpha"], stack, "c", clean=False, props=LASTS)
        client.subscribe(("t/#", 2))
        client.close()
        publisher = joined(cluster["beta"], stack, "p")
        for number in range(5):
            publisher.publish("t/1", b"%d" % number, qos=1 + number % 2)
        for node in ("gamma", "beta", "alpha"):
            client = Client((cluster[node].host, cluster[node].port))
            stack.callback(client.close)
            connack = client.connect("c", clean=False, props=LASTS)
            assert (connack.code, connack.session_present) == (0, True), node
            if node == "gamma":
                assert received(client, 5) == [b"%d" % number for number in range(5)]
            publisher.publish("t/1", b"more", qos=1)
            assert received(client, 1) == [b"more"]
            client.send(encode.disconnect(5))
            client.close()


def test_who_connects_elsewhere_takes_the_session_over(tmp_path: Path) -> None:
    with nodes(tmp_path) as cluster, ExitStack() as stack:
        before = joined(cluster["alpha"], stack, "c", clean=False, props=LASTS)
        for node in ("beta", "gamma", "alpha", "gamma"):
            after = joined(cluster[node], stack, "c", clean=False, props=LASTS)
            assert before.expect(Disconnect).code == TAKEN_OVER
            after.ping()
            before = after


@WORKERS
def test_of_many_that_connect_at_once_one_is_left(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, workers=workers) as cluster, ExitStack() as stack:
        for turn in range(8):
            clients = [Client((cluster[node].host, cluster[node].port)) for node in NAMES for _ in range(3)]
            for client in clients:
                stack.callback(client.close)
            start = threading.Barrier(len(clients))
            name = f"race-{turn}"
            codes: list[int] = []

            def connect(client: Client, name: str, start: threading.Barrier, codes: list[int]) -> None:
                start.wait()
                try:
                    codes.append(client.connect(name, clean=False, props=LASTS).code)
                except (ConnectionEnded, OSError):
                    codes.append(-1)  # taken over before it was told

            threads = [threading.Thread(target=connect, args=(each, name, start, codes)) for each in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert set(codes) <= {0, -1}
            left = [client for client in clients if not is_gone(client)]
            assert len(left) == 1, (turn, len(left))


def test_what_was_acknowledged_outlives_a_node_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    with nodes(tmp_path, settings={"cluster.forget_after_s": 30.0}) as cluster, ExitStack() as stack:
        client = joined(cluster["beta"], stack, "c", clean=False, props=LASTS)
        client.subscribe(("t/#", 1))
        client.close()
        publisher = joined(cluster["alpha"], stack, "p")
        for turn in range(3):
            port = cluster["beta"].port
            publisher.publish("t/1", b"before %d" % turn, qos=1)
            cluster.kill("beta")
            # It is not acknowledged before beta has it.
            publisher.send(encode.publish(5, "t/1", b"while %d" % turn, qos=1, packet_id=9))
            cluster.start("beta", f"tcp://{HOST}:{port}")
            ack = publisher.expect(Ack, 20)
            assert (ack.packet_id, ack.code) == (9, 0)
        client = joined(cluster["gamma"], stack, "c", clean=False, props=LASTS)
        wanted = [b"%s %d" % (when, turn) for turn in range(3) for when in (b"before", b"while")]
        got = received(client, 6)
        assert list(dict.fromkeys(got)) == wanted


def test_nobody_waits_long_for_a_node_that_is_gone(tmp_path: Path) -> None:
    with nodes(tmp_path) as cluster, ExitStack() as stack:
        there = joined(cluster["beta"], stack, "c", clean=False, props=LASTS)
        there.subscribe(("t/#", 1))
        here = subscribed(cluster, stack, "gamma", "s", "t/#", 1)
        publisher = joined(cluster["alpha"], stack, "p")
        cluster.kill("beta")
        began = time.monotonic()
        publisher.send(encode.publish(5, "t/1", b"x", qos=1, packet_id=1))
        assert received(here, 1) == [b"x"]
        assert publisher.expect(Ack, 20).code == 0
        assert time.monotonic() - began < 12
        # Its client begins anew elsewhere, and beta's own session of it ends when it is back.
        again = Client((cluster["gamma"].host, cluster["gamma"].port))
        stack.callback(again.close)
        assert not again.connect("c", clean=False, props=LASTS).session_present
        beta = cluster.start("beta")
        beta.await_log("a session is at another node, too, and ends here client=c", 10)
        again.subscribe(("t/#", 1))
        publisher.publish("t/1", b"y", qos=1)
        assert received(again, 1) == [b"y"]
        taker = joined(beta, stack, "c", clean=False, props=LASTS)
        assert again.expect(Disconnect).code == TAKEN_OVER
        taker.ping()


def test_a_node_that_stands_still_holds_up_nobody_for_long(tmp_path: Path) -> None:
    with nodes(tmp_path) as cluster, ExitStack() as stack:
        subscribed(cluster, stack, "beta", "b", "t/#", 1)
        here = subscribed(cluster, stack, "gamma", "s", "u/#", 1)
        publisher = joined(cluster["alpha"], stack, "p")
        os.kill(cluster["beta"].pid, signal.SIGSTOP)
        try:
            for number in range(50):
                publisher.publish("u/1", b"%d" % number, qos=1)
            assert received(here, 50) == [b"%d" % number for number in range(50)]
            began = time.monotonic()
            joined(cluster["alpha"], stack, "new").ping()  # beta does not say whether it has its session
            assert time.monotonic() - began < 6
            cluster["alpha"].await_log("a node is not there any more node=beta", 15)
        finally:
            os.kill(cluster["beta"].pid, signal.SIGCONT)
        await_condition(lambda: cluster["alpha"].log_text().count("a node is there node=beta") > 1, 20, "beta is back")
        late = subscribed(cluster, stack, "beta", "late", "v/#", 1)
        publisher.publish("v/1", b"back", qos=1)
        assert received(late, 1) == [b"back"]


def test_nodes_that_no_setting_names_to_each_other_find_each_other_again(tmp_path: Path) -> None:
    with nodes(tmp_path, 2) as cluster:
        gamma = cluster.start("gamma", joins=["alpha"])
        cluster.await_all()
        os.kill(gamma.pid, signal.SIGSTOP)
        try:
            for name in ("alpha", "beta"):
                cluster[name].await_log("a node is not there any more node=gamma", 15)
        finally:
            os.kill(gamma.pid, signal.SIGCONT)
        for name in ("alpha", "beta"):
            await_condition(
                partial(times, cluster[name], "a node is there node=gamma", 2), 20, f"gamma is back at {name}"
            )


def test_who_does_not_know_the_secret_stays_out(tmp_path: Path) -> None:
    with nodes(tmp_path, 2, settings={"cluster.secret": "hush"}) as cluster:
        stranger = cluster.start("gamma", **{"cluster.secret": "rush"})
        stranger.await_log("is a node of the cluster name=test node=gamma others=none", 10)
        time.sleep(1)
        assert "node=gamma" not in cluster["alpha"].log_text()
        assert "a node is there" not in stranger.log_text()


def test_other_clusters_are_others(tmp_path: Path) -> None:
    with nodes(tmp_path, 2) as cluster:
        other = cluster.start("gamma", cluster="other")
        other.await_log("is a node of the cluster name=other node=gamma others=none", 10)
        assert "node=gamma" not in cluster["alpha"].log_text()


def test_a_node_keeps_its_name(tmp_path: Path) -> None:
    names = set()
    for _ in range(2):
        cluster = Nodes(tmp_path)
        broker = cluster.start("alpha", **{"cluster.node": ""})
        names.add(broker.await_log(r"is a node of the cluster name=test node=(\S+)")[1])
        cluster.close()
    assert len(names) == 1


@WORKERS
def test_all_nodes_restart_one_after_the_other_and_nothing_is_lost(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, workers=workers, settings={"cluster.forget_after_s": 30.0}) as cluster, ExitStack() as stack:
        clients = {}
        for node in NAMES:
            clients[node] = joined(cluster[node], stack, f"c-{node}", clean=False, props=LASTS)
            clients[node].subscribe(("t/#", 1))
        sent = []
        for turn, node in enumerate(NAMES):
            port = cluster[node].port
            publisher = joined(cluster[NAMES[turn - 1]], stack, f"p{turn}")
            cluster.running.pop(node).stop()
            publisher.send(encode.publish(5, "t/1", b"%d" % turn, qos=1, packet_id=1))
            sent.append(b"%d" % turn)
            cluster.start(node, f"tcp://{HOST}:{port}")
            assert publisher.expect(Ack, 20).code == 0
        for node in NAMES:
            client = joined(cluster[NAMES[0]], stack, f"c-{node}", clean=False, props=LASTS)
            assert sorted(set(received(client, 3))) == sent, node


def test_figures_say_who_is_there(tmp_path: Path) -> None:
    with nodes(tmp_path, 3, settings={"systopics.interval_s": 1}) as cluster, ExitStack() as stack:
        reader = subscribed(cluster, stack, "alpha", "r", "$SYS/broker/cluster/nodes", 0)
        subscribed(cluster, stack, "beta", "s", "t/#", 1)
        waits = subscribed(cluster, stack, "alpha", "w", "$SYS/broker/cluster/backlog/bytes", 0)
        publisher = joined(cluster["alpha"], stack, "p")

        def until(client: Client, wanted: Callable[[int], bool]) -> None:
            while not wanted(int(received(client, 1)[0])):
                pass

        until(reader, lambda count: count == 3)
        cluster.kill("beta")
        publisher.send(encode.publish(5, "t/1", bytes(5000), qos=1, packet_id=1))
        until(reader, lambda count: count == 2)
        until(waits, lambda size: size >= 5000)
        assert publisher.expect(Ack, 20).code == 0
        until(waits, lambda size: size == 0)


@pytest.mark.parametrize("door", ["tls", "ws", "wss"])
def test_clients_of_all_doors_reach_their_sessions(tmp_path: Path, door: str) -> None:
    cluster = Nodes(tmp_path)
    opened = listener(door, tmp_path)
    try:
        for name in NAMES[:2]:
            cluster.start(name, opened)
            know(door, (cluster[name].host, cluster[name].port), tmp_path)
        cluster.await_all()
        with ExitStack() as stack:
            for turn, node in enumerate(("alpha", "beta", "alpha", "beta")):
                client = Client((cluster[node].host, cluster[node].port))
                stack.callback(client.close)
                connack = client.connect("c", clean=False, props=LASTS)
                assert (connack.code, connack.session_present) == (0, turn > 0)
                client.subscribe(("t/#", 1))
                for size in (1, 100_000, 800_000):
                    payload = os.urandom(size)
                    client.publish("t/1", payload, qos=1)
                    assert received(client, 1) == [payload]
                client.send(encode.disconnect(5))
                with pytest.raises(ConnectionEnded):
                    client.recv(5)
    finally:
        cluster.close()


@WORKERS
def test_too_few_nodes_serve_nobody(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, 3, workers=workers, settings={"cluster.quorum": 2}) as cluster, ExitStack() as stack:
        there = joined(cluster["alpha"], stack, "c", clean=False, props=LASTS)
        port = cluster["beta"].port
        cluster.kill("gamma")
        cluster["alpha"].await_log("a node is not there any more node=gamma", 20)
        assert there.publish("t", b"x", qos=1) in (0, NO_SUBSCRIBERS)
        cluster.kill("beta")
        assert there.expect(Disconnect, 20).code == USE_ANOTHER_SERVER
        cluster["alpha"].await_log("too few nodes are in sight; clients are refused nodes=1 quorum=2", 10)
        for clean in (True, False):
            late = Client((cluster["alpha"].host, cluster["alpha"].port))
            stack.callback(late.close)
            assert late.connect("late", clean=clean).code == SERVER_UNAVAILABLE
        cluster.start("beta", f"tcp://{HOST}:{port}")
        cluster["alpha"].await_log("enough nodes are in sight; clients are served nodes=2", 20)
        again = Client((cluster["alpha"].host, cluster["alpha"].port))
        stack.callback(again.close)
        connack = again.connect("c", clean=False, props=LASTS)
        assert (connack.code, connack.session_present) == (0, True)
