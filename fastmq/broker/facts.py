"""What the broker remembers besides sessions and messages, as it stands: users and bans, a key and a value each."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from fastmq.errors import StoreError

Put = Callable[[Mapping[str, bytes | None], Callable[[StoreError | None], None]], None]
"""Puts facts into a store, and calls back, from any thread, when they are there, or why not."""

MEMORY_MAX_BYTES: Final = 64 << 20
"""Of all keys and values, as a store has it."""


class Facts:
    """Implements `contracts.Facts`. Belongs to one event loop; without a store it lives as long as the broker."""

    def __init__(self) -> None:
        self.version = 0
        """Changes with them."""
        self._values: dict[str, bytes] = {}
        self._put: Put | None = None
        self._watchers: list[Callable[[], None]] = []

    def get(self, key: str) -> bytes | None:
        """None: there is none."""
        return self._values.get(key)

    def under(self, prefix: str) -> Mapping[str, bytes]:
        """Those whose keys begin so, with the rest of their keys."""
        return {key[len(prefix) :]: value for key, value in self._values.items() if key.startswith(prefix)}

    async def put(self, changes: Mapping[str, bytes | None]) -> None:
        """Returns when they are stored; None removes one.

        :raises StoreError: they are not.
        """
        if self._put is None:
            if (
                sum(len(key) + len(value or b"") for key, value in {**self._values, **changes}.items())
                > MEMORY_MAX_BYTES
            ):
                raise StoreError("full", f"all users, bans and the like together may have {MEMORY_MAX_BYTES} bytes")
        else:
            loop = asyncio.get_running_loop()
            stored: asyncio.Future[None] = loop.create_future()

            def done(error: StoreError | None) -> None:
                loop.call_soon_threadsafe(_tell, stored, error)

            self._put(changes, done)
            await stored
        self.take({key: value for key, value in {**self._values, **changes}.items() if value is not None})

    def store_in(self, put: Put | None) -> None:
        """What `put` does from now on; None: nothing is stored."""
        self._put = put

    def watch(self, changed: Callable[[], None]) -> None:
        """Calls this whenever they have changed."""
        self._watchers.append(changed)

    def take(self, values: Mapping[str, bytes]) -> None:
        """These are all there are now."""
        if values == self._values:
            return
        self._values = dict(values)
        self.version += 1
        for changed in self._watchers:
            changed()


def _tell(stored: asyncio.Future[None], error: StoreError | None) -> None:
    if stored.done():
        return
    if error is None:
        stored.set_result(None)
    else:
        stored.set_exception(error)
