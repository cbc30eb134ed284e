"""A progress bar on standard error, if that is a terminal, rich is there, and it takes long enough to be worth one."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

AFTER_S: Final = 0.5
EACH_S: Final = 0.05


class Bar:
    """A context manager; call it with how much is done, of how much."""

    def __init__(self, what: str, *, in_bytes: bool = False) -> None:
        self._what = what
        self._in_bytes = in_bytes
        self._next_s = time.monotonic() + AFTER_S
        self._is_wanted = sys.stderr.isatty()
        self._shown: tuple[Progress, TaskID] | None = None

    def __call__(self, done: int, total: int) -> None:
        if not self._is_wanted:
            return
        now_s = time.monotonic()
        if done >= total:
            self.close()
        elif now_s >= self._next_s:
            self._next_s = now_s + EACH_S
            self._show(done, total)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._shown is not None:
            self._shown[0].stop()
            self._shown = None

    def _show(self, done: int, total: int) -> None:
        if self._shown is None:
            try:
                from rich.console import Console
                from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn
            except ImportError:
                self._is_wanted = False
                return
            amount = DownloadColumn() if self._in_bytes else MofNCompleteColumn()
            columns = (TextColumn("{task.description}"), BarColumn(), amount)
            progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._shown = progress, progress.add_task(self._what, total=total)
            progress.start()
        progress, task = self._shown
        progress.update(task, completed=done, total=total)
