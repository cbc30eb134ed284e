"""May this client publish? Topics that it published to before are asked from memory, new ones rule by rule."""

import pytest

from bench.micro.test_codec import Benchmark
from fastmq._access import Access, GuardProbe

RULES = [(f"site/{at}/#".encode(), True, 3, 7, 3, False) for at in range(100)]


@pytest.mark.parametrize("rules", [0, 1, 10, 100])
@pytest.mark.parametrize("topics", [1, 1000])
def test_a_thousand_publishes(benchmark: Benchmark, rules: int, topics: int) -> None:
    """No rules: what the loop and the call cost by themselves."""
    guard = GuardProbe()
    guard.set(Access(RULES[:rules], True))
    names = [f"site/{max(rules, 1) - 1}/device/{at}/temperature".encode() for at in range(topics)] * (1000 // topics)

    def thousand() -> None:
        for name in names:
            guard.publish(name)

    benchmark(thousand)
