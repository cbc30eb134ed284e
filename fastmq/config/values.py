"""From what a person wrote to the value of a setting, or to a sentence that says what is wrong with it."""

from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any, Final

from fastmq.config.durability import TopicDurability
from fastmq.config.listener import Listener
from fastmq.config.secret import MASK, Secret
from fastmq.config.setting import SIZE_MAX, Declared, Setting, declared_in

WORDS: Final = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def from_toml(declared: Declared, given: object) -> object:
    """The value for `declared` that a TOML file gives.

    :raises ValueError: it has the wrong type, or is out of range.
    """
    if isinstance(given, str) and given in declared.setting.words:
        return declared.setting.words[given]
    if not isinstance(declared.default, tuple):
        return _checked(declared, _typed(declared.default, given))
    if not isinstance(given, list):
        raise ValueError(f"must be a list, not {given_shown(given)}")
    items = [_checked(declared, _typed(_item(declared), item)) for item in given]
    return checked_list(declared, items)


def from_text(declared: Declared, given: str) -> object:
    """The value for `declared` that an environment variable or a flag gives; a list's items are split at commas.

    :raises ValueError: it cannot be read as such a value, or is out of range.
    """
    if given in declared.setting.words:
        return declared.setting.words[given]
    if not isinstance(declared.default, tuple):
        return _checked(declared, _read(declared.default, given))
    items = [_checked(declared, _read(_item(declared), item.strip())) for item in given.split(",") if item.strip()]
    return checked_list(declared, items)


def _item(declared: Declared) -> object:
    """An item of a list, for its type."""
    return declared.default[0] if declared.default else declared.setting.item


def shown(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if is_table(value):
        return "{ " + ", ".join(f"{key} = {shown(each)}" for key, each in entries(value)) + " }"
    if isinstance(value, Secret):
        return f'"{MASK}"' if value else '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return '"' + "".join(map(_toml_character, str(value))) + '"'


def _toml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"


def is_table(value: object) -> bool:
    """Whether it is an item of a list of tables, and one that is more than a text."""
    if not is_dataclass(value) or isinstance(value, type):
        return False
    return hasattr(value, "told") or any(getattr(value, each.name) != each.default for each in declared_in(type(value)))


def entries(table: Any) -> Iterator[tuple[str, object]]:
    """What a table says that is not its default, in the order of its declaration."""
    yield table.told if hasattr(table, "told") else ("url", str(table))
    for each in declared_in(type(table)):
        value = getattr(table, each.name)
        if value != each.default:
            yield each.name, value


def plain(value: object) -> object:
    """A value as JSON has it: listeners and rules as text, tables as objects."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if is_table(value):
        return {key: plain(each) for key, each in entries(value)}
    if isinstance(value, Secret):
        return MASK if value else ""
    return str(value) if isinstance(value, Listener | TopicDurability) else value


def limits_shown(rule: Setting) -> str:
    """`1 to 65535 bytes`; empty when there are no limits."""
    if rule.limits is None:
        return ""
    least, greatest = rule.limits
    reach = f"{least} or more" if greatest == SIZE_MAX else f"{least} to {greatest}"
    return f"{reach} {rule.unit}".rstrip()


_TYPE_NAMES: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Secret: "a text",
    TopicDurability: "a rule like telemetry/# = os",
}


def _typed(like: object, given: object) -> object:
    kind = type(like)
    if kind is float and type(given) is int:
        return float(given)
    if isinstance(like, TopicDurability) and type(given) is str:
        return like.parse(given)
    if isinstance(like, Secret) and type(given) is str:
        return like.read(given)
    if type(given) is kind:
        return given
    raise ValueError(f"must be {_TYPE_NAMES[kind]}, not {given_shown(given)}")


def _read(like: object, text: str) -> object:
    kind = type(like)
    try:
        return _READERS[kind](text)
    except (KeyError, ValueError) as error:
        if kind in (TopicDurability, Secret):
            raise
        raise ValueError(f"must be {_TYPE_NAMES[kind]}, not {text!r}") from error


_READERS: Final[dict[type, Callable[[str], Any]]] = {
    bool: lambda text: WORDS[text.lower()],
    int: int,
    float: float,
    str: str,
    Secret: Secret.read,
    TopicDurability: TopicDurability.parse,
}


def _checked(declared: Declared, value: object) -> object:
    rule = declared.setting
    if rule.choices and value not in rule.choices:
        raise ValueError(f"must be one of {', '.join(map(shown, rule.choices))}, not {given_shown(value)}")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("must not have the null character")
    if rule.limits and isinstance(value, int | float) and not rule.limits[0] <= value <= rule.limits[1]:  # nor NaN
        raise ValueError(f"must be {limits_shown(rule)}, not {value}")
    return value


def checked_list(declared: Declared, items: list[object]) -> tuple[object, ...]:
    """The items of a list, if it may be like that.

    :raises ValueError: it is empty, or an item is in it twice.
    """
    if declared.setting.not_empty and not items:
        raise ValueError("must not be empty")
    for at, item in enumerate(items):
        if item in items[:at] and not (isinstance(item, Listener) and item.port == 0):
            raise ValueError(f"has {shown(item)} twice")
    return tuple(items)


def given_shown(given: object) -> str:
    """What was given, for a sentence that says that it is wrong."""
    if isinstance(given, dict):
        return "a table"
    if isinstance(given, list):
        return "a list"
    return shown(given) if isinstance(given, bool | int | float | str) else str(given)
