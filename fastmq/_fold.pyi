from typing import Final

OP_NAMES: Final[tuple[str, ...]]
CHUNK_ROWS: Final[tuple[int, ...]]

class Fold:
    def __init__(self, batches: list[bytes], top: int) -> None: ...
    top: int
    records: int
    clock_ms: int
    def chunk(self) -> tuple[int, int, tuple[int | bytes | str | None, ...]] | None: ...
