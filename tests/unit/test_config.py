"""Settings from file, environment and flags: what they become, where they came from, and what is said of wrong ones."""

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq.config import Config, Listener, load, reference
from fastmq.config.lines import line_numbers, line_of
from fastmq.config.load import Flag
from fastmq.config.schema import declared
from fastmq.config.tables import from_text, from_toml
from fastmq.config.values import plain, shown
from fastmq.errors import ConfigError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write fastmq.toml in a directory that is then the current one."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("fastmq.toml").write_text(text, "utf-8")
        return Path("fastmq.toml")

    return write


def problems(path: Path | None = None, environment: dict[str, str] | None = None, *flags: Flag) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environment, flags)
    return str(caught.value).splitlines()


def test_without_anything_all_is_default() -> None:
    loaded = load()
    assert loaded.config == Config()
    assert loaded.config.listen == (Listener("tcp", "127.0.0.1", 1883),)
    assert set(loaded.origins) == set(declared())
    assert set(loaded.origins.values()) == {"default"}


def test_defaults_obey_their_own_rules() -> None:
    for each in declared().values():
        assert from_toml(each, plain(each.default)) == each.default


def test_settings_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().mqtt.maximum_qos = 1  # type: ignore[misc]


def test_the_later_place_wins_and_is_remembered(write: Write) -> None:
    path = write("listen = ['tcp://[::1]:1']\n\n[mqtt]\nmaximum_qos = 1\nreceive_maximum = 1\ninflight_max = 1\n")
    environment = {
        "FASTMQ_MQTT__RECEIVE_MAXIMUM": "2",
        "FASTMQ_MQTT__INFLIGHT_MAX": "2",
        "PATH": "x",
        "FASTMQ_CONFIG": "y",
    }
    loaded = load(path, environment, [Flag("mqtt.inflight_max", "3", "--set")])
    assert loaded.config.listen == (Listener("tcp", "::1", 1),)
    mqtt = loaded.config.mqtt
    assert (mqtt.maximum_qos, mqtt.receive_maximum, mqtt.inflight_max) == (1, 2, 3)
    assert {key: origin for key, origin in loaded.origins.items() if origin != "default"} == {
        "listen": "fastmq.toml:1",
        "mqtt.maximum_qos": "fastmq.toml:4",
        "mqtt.receive_maximum": "FASTMQ_MQTT__RECEIVE_MAXIMUM",
        "mqtt.inflight_max": "--set",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[mqtt]\nmaximum_qos = 3", "fastmq.toml:2: mqtt.maximum_qos: must be one of 0, 1, 2, not 3"),
        ("[mqtt]\nmaximum_qos = '1'", 'fastmq.toml:2: mqtt.maximum_qos: must be a whole number, not "1"'),
        ("[mqtt]\nmaximum_qos = true", "fastmq.toml:2: mqtt.maximum_qos: must be a whole number, not true"),
        ("[mqtt]\nmaximum_qos = 1.0", "fastmq.toml:2: mqtt.maximum_qos: must be a whole number, not 1.0"),
        ("[mqtt]\nretain_available = 1", "fastmq.toml:2: mqtt.retain_available: must be true or false, not 1"),
        ("[mqtt]\nreceive_maximum = 0", "fastmq.toml:2: mqtt.receive_maximum: must be 1 to 65535, not 0"),
        ("[mqtt]\nkeepalive_max_s = 65536", "fastmq.toml:2: mqtt.keepalive_max_s: must be 1 to 65535 s, not 65536"),
        (
            "[mqtt]\nkeepalive_multiplier = nan",
            "fastmq.toml:2: mqtt.keepalive_multiplier: must be 1.0 to 10.0, not nan",
        ),
        ("[mqtt]\nkeepalive_multiplier = 'x'", 'fastmq.toml:2: mqtt.keepalive_multiplier: must be a number, not "x"'),
        ("[mqtt]\nserver_reference = 1", "fastmq.toml:2: mqtt.server_reference: must be a text, not 1"),
        (
            "[mqtt]\nserver_reference = 1979-05-27",
            "fastmq.toml:2: mqtt.server_reference: must be a text, not 1979-05-27",
        ),
        (
            '[mqtt]\nserver_reference = "\\u0000"',
            "fastmq.toml:2: mqtt.server_reference: must not have the null character",
        ),
        ("[mqtt]\naccept_versions = []", "fastmq.toml:2: mqtt.accept_versions: must not be empty"),
        ("[mqtt]\naccept_versions = 5", "fastmq.toml:2: mqtt.accept_versions: must be a list, not 5"),
        ("[mqtt]\naccept_versions = [5, 6]", "fastmq.toml:2: mqtt.accept_versions: must be one of 3, 4, 5, not 6"),
        ("[mqtt]\naccept_versions = [5, 5]", "fastmq.toml:2: mqtt.accept_versions: has 5 twice"),
        ("[queue]\nbytes_max = 1", "fastmq.toml:2: queue.bytes_max: must be 1024 or more bytes, not 1"),
        ("[queue]\ndrop = 'all'", 'fastmq.toml:2: queue.drop: must be one of "newest", "oldest", not "all"'),
        ("listen = 'tcp://a:1'", 'fastmq.toml:1: listen: must be a list, not "tcp://a:1"'),
        ("listen = [1]", "fastmq.toml:1: listen[0]: must be an address like tcp://127.0.0.1:1883, not 1"),
        ("[listen]", "fastmq.toml:1: listen: must be a list, not a table"),
        ("mqtt = 1", "fastmq.toml:1: mqtt: is a section: write [mqtt] above its settings"),
        ("[[mqtt]]", "fastmq.toml:1: mqtt: is a section: write [mqtt] above its settings"),
        ("[mqtt.maximum_qos]", "fastmq.toml:1: mqtt.maximum_qos: must be a whole number, not a table"),
        (
            "\n[mqtt]\nmaximum_qoss = 1",
            "fastmq.toml:3: mqtt.maximum_qoss: no such setting; did you mean mqtt.maximum_qos?",
        ),
        ("maximum_qos = 1", "fastmq.toml:1: maximum_qos: no such setting; did you mean mqtt.maximum_qos?"),
        (
            "[mqtt]\nmessages_max = 1",
            "fastmq.toml:2: mqtt.messages_max: no such setting; "
            "did you mean queue.messages_max or retain.messages_max?",
        ),
        ("[mqqt]\nx = 1", "fastmq.toml:1: mqqt: no such section; did you mean mqtt?"),
        ("[zzz]", "fastmq.toml:1: zzz: no such section"),
        ("zzz = 1", "fastmq.toml:1: zzz: no such setting"),
        ("mqtt = { maximum_qos = 3 }", "fastmq.toml:1: mqtt.maximum_qos: must be one of 0, 1, 2, not 3"),
        ("\nmqtt.maximum_qos = 3", "fastmq.toml:2: mqtt.maximum_qos: must be one of 0, 1, 2, not 3"),
        ('\n["mqtt"]\n"maximum_qos" = 3', "fastmq.toml:3: mqtt.maximum_qos: must be one of 0, 1, 2, not 3"),
        ("[mqtt]\nmaximum_qos = ", "fastmq.toml:2: not TOML: Invalid value"),
        ("[mqtt", "fastmq.toml:1: not TOML: Expected ']' at the end of a table declaration"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_key(write: Write, text: str, expected: str) -> None:
    assert problems(write(text)) == [expected]


def test_all_problems_are_told_at_once(write: Write) -> None:
    path = write("[mqtt]\nmaximum_qos = 3\nreceive_maximum = 0\n")
    environment = {"FASTMQ_QUEUE__DROP": "all", "FASTMQ_MQTT__MAXIMUM_QS": "1", "FASTMQ_LISTEN": ""}
    flags = [Flag("log.connections", "maybe", "--set"), Flag("log.lvl", "x", "--set")]
    assert problems(path, environment, *flags) == [
        "fastmq.toml:2: mqtt.maximum_qos: must be one of 0, 1, 2, not 3",
        "fastmq.toml:3: mqtt.receive_maximum: must be 1 to 65535, not 0",
        'FASTMQ_QUEUE__DROP: queue.drop: must be one of "newest", "oldest", not "all"',
        "FASTMQ_MQTT__MAXIMUM_QS: no such setting; did you mean FASTMQ_MQTT__MAXIMUM_QOS?",
        "FASTMQ_LISTEN: listen: must not be empty",
        "--set: log.connections: must be true or false, not 'maybe'",
        "--set: log.lvl: no such setting; did you mean log.level?",
    ]


def test_a_file_that_cannot_be_read_is_named(write: Write, tmp_path: Path) -> None:
    assert problems(Path("none.toml")) == ["none.toml: cannot read the settings: No such file or directory"]
    Path("latin.toml").write_bytes(b"# one\nx = '\xff'\n")
    assert problems(Path("latin.toml")) == ["latin.toml:2: is not UTF-8"]


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("mqtt.maximum_qos", "1", 1),
        ("mqtt.packet_max_bytes", "2_000_000", 2_000_000),
        ("mqtt.connect_timeout_s", "2.5", 2.5),
        ("mqtt.connect_timeout_s", "3", 3.0),
        ("mqtt.retain_available", "false", False),
        ("mqtt.retain_available", "No", False),
        ("mqtt.retain_available", "ON", True),
        ("mqtt.retain_available", "1", True),
        ("mqtt.server_reference", "", ""),
        ("mqtt.server_reference", "a b", "a b"),
        ("mqtt.accept_versions", "4, 5", (4, 5)),
        ("listen", "tcp://a:1,tcp://[::1]:2", (Listener("tcp", "a", 1), Listener("tcp", "::1", 2))),
        ("listen", "tcp://a:0,tcp://a:0", (Listener("tcp", "a", 0), Listener("tcp", "a", 0))),
    ],
)
def test_text_becomes_the_value(key: str, text: str, expected: object) -> None:
    value = from_text(declared()[key], text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("tcp://127.0.0.1:1883", Listener("tcp", "127.0.0.1", 1883)),
        ("tcp://127.0.0.1", Listener("tcp", "127.0.0.1", 1883)),
        ("TCP://Host.example:0/", Listener("tcp", "Host.example", 0)),
        ("tcp://[::1]:65535", Listener("tcp", "::1", 65_535)),
        ("tcp://[::]", Listener("tcp", "::", 1883)),
        ("ws://a", Listener("ws", "a", 8083)),
        ("ws://a:1/", Listener("ws", "a", 1, path="/")),
        ("unix:///run/a.sock", Listener("unix", "/run/a.sock", 0)),
    ],
)
def test_an_address_is_parsed_and_shown(url: str, expected: Listener) -> None:
    assert Listener.parse(url) == expected
    assert Listener.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:1883", "is no address; write it as tcp://127.0.0.1:1883"),
        ("", "is no address"),
        ("quic://x:1", "quic:// is not supported; this version listens on tcp://, tls://, ws://, wss://, unix://"),
        ("tcp://", "the host is missing"),
        ("tcp://:1883", "the host is missing; 127.0.0.1 is this machine only, 0.0.0.0 every network"),
        ("tcp://::1:1883", "an IPv6 address in brackets"),
        ("tcp://[::g]:1", "'::g' is no IPv6 address"),
        ("tcp://[::1", "an IPv6 address in brackets"),
        ("tcp://a:b:c", "there must be HOST:PORT"),
        ("tcp://a:", "the port must be 0 to 65535, not ''"),
        ("tcp://a:x", "the port must be 0 to 65535, not 'x'"),
        ("tcp://a:65536", "the port must be 0 to 65535, not '65536'"),
        ("tcp://a:-1", "the port must be 0 to 65535, not '-1'"),
        ("tcp://a:1/path", "there must be HOST:PORT"),
    ],
)
def test_a_wrong_address_is_refused_in_words(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^'") as caught:
        Listener.parse(url)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("a.b", False),
    ],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert Listener("tcp", host, 1).is_loopback is expected


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("[a]\nx = 1\n[b]\nx = 2\n", "b.x", 4),
        ("a.x = 1\n", "a.x", 1),
        ("a.x = 1\n", "a", 1),
        ('a = """\nb = 1\n"""\nb = 2\n', "b", 4),
        ("a = '''x'''\nb = 2\n", "b", 2),
        ('a = \'"""\'\nb = 2\n', "b", 2),
        ('a = "it\'s" # """\nb = 2\n', "b", 2),
        ("a = [\n  1,\n  2,\n]\nb = 2\n", "b", 5),
        ("[ a . b ] # note\nx=1\n", "a.b.x", 2),
        ("a = {\nx = 1 }", "a.y", 1),
        ("", "a.b", 1),
    ],
)
def test_the_line_of_a_key_is_found(text: str, key: str, line: int) -> None:
    assert line_of(line_numbers(text), key) == line


