"""The durability of the messages of some topics: `telemetry/# = os`."""

from dataclasses import dataclass
from typing import Final

from fastmq import topics
from fastmq.errors import TopicFilterInvalid

LEVELS: Final = ("none", "os", "fsync")
"""By rising durability; the engine knows them by their place."""


@dataclass(frozen=True, slots=True)
class TopicDurability:
    """How messages whose topic matches `filter` are kept."""

    filter: str
    level: str

    @classmethod
    def parse(cls, text: str) -> "TopicDurability":
        """The rule that `text` writes as FILTER = LEVEL.

        :raises ValueError: it is none; the message says what is wrong.
        """
        topic_filter, equals, level = (part.strip() for part in text.rpartition("="))
        if not equals or level not in LEVELS:
            raise ValueError(f"{text!r} is no rule; write it as telemetry/# = os, with none, os or fsync at its end")
        try:
            topics.validate_filter(topic_filter)
        except TopicFilterInvalid as error:
            raise ValueError(f"{text!r}: {topic_filter!r} is no topic filter: {error}") from None
        if topic_filter.startswith(("$share/", "$queue/")):
            raise ValueError(f"{text!r}: a shared subscription is no topic filter; write what comes after its group")
        return cls(topic_filter, level)

    def __str__(self) -> str:
        return f"{self.filter} = {self.level}"
