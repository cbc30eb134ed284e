"""A member of shared groups moves; so does what waits for it alone, or is in flight to it."""

from __future__ import annotations

import pytest

from tests.properties.workers import Workers
from tests.unit.durable import lasting, messages, nothing_left, payloads, told
from tests.unit.moved import back, each_kind, exported, gone, move, pair
from tests.wireclient import encode
from tests.wireclient import properties as p


@each_kind
def test_a_member_of_a_group_stays_one(kept: bool) -> None:
    with pair(kept) as (old, new):
        wire = lasting(old)
        wire.subscribe("$share/g/t", 1, [(p.SUBSCRIPTION_ID, 3)])
        told(old, b"in flight")
        assert [(each.packet_id, each.payload) for each in messages(wire.read_on())] == [(1, b"in flight")]
        other = lasting(new, "other")
        other.subscribe("$share/g/t", 1)
        gone(old, wire)
        move(old, new)
        assert new.hub.stats()["shared_subscriptions"] == 2
        assert old.hub.stats()["shared_subscriptions"] == 0
        wire = back(new)
        (message,) = messages(wire.read_on())
        assert (message.payload, message.dup, message.packet_id) == (b"in flight", True, 1)
        assert message.values(p.SUBSCRIPTION_ID) == [3]
        for i in range(4):
            told(new, b"%d" % i)
        wire.send(encode.ack(5, encode.PUBACK, 1))
        assert len(wire.drain()) == len(other.drain()) == 2


@each_kind
def test_what_a_member_had_in_flight_goes_to_others_there_and_not_here(kept: bool) -> None:
    with pair(kept) as (old, new):
        wire = lasting(old)
        wire.subscribe("$share/g/t", 2)
        told(old, b"one")
        told(old, b"two", qos=2)
        assert payloads(wire.read_on()) == [b"one", b"two"]
        gone(old, wire)
        stays = lasting(old, "stays")
        stays.subscribe("$share/g/t", 2)
        goes_on = lasting(new, "goes on")
        goes_on.subscribe("$share/g/t", 2)
        move(old, new)
        assert stays.drain() == []
        new.client("s", clean=True)  # its session ends [MQTT-4.8.2-5]
        assert payloads(goes_on.drain()) == [b"one"]
        if kept:
            assert nothing_left(old)


@each_kind
@pytest.mark.parametrize("others", [False, True])
def test_what_waits_for_its_only_member_goes_with_it(kept: bool, others: bool) -> None:
    """In front of what waits there; if others are members here, it is theirs."""
    with pair(kept) as (old, new):
        wire = lasting(old)
        wire.subscribe("$share/g/t", 2, [(p.SUBSCRIPTION_ID, 3)])
        if others:
            stays = lasting(old, "stays")
            stays.subscribe("$share/g/t", 1)
            gone(old, stays)
        gone(old, wire)
        told(old, b"1", qos=2)
        told(old, b"2", qos=1, expiry=10)
        told(old, b"3", qos=1)
        old.catch_up()
        old.advance(20)
        if kept:
            old = old.crash()
        waits = lasting(new, "waits")
        waits.subscribe("$share/g/t", 2)
        gone(new, waits)
        told(new, b"4")
        move(old, new)
        if kept:
            new = new.crash()
        wire = back(new)
        assert payloads(wire.drain()) == ([b"4"] if others else [b"1", b"3", b"4"])
        assert payloads(lasting(old, "stays").drain()) == ([b"1", b"3"] if others else [])
        if kept:
            assert nothing_left(old)
            assert nothing_left(new)


@pytest.mark.parametrize("text", ["t", "t/#", "$share/g/t"])
def test_the_other_workers_of_its_new_place_hear_of_its_subscriptions(text: str) -> None:
    for home in (0, 1):
        with Workers(2) as old, Workers(2) as new:
            wire = lasting(old[home])
            wire.subscribe(text, 1)
            old.settle()
            wire.close()
            old.settle()
            told(old[home], b"1")
            old.settle()
            state = exported(old[home])
            assert new[home].hub.moving.adopt(b"s", state)
            assert old[home].hub.moving.drop(b"s")
            old.settle()
            new.settle()
            for worker in (0, 1):
                told(new[worker], b"of %d" % worker)
                new.settle()
                assert old[worker].hub.publish(encode.publish(5, "t", b"m")) == 0
            wire = back(new[home])
            new.settle()
            found = []
            while packets := messages(wire.read()):
                found += payloads(packets)
                wire.send(b"".join(encode.ack(5, encode.PUBACK, each.packet_id) for each in packets))
                new.settle()
            expected = [b"1", b"of 0", b"of 1"]
            if text.startswith("$") and new.home(text) != home:
                del expected[0]  # what waits in a group that is at home at another worker does not move
            assert found == expected
