"""The settings of a broker of several processes."""

from dataclasses import dataclass
from typing import Final

from fastmq.config.setting import BYTES, SIZE_MAX, setting

WORKERS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersSettings:
    """The processes that `fastmq serve` consists of."""

    count: int = setting(
        1,
        min=0,
        max=WORKERS_MAX,
        words={"auto": 0},
        help="How many workers share the clients; 0 or `auto`: as many as the processors that may be used.",
    )
    watchdog_s: float = setting(
        30.0,
        unit="s",
        min=0.0,
        max=3600.0,
        help="Of several workers, one that stands still for so long is killed and started again; 0: never.",
    )
    backlog_max_bytes: int = setting(
        67_108_864,
        unit=BYTES,
        min=1 << 20,
        max=SIZE_MAX,
        help="So much is kept for another worker, of this host or another node, that does not take it; then messages "
        "with QoS 1 and 2 that it should get are refused (0x97).",
    )
