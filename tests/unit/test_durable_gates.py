"""What is promised leaves when it is committed, and nothing else waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fastmq.store import records as r
from fastmq.store.memory import Contents
from tests.inprocess import Engine, Wire
from tests.unit.durable import LASTING, kinds, lasting, present, subscribed
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Connack, Pingresp, Publish, Suback, Unsuback


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(store=Contents(), rules=[("volatile/#", "none")]) as made:
        yield made


def publish(engine: Engine, version: int = 5) -> tuple[Wire, bytes, str]:
    subscribed(engine)
    return engine.client("p", version), encode.publish(version, "t", b"m", qos=1, packet_id=1), "PUBACK"


def publish_twice(engine: Engine) -> tuple[Wire, bytes, str]:
    subscribed(engine)
    return engine.client("p"), encode.publish(5, "t", b"m", qos=2, packet_id=1), "PUBREC"


def publish_twice_from_a_session(engine: Engine) -> tuple[Wire, bytes, str]:
    """Nobody hears it, but its packet id is remembered."""
    return lasting(engine), encode.publish(5, "volatile/t", b"m", qos=2, packet_id=1), "PUBREC"


def repeat(engine: Engine) -> tuple[Wire, bytes, str]:
    wire = lasting(engine)
    wire.publish("t", b"m", qos=2, packet_id=1)
    wire.close()
    engine.settle()
    assert engine.batch is not None
    wire = engine.wire()
    connect = encode.connect(5, client_id="s", clean=False, props=LASTING)
    return wire, connect + encode.publish(5, "t", b"m", qos=2, packet_id=1, dup=True), "CONNACK PUBREC"


def release(engine: Engine) -> tuple[Wire, bytes, str]:
    wire = lasting(engine)
    wire.publish("volatile/t", b"m", qos=2, packet_id=1)
    engine.commit_all()
    wire.skip()
    return wire, encode.ack(5, encode.PUBREL, 1), "PUBCOMP"


def receive(engine: Engine) -> tuple[Wire, bytes, str]:
    wire = subscribed(engine)
    engine.hub.publish(encode.publish(5, "t", b"m", qos=2, packet_id=1))
    engine.commit_all()
    (message,) = wire.read()
    assert isinstance(message, Publish)
    return wire, encode.ack(5, encode.PUBREC, message.packet_id), "PUBREL"


def subscribe(engine: Engine) -> tuple[Wire, bytes, str]:
    return lasting(engine), encode.subscribe(5, 1, [("a", 1), ("$share/g/b", 1), ("c/#/d", 0)]), "SUBACK"


def subscribe_to_nothing(engine: Engine) -> tuple[Wire, bytes, str]:
    return lasting(engine), encode.subscribe(5, 1, [("c/#/d", 0)]), "SUBACK"


def unsubscribe(engine: Engine) -> tuple[Wire, bytes, str]:
    return subscribed(engine), encode.unsubscribe(5, 1, ["t"]), "UNSUBACK"


def unsubscribe_from_nothing(engine: Engine) -> tuple[Wire, bytes, str]:
    return subscribed(engine), encode.unsubscribe(5, 1, ["other"]), "UNSUBACK"


def begin(engine: Engine) -> tuple[Wire, bytes, str]:
    return engine.wire(), encode.connect(5, client_id="s", clean=False, props=LASTING), "CONNACK"


def begin_of_mqtt_3(engine: Engine) -> tuple[Wire, bytes, str]:
    return engine.wire(4), encode.connect(4, client_id="s", clean=False), "CONNACK"


def resume(engine: Engine) -> tuple[Wire, bytes, str]:
    lasting(engine).close()
    engine.commit_all()
    return begin(engine)


def clean_start(engine: Engine) -> tuple[Wire, bytes, str]:
    """Session Present 0 says that the old session is gone for good."""
    lasting(engine).close()
    engine.commit_all()
    return engine.wire(), encode.connect(5, client_id="s"), "CONNACK"


def clean_start_of_nothing_new(engine: Engine) -> tuple[Wire, bytes, str]:
    lasting(engine).close()
    engine.commit_all()
    return engine.wire(4), encode.connect(4, client_id="s"), "CONNACK"


def retain(engine: Engine) -> tuple[Wire, bytes, str]:
    return engine.client("p"), encode.publish(5, "nobody", b"m", qos=1, retain=True, packet_id=1), "PUBACK"


def clear(engine: Engine) -> tuple[Wire, bytes, str]:
    engine.hub.publish(encode.publish(5, "nobody", b"m", retain=True))
    engine.commit_all()
    return engine.client("p"), encode.publish(5, "nobody", b"", qos=1, retain=True, packet_id=1), "PUBACK"


def to_a_group(engine: Engine) -> tuple[Wire, bytes, str]:
    subscribed(engine, "s", "$share/g/t")
    return engine.client("p"), encode.publish(5, "t", b"m", qos=1, packet_id=1), "PUBACK"


def to_one_who_is_away(engine: Engine) -> tuple[Wire, bytes, str]:
    subscribed(engine).close()
    return engine.client("p"), encode.publish(5, "t", b"m", qos=1, packet_id=1), "PUBACK"


GATED: list[Callable[[Engine], tuple[Wire, bytes, str]]] = [
    publish, lambda engine: publish(engine, 4), publish_twice, publish_twice_from_a_session, repeat, release, receive,
    subscribe, subscribe_to_nothing, unsubscribe, unsubscribe_from_nothing, begin, begin_of_mqtt_3, resume, clean_start,
    clean_start_of_nothing_new, retain, clear, to_a_group, to_one_who_is_away,
]  # fmt: skip


@pytest.mark.parametrize("case", GATED)
def test_a_promise_leaves_when_it_is_committed(
    engine: Engine, case: Callable[[Engine], tuple[Wire, bytes, str]]
) -> None:
    wire, packet, expected = case(engine)
    wire.skip()
    wire.send(packet)
    engine.settle()
    assert wire.read() == []
    while engine.batch is not None:
        assert wire.read() == []
        engine.commit()
    assert kinds(wire.read()) == expected.split()
    assert engine.hub.is_settled


@pytest.mark.parametrize(
    ("options", "topic", "qos", "expected"),
    [(0, "t", 0, ""), (2, "t", 0, ""), (0, "t", 1, "PUBACK"), (0, "t", 2, "PUBREC"), (2, "volatile/x", 1, "PUBACK"),
     (2, "volatile/x", 2, "PUBREC"), (2, "nobody", 1, "PUBACK"), (2, "nobody", 2, "PUBREC")],
)  # fmt: skip
def test_what_nobody_durable_is_to_get_is_acknowledged_at_once(
    engine: Engine, options: int, topic: str, qos: int, expected: str
) -> None:
    """QoS 0 to a subscription, topics that are not kept, topics that nobody hears, and who leaves nothing behind."""
    wire = lasting(engine) if options else engine.client("s")
    wire.subscribe("#", options)
    if topic == "nobody":
        wire.exchange(encode.unsubscribe(5, 2, ["#"]))
    engine.commit_all()
    wire.skip()
    publisher = engine.client("p")
    assert kinds(publisher.publish(topic, b"m", qos=qos, packet_id=1 if qos else None)) == expected.split()
    assert len(wire.read()) == (topic != "nobody")
    assert engine.batch is None


def test_a_session_that_ends_with_its_connection_waits_for_nothing(engine: Engine) -> None:
    subscribed(engine)  # somebody durable is there
    wire = engine.client("q", clean=True)
    assert kinds(wire.subscribe("q", 2)) == ["SUBACK"]
    assert kinds(wire.publish("q", b"m", qos=2, packet_id=7)) == ["PUBLISH", "PUBREC"]
    assert kinds(wire.exchange(encode.ack(5, encode.PUBREC, 1))) == ["PUBREL"]
    assert kinds(wire.exchange(encode.ack(5, encode.PUBREL, 7) + encode.ack(5, encode.PUBCOMP, 1))) == ["PUBCOMP"]
    assert kinds(wire.exchange(encode.unsubscribe(5, 1, ["q"]))) == ["UNSUBACK"]
    assert engine.batch is None
    assert engine.commit_all() == []


def test_what_the_broker_says_of_itself_is_not_kept(engine: Engine) -> None:
    wire = subscribed(engine, "s", "$SYS/#")
    engine.hub.publish(encode.publish(5, "$SYS/broker/uptime", b"1", qos=2, retain=True, packet_id=1))
    engine.settle()
    assert kinds(wire.read()) == ["PUBLISH"]
    assert engine.commit_all() == []


def test_qos_1_goes_out_before_it_is_stored_and_qos_2_after(engine: Engine) -> None:
    """A QoS 2 message must have the same packet id after a crash."""
    once, twice = subscribed(engine, "once", "t", 1), subscribed(engine, "twice", "t", 2)
    engine.client("p").publish("t", b"m", qos=2, packet_id=1)
    assert kinds(once.read()) == ["PUBLISH"]
    assert twice.read() == []
    engine.commit()
    assert kinds(twice.read()) == ["PUBLISH"]


def test_nothing_overtakes_a_promise_on_its_connection(engine: Engine) -> None:
    subscribed(engine)
    wire = engine.client("p")
    packets = [
        encode.publish(5, "t", b"1", qos=1, packet_id=1),
        encode.publish(5, "volatile/t", b"2", qos=1, packet_id=2),
        encode.PINGREQ,
        encode.subscribe(5, 3, [("x", 0)]),
        encode.publish(5, "x", bytes(5000)),
        encode.publish(5, "t", b"4", qos=2, packet_id=4),
    ]
    for packet in packets:
        assert wire.exchange(packet) == []
    engine.commit()  # what came in the first turn
    first = wire.read()
    assert kinds(first) == ["PUBACK", "PUBACK", "PINGRESP", "SUBACK", "PUBLISH"]
    assert [packet.packet_id for packet in first[:2] if isinstance(packet, Ack)] == [1, 2]
    engine.commit()
    assert kinds(wire.read()) == ["PUBREC"]


def test_one_who_waits_holds_nobody_else(engine: Engine) -> None:
    subscribed(engine)
    waiting, other = engine.client("p"), engine.client("q")
    assert waiting.publish("t", b"m", qos=1, packet_id=1) == []
    assert kinds(other.publish("elsewhere", b"m", qos=1, packet_id=1)) == ["PUBACK"]
    assert other.exchange(encode.PINGREQ) == [Pingresp()]
    assert waiting.read() == []


def test_all_that_happens_during_a_commit_shares_the_next(engine: Engine) -> None:
    subscribed(engine)
    wires = [engine.client(f"p{i}") for i in range(5)]
    for i, wire in enumerate(wires):
        wire.publish("t", b"%d" % i, qos=1, packet_id=1)
    assert [kinds(wire.read()) for wire in wires] == [[]] * 5
    first = engine.commit()
    assert sum(isinstance(record, r.Message) for record in first) == 1
    assert [kinds(wire.read()) for wire in wires] == [["PUBACK"], [], [], [], []]
    second = engine.commit()
    assert sum(isinstance(record, r.Message) for record in second) == 4
    assert [kinds(wire.read()) for wire in wires] == [[], *[["PUBACK"]] * 4]
    assert engine.batch is None


def test_one_turn_is_one_batch(engine: Engine) -> None:
    subscribed(engine)
    wire = engine.client("p")
    wire.send(b"".join(encode.publish(5, "t", b"m", qos=1, packet_id=i) for i in range(1, 101)))
    engine.settle()
    assert sum(isinstance(record, r.Message) for record in engine.commit()) == 100
    assert len(wire.read()) == 100


def test_what_clients_acknowledge_leaves_with_the_next_batch_or_the_tick(engine: Engine) -> None:
    wire = subscribed(engine)
    engine.client("p").publish("t", b"m", qos=1, packet_id=1)
    engine.commit()
    (message,) = wire.read()
    assert isinstance(message, Publish)
    wire.exchange(encode.ack(5, encode.PUBACK, message.packet_id))
    assert engine.batch is None
    assert [type(record) for record in engine.commit_all()] == [r.Clock, r.Done, r.Forget]
    assert not engine.laws.leaked()


@pytest.mark.parametrize("how", ["takeover", "reset", "shut", "disconnect"])
def test_a_connection_may_end_while_it_waits(engine: Engine, how: str) -> None:
    subscribed(engine)
    wire = lasting(engine, "p")
    assert wire.publish("t", b"m", qos=2, packet_id=1) == []
    if how == "takeover":
        begin(engine)
        again = engine.wire()
        again.send(encode.connect(5, client_id="p", clean=False, props=LASTING))
    elif how == "reset":
        wire.reset()
    elif how == "shut":
        wire.shut()
    else:
        wire.send(encode.disconnect(5))
    engine.settle()
    if how != "reset":
        assert wire.read() == []
    engine.commit_all()
    if how != "reset":  # last words wait as well, but they leave
        assert kinds(wire.read())[0] == "PUBREC"
        assert wire.ended
    back = again if how == "takeover" else lasting(engine, "p")
    assert back.connack is None or back.connack.session_present
    back.skip()
    assert kinds(back.publish("t", b"m", qos=2, packet_id=1, dup=True)) == ["PUBREC"]


def test_last_words_wait_for_a_commit_only_so_long(engine: Engine) -> None:
    subscribed(engine)
    wire = engine.client("p")
    wire.publish("t", b"m", qos=1, packet_id=1)
    wire.shut()
    engine.settle()
    assert engine.hub.stats()["connections"] == 2
    engine.advance(5)
    engine.settle()
    assert engine.hub.stats()["connections"] == 1
    engine.commit_all()


def test_that_a_session_is_gone_stays_true_though_it_ended_on_another_connection(engine: Engine) -> None:
    """The second CONNECT changes nothing that is stored, but says Session Present 0."""
    subscribed(engine).close()
    engine.commit_all()
    engine.client("p").publish("r", b"m", qos=1, retain=True, packet_id=1)  # a commit is on its way
    first, second = engine.wire(4), engine.wire(4)
    first.send(encode.connect(4, client_id="s"))
    engine.settle()
    first.close()
    engine.settle()
    second.send(encode.connect(4, client_id="s"))
    engine.settle()
    assert second.read() == []
    engine.commit_all()
    assert second.read() == [Connack([], False, 0)]


def test_disconnect_may_change_how_long_the_session_lasts(engine: Engine) -> None:
    wire = lasting(engine)
    wire.send(encode.disconnect(5, 0, [(p.SESSION_EXPIRY, 50)]))
    engine.settle()
    (session,) = [record for record in engine.commit_all() if isinstance(record, r.Session)]
    assert session.expiry_s == 50
    assert 49_000 < session.expires_ms - engine.hub.now_ms <= 50_000


def test_disconnect_may_end_the_session(engine: Engine) -> None:
    wire = subscribed(engine)
    wire.send(encode.disconnect(5, 0, [(p.SESSION_EXPIRY, 0)]))
    engine.settle()
    assert [type(record) for record in engine.commit_all()] == [r.Clock, r.Ended]
    with engine.crash() as again:
        assert again.hub.stats()["sessions"] == 0


def test_a_session_that_is_to_end_with_its_connection_is_not_kept_any_more(engine: Engine) -> None:
    wire = subscribed(engine)
    engine.hub.publish(encode.publish(5, "t", b"flying", qos=1, packet_id=1))
    engine.commit_all()
    wire.close()
    engine.settle()
    engine.hub.publish(encode.publish(5, "t", b"queued", qos=1, packet_id=1))
    engine.commit_all()
    wire = engine.client("s", clean=False, props=[(p.SESSION_EXPIRY, 0)])
    assert present(wire)
    assert engine.store.stat()["sessions"] == 0
    assert [message.payload for message in wire.drain()] == [b"flying", b"queued"]
    assert kinds(wire.subscribe("u", 1)) == ["SUBACK"]
    wire.close()
    engine.settle()
    engine.commit_all()
    assert not engine.laws.leaked()
    with engine.crash() as again:
        assert again.hub.stats()["sessions"] == 0


@pytest.mark.parametrize("packet", [Connack, Suback, Unsuback])
def test_no_record_is_written_while_nothing_is_kept(packet: type) -> None:
    with Engine(store=Contents(), durability="none") as engine:
        wire = lasting(engine)
        found = [wire.connack, *wire.subscribe("t", 2), *wire.exchange(encode.unsubscribe(5, 1, ["t"]))]
        assert packet in [type(each) for each in found]
        assert engine.hub.stats()["journal_records"] == 0
