"""A session that moves is as old as it was: its expiry, its will; and who is connected does not move."""

from __future__ import annotations

import pytest

from tests.inprocess import Engine, Wire
from tests.unit.durable import lasting, nothing_left, payloads, told
from tests.unit.moved import back, each_kind, exported, gone, in_every_state, move, pair
from tests.wireclient import encode
from tests.wireclient import properties as p


@each_kind
@pytest.mark.parametrize(
    ("before", "after", "there"), [(60, 35, True), (60, 45, False), (0, 95, True), (0, 105, False)]
)
def test_it_expires_when_it_would_have(kept: bool, before: int, after: int, there: bool) -> None:
    with pair(kept) as (old, new):
        gone(old, lasting(old, expiry=100))
        old.advance(before)
        move(old, new)
        new.advance(after)
        assert (b"s" in new.hub.moving.sessions()) is there
        assert new.hub.stats()["sessions_expired"] == (not there)
        if kept:
            new.commit_all()
            assert (new.crash().hub.moving.sessions() == [b"s"]) is there


def test_one_that_never_expires_stays() -> None:
    with pair(True) as (old, new):
        gone(old, lasting(old, expiry=0xFFFF_FFFF))
        move(old, new)
        most = 604_800  # of the new place
        new.advance(most - 5)
        assert new.hub.moving.sessions() == [b"s"]
        new.advance(10)
        assert new.hub.moving.sessions() == []


def with_will(engine: Engine, delay: int, retain: bool = False) -> Wire:
    will = encode.Will("w", b"will", 1, retain, [(p.WILL_DELAY, delay), (p.MESSAGE_EXPIRY, 30)])
    return engine.client("s", clean=False, props=[(p.SESSION_EXPIRY, 1000)], will=will)


@each_kind
@pytest.mark.parametrize("crashes", [False, True])
def test_a_delayed_will_comes_at_the_new_place_at_its_time(kept: bool, crashes: bool) -> None:
    with pair(kept) as (old, new):
        hears_old, hears_new = lasting(old, "hears"), lasting(new, "hears")
        for hears in (hears_old, hears_new):
            hears.subscribe("w", 1)
        gone(old, with_will(old, 100))
        old.advance(60)
        move(old, new)
        new.advance(35)
        if kept and crashes:
            new.commit_all()
            new = new.crash()
            hears_new = back(new, "hears")
        assert hears_new.drain() == []
        new.advance(10)
        (message,) = hears_new.drain()
        assert (message.payload, message.value(p.MESSAGE_EXPIRY)) == (b"will", 30)
        old.advance(1000)
        assert hears_old.drain() == []
        assert new.hub.moving.sessions() != []


@each_kind
def test_who_comes_back_in_time_has_no_will(kept: bool) -> None:
    with pair(kept) as (old, new):
        hears = lasting(new, "hears")
        hears.subscribe("w", 1)
        gone(old, with_will(old, 100))
        move(old, new)
        back(new)
        new.advance(200)
        assert hears.drain() == []


@each_kind
def test_the_will_of_who_is_connected_stays_with_the_connection(kept: bool) -> None:
    with pair(kept) as (old, new):
        hears_old, hears_new = lasting(old, "hears"), lasting(new, "hears")
        for hears in (hears_old, hears_new):
            hears.subscribe("w", 1)
        wire = with_will(old, 0)
        assert not old.hub.moving.drop(b"s")
        assert new.hub.moving.adopt(b"s", exported(old))
        gone(old, wire)
        assert old.hub.moving.drop(b"s")
        new.advance(500)
        assert (payloads(hears_old.drain()), hears_new.drain()) == ([b"will"], [])


@each_kind
def test_who_is_connected_is_neither_adopted_nor_dropped(kept: bool) -> None:
    with pair(kept) as (old, new):
        in_every_state(old)
        state = exported(old)
        wire = lasting(new)
        assert not new.hub.moving.adopt(b"s", state)
        wire.subscribe("t", 1)
        told(new, b"in flight here")
        assert payloads(wire.read_on()) == [b"in flight here"]
        gone(new, wire)
        assert not new.hub.moving.adopt(b"s", state)  # both have something in flight
        old_wire = back(old)
        assert not old.hub.moving.drop(b"s")
        assert old_wire.drain() != []


@each_kind
def test_what_ends_with_its_connection_ends_there_too(kept: bool) -> None:
    with pair(kept) as (old, new):
        wire = old.client("s", clean=True)
        wire.subscribe("t", 1)
        told(old, b"m")
        assert payloads(wire.read_on()) == [b"m"]
        state = exported(old)
        gone(old, wire)
        assert old.hub.moving.export(b"s") is None
        assert new.hub.moving.adopt(b"s", state)
        wire = lasting(new)
        assert wire.connack is not None
        assert not wire.connack.session_present
        if kept:
            assert nothing_left(new)
