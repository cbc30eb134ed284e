"""Messages as a test wants them: collected while it does something else, and awaited with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from fastmq.contracts import Message


class Collected:
    """What a broker has routed under some filters, in its order. Filled by the broker's thread, read by the test's."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._changed = threading.Condition()

    def add(self, message: Message) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def all(self) -> list[Message]:
        """Everything that came so far."""
        with self._changed:
            return list(self._messages)

    def wait(self, count: int = 1, timeout: float = 5.0) -> list[Message]:
        """Everything that came so far, as soon as there are `count` messages.

        :raises TimeoutError: there are not, in time; it says what came instead.
        """
        return self.wait_until(lambda messages: len(messages) >= count, timeout, f"{count} messages")

    def wait_for(self, topic: str, timeout: float = 5.0) -> Message:
        """The first message under that topic, from those that came and those to come.

        :raises TimeoutError: there is none in time.
        """
        found = self.wait_until(
            lambda messages: any(each.topic == topic for each in messages), timeout, f"a message under {topic!r}"
        )
        return next(each for each in found if each.topic == topic)

    def wait_until(
        self, enough: Callable[[list[Message]], bool], timeout: float = 5.0, what: str = "the messages"
    ) -> list[Message]:
        """Everything that came so far, as soon as `enough` says so.

        :raises TimeoutError: it does not in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self._messages), timeout):
                came = ", ".join(f"{each.topic}: {each.payload!r}" for each in self._messages[-10:])
                number = len(self._messages)
                raise TimeoutError(f"{what} did not come in {timeout} s; {number} came" + (f", {came}" if came else ""))
            return list(self._messages)

    def clear(self) -> None:
        """Forgets what came so far."""
        with self._changed:
            self._messages.clear()

    @property
    def payloads(self) -> list[bytes]:
        return [each.payload for each in self.all()]

    @property
    def topics(self) -> list[str]:
        return [each.topic for each in self.all()]

    def __len__(self) -> int:
        return len(self.all())

    def __iter__(self) -> Iterator[Message]:
        return iter(self.all())

    def __getitem__(self, at: int) -> Message:
        return self.all()[at]
