"""What clients may do: the settings' rules, then the file's, then what is said for all that no rule speaks of."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastmq._access import Access
from fastmq.auth import acl_file, rules
from fastmq.auth.rules import Line, Rule
from fastmq.auth.text_file import TextFile
from fastmq.auth.work import Work
from fastmq.config.schema import AclSettings
from fastmq.contracts import Client

LISTS_MAX: Final = 4096
"""Compiled lists that are remembered: clients with the same rights share one."""

NO_RULE: Final = "acl.no_match"


class AccessControl:
    """Implements `contracts.Authorizer`.

    :raises TextFileError: the file cannot be used.
    """

    def __init__(self, settings: AclSettings, work: Work) -> None:
        self._settings = settings
        self._rules = list(rules.from_settings(settings.rules))
        self._file = TextFile(Path(settings.file), acl_file.read, work) if settings.file else None
        self._lists: OrderedDict[tuple[Line, ...], Access] = OrderedDict()
        self._places: OrderedDict[int, list[str]] = OrderedDict()

    async def access(self, client: Client) -> Access | None:
        if client.superuser or not (self._rules or self._file is not None or client.rules):
            return None
        return self.compiled(client)

    async def refresh(self) -> bool:
        return self._file is not None and await self._file.refresh()

    def compiled(self, client: Client) -> Access:
        """The list of this client."""
        lines: list[Line] = []
        places: list[str] = []
        for rule in self.rules(client):
            if (line := rule.line(client)) is not None:
                lines.append(line)
                places.append(rule.place)
        key = tuple(lines)
        access = self._lists.get(key)
        if access is None:
            access = Access(lines, self._settings.no_match == "allow", self._settings.check_delivery)
            self._lists[key] = access
            if len(self._lists) > LISTS_MAX:
                self._lists.popitem(last=False)
        else:
            self._lists.move_to_end(key)
        self._places[access.serial] = places
        self._places.move_to_end(access.serial)
        if len(self._places) > LISTS_MAX:
            self._places.popitem(last=False)
        return access

    def rules(self, client: Client) -> Iterator[Rule]:
        """Those that may be for this client, in the order in which they are asked."""
        yield from rules.from_authentication(client.rules)
        yield from self._rules
        if self._file is not None:
            yield from self._file.value.rules(client)

    def place(self, serial: int, rule: int) -> str:
        if rule < 0:
            return NO_RULE
        places = self._places.get(serial, [])
        return places[rule] if rule < len(places) else "a rule that has been replaced"
