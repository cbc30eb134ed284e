"""The trie against a list of subscriptions that is searched with `topics.matches`."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastmq._trie import Trie
from fastmq.topics import matches
from tests.properties.topic_strategies import filters, topics

OWNERS = st.integers(0, 5)


def expected(subscriptions: set[tuple[int, str]], topic: str) -> list[tuple[int, bytes]]:
    return sorted((owner, text.encode()) for owner, text in subscriptions if matches(text, topic))


@given(st.lists(st.tuples(OWNERS, filters)), st.lists(topics, min_size=1))
def test_matches_what_the_oracle_matches(subscriptions: list[tuple[int, str]], names: list[str]) -> None:
    trie = Trie()
    for owner, text in subscriptions:
        trie.add(owner, text.encode())
    for topic in names * 3:  # asked again, the answer comes from the cache
        assert sorted(trie.match(topic.encode())) == expected(set(subscriptions), topic)


@given(st.lists(st.tuples(OWNERS, filters)))
def test_an_empty_trie_holds_only_its_tables(subscriptions: list[tuple[int, str]]) -> None:
    """Taken apart in another order than it was built; built again it is as large as before."""
    trie = Trie()
    sizes = []
    for _ in range(3):
        for owner, text in subscriptions:
            trie.add(owner, text.encode())
        for owner, text in sorted(set(subscriptions)):
            assert trie.remove(owner, text.encode())
        assert len(trie) == 0
        sizes.append(trie.bytes)
    assert sizes[1] == sizes[2] == sizes[0]


class TrieMachine(RuleBasedStateMachine):
    """Subscriptions come and go between matches, so that a stale cache would show."""

    def __init__(self) -> None:
        super().__init__()
        self.trie = Trie()
        self.model: set[tuple[int, str]] = set()

    @rule(owner=OWNERS, text=filters, options=st.integers(0, 2))
    def add(self, owner: int, text: str, options: int) -> None:
        assert self.trie.add(owner, text.encode(), options) == ((owner, text) not in self.model)
        self.model.add((owner, text))

    @rule(owner=OWNERS, text=filters)
    def remove(self, owner: int, text: str) -> None:
        assert self.trie.remove(owner, text.encode()) == ((owner, text) in self.model)
        self.model.discard((owner, text))

    @rule(data=st.data())
    def remove_one_that_is_there(self, data: st.DataObject) -> None:
        if self.model:
            owner, text = data.draw(st.sampled_from(sorted(self.model)))
            assert self.trie.remove(owner, text.encode())
            self.model.discard((owner, text))

    @rule(owner=OWNERS)
    def remove_all(self, owner: int) -> None:
        self.trie.remove_all(owner)
        self.model = {each for each in self.model if each[0] != owner}

    @rule(topic=topics)
    def match(self, topic: str) -> None:
        for _ in range(3):
            assert sorted(self.trie.match(topic.encode())) == expected(self.model, topic)

    @invariant()
    def counts(self) -> None:
        assert len(self.trie) == len(self.model)


TestTrieMachine = TrieMachine.TestCase
TestTrieMachine.settings = settings(max_examples=60, stateful_step_count=40)
