"""Packets and their bytes, written by hand from the specifications. A vector holds in both directions unless it says so.

`wire` is hex, with spaces where a reader wants them; the first byte and the remaining length are part of it.
"""

from dataclasses import dataclass

from fastmq.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)


@dataclass(frozen=True, slots=True)
class Vector:
    name: str
    version: int
    packet: Packet
    wire: str

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.wire)


_ALL_CONNACK = Properties(
    session_expiry_interval=10,
    assigned_client_identifier="id",
    server_keep_alive=30,
    authentication_method="m",
    authentication_data=b"\x00\xff",
    response_information="r",
    server_reference="s",
    reason_string="why",
    receive_maximum=5,
    topic_alias_maximum=6,
    maximum_qos=1,
    retain_available=False,
    maximum_packet_size=65536,
    wildcard_subscription_available=True,
    subscription_identifier_available=False,
    shared_subscription_available=True,
    user_properties=[("k", "v")],
)
_ALL_PUBLISH = Properties(
    payload_format_indicator=1,
    message_expiry_interval=300,
    content_type="t",
    response_topic="r/t",
    correlation_data=b"\x01",
    subscription_identifiers=[1, 128],
    topic_alias=9,
    user_properties=[("b", "2"), ("a", "1"), ("b", "2")],
)
_WILL = Will("w/t", b"\x00\x01", 2, True)
_WILL_5 = Will("w/t", b"bye", 1, False, Properties(will_delay_interval=5, message_expiry_interval=6, content_type="c"))

