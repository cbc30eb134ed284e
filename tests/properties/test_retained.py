"""Retained messages against a dict that is searched with `topics.matches`."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastmq._retain import RetainedTree
from fastmq.topics import matches
from tests.properties.topic_strategies import filters, topics


class RetainedMachine(RuleBasedStateMachine):
    """Retains, replaces, deletes, lets expire and sweeps, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = RetainedTree()
        self.empty = self.tree.bytes
        self.model: dict[str, tuple[bytes, int | None]] = {}  # topic -> payload, when it expires
        self.now_ms = 1

    @rule(topic=topics, payload=st.binary(max_size=5), expiry=st.none() | st.integers(0, 3))
    def put(self, topic: str, payload: bytes, expiry: int | None) -> None:
        self.tree.put(topic.encode(), payload, expiry, self.now_ms)
        if payload:
            self.model[topic] = payload, None if expiry is None else self.now_ms + expiry * 1000
        else:
            self.model.pop(topic, None)

    @rule(ms=st.integers(1, 2500))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(budget=st.integers(1, 200))
    def sweep(self, budget: int) -> None:
        """Only what has expired may go, so that the answers stay the same."""
        before = len(self.tree)
        assert before - self.tree.sweep(budget, self.now_ms) == len(self.tree)

    @rule(text=filters)
    def match(self, text: str) -> None:
        got = sorted(self.tree.match(text.encode(), self.now_ms))
        assert got == sorted((topic.encode(), payload) for topic, payload in self.alive() if matches(text, topic))

    @invariant()
    def everything_is_found(self) -> None:
        assert len(self.tree) >= sum(1 for _ in self.alive())

    def alive(self) -> list[tuple[str, bytes]]:
        return [
            (topic, payload) for topic, (payload, until) in self.model.items() if until is None or until > self.now_ms
        ]

    def teardown(self) -> None:
        """Deleted to the last message, the tree keeps its table and nothing else."""
        for topic in list(self.model):
            self.tree.put(topic.encode(), b"")
        while self.tree.sweep(1000, self.now_ms):
            pass
        assert len(self.tree) == 0
        table = self.tree.bytes - self.empty
        assert table in {0, *(slots * 8 for slots in (16, 32, 64, 128, 256, 512))}


TestRetainedMachine = RetainedMachine.TestCase
TestRetainedMachine.settings = settings(max_examples=80, stateful_step_count=40)
