"""What of the broker's limits is one worker's."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq.config import Config, Listener
from fastmq.config.load import Flag, load
from fastmq.config.place import Place
from fastmq.config.schema import LimitsSettings, StoreSettings
from fastmq.config.share import OF_LIMITS, OF_LISTENERS, count_of, divided, memory_limit, part
from fastmq.config.workers import WorkersSettings
from fastmq.errors import ConfigError

PLACES = [Place(index=index, count=3) for index in range(3)]


@given(limit=st.integers(0, 2**32), count=st.integers(1, 64))
def test_the_parts_are_the_limit_or_one_each(limit: int, count: int) -> None:
    parts = [part(limit, Place(index=index, count=count)) for index in range(count)]
    assert sum(parts) == (max(limit, count) if limit else 0)
    assert max(parts) - min(parts) <= 1


def test_limits_of_all_are_divided_and_those_of_each_are_not() -> None:
    ten = {"connections_max": 10, "sessions_max": 10, "connects_per_s": 10, "tls_handshakes_max": 10}
    assert set(ten) == set(OF_LIMITS)
    whole = Config(
        limits=LimitsSettings(
            **ten, memory_max_bytes=10, user_sessions_max=10, messages_per_s=10, subscriptions_max=10
        ),
        store=StoreSettings(size_max_bytes=1000),
        listen=(Listener("tcp", "a", 1, **dict.fromkeys(OF_LISTENERS, 10)), Listener("tcp", "b", 1)),  # type: ignore[arg-type]
    )
    found = [divided(whole, place) for place in PLACES]
    for each, share in zip(found, (4, 3, 3), strict=True):
        assert each.limits == replace(whole.limits, memory_max_bytes=share, **dict.fromkeys(ten, share))
        assert each.listen == (replace(whole.listen[0], **dict.fromkeys(OF_LISTENERS, share)), whole.listen[1])  # type: ignore[arg-type]
    assert [each.store.size_max_bytes for each in found] == [334, 333, 333]


def test_the_automatic_limit_of_memory_is_divided_too() -> None:
    assert memory_limit() > 0
    found = [divided(Config(), place).limits.memory_max_bytes for place in PLACES]
    assert sum(found) == pytest.approx(memory_limit(), rel=0.01)
    assert len(set(found)) <= 2


def test_the_only_worker_has_all() -> None:
    assert divided(Config(), Place()) == Config()


def test_as_many_as_the_processors_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = Config(workers=WorkersSettings(count=0))
    for may_use, count in ((3, 3), (200, 64)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, may_use=may_use: set(range(may_use)))
        assert count_of(auto) == count
    assert count_of(Config()) == 1
    assert count_of(Config(workers=WorkersSettings(count=5))) == 5


def test_how_many_may_be_told_by_a_word(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text("[workers]\ncount = 'auto'\n")
    assert load(path).config.workers.count == 0
    assert load(flags=[Flag("workers.count", "auto", "--workers")]).config.workers.count == 0
    assert load(flags=[Flag("workers.count", "7", "--workers")]).config.workers.count == 7
    with pytest.raises(ConfigError, match=r"--workers: workers\.count: must be 0 to 64, not 65"):
        load(flags=[Flag("workers.count", "65", "--workers")])
