"""Logging: the standard library's, one line per event, `key=value` text or JSON. Never a line per message.

log = logs.get("broker")
log.info("client connected", client="sensor-7", version=5)
log.rarely("warning", "accept", "cannot accept a connection", error=error)     # at most one line in 10 s
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, TextIO

ROOT: Final = "fastmq"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/@,+-]+").fullmatch  # the common case of a word that needs no quotes
RARELY_S: Final = 10.0
"""How long `rarely` stays silent about one key."""
RARE_KEYS_MAX: Final = 1024

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]

_NUMBERS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Log:
    """A standard logger whose lines carry fields."""

    __slots__ = ("_clock", "_logger", "_rare")

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._rare: dict[str, tuple[float, int]] = {}  # key -> (when the next line may come, lines withheld)

    def debug(self, event: str, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error, with the traceback of the exception that is being handled."""
        self._write(logging.ERROR, event, fields, with_traceback=True)

    def rarely(self, level: Level, key: str, event: str, **fields: object) -> None:
        """As the method `level`, but at most one line in `RARELY_S` per `key`; the next one says how many were not."""
        now = self._clock()
        due, withheld = self._rare.get(key, (now, 0))
        if now < due:
            self._rare[key] = (due, withheld + 1)
            return
        if len(self._rare) >= RARE_KEYS_MAX:
            self._rare.clear()
        self._rare[key] = (now + RARELY_S, 0)
        if withheld:
            fields["withheld"] = withheld
        self._write(_NUMBERS[level], event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object], *, with_traceback: bool = False) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            # Not logger.log(): that walks the stack for a file and a line that no formatter here shows.
            trace = sys.exc_info() if with_traceback else None
            record = logging.LogRecord(logger.name, level, "", 0, event, None, trace)
            record.fields = fields
            logger.handle(record)


def get(name: str = "") -> Log:
    """The log of a room: `get("broker")` is the standard logger `fastmq.broker`."""
    return Log(logging.getLogger(f"{ROOT}.{name}" if name else ROOT))


def configure(level: str, format: str, stream: TextIO | None = None, **always: object) -> None:
    """Send fastmq's lines to `stream` (standard error), each with the fields `always` besides its own.

    For programs; a library's user configures logging himself.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(always) if format == "json" else TextFormatter(always))
    root = logging.getLogger(ROOT)
    root.handlers[:] = [handler]
    root.setLevel(_NUMBERS[level])
    root.propagate = False


def set_level(level: str) -> None:
    """Writes lines from this level on."""
    logging.getLogger(ROOT).setLevel(_NUMBERS[level])


class FieldsFormatter(logging.Formatter):
    """Lines with fields: those of the record, then those of all lines."""

    def __init__(self, always: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._always = dict(always or {})

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        return {**getattr(record, "fields", {}), **self._always}


class TextFormatter(FieldsFormatter):
    """`2026-01-31T12:00:00.123Z info broker client connected client=sensor-7 version=5`"""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_timestamp(record), record.levelname.lower(), _room(record), record.getMessage()]
        parts += [f"{key}={_quoted(value)}" for key, value in self.fields(record).items()]
        if record.exc_info:
            parts.append("\n" + self.formatException(record.exc_info))
        return " ".join(parts)


class JsonFormatter(FieldsFormatter):
    """One JSON object a line: time, level, room, event, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        import orjson  # here: text is the default, and needs no orjson

        line: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "room": _room(record),
            "event": record.getMessage(),
            **self.fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


@lru_cache(4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _timestamp(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


def _room(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _quoted(value: object) -> str:
    """As it is when that is one plain word; else in quotes, escaped, so that no client id can forge a line."""
    text = str(value)
    if _PLAIN(text):
        return text
    if text and text.isprintable() and not any(mark in text for mark in ' "=\\'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').translate(_ESCAPES) + '"'


class _Escapes(dict[int, str]):
    """Code point -> its escape, or itself when it can be printed. Nothing is kept: strangers choose the text."""

    def __missing__(self, code: int) -> str:
        if chr(code).isprintable():
            return chr(code)
        return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"


_ESCAPES: Final = _Escapes({ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"})