VECTORS = (
    # CONNECT
    Vector("smallest", 4, Connect("", 4, True, 60), "10 0c 0004 4d515454 04 02 003c 0000"),
    Vector("MQTT 3.1", 3, Connect("c", 3, True, 60), "10 0f 0006 4d5149736470 03 02 003c 0001 63"),
    Vector("MQTT 5", 5, Connect("c", 5, False, 0), "10 0e 0004 4d515454 05 00 0000 00 0001 63"),
    Vector("user name only", 4, Connect("c", 4, True, 1, "u"), "10 10 0004 4d515454 04 82 0001 0001 63 0001 75"),
    Vector(
        "user name, empty password",
        4,
        Connect("c", 4, True, 1, "", b""),
        "10 11 0004 4d515454 04 c2 0001 0001 63 0000 0000",
    ),
    Vector(
        "password without user name",
        5,
        Connect("c", 5, True, 1, None, b"\xff"),
        "10 11 0004 4d515454 05 42 0001 00 0001 63 0001 ff",
    ),
    Vector(
        "will of QoS 2, retained",
        4,
        Connect("c", 4, True, 1, will=_WILL),
        "10 16 0004 4d515454 04 36 0001 0001 63 0003 772f74 0002 0001",
    ),
    Vector(
        "will with properties",
        5,
        Connect("c", 5, True, 1, will=_WILL_5),
        "10 27 0004 4d515454 05 0e 0001 00 0001 63 0e 02 00000006 03 0001 63 18 00000005 0003 772f74 0003 627965",
    ),
    Vector(
        "all connect properties",
        5,
        Connect(
            "c",
            5,
            True,
            1,
            properties=Properties(
                session_expiry_interval=0xFFFFFFFF,
                authentication_method="m",
                authentication_data=b"d",
                request_problem_information=False,
                request_response_information=True,
                receive_maximum=20,
                topic_alias_maximum=0,
                maximum_packet_size=1,
                user_properties=[("", "")],
            ),
        ),
        "10 2f 0004 4d515454 05 02 0001 21"
        " 11 ffffffff 15 0001 6d 16 0001 64 17 00 19 01 21 0014 22 0000 26 0000 0000 27 00000001 0001 63",
    ),
    # CONNACK
    Vector("accepted", 4, Connack(), "20 02 00 00"),
    Vector("session present", 4, Connack(True), "20 02 01 00"),
    Vector("refused", 3, Connack(False, 5), "20 02 00 05"),
    Vector("accepted", 5, Connack(), "20 03 00 00 00"),
    Vector("refused", 5, Connack(False, 0x87), "20 03 00 87 00"),
    Vector(
        "all connack properties",
        5,
        Connack(False, 0, _ALL_CONNACK),
        "20 43 00 00 40 11 0000000a 12 0002 6964 13 001e 15 0001 6d 16 0002 00ff 1a 0001 72 1c 0001 73 1f 0003 776879"
        " 21 0005 22 0006 24 01 25 00 26 0001 6b 0001 76 27 00010000 28 01 29 00 2a 01",
    ),
    # PUBLISH
    Vector("QoS 0", 4, Publish("a/b", b"hi"), "30 07 0003 612f62 6869"),
    Vector("empty payload", 3, Publish("a", b""), "30 03 0001 61"),
    Vector("QoS 1, DUP, retain", 4, Publish("a", b"\x00", 1, True, True, 10), "3b 06 0001 61 000a 00"),
    Vector("QoS 2", 5, Publish("a", b"", 2, packet_id=0xFFFF), "34 06 0001 61 ffff 00"),
    Vector("a topic of two-byte letters", 4, Publish("é/ü", b""), "30 07 0005 c3a92fc3bc"),
    Vector("U+FEFF stays", 4, Publish("\ufeffa", b""), "30 06 0004 efbbbf61"),
    Vector("alias instead of topic", 5, Publish("", b"x", properties=Properties(topic_alias=1)), "30 07 0000 03 230001 78"),
    Vector(
        "all publish properties",
        5,
        Publish("a", b"p", properties=_ALL_PUBLISH),
        "30 37 0001 61 32 01 01 02 0000012c 03 0001 74 08 0003 722f74 09 0001 01 0b 01 0b 8001 23 0009"
        " 26 0001 62 0001 32 26 0001 61 0001 31 26 0001 62 0001 32 70",
    ),
    # Acknowledgements
    Vector("PUBACK", 4, Puback(1), "40 02 0001"),
    Vector("PUBREC", 3, Pubrec(2), "50 02 0002"),
    Vector("PUBREL", 4, Pubrel(3), "62 02 0003"),
    Vector("PUBCOMP", 5, Pubcomp(4), "70 02 0004"),
    Vector("PUBACK with reason", 5, Puback(1, 0x10), "40 03 0001 10"),
    Vector("PUBREC with reason string", 5, Pubrec(1, 0x97, Properties(reason_string="x")), "50 08 0001 97 04 1f 0001 78"),
    Vector("PUBREL not found", 5, Pubrel(1, 0x92), "62 03 0001 92"),
    Vector(
        "success with a user property",
        5,
        Pubcomp(1, 0, Properties(user_properties=[("a", "b")])),
        "70 0b 0001 00 07 26 0001 61 0001 62",
    ),
    # SUBSCRIBE and the like
    Vector(
        "two filters",
        4,
        Subscribe(10, [SubscriptionRequest("a/#", 1), SubscriptionRequest("+", 2)]),
        "82 0c 000a 0003 612f23 01 0001 2b 02",
    ),
    Vector(
        "all options",
        5,
        Subscribe(1, [SubscriptionRequest("a", 2, True, True, 2)], Properties(subscription_identifiers=[268_435_455])),
        "82 0c 0001 05 0b ffffff7f 0001 61 2e",
    ),
    Vector("a shared filter", 5, Subscribe(1, [SubscriptionRequest("$share/g/a", 1)]), "82 10 0001 00 000a 2473686172652f672f61 01"),
    Vector("granted and refused", 4, Suback(1, [0, 1, 2, 0x80]), "90 06 0001 00010280"),
    Vector("granted and refused", 5, Suback(1, [1, 0x8F]), "90 05 0001 00 018f"),
    Vector("unsubscribe", 3, Unsubscribe(1, ["a", "b"]), "a2 08 0001 0001 61 0001 62"),
    Vector("unsubscribe", 5, Unsubscribe(1, ["a"]), "a2 06 0001 00 0001 61"),
    Vector("unsubscribed", 4, Unsuback(1), "b0 02 0001"),
    Vector("unsubscribed", 5, Unsuback(1, [0, 0x11]), "b0 05 0001 00 0011"),
    # Without body, or nearly
    Vector("ping", 4, Pingreq(), "c0 00"),
    Vector("pong", 5, Pingresp(), "d0 00"),
    Vector("goodbye", 4, Disconnect(), "e0 00"),
    Vector("goodbye", 5, Disconnect(), "e0 00"),
    Vector("with will", 5, Disconnect(4), "e0 01 04"),
    Vector(
        "moved",
        5,
        Disconnect(0x9D, Properties(server_reference="b", session_expiry_interval=1)),
        "e0 0b 9d 09 11 00000001 1c 0001 62",
    ),
    Vector("auth success", 5, Auth(), "f0 00"),
    Vector(
        "auth continues",
        5,
        Auth(0x18, Properties(authentication_method="m", authentication_data=b"")),
        "f0 09 18 07 15 0001 6d 16 0000",
    ),
)  # fmt: skip
"""Both directions."""

