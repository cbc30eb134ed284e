"""`${clientid}` and the like: places in a text that are filled with what is known about a client."""

import re
from collections.abc import Mapping
from typing import Final

NAMES: Final = ("clientid", "username", "peerhost", "listener")
"""As EMQX calls them."""

_PLACE: Final = re.compile(r"\$\{([^{}]*)\}")


def problem(text: str) -> str:
    """What is wrong with the places of a text; empty: nothing."""
    for name in _PLACE.findall(text):
        if name not in NAMES and name != "$":
            return (
                f"${{{name}}} is unknown; there are {', '.join(f'${{{each}}}' for each in NAMES)}, and ${{$}} for a $"
            )
    return ""


def has_places(text: str) -> bool:
    """Whether there is anything to fill in."""
    return _PLACE.search(text) is not None


def fill(text: str, values: Mapping[str, str | None]) -> str | None:
    """The text, filled; None: one of the values is not known."""
    missing = False

    def value(found: re.Match[str]) -> str:
        nonlocal missing
        given = "$" if found[1] == "$" else values.get(found[1])
        missing = missing or given is None
        return given or ""

    filled = _PLACE.sub(value, text)
    return None if missing else filled
