"""The judge is judged: whatever a broker may not do is seen, and what it may do is not held against it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastmq.testing.crash_books import LARGE, Books, Reader, Stream, number_of, payload_of


class Story:
    """One publisher's stream and one subscriber, told event by event."""

    def __init__(self, qos: int = 1, reader_qos: int = 2, *, is_group: bool = False) -> None:
        self.books = Books()
        self.stream = self.books.stream("s", "crash/t/s", qos)
        self.reader = self.books.reader("r", reader_qos, is_group=is_group)

    def subscribed(self) -> Story:
        self.books.subscribing(self.reader)
        self.books.subscribed(self.reader)
        return self

    def asked(self) -> Story:
        self.books.subscribing(self.reader)
        return self

    def unsubscribed(self) -> Story:
        self.books.unsubscribing(self.reader)
        self.books.unsubscribed(self.reader)
        return self

    def sent(self, count: int = 1) -> Story:
        for _ in range(count):
            self.books.sent(self.stream)
        return self

    def acknowledged(self, *numbers: int, is_finished: bool = True) -> Story:
        for number in numbers:
            self.books.acknowledged(self.stream, number, is_finished=is_finished)
        return self

    def published(self, count: int = 1) -> Story:
        first = self.stream.last + 1
        return self.sent(count).acknowledged(*range(first, first + count))

    def arrived(self, *numbers: int) -> Story:
        for number in numbers:
            self.books.arrived(self.reader, self.stream.topic, payload_of("s", number))
        return self

    def crashed(self) -> Story:
        self.books.crashed()
        return self

    def found(self) -> dict[str, int]:
        self.books.check()
        return {kind: count for kind, count in self.books.violations.items() if count}


@pytest.mark.parametrize(
    ("story", "found"),
    [
        # what must arrive
        (lambda: Story().subscribed().published(3).arrived(1, 2, 3), {}),
        (lambda: Story().subscribed().published(3).arrived(1, 3), {"lost": 1}),
        (lambda: Story().subscribed().published(3).arrived(1, 2), {"lost": 1}),
        (lambda: Story().subscribed().published(3), {"lost": 3}),
        (lambda: Story(qos=2).subscribed().published(2).arrived(2), {"lost": 1}),
        (lambda: Story(qos=2).subscribed().sent().acknowledged(1, is_finished=False), {"lost": 1}),
        (lambda: Story(is_group=True).subscribed().published(2).arrived(2), {"lost": 1}),
        # what nobody promised
        (lambda: Story().subscribed().sent(3).arrived(1), {}),
        (lambda: Story().published(3).subscribed().published(1).arrived(4), {}),
        (lambda: Story().published(1).subscribed().arrived(1), {}),
        (lambda: Story().subscribed().published(3).unsubscribed(), {}),
        # how often
        (lambda: Story(qos=1).subscribed().published(2).arrived(1, 2, 1, 2), {}),
        (lambda: Story(qos=2).subscribed().published(2).arrived(1, 2, 1), {"repeated": 1}),
        (lambda: Story(qos=2).subscribed().sent(1).arrived(1, 1, 1), {"repeated": 2}),
        (lambda: Story(qos=2, reader_qos=1).subscribed().published(1).arrived(1, 1), {}),
        # order: that of the first arrivals
        (lambda: Story().subscribed().published(3).arrived(1, 3, 2), {"reordered": 1}),
        (lambda: Story().subscribed().published(3).arrived(3, 2, 1), {"reordered": 2}),
        (lambda: Story().subscribed().published(3).arrived(1, 2, 1, 3), {}),
        (lambda: Story(is_group=True).subscribed().published(2).arrived(2, 1), {}),
        # a window that the SUBSCRIBE cut in two, sent again after a crash
        (lambda: Story().sent(2).subscribed().sent(1).arrived(3, 1, 2), {}),
        (lambda: Story().sent(1).subscribed().sent(2).arrived(3, 1, 2), {"reordered": 1}),
        # ... and the SUBACK was lost in that crash
        (lambda: Story().sent(2).asked().sent(1).arrived(3).crashed().arrived(1, 2), {}),
        (lambda: Story().sent(2).asked().subscribed().sent(2).arrived(4, 3), {"reordered": 1}),
        (lambda: Story().subscribed().asked().unsubscribed().subscribed().sent(2).arrived(2, 1), {"reordered": 1}),
        # ghosts: published after the UNSUBACK was seen
        (lambda: Story().published(1).arrived(1), {"ghosts": 1}),
        (lambda: Story().subscribed().unsubscribed().published(1).arrived(1), {"ghosts": 1}),
        (lambda: Story().subscribed().published(1).unsubscribed().arrived(1), {}),
        (lambda: Story().subscribed().sent(1).unsubscribed().acknowledged(1).arrived(1), {}),
        (lambda: Story().subscribed().unsubscribed().published(1).subscribed().arrived(1), {"ghosts": 1}),
        (lambda: Story().subscribed().unsubscribed().sent(1).subscribed().arrived(1), {}),
        # ... and QoS 2 may be routed as late as at PUBREL
        (
            lambda: (
                Story(qos=2)
                .subscribed()
                .unsubscribed()
                .sent()
                .acknowledged(1, is_finished=False)
                .subscribed()
                .acknowledged(1)
                .arrived(1)
            ),
            {},
        ),
    ],
)
def test_finds_what_is_wrong_and_nothing_else(story: Callable[[], Story], found: dict[str, int]) -> None:
    assert story().found() == found


