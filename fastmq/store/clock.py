"""How long the broker was away: the engine's time goes on while it is down, and never backwards."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Clocks(Protocol):
    """The machine's clocks; milliseconds."""

    def boot_ms(self) -> int:
        """Since the machine was started, its sleep included. Nobody can set it."""
        ...

    def wall_ms(self) -> int:
        """Since 1970, as far as the machine knows."""
        ...

    def boot_id(self) -> str:
        """Another one for each start of the machine; empty when there is none."""
        ...


class MachineClocks:
    """The real ones."""

    def __init__(self) -> None:
        try:
            self._boot_id = BOOT_ID.read_text().strip()
        except OSError:
            self._boot_id = ""

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boot_id(self) -> str:
        return self._boot_id


@dataclass(frozen=True, slots=True)
class Stamp:
    """What all clocks said at one moment."""

    engine_ms: int = 0
    boot_ms: int = 0
    wall_ms: int = 0
    boot_id: str = ""


def stamp(engine_ms: int, clocks: Clocks) -> Stamp:
    return Stamp(engine_ms, clocks.boot_ms(), clocks.wall_ms(), clocks.boot_id())


def engine_now(last: Stamp, clocks: Clocks) -> int:
    """The engine's time now. Within one start of the machine the wall clock has no say, whichever way it was set."""
    if last == Stamp():
        return 0  # nothing was stored yet
    if last.boot_id and last.boot_id == clocks.boot_id():
        return last.engine_ms + max(0, clocks.boot_ms() - last.boot_ms)
    return last.engine_ms + max(0, clocks.wall_ms() - last.wall_ms)
