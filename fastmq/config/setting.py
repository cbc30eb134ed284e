"""How a setting is declared: a field of a frozen dataclass, with `setting()` as its default.

Some settings are lists of tables, `[[listen]]` in TOML. Their items are frozen dataclasses too; when there are several
kinds of items, one key of the table tells which it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

BYTES: Final = "bytes"
U16_MAX: Final = 65_535
U32_MAX: Final = 4_294_967_295
SIZE_MAX: Final = 2**63 - 1  # what the engine can count


@dataclass(frozen=True, slots=True)
class Tables:
    """What the items of a list of tables may be."""

    kinds: Mapping[str, type[Any]]
    """By the value of the key that tells them apart. One with `wrong()` is asked for a key that cannot be as it is."""
    told_by: str = ""
    """That key; empty when there is only one kind."""

    @classmethod
    def of(cls, *kinds: type[Any]) -> "Tables":
        """One kind; or several, each with `told`: the key that tells them apart, and its value for this kind.

        The one kind has `parse`, from the text of its `url`, and an item may then be that text alone.
        """
        if len(kinds) == 1 and not hasattr(kinds[0], "told"):
            return cls({"": kinds[0]})
        return cls({kind.told[1]: kind for kind in kinds}, kinds[0].told[0])


@dataclass(frozen=True, slots=True)
class Setting:
    """What is declared about one setting besides its default; the default's type is the setting's type."""

    help: str
    unit: str = ""
    limits: tuple[float, float] | None = None
    """The least and the greatest number allowed."""
    choices: tuple[object, ...] = ()
    """The values allowed; for a list, the items allowed."""
    not_empty: bool = False
    item: object = None
    """For a list whose default is empty: an example of its items."""
    tables: Tables | None = None
    words: Mapping[str, object] = field(default_factory=dict)
    """Words that may be written for some values."""


def setting(
    default: Any,
    *,
    help: str,
    unit: str = "",
    min: float | None = None,
    max: float | None = None,
    choices: tuple[object, ...] = (),
    not_empty: bool = False,
    item: object = None,
    tables: Tables | None = None,
    words: Mapping[str, object] | None = None,
) -> Any:
    """A field of settings: its default, and what is declared about it."""
    limits = None if min is None or max is None else (min, max)
    declared = Setting(help, unit, limits, choices, not_empty, item, tables, words or {})
    return field(default=default, metadata={"setting": declared})


@dataclass(frozen=True, slots=True)
class Declared:
    """A setting found in a schema: where it is, and what was declared about it."""

    section: str
    """Empty at the top level, and for the keys of a table in a list."""
    name: str
    default: Any
    setting: Setting

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def environment(self) -> str:
        return "FASTMQ_" + self.key.replace(".", "__").upper()


def declared_in(settings: type[Any], section: str = "") -> list[Declared]:
    """What is declared in one dataclass, in its order."""
    return [
        Declared(section, item.name, item.default, item.metadata["setting"])
        for item in fields(settings)
        if "setting" in item.metadata
    ]
