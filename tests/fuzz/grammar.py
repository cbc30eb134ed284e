"""Packets to throw at a broker: valid ones by grammar, and what mutation makes of them. All of it from one seed."""

from __future__ import annotations

from random import Random

from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.encode import Text, Will
from tests.wireclient.properties import Properties

VERSIONS = (3, 4, 5)
LEVELS = ("a", "b", "c", "", "$SYS", "$share", "sensor", "ü", "x" * 40)
FILTER_LEVELS = (*LEVELS, "+", "+", "#")
SIZES = (0, 1, 10, 127, 128, 1023, 1024, 5_000, 16_383, 16_384)
INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x2B, 0x23, 0x2F)
PUBLISH_PROPERTIES: tuple[tuple[int, tuple[int | str | bytes | tuple[str, str], ...]], ...] = (
    (p.PAYLOAD_FORMAT, (0, 1)),
    (p.MESSAGE_EXPIRY, (0, 1, 5, 0xFFFFFFFF)),
    (p.TOPIC_ALIAS, (1, 2, 3, 64)),
    (p.RESPONSE_TOPIC, ("re/ply",)),
    (p.CORRELATION_DATA, (b"\x00\xff", b"c" * 300)),
    (p.CONTENT_TYPE, ("text/plain", "")),
    (p.USER_PROPERTY, (("k", "v"), ("", ""))),
)


class Grammar:
    """Makes packets; `version` is the one that the connection says it speaks."""

    def __init__(self, random: Random, clients: int = 8) -> None:
        self.random = random
        self.clients = clients
        self.evil = random.choice((0.0, 0.01, 0.05, 0.4))  # share of packets that are not what they should be

    def topic(self) -> str:
        return "/".join(self.random.choices(LEVELS, k=self.random.randint(1, 4))) or "/"

    def filter(self) -> str:
        text = "/".join(self.random.choices(FILTER_LEVELS, k=self.random.randint(1, 4))) or "/"
        if self.random.random() < 0.25:
            return f"$share/g{self.random.randint(0, 2)}/{text}"
        return text

    def payload(self) -> bytes:
        return self.random.randbytes(self.random.choice(SIZES))

    def packet_id(self) -> int:
        return self.random.choice((1, 1, 2, 3, 4, 5, 300, 65_535))

    def connect(self, version: int) -> bytes:
        r = self.random
        will = None
        if r.random() < 0.4:
            props: Properties = [(p.WILL_DELAY, r.choice((0, 1, 60)))] if version == 5 else ()
            will = Will(self.topic(), self.payload(), r.randint(0, 2), r.random() < 0.5, props)
        return encode.connect(
            version,
            client_id=f"c{r.randrange(self.clients)}",
            clean=r.random() < 0.4,
            keep_alive=r.choice((0, 1, 60, 65_535)),
            props=self._connect_properties() if version == 5 else (),
            will=will,
        )

    def _connect_properties(self) -> Properties:
        r = self.random
        choices: list[tuple[int, int]] = [
            (p.SESSION_EXPIRY, r.choice((0, 1, 10, 0xFFFFFFFF))),
            (p.RECEIVE_MAXIMUM, r.choice((1, 2, 10, 65_535))),
            (p.MAXIMUM_PACKET_SIZE, r.choice((20, 100, 2_000, 1 << 20))),
            (p.TOPIC_ALIAS_MAXIMUM, r.choice((0, 1, 10, 65_535))),
            (p.REQUEST_PROBLEM_INFO, r.randint(0, 1)),
        ]
        return [each for each in choices if r.random() < 0.5]

    def publish(self, version: int) -> bytes:
        r = self.random
        qos = r.randint(0, 2)
        props: list[tuple[int, int | str | bytes | tuple[str, str]]] = []
        if version == 5:
            props = [(i, r.choice(values)) for i, values in PUBLISH_PROPERTIES if r.random() < 0.15]
        topic: Text = self.topic()
        if any(i == p.TOPIC_ALIAS for i, _ in props) and r.random() < 0.5:
            topic = ""
        return encode.publish(
            version,
            topic,
            self.payload(),
            qos=qos,
            retain=r.random() < 0.3,
            dup=bool(qos) and r.random() < 0.2,
            packet_id=self.packet_id() if qos else None,
            props=props,
        )

    def subscribe(self, version: int) -> bytes:
        r = self.random
        pairs: list[tuple[Text, int]] = []
        for _ in range(r.randint(1, 3)):
            topic_filter = self.filter()
            options = r.randint(0, 2)
            if version == 5:
                shared = topic_filter.startswith("$share")
                options |= r.choice((0, 0 if shared else 4)) | r.choice((0, 8)) | r.choice((0, 0x10, 0x20))
            pairs.append((topic_filter, options))
        props = [(p.SUBSCRIPTION_ID, r.choice((1, 127, 128, 268_435_455)))] if version == 5 else []
        return encode.subscribe(version, self.packet_id(), pairs, props if r.random() < 0.4 else ())

    def packet(self, version: int) -> bytes:
        """A packet that is valid in itself."""
        r = self.random
        kind = r.random()
        if kind < 0.4:
            return self.publish(version)
        if kind < 0.6:
            return self.subscribe(version)
        if kind < 0.7:
            return encode.unsubscribe(version, self.packet_id(), [self.filter()])
        if kind < 0.92:
            first = r.choice((encode.PUBACK, encode.PUBREC, encode.PUBREL, encode.PUBCOMP))
            code = r.choice((None, 0, 0x92 if first in (encode.PUBREL, encode.PUBCOMP) else 0x80))
            return encode.ack(version, first, self.packet_id(), code if version == 5 else None)
        if kind < 0.955:
            return encode.PINGREQ
        if kind < 0.96 and version == 5:
            return encode.auth(r.choice((None, 0x18, 0x19)))
        if kind < 0.995:
            return self.publish(version)
        if kind < 0.998:
            return self.connect(version)
        return encode.disconnect(version, r.choice((None, 0, 4)) if version == 5 else None)

    def mutated(self, packet: bytes) -> bytes:
        """The packet with a few bytes changed, taken out, doubled, or with another length."""
        r = self.random
        out = bytearray(packet)
        for _ in range(r.randint(1, 3)):
            at = r.randrange(len(out)) if out else 0
            what = r.random()
            if what < 0.35 and out:
                out[at] = r.choice(INTERESTING) if r.random() < 0.5 else r.randrange(256)
            elif what < 0.5 and out:
                out[at] ^= 1 << r.randrange(8)
            elif what < 0.65:
                del out[at : at + r.randint(1, 8)]
            elif what < 0.8:
                out[at:at] = r.randbytes(r.randint(1, 8))
            elif what < 0.9:
                out[at:at] = out[at : at + r.randint(1, 30)]
            elif len(out) > 1:
                out[1:2] = encode.varint(r.choice((0, 1, len(out), len(out) + 200, 70_000, 268_435_455)))
        return bytes(out)

    def anything(self, version: int) -> bytes:
        """Valid, mutated, or noise."""
        if self.random.random() >= self.evil:
            return self.packet(version)
        if self.random.random() < 0.8:
            return self.mutated(self.packet(version))
        return self.random.randbytes(self.random.randint(1, 100))
