"""How long the crash tests take. `make crash` asks for more rounds than `make test`."""

from __future__ import annotations

import os
from typing import Final

_ASKED: Final = os.environ.get("CRASH_ROUNDS")


def rounds(usual: int) -> int:
    """How many rounds a test is to run: `usual` in `make test`, CRASH_ROUNDS in `make crash`."""
    return int(_ASKED) if _ASKED else usual


KILLS: Final = rounds(100)
POWER_CUTS: Final = rounds(20)
STOPS: Final = rounds(4)
PAHO_KILLS: Final = rounds(8)

START_S: Final = 60
ROUND_S: Final = 6
"""What a round takes at most on a slow machine, a restart and its part of a drain included."""


def timeout_s(count: int) -> int:
    return START_S + ROUND_S * count
