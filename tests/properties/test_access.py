"""Compiled access control lists against a slow, readable oracle."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq import topics
from fastmq._access import Access, GuardProbe

LEVELS = ("a", "b", "", "$x")
PUBLISH, SUBSCRIBE, BOTH = 1, 2, 3
WITHOUT, WITH, EITHER = 1, 2, 3

Line = tuple[bytes, bool, int, int, int, bool]

names = st.lists(st.sampled_from(LEVELS), min_size=1, max_size=4).map("/".join).filter(bool)
filters = (
    st.tuples(st.lists(st.sampled_from((*LEVELS, "+", "+")), max_size=3), st.sampled_from(("", "#", "a", "+")))
    .map(lambda parts: "/".join([*parts[0], parts[1]]))
    .filter(bool)
)
lines = st.tuples(
    filters.map(str.encode),
    st.booleans(),
    st.sampled_from((PUBLISH, SUBSCRIBE, BOTH)),
    st.integers(1, 7),
    st.sampled_from((WITHOUT, WITH, EITHER)),
    st.booleans(),
)

ALL_NAMES = ["/".join(parts) for n in (1, 2, 3, 4, 5) for parts in itertools.product(("a", "b", "", "$x"), repeat=n)]


def may_publish(rules: list[Line], otherwise: bool, topic: str, qos: int, retain: bool) -> tuple[bool, int]:
    for at, (filter, allow, actions, qoses, retains, literal) in enumerate(rules):
        speaks = filter.decode() == topic if literal else topics.matches(filter.decode(), topic)
        if actions & PUBLISH and qoses >> qos & 1 and retains & (WITH if retain else WITHOUT) and speaks:
            return allow, at
    return otherwise, -1


def may_subscribe(rules: list[Line], otherwise: bool, wanted: str, qos: int, strict: bool) -> tuple[bool, int]:
    asked = {name for name in ALL_NAMES if topics.matches(wanted, name)}
    for at, (filter, allow, actions, qoses, _, literal) in enumerate(rules):
        matched = {name for name in ALL_NAMES if topics.matches(filter.decode(), name)}
        if literal:
            speaks = filter.decode() == wanted
        else:
            speaks = asked <= matched if allow == strict else bool(asked & matched)
        if actions & SUBSCRIBE and qoses >> qos & 1 and speaks:
            return allow, at
    return otherwise, -1


@given(st.lists(lines, max_size=5), st.booleans(), names, st.integers(0, 2), st.booleans())
def test_publish(rules: list[Line], otherwise: bool, topic: str, qos: int, retain: bool) -> None:
    expected = may_publish(rules, otherwise, topic, qos, retain)
    assert Access(rules, otherwise).publish(topic.encode(), qos, retain) == expected


@given(st.lists(lines, max_size=3), st.booleans(), filters, st.integers(0, 2), st.booleans(), st.booleans())
def test_subscribe(rules: list[Line], otherwise: bool, wanted: str, qos: int, on_delivery: bool, shared: bool) -> None:
    expected = may_subscribe(rules, otherwise, wanted, qos, shared or not on_delivery)
    assert Access(rules, otherwise, on_delivery).subscribe(wanted.encode(), qos, shared) == expected


@given(st.lists(lines, max_size=5), st.booleans(), names)
def test_read(rules: list[Line], otherwise: bool, topic: str) -> None:
    """As publishing, for those that speak of subscribing, whatever QoS and retain flag they speak of."""
    readers = [(line[0], line[1], PUBLISH if line[2] & SUBSCRIBE else SUBSCRIBE, 7, EITHER, line[5]) for line in rules]
    assert Access(rules, otherwise).read(topic.encode()) == may_publish(readers, otherwise, topic, 0, False)


@given(
    st.lists(st.lists(lines, min_size=2, max_size=4), min_size=1, max_size=3),
    st.lists(st.tuples(names, st.integers(0, 2), st.booleans()), max_size=30),
)
def test_verdicts_that_are_remembered_stay_right(lists: list[list[Line]], asked: list[tuple[str, int, bool]]) -> None:
    probe = GuardProbe()
    for rules in lists:
        probe.set(Access(rules, False))
        for topic, qos, retain in asked * 2:
            assert probe.publish(topic.encode(), qos, retain) == may_publish(rules, False, topic, qos, retain)[0]


@pytest.mark.parametrize("filter", [b"", b"a/#/b", b"a+", b"#a", b"\xff"])
def test_what_is_no_filter_is_refused(filter: bytes) -> None:
    with pytest.raises(ValueError, match="is no topic filter"):
        Access([(filter, True, BOTH, 7, EITHER, False)], False)


def test_a_list_may_be_empty_and_long() -> None:
    assert Access([], True).publish(b"a") == (True, -1)
    many = [(b"t/%d/#" % i, i % 2 == 0, BOTH, 7, EITHER, False) for i in range(5000)]
    access = Access(many, False)
    assert access.publish(b"t/4998/x") == (True, 4998)
    assert access.publish(b"t/4999/x") == (False, 4999)
    assert access.subscribe(b"t/+/x") == (False, 1), "a topic that the second rule denies is among them"
