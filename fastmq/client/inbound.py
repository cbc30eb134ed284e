"""Messages on their way from the server to whoever iterates: a bounded queue, and the receiver's side of QoS 1 and 2.

A message is acknowledged when the application takes it, not when it arrives: what lies here unread at a crash is
delivered again.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from fastmq.errors import ProtocolError
from fastmq.packets import Packet, Puback, Pubcomp, Publish, Pubrec, Pubrel
from fastmq.reasons import Reason

__all__ = ["Inbound"]


class Inbound:
    def __init__(self, messages_max: int, send: Callable[[Packet], None]) -> None:
        self.messages_max = messages_max
        self.alias_max = 0  # what our CONNECT allowed the server
        self.dropped = 0  # QoS 0 messages that found no room
        self._send = send
        self._queue: deque[tuple[Publish, int]] = deque()  # message, number of the session it came in
        self._session = 0
        self._aliases: dict[int, str] = {}
        self._unreleased: set[int] = set()  # QoS 2 identifiers from PUBLISH to PUBREL
        self._acknowledged: set[int] = set()  # those of them whose PUBREC is out
        self._changed = asyncio.Event()
        self._closed = False
        self._error: Exception | None = None

    @property
    def is_full(self) -> bool:
        return len(self._queue) >= self.messages_max

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, message: Publish, *, may_drop: bool) -> None:
        """:raises ProtocolError: the server used a topic alias it may not use."""
        self._resolve_alias(message)
        if message.qos == 2:
            if message.packet_id in self._unreleased:  # sent again: the application gets it once [MQTT-4.3.3-10]
                if message.packet_id in self._acknowledged:
                    self._send(Pubrec(message.packet_id))
                return
            self._unreleased.add(message.packet_id)
        elif message.qos == 0 and may_drop and self.is_full:
            self.dropped += 1
            return
        self._queue.append((message, self._session))
        self._changed.set()

    def released(self, packet: Pubrel) -> None:
        known = packet.packet_id in self._unreleased
        self._unreleased.discard(packet.packet_id)
        self._acknowledged.discard(packet.packet_id)
        self._send(Pubcomp(packet.packet_id, Reason.SUCCESS if known else Reason.PACKET_IDENTIFIER_NOT_FOUND))

    async def take(self) -> Publish | None:
        """The next message, now acknowledged. None once the client has disconnected.

        :raises ConnectionLost: the connection is gone and will not come back.
        """
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        message, session = self._queue.popleft()
        if session != self._session:
            return message  # the server has forgotten it; its identifier may name another one now
        if message.qos == 1:
            self._send(Puback(message.packet_id))
        elif message.qos == 2:
            self._acknowledged.add(message.packet_id)
            self._send(Pubrec(message.packet_id))
        return message

    def start(self, session_present: bool) -> None:
        """A new connection. Its aliases start empty, and a new session knows none of the old identifiers."""
        self._aliases.clear()
        self._closed = False
        self._error = None
        if session_present:  # QoS 1 messages that nobody took are sent again: keep them out of the queue twice
            self._queue = deque(item for item in self._queue if item[0].qos != 1 or item[1] != self._session)
            return
        self._session += 1
        self._unreleased.clear()
        self._acknowledged.clear()

    def finish(self, error: Exception | None) -> None:
        """No more will come. What is queued can still be taken."""
        self._error = error
        self._closed = True
        self._changed.set()

    def _resolve_alias(self, message: Publish) -> None:
        alias = message.properties.topic_alias
        if alias is None:
            return
        if alias > self.alias_max:
            raise ProtocolError("topic alias above the maximum", Reason.TOPIC_ALIAS_INVALID)
        if message.topic:
            self._aliases[alias] = message.topic
        elif alias in self._aliases:
            message.topic = self._aliases[alias]
        else:
            raise ProtocolError("unknown topic alias", Reason.TOPIC_ALIAS_INVALID)
