"""How long a match takes and how many bytes a subscription costs, up to a million of them."""

from collections.abc import Callable
from functools import cache

import pytest

from bench.micro.test_codec import Benchmark
from fastmq._trie import Trie


def exact(i: int) -> bytes:
    return b"site/%d/device/%d/temperature" % (i % 1000, i)


def mixed(i: int) -> bytes:
    """Nine of ten exact, the rest with one wildcard or two at different places."""
    if i % 10:
        return exact(i)
    if i % 30 == 0:
        return b"site/%d/device/%d/#" % (i % 1000, i)
    if i % 20 == 0:
        return b"site/+/device/%d/temperature" % i
    return b"site/%d/+/%d/+" % (i % 1000, i)


@cache
def trie_of(filters: Callable[[int], bytes], count: int) -> Trie:
    trie = Trie()
    for i in range(count):
        trie.add(i, filters(i))
    return trie


@pytest.mark.parametrize("count", [1_000, 1_000_000])
@pytest.mark.parametrize("filters", [exact, mixed], ids=["exact", "mixed"])
def test_match(benchmark: Benchmark, filters: Callable[[int], bytes], count: int) -> None:
    """1,000 topics in turn: the cache of wildcard matches holds them all, whatever the number of filters."""
    trie = trie_of(filters, count)
    topics = [exact(i * 7919 % count) for i in range(1000)]

    def match_all() -> int:
        found = 0
        for topic in topics:
            found += trie.count(topic)
        return found

    assert benchmark(match_all) >= 900
    bytes_per_filter = trie.bytes / len(trie)
    benchmark.extra_info["bytes_per_filter"] = round(bytes_per_filter, 1)  # type: ignore[attr-defined]
    assert bytes_per_filter < 400


def test_match_only_wildcards_without_the_cache(benchmark: Benchmark) -> None:
    """100,000 wildcard filters; every topic is new, so each is walked."""
    trie = Trie()
    for i in range(100_000):
        trie.add(i, b"a/%d/+/x/%d/#" % (i % 100, i))
    numbers = iter(range(1_000_000_000))

    def match_1000() -> int:
        return sum(trie.count(b"a/%d/b/x/%d/c" % (i % 100, i % 100_000)) for i, _ in zip(numbers, range(1000)))  # noqa: B905

    assert benchmark(match_1000) == 1000


@pytest.mark.parametrize("filters", [exact, mixed], ids=["exact", "mixed"])
def test_subscribe_and_unsubscribe(benchmark: Benchmark, filters: Callable[[int], bytes]) -> None:
    trie = trie_of(filters, 1_000_000)
    fresh = [b"new/" + filters(i) for i in range(1000)]

    def churn() -> None:
        for text in fresh:
            trie.add(1, text)
        for text in fresh:
            trie.remove(1, text)

    benchmark(churn)
