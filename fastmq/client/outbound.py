"""What the client has sent and the server has not finished: publishes with QoS 1 and 2, and (un)subscribes.

Invariants: a packet identifier is in one of the two tables or free; `_deliveries` keeps the order of publishing, which
is the order of sending again after a reconnect [MQTT-4.6.0-1]; at most `window` deliveries are open.
"""

import asyncio
from dataclasses import dataclass

from fastmq.client.errors import ConnectionLost
from fastmq.packets import Packet, Publish, Pubrel, Suback, Unsuback

__all__ = ["Outbound"]

_PACKET_ID_MAX = 65_535


@dataclass(slots=True)
class _Delivery:
    packet: Publish
    done: asyncio.Future[tuple[int, str | None]]  # reason code, reason string
    released: bool = False  # QoS 2: PUBREC came, PUBREL was sent


class Outbound:
    def __init__(self, window: int) -> None:
        self.window = window
        self._deliveries: dict[int, _Delivery] = {}
        self._requests: dict[int, asyncio.Future[Suback | Unsuback]] = {}
        self._last_id = 0
        self._turn = asyncio.Lock()  # first come, first served
        self._room = asyncio.Event()
        self._error: ConnectionLost | None = None

    def __len__(self) -> int:
        return len(self._deliveries) + len(self._requests)

    async def admit(self) -> None:
        """Return when one more delivery may be opened without another await [MQTT-3.3.4-9]."""
        async with self._turn:
            while len(self._deliveries) >= self.window and self._error is None:
                self._room.clear()
                await self._room.wait()
        if self._error is not None:
            raise self._error

    def open(self, packet: Publish) -> asyncio.Future[tuple[int, str | None]]:
        packet.packet_id = self._free_id()
        done = asyncio.get_running_loop().create_future()
        self._deliveries[packet.packet_id] = _Delivery(packet, done)
        return done

    def request(self) -> tuple[int, asyncio.Future[Suback | Unsuback]]:
        packet_id = self._free_id()
        answer: asyncio.Future[Suback | Unsuback] = asyncio.get_running_loop().create_future()
        self._requests[packet_id] = answer
        return packet_id, answer

    def answered(self, packet: Suback | Unsuback) -> None:
        answer = self._requests.pop(packet.packet_id, None)
        if answer is not None and not answer.done():
            answer.set_result(packet)

    def received(self, packet_id: int, reason: int, explanation: str | None) -> bool:
        """PUBREC. Whether PUBREL is to follow."""
        delivery = self._deliveries.get(packet_id)
        if delivery is not None and reason >= 0x80:
            self.finished(packet_id, reason, explanation)
            return False
        if delivery is not None:
            delivery.released = True
        return reason < 0x80

    def finished(self, packet_id: int, reason: int, explanation: str | None) -> None:
        """PUBACK or PUBCOMP, or a PUBREC that refuses."""
        delivery = self._deliveries.pop(packet_id, None)
        if delivery is None:
            return
        self._room.set()
        if not delivery.done.done():
            delivery.done.set_result((reason, explanation))

    def resume(self, session_present: bool) -> list[Packet]:
        """What to send again on a new connection, in order. Requests die with theirs."""
        self._fail_requests(ConnectionLost("connection lost before the answer came"))
        again: list[Packet] = []
        for packet_id, delivery in list(self._deliveries.items()):
            if not delivery.released:
                delivery.packet.dup = session_present  # a new session has not seen it
                again.append(delivery.packet)
            elif session_present:
                again.append(Pubrel(packet_id))
            else:  # the old session had it, and has gone with its identifiers
                self.finished(packet_id, 0, None)
        return again

    def fail(self, error: ConnectionLost) -> None:
        """No further connection will come: everything open ends with `error`, and nothing can be opened."""
        self._error = error
        self._fail_requests(error)
        for delivery in self._deliveries.values():
            if not delivery.done.done():
                delivery.done.set_exception(error)
                delivery.done.exception()  # whoever waits still gets it; if nobody does, asyncio need not complain
        self._deliveries.clear()
        self._room.set()

    def revive(self) -> None:
        self._error = None

    def _fail_requests(self, error: ConnectionLost) -> None:
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()
        self._requests.clear()

    def _free_id(self) -> int:
        for _ in range(_PACKET_ID_MAX):
            self._last_id = self._last_id % _PACKET_ID_MAX + 1
            if self._last_id not in self._deliveries and self._last_id not in self._requests:
                return self._last_id
        raise ConnectionLost("no packet identifier is free")
