"""What of the broker's limits is one worker's, of several."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fastmq.config.place import Place
from fastmq.config.schema import Config
from fastmq.config.workers import WORKERS_MAX

MEMORY_SHARE: Final = 0.8

OF_LIMITS: Final = ("connections_max", "sessions_max", "connects_per_s", "tls_handshakes_max")
OF_LISTENERS: Final = (
    "connections_max", "messages_per_s", "bytes_per_s", "messages_out_per_s", "bytes_out_per_s",
)  # fmt: skip
"""Divided, as are the limits of memory and of the store. What holds for one client, address, user or group is not."""


def count_of(config: Config) -> int:
    """How many workers there are to be."""
    if config.workers.count:
        return config.workers.count
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(processors, WORKERS_MAX)


def part(limit: int, place: Place) -> int:
    """A worker's part of a limit: at least 1, and together as much as the limit; 0 is no limit for any."""
    if limit == 0:
        return 0
    each, left = divmod(limit, place.count)
    return max(1, each + (place.index < left))


def divided(config: Config, place: Place) -> Config:
    """The settings as they hold for one worker."""
    if place.count == 1:
        return config
    limits, store = config.limits, config.store

    def parts(settings: object, names: Iterable[str]) -> dict[str, Any]:
        return {name: part(getattr(settings, name), place) for name in names}

    memory = part(limits.memory_max_bytes or memory_limit(), place)
    return replace(
        config,
        listen=tuple(replace(each, **parts(each, OF_LISTENERS)) for each in config.listen),
        limits=replace(limits, memory_max_bytes=memory, **parts(limits, OF_LIMITS)),
        store=replace(store, size_max_bytes=part(store.size_max_bytes, place)),
    )


def memory_limit() -> int:
    """80 % of what the machine or its control group has, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            total = min(total, int(text))
    return int(total * MEMORY_SHARE)
