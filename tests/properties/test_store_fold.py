"""The compiled readers of records against the plain one, and the net effect of batches against their effect."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq._fold import OP_NAMES, Fold
from fastmq._records import scan
from fastmq.store import records as r
from fastmq.store.memory import Contents
from tests.properties.store_records import BATCHES, RECORDS


@given(st.lists(RECORDS))
def test_what_is_encoded_is_decoded(records: list[r.Record]) -> None:
    assert list(r.decode(r.encode(*records))) == records


@given(st.lists(RECORDS, max_size=5), st.data())
def test_both_readers_take_and_refuse_the_same_bytes(records: list[r.Record], data: st.DataObject) -> None:
    """Records with a byte changed, put in or taken out, or cut off."""
    batch = bytearray(r.encode(*records))
    for _ in range(data.draw(st.integers(0, 2))):
        at, byte = data.draw(st.integers(0, len(batch))), data.draw(st.integers(0, 255))
        batch[at : at + data.draw(st.integers(0, 2))] = bytes([byte]) * data.draw(st.integers(0, 2))
    refused = False
    try:
        refused = any(isinstance(record, r.Stub) for record in r.decode(bytes(batch)))
    except ValueError:
        refused = True
    if refused:
        with pytest.raises(ValueError, match="offset"):
            scan(bytes(batch))
        with pytest.raises(ValueError, match="offset"):
            Fold([bytes(batch)], 0)
    else:
        scan(bytes(batch))
        assert Fold([bytes(batch)], 0).records == len(list(r.decode(bytes(batch))))


class Tables:
    """The tables of a store as dicts, to which pieces of a Fold are applied."""

    def __init__(self) -> None:
        self.contents = Contents()
        self.top = 0

    def apply(self, fold: Fold, pieces: int) -> bool:
        """So many pieces; True when that was all."""
        for _ in range(pieces):
            chunk = fold.chunk()
            if chunk is None:
                return True
            op, rows, values = chunk
            width = len(values) // rows
            for at in range(0, len(values), width):
                getattr(self, OP_NAMES[op])(*values[at : at + width])
        return False

    def ended(self, serial: int) -> None:
        self.contents.apply(r.Ended(serial))

    def group_gone(self, serial: int) -> None:
        self.contents.apply(r.GroupGone(serial))

    def forget(self, lo: int, hi: int) -> None:
        for id in range(lo, hi + 1):
            self.contents.apply(r.Forget(id))

    def message(self, id: int, expires_ms: int, size: int, record: bytes) -> None:
        (message,) = r.decode(record)
        assert isinstance(message, r.Message)
        assert (id, expires_ms) == (message.id, message.expires_ms or 0)
        assert size == len(message.topic.encode()) + len(message.properties) + len(message.payload)
        self.contents.apply(message)

    def unretained(self, message: int) -> None:
        self.contents.apply(r.Unretained(message))

    def retained(self, message: int) -> None:
        self.contents.apply(r.Retained(message))

    def done(self, subscriber: int, lo: int, hi: int) -> None:
        for position in range(lo, hi + 1):
            self.contents.apply(r.Done(subscriber, position))

    def state(self, subscriber: int, position: int, state: int, packet_id: int) -> None:
        self.contents.apply(r.State(subscriber, position, state >> 3, packet_id))

    def delivery(self, subscriber: int, position: int, message: int, flags: int, packet_id: int, ids: Any) -> None:
        plain = r.Delivery(subscriber, position, message, flags & 3, bool(flags & 4), flags >> 3, packet_id)
        reader = r.Reader(ids or b"")
        numbers = []
        while reader.at < len(reader.data):
            numbers.append(reader.uv())
        self.contents.apply(replace(plain, subscription_ids=tuple(numbers)))

    def released(self, session: int, packet_id: int) -> None:
        self.contents.apply(r.Released(session, packet_id))

    def received(self, session: int, packet_id: int) -> None:
        self.contents.apply(r.Received(session, packet_id))

    def session(self, *values: Any) -> None:
        self.contents.apply(r.Session(*values))

    def unsubscribed(self, session: int, filter: str) -> None:
        self.contents.apply(r.Unsubscribed(session, filter))

    def subscribed(self, session: int, filter: str, options: int, id: int) -> None:
        self.contents.apply(r.Subscribed(session, options, id, filter))

    def will_gone(self, session: int) -> None:
        self.contents.apply(r.WillGone(session))

    def will(self, *values: Any) -> None:
        self.contents.apply(r.Will(*values))

    def group(self, serial: int, text: str) -> None:
        self.contents.apply(r.Group(serial, text))


def plain(contents: Contents) -> dict[str, Any]:
    """All there is, without what an empty dict may or may not say."""
    parts = {field.name: getattr(contents, field.name) for field in fields(Contents) if field.name != "last"}
    return {
        name: {key: value for key, value in part.items() if value not in ({}, set())}
        if isinstance(part, dict)
        else part
        for name, part in parts.items()
    }


@given(st.lists(BATCHES, min_size=1, max_size=6), st.data())
def test_the_net_effect_is_the_effect(batches: list[list[r.Record]], data: st.DataObject) -> None:
    """In groups of any size, each cut off by a crash after any number of pieces and then folded again, with more."""
    expected, tables = Contents(), Tables()
    waiting: list[bytes] = []
    for batch in batches:
        for record in batch:
            expected.apply(record)
        waiting.append(r.encode(*batch))
        if data.draw(st.booleans()):
            fold = Fold(waiting, tables.top)
            tables.top = fold.top
            if tables.apply(fold, data.draw(st.sampled_from((1, 3, 1000)))):
                waiting.clear()
    assert tables.apply(Fold(waiting, tables.top), 10**6)
    assert plain(tables.contents) == plain(expected)


@given(BATCHES, st.integers(0, 3))
def test_folding_again_changes_nothing(batch: list[r.Record], pieces: int) -> None:
    once, twice = Tables(), Tables()
    once.apply(Fold([r.encode(*batch)], 0), 10**6)
    first = Fold([r.encode(*batch)], 0)
    twice.apply(first, pieces)
    twice.apply(Fold([r.encode(*batch)], first.top), 10**6)
    assert plain(once.contents) == plain(twice.contents)


def test_what_comes_and_goes_leaves_nothing() -> None:
    ids = range(1, 1001)
    batch = r.encode(
        r.Clock(77),
        *(r.Message(id, 1, False, 0, None, "a", b"", b"x") for id in ids),
        *(r.Delivery(id % 7, id, id, 1, False, 1, 9) for id in ids),
        *(r.Done(id % 7, id) for id in ids),
        *(r.Forget(id) for id in ids),
    )
    fold = Fold([batch], 0)
    assert fold.chunk() is None
    assert (fold.top, fold.records, fold.clock_ms) == (1000, 4001, 77)


def test_a_drained_queue_is_removed_by_ranges() -> None:
    ids = range(1, 100_001)
    fold = Fold([r.encode(*(r.Done(1, id) for id in reversed(ids)), *(r.Forget(id) for id in ids))], 10**6)
    covered: dict[str, int] = {}
    pieces = 0
    while chunk := fold.chunk():
        op, rows, values = chunk
        width, pieces = len(values) // rows, pieces + 1
        for at in range(0, len(values), width):
            *_, low, high = values[at : at + width]
            assert isinstance(low, int)
            assert isinstance(high, int)
            assert high - low < 256
            covered[OP_NAMES[op]] = covered.get(OP_NAMES[op], 0) + high - low + 1
    assert covered == {"forget": 100_000, "done": 100_000}
    assert pieces < 300
