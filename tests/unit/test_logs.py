"""The log: one line per event, that no stranger's text can forge, in words or in JSON."""

import io
import logging
import re
from collections.abc import Iterator

import orjson
import pytest

from fastmq import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger(logs.ROOT)
    before = root.handlers[:], root.level, root.propagate
    yield io.StringIO()
    root.handlers[:], root.level, root.propagate = before


def test_a_line_has_time_level_room_event_and_fields(stream: io.StringIO) -> None:
    logs.configure("info", "text", stream)
    logs.get("broker").info("client connected", client="sensor-7", version=5)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info broker client connected client=sensor-7 version=5\n",
        stream.getvalue(),
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("sensör", "sensör"),
        (5, "5"),
        (None, "None"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        ("back\\slash", r'"back\\slash"'),
        ("x\n2026 error forged", r'"x\n2026 error forged"'),
        ("\x1b[31m\u2028", r'"\u001b[31m\u2028"'),
        ("\U000e0001", r'"\U000e0001"'),
    ],
)
def test_a_field_that_is_not_one_plain_word_is_quoted(stream: io.StringIO, value: object, written: str) -> None:
    logs.configure("info", "text", stream)
    logs.get("broker").info("event", field=value)
    assert stream.getvalue().endswith(f" event field={written}\n")


@pytest.mark.parametrize("format", ["text", "json"])
def test_every_line_may_say_who_writes_it(stream: io.StringIO, format: str) -> None:
    logs.configure("info", format, stream, worker=1)
    logs.get("broker").info("one", client="c")
    logs.get("broker").info("two")
    one, two = stream.getvalue().splitlines()
    assert one.endswith(" one client=c worker=1" if format == "text" else '"event":"one","client":"c","worker":1}')
    assert two.endswith(" two worker=1" if format == "text" else '"event":"two","worker":1}')


def test_json_is_one_object_a_line(stream: io.StringIO) -> None:
    logs.configure("debug", "json", stream)
    logs.get("broker").warning("slow", client="a\nb", error=OSError("no"))
    line = orjson.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "room": "broker", "event": "slow", "client": "a\nb", "error": "no"}
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_brings_its_traceback(stream: io.StringIO, format: str) -> None:
    logs.configure("info", format, stream)
    try:
        raise ValueError("the cause")
    except ValueError:
        logs.get("broker").exception("failed")
    assert "Traceback" in stream.getvalue()
    assert "ValueError: the cause" in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_the_level_is_the_least_important_line_written(stream: io.StringIO, level: str, written: int) -> None:
    logs.configure(level, "text", stream)
    log = logs.get("broker")
    for write in (log.debug, log.info, log.warning, log.error):
        write("event")
    assert stream.getvalue().count("\n") == written


def test_a_rare_line_comes_once_in_a_while_and_says_how_many_were_withheld(stream: io.StringIO) -> None:
    logs.configure("info", "text", stream)
    now = 0.0
    log = logs.Log(logging.getLogger("fastmq.broker"), clock=lambda: now)
    for _ in range(3):
        log.rarely("warning", "accept", "cannot accept")
    log.rarely("warning", "other", "another key")
    now = logs.RARELY_S
    log.rarely("warning", "accept", "cannot accept")
    lines = [line.partition(" broker ")[2] for line in stream.getvalue().splitlines()]
    assert lines == ["cannot accept", "another key", "cannot accept withheld=2"]


def test_rare_keys_do_not_grow_without_end(stream: io.StringIO) -> None:
    logs.configure("error", "text", stream)
    log = logs.get("broker")
    for number in range(3 * logs.RARE_KEYS_MAX):
        log.rarely("info", str(number), "event")
    assert len(log._rare) <= logs.RARE_KEYS_MAX