def test_a_lost_message_is_told_once_and_late_arrivals_do_not_unmake_it() -> None:
    story = Story().subscribed().published(2).arrived(2)
    assert story.found() == {"lost": 1}
    assert story.arrived(1).found() == {"lost": 1, "reordered": 1}
    assert any("r never got message 1 of s" in detail for detail in story.books.details)


def test_a_refused_message_may_be_missing() -> None:
    story = Story().subscribed().sent(2)
    story.books.refused(story.stream)
    assert story.acknowledged(2).arrived(2).found() == {}


def test_recovered_is_what_was_acknowledged_before_a_crash_and_came_after_it() -> None:
    story = Story().subscribed().published(3).sent(1).arrived(1).crashed().arrived(1, 2, 3, 4)
    assert story.found() == {}
    assert (story.books.counts["recovered"], story.books.counts["duplicates"]) == (2, 1)


@pytest.mark.parametrize(
    "payload", [b"", b"s", b"s/1/", b"s/x/", payload_of("s", 1)[:-1], payload_of("s", 2), b"\xff/1/"]
)
def test_a_payload_that_differs_by_a_byte_is_damaged(payload: bytes) -> None:
    story = Story().subscribed().sent(1)
    story.books.arrived(story.reader, story.stream.topic, payload)
    assert story.books.violations["damaged"] == 1


def test_a_message_on_the_wrong_topic_is_damaged() -> None:
    story = Story().subscribed().sent(1)
    story.books.arrived(story.reader, "crash/t/other", payload_of("s", 1))
    assert story.found() == {"damaged": 1}


def test_payloads_are_of_many_sizes_and_name_their_number() -> None:
    sizes = {len(payload_of("s", number)) for number in range(1, 300)}
    assert LARGE in sizes
    assert len(sizes) > 5
    assert all(number_of(payload_of("q1-1a", number)) == ("q1-1a", number) for number in range(1, 300))


def test_a_session_that_was_acknowledged_must_be_there() -> None:
    books = Books()
    books.connected("a", session_present=False)
    books.connected("a", session_present=True)
    books.connected("b", session_present=True)  # the broker had stored it, and died before its CONNACK was seen
    assert books.violations["sessions_lost"] == 0
    books.connected("a", session_present=False)
    assert books.violations["sessions_lost"] == 1


def retained(acknowledged: int, sent: int, found: int | None) -> int:
    """Messages 1 to `sent` of a retained stream, every fifth of which clears; how wrong the retained one is."""
    books = Books()
    stream: Stream = books.stream("r", "crash/r", 1, is_retained=True)
    for _ in range(sent):
        books.sent(stream)
    for number in range(1, acknowledged + 1):
        books.acknowledged(stream, number, is_finished=True)
    books.retained(stream, None if found is None else payload_of("r", found))
    return books.violations["retained_wrong"]


@pytest.mark.parametrize(
    ("acknowledged", "sent", "found", "wrong"),
    [
        (0, 0, None, 0),
        (0, 2, None, 0),
        (0, 2, 2, 0),
        (3, 3, 3, 0),
        (3, 4, 4, 0),
        (3, 3, 2, 1),  # older than acknowledged
        (3, 3, None, 1),
        (3, 4, 1, 1),
        (3, 5, None, 0),  # the fifth clears it, acknowledged or not
        (5, 5, None, 0),
        (5, 5, 4, 1),  # a ghost
        (5, 6, 6, 0),
        (6, 6, None, 1),
        (6, 6, 5, 1),  # nothing is retained of a message that clears
    ],
)
def test_the_retained_message_is_the_last_acknowledged_or_newer(
    acknowledged: int, sent: int, found: int | None, wrong: int
) -> None:
    assert retained(acknowledged, sent, found) == wrong


def test_every_reader_is_asked_for_every_stream() -> None:
    books = Books()
    streams = [books.stream(name, f"crash/t/{name}", 1) for name in ("s", "t")]
    readers: list[Reader] = [books.reader(name, 1) for name in ("a", "b")]
    for reader in readers:
        books.subscribing(reader)
        books.subscribed(reader)
    for stream in streams:
        books.acknowledged(stream, books.sent(stream), is_finished=True)
    assert (books.outstanding(), books.complete()) == (4, False)
    books.check()
    assert books.violations["lost"] == 4
    assert books.complete()
