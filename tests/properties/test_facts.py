"""Users and bans at several nodes: whoever hears what in which order, in the end all know the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastmq.fabric.facts import REMEMBERED_MS, Changes, Stamp, digest_of

NODES = "alpha", "beta", "gamma"
KEYS = "user/a", "user/b", "ban/x"
KEYS_ALL = *KEYS, "k", "both", "only"
values = st.none() | st.binary(max_size=2)


class Node:
    """What the first worker of a node does, without its store."""

    def __init__(self, name: str) -> None:
        self.changes = Changes(name)
        self.values: dict[str, bytes] = {}

    def change(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value

    def find(self, now_ms: int) -> None:
        for key, stamp in self.local(now_ms).items():
            self.changes.put(key, stamp)

    def local(self, now_ms: int) -> dict[str, Stamp]:
        return self.changes.local({key: self.values.get(key) for key in KEYS_ALL}, now_ms)

    def hear(self, other: Node, key: str) -> None:
        stamp = other.changes.get(key)
        if stamp is not None and self.changes.is_news(key, stamp):
            self.change(key, other.values.get(key))
            self.changes.put(key, stamp)


changed = st.tuples(st.just("change"), st.integers(0, 2), st.sampled_from(KEYS), values, st.integers(1, 50))
heard = st.tuples(st.just("hear"), st.integers(0, 2), st.integers(0, 2), st.sampled_from(KEYS), st.just(0))


@given(st.lists(changed | heard, max_size=60), st.permutations([(a, b) for a in range(3) for b in range(3)]))
def test_all_know_the_same_in_the_end(steps: list[tuple[object, ...]], order: list[tuple[int, int]]) -> None:
    nodes = [Node(name) for name in NODES]
    for what, at, one, other, ms in steps:
        assert isinstance(at, int)
        if what == "change":
            nodes[at].change(str(one), other)  # type: ignore[arg-type]
            nodes[at].find(int(ms))  # type: ignore[call-overload]
        else:
            nodes[at].hear(nodes[int(one)], str(other))  # type: ignore[call-overload]
    for _ in range(3):
        for to, of in order:
            for key in KEYS:
                nodes[to].hear(nodes[of], key)
    first = nodes[0]
    for other_node in nodes[1:]:
        assert other_node.values == first.values
        assert other_node.changes.sum == first.changes.sum
    assert not any(each.local(99) for each in nodes), "what was heard is no change of one's own"


@given(values, values)
def test_the_later_change_wins_even_if_clocks_disagree(one: bytes | None, other: bytes | None) -> None:
    """The second node has heard of the first change when it makes its own, and its clock is slow."""
    first, second = Node("beta"), Node("alpha")
    first.change("k", b"before")
    first.find(1000)
    second.hear(first, "k")
    second.change("k", b"after")
    second.find(10)
    first.hear(second, "k")
    assert first.values == second.values == {"k": b"after"}


def test_what_was_removed_does_not_come_back() -> None:
    first, second = Node("alpha"), Node("beta")
    first.change("k", b"1")
    first.find(1)
    second.hear(first, "k")
    first.change("k", None)
    first.find(2)
    first.hear(second, "k")
    second.hear(first, "k")
    assert first.values == second.values == {}


def test_what_a_new_node_has_takes_the_place_of_nothing() -> None:
    old, new = Node("beta"), Node("alpha")
    old.change("both", b"old")
    old.find(5)
    new.change("both", b"new")
    new.change("only", b"new")
    new.find(0)
    for key in ("both", "only"):
        old.hear(new, key)
        new.hear(old, key)
    assert old.values == new.values == {"both": b"old", "only": b"new"}


def test_stamps_of_what_is_gone_are_forgotten_after_a_month() -> None:
    changes = Changes("alpha")
    changes.put("gone", Stamp(1000, "alpha", ""))
    changes.put("there", Stamp(1000, "alpha", digest_of(b"x")))
    assert changes.forgettable(1000 + REMEMBERED_MS) == []
    assert changes.forgettable(1001 + REMEMBERED_MS) == ["gone"]
    both = changes.sum
    changes.drop("gone")
    assert changes.sum != both
    changes.put("gone", Stamp(1000, "alpha", ""))
    assert changes.sum == both