@given(st.data())
def test_every_allowed_number_and_choice_survives_toml_and_text(data: st.DataObject) -> None:
    each = data.draw(
        st.sampled_from([each for each in declared().values() if each.setting.limits or each.setting.choices])
    )
    rule = each.setting
    value: Any
    if isinstance(each.default, tuple):
        value = tuple(data.draw(st.lists(st.sampled_from(rule.choices), min_size=1, unique=True)))
    elif rule.choices:
        value = data.draw(st.sampled_from(rule.choices))
    elif rule.limits and isinstance(each.default, float):
        value = data.draw(st.floats(*rule.limits))
    elif rule.limits:
        value = data.draw(st.integers(int(rule.limits[0]), int(rule.limits[1])))
    assert from_toml(each, tomllib.loads(f"x = {shown(value)}")["x"]) == value
    assert from_text(each, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)) == value


@given(st.text())
def test_any_text_is_shown_as_toml(text: str) -> None:
    assert tomllib.loads(f"x = {shown(text)}") == {"x": text}
    assert len(shown(text).splitlines()) == 1


def test_the_page_in_the_docs_is_true() -> None:
    page = Path(__file__).parents[2] / reference.PAGE
    assert page.read_text("utf-8") == reference.page(), "run: make docs"


def test_the_example_in_the_docs_is_what_defaults_are(write: Write) -> None:
    loaded = load(write(reference.example(declared().values())))
    assert loaded.config == Config()
    assert "default" not in loaded.origins.values()


