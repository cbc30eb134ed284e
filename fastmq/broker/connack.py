"""The CONNACKs of one worker: yes, with what the broker offers, and no."""

from typing import Final

from fastmq._codec import encode
from fastmq.config.schema import MqttSettings
from fastmq.errors import ProtocolError
from fastmq.packets import Connack, Connect, Properties
from fastmq.reasons import Reason

EXPIRY_NEVER: Final = 0xFFFF_FFFF
CACHE_MAX: Final = 64
"""Different CONNACKs that are kept encoded."""
ACCEPTED_V31: Final = (b"\x20\x02\x00\x00", b"\x20\x02\x00\x00")
ACCEPTED_V311: Final = (b"\x20\x02\x00\x00", b"\x20\x02\x01\x00")
"""The second with Session Present."""
UNSUPPORTED_V311: Final = b"\x20\x02\x00\x01"


class Connacks:
    """Encodes them; those that say nothing about one client are kept."""

    def __init__(self, mqtt: MqttSettings) -> None:
        self._mqtt = mqtt
        self._cache: dict[tuple[int | None, int | None], tuple[bytes, bytes]] = {}

    def accepted(self, connect: Connect, answer: Properties) -> tuple[bytes, bytes] | None:
        """Without and with Session Present. None: they are larger than the client allows [MQTT-3.1.2-24]."""
        if connect.version < 5:
            return ACCEPTED_V311 if connect.version == 4 else ACCEPTED_V31
        found = self._accepted_v5(answer)
        return found if len(found[0]) <= (connect.properties.maximum_packet_size or EXPIRY_NEVER) else None

    def _accepted_v5(self, answer: Properties) -> tuple[bytes, bytes]:
        common = answer.authentication_method is None and answer.response_information is None
        common = common and answer.assigned_client_identifier is None
        key = (answer.session_expiry_interval, answer.server_keep_alive)
        if common and key in self._cache:
            return self._cache[key]
        mqtt = self._mqtt
        answer.receive_maximum = mqtt.receive_maximum
        answer.maximum_packet_size = mqtt.packet_max_bytes
        answer.topic_alias_maximum = mqtt.topic_alias_maximum or None
        answer.maximum_qos = mqtt.maximum_qos if mqtt.maximum_qos < 2 else None
        answer.retain_available = None if mqtt.retain_available else False
        answer.wildcard_subscription_available = None if mqtt.wildcard_available else False
        answer.shared_subscription_available = None if mqtt.shared_available else False
        answer.subscription_identifier_available = None if mqtt.subscription_id_available else False
        packets = (
            encode(Connack(False, Reason.SUCCESS, answer), 5),
            encode(Connack(True, Reason.SUCCESS, answer), 5),
        )
        if common and len(self._cache) < CACHE_MAX:
            self._cache[key] = packets
        return packets

    def refused(self, connect: Connect, reason: Reason) -> bytes | None:
        """None: it is larger than the client allows."""
        answer = Properties()
        if reason in (Reason.USE_ANOTHER_SERVER, Reason.SERVER_MOVED):
            answer.server_reference = self._mqtt.server_reference or None
        packet = encode(Connack(False, reason, answer), connect.version)
        return packet if len(packet) <= (connect.properties.maximum_packet_size or EXPIRY_NEVER) else None


def undecoded(body: bytes, error: ProtocolError) -> bytes | None:
    """For a CONNECT that is wrong in itself, as far as its version can be told. None: it gets no answer."""
    length = int.from_bytes(body[:2], "big")
    level = body[2 + length] if len(body) > 2 + length else -1
    if body[2 : 2 + length] == b"MQTT" and level >= 5 and not level & 0x80:
        return encode(Connack(False, error.reason, Properties()), 5)
    if error.reason == Reason.UNSUPPORTED_PROTOCOL_VERSION and body[2 : 2 + length] in (b"MQTT", b"MQIsdp"):
        return UNSUPPORTED_V311  # [MQTT-3.1.2-2] of 3.1.1
    return None


def packet_of(body: bytes) -> bytes:
    """The CONNECT packet with this body."""
    size, left = bytearray(), len(body)
    while left >= 0x80:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    size.append(left)
    return b"\x10" + bytes(size) + body
