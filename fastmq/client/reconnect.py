"""When to try again after a lost connection."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Reconnect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """Doubling pauses between attempts, each shortened at random so that a crowd does not come back at once."""

    first_s: float = 0.5
    longest_s: float = 30.0

    def pauses(self) -> Iterator[float]:
        longest = self.first_s
        while True:
            yield longest * random.uniform(0.5, 1.0)
            longest = min(longest * 2, self.longest_s)
