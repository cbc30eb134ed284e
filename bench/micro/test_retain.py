"""Retained messages: storing, replacing, and finding them by filters of every kind among 100,000."""

from functools import cache

import pytest

from bench.micro.test_codec import Benchmark
from fastmq._retain import RetainedTree

COUNT = 100_000


def topic(i: int) -> bytes:
    return b"site/%d/device/%d/state" % (i % 100, i)


@cache
def tree() -> RetainedTree:
    made = RetainedTree()
    for i in range(COUNT):
        made.put(topic(i), b"on")
    return made


def test_replace(benchmark: Benchmark) -> None:
    retained = tree()
    topics = [topic(i * 7919 % COUNT) for i in range(1000)]

    def replace() -> None:
        for each in topics:
            retained.put(each, b"off")

    benchmark(replace)
    bytes_each = retained.bytes / len(retained)
    benchmark.extra_info["bytes_per_message"] = round(bytes_each, 1)  # type: ignore[attr-defined]
    assert bytes_each < 600


@pytest.mark.parametrize(
    ("topic_filter", "matches"),
    [
        pytest.param(topic(4711), 1, id="exact"),
        pytest.param(b"site/7/#", 1000, id="subtree"),
        pytest.param(b"site/+/device/4711/state", 1, id="plus"),
        pytest.param(b"#", COUNT, id="everything"),
    ],
)
def test_find(benchmark: Benchmark, topic_filter: bytes, matches: int) -> None:
    retained = tree()
    assert len(benchmark(retained.match, topic_filter)) == matches