DECODED_ONLY = (
    Vector("MQTT 3.1: user name flag without user name", 3, Connect("c", 3, True, 60), "10 0f 0006 4d5149736470 03 82 003c 0001 63"),
    Vector("MQTT 3.1: unused bit set", 3, Connect("c", 3, True, 60), "10 0f 0006 4d5149736470 03 03 003c 0001 63"),
    Vector("MQTT 3.1: SUBSCRIBE with DUP", 3, Subscribe(1, [SubscriptionRequest("a")]), "8a 06 0001 0001 61 00"),
    Vector("MQTT 3.1: PUBREL with DUP", 3, Pubrel(1), "6a 02 0001"),
    Vector("a reason that says nothing", 5, Puback(1), "40 03 0001 00"),
    Vector("no properties, said at length", 5, Puback(1), "40 04 0001 00 00"),
    Vector("no properties, said at length", 5, Disconnect(), "e0 02 00 00"),
    Vector("no properties, said at length", 5, Auth(), "f0 02 00 00"),
    Vector("properties in another order", 5, Connect("c", 5, True, 0, properties=Properties(receive_maximum=1, topic_alias_maximum=2)),
           "10 14 0004 4d515454 05 02 0000 06 220002 210001 0001 63"),
)  # fmt: skip
"""What a peer may send although we would not."""

ENCODED_ONLY = (
    Vector("MQTT 5 reason told to MQTT 3: not authorized", 4, Connack(False, 0x87), "20 02 00 05"),
    Vector("MQTT 5 reason told to MQTT 3: bad password", 3, Connack(False, 0x86), "20 02 00 04"),
    Vector("MQTT 5 reason told to MQTT 3: client id", 4, Connack(False, 0x85), "20 02 00 02"),
    Vector("MQTT 5 reason told to MQTT 3: version", 4, Connack(False, 0x84), "20 02 00 01"),
    Vector("MQTT 5 reason told to MQTT 3: busy", 4, Connack(False, 0x89), "20 02 00 03"),
    Vector("any refusal of a filter", 4, Suback(1, [0x8F, 0x87]), "90 04 0001 8080"),
    Vector("reasons of UNSUBACK", 4, Unsuback(1, [0, 0x11]), "b0 02 0001"),
    Vector("reason of PUBACK", 4, Puback(1, 0x10), "40 02 0001"),
    Vector("reason of DISCONNECT", 4, Disconnect(0x04), "e0 00"),
    Vector("options of SUBSCRIBE", 4, Subscribe(1, [SubscriptionRequest("a", 1, True, True, 1)]), "82 06 0001 0001 61 01"),
    Vector("properties of PUBLISH", 4, Publish("a", b"x", properties=Properties(content_type="t")), "30 04 0001 61 78"),
)  # fmt: skip
"""What a version cannot say is left out or translated."""