def test_a_listener_may_be_a_table(write: Write) -> None:
    text = 'listen = ["tcp://[::1]:1", { url = "tcp://0.0.0.0:2", name = "devices", allow_anonymous = "no" }]'
    first, second = load(write(text)).config.listen
    assert (str(first), first.title) == ("tcp://[::1]:1", "tcp://[::1]:1")
    assert (str(second), second.title, second.allow_anonymous) == ("tcp://0.0.0.0:2", "devices", "no")
    assert shown(load(write(text)).config.listen) == text.removeprefix("listen = ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[[listen]]\nname = "a"',
            "fastmq.toml:1: listen[0].url: must be set, to an address like tcp://127.0.0.1:1883",
        ),
        (
            '[[listen]]\nurl = "tcp://a"\n[[listen]]\nurl = "tcp://b"\nnam = "x"',
            "fastmq.toml:5: listen[1].nam: no such setting; did you mean name?",
        ),
        (
            '[[listen]]\nurl = "tcp://a"\nallow_anonymous = true',
            "fastmq.toml:3: listen[0].allow_anonymous: must be a text, not true",
        ),
        ("listen = [[]]", "fastmq.toml:1: listen[0]: must be an address like tcp://127.0.0.1:1883, not a list"),
        ("listen = 5", "fastmq.toml:1: listen: must be a list, not 5"),
    ],
)
def test_a_wrong_table_is_refused_with_line_and_key(write: Write, text: str, expected: str) -> None:
    assert problems(write(text)) == [expected]


def test_tables_come_as_json_too() -> None:
    text = '[{"url": "tcp://127.0.0.1:1", "name": "devices"}, "tcp://127.0.0.1:2"]'
    listen = load(None, {"FASTMQ_LISTEN": text}).config.listen
    assert [each.title for each in listen] == ["devices", "tcp://127.0.0.1:2"]
    with pytest.raises(ConfigError, match=r"FASTMQ_LISTEN: listen: is no JSON"):
        load(None, {"FASTMQ_LISTEN": text[:-3]})
