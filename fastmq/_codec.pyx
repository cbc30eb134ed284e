# cython: language_level=3, boundscheck=False, wraparound=False
"""Packets <-> bytes for MQTT 3.1, 3.1.1 and 5.0, in both directions. Pure: no socket, no clock, no state but Decoder's.

The law: whatever comes in, the answer is a packet or one `ProtocolError` that carries the reason code to send. What a
field may hold is checked here; in which order packets may come, and which side may send them, the session decides.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcpy, memmove

from fastmq._wire cimport be16, be32, get_varint, put16, put32, put_varint, varint_size
from fastmq._wire cimport (
    AUTH, CONNACK, CONNECT, DISCONNECT, PINGREQ, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREL, SUBACK, SUBSCRIBE,
    UNSUBACK, UNSUBSCRIBE,
)

from typing import get_args

from fastmq.errors import MalformedPacket, ProtocolError, TopicNameInvalid
from fastmq.packets import PROPERTY_TABLE as _PROPERTY_TABLE, REASON_TABLE as _REASON_TABLE
from fastmq.packets import (
    Auth, Connack, Connect, Disconnect, Packet, PacketType, Pingreq, Pingresp, Properties, Puback, Pubcomp, Publish,
    Pubrec, Pubrel, Suback, Subscribe, SubscriptionRequest, Unsuback, Unsubscribe, Will,
)
from fastmq.reasons import Reason, connect_return

# ---- The property table (MQTT 5, table 2-4)

cdef enum Kind:
    NONE, BYTE, FLAG, TWO, FOUR, VARINT, TEXT, BINARY, PAIR

cdef enum:
    WILL = 0                   # the will's properties live beside packet types 1-15
    PROPERTY_IDS = 0x2B
    FIXED_HEADER_MAX = 5
    VARINT_MAX = 268_435_455

cdef Kind[PROPERTY_IDS] kinds
cdef uint16_t[PROPERTY_IDS] allowed      # bit n = may appear in packet type n, bit 0 = in a will
cdef tuple names = ()                    # field of Properties by id; None where there is no such id
cdef uint16_t[256] reasons               # bit n = reason code may appear in packet type n


cdef int _fill_tables() except -1:
    global names
    cdef int code
    cdef list fields = [None] * PROPERTY_IDS
    forms = ("", "byte", "flag", "two", "four", "varint", "text", "binary", "pair")  # in the order of Kind
    for code, form, name, where in _PROPERTY_TABLE:
        kinds[code] = <Kind> <int> forms.index(form)
        fields[code] = name
        for packet_type in where:
            allowed[code] |= <uint16_t> (1 << <int> packet_type)
    names = tuple(fields)
    for packet_type, codes in _REASON_TABLE.items():
        for code in codes:
            reasons[code] |= <uint16_t> (1 << <int> packet_type)
    return 0


_fill_tables()

# ---- Reading: a cursor over one packet's body

cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end


cdef inline int _need(Cursor* c, Py_ssize_t n) except -1:
    if c.end - c.at < n:
        raise MalformedPacket("packet ends inside a field")
    return 0


cdef inline int _u8(Cursor* c) except -1:
    _need(c, 1)
    c.at += 1
    return (c.at - 1)[0]


cdef inline int _u16(Cursor* c) except -1:
    _need(c, 2)
    c.at += 2
    return <int> be16(c.at - 2)


cdef inline uint32_t _u32(Cursor* c) except? 0xFFFFFFFF:
    _need(c, 4)
    c.at += 4
    return be32(c.at - 4)


cdef inline uint32_t _varint(Cursor* c) except? 0xFFFFFFFF:
    cdef uint32_t value = 0
    cdef int used = get_varint(c.at, c.end, &value)
    if used <= 0:
        raise MalformedPacket("variable byte integer is truncated, too long or not minimal")
    c.at += used
    return value


cdef bytes _binary(Cursor* c):
    cdef int size = _u16(c)
    _need(c, size)
    c.at += size
    return PyBytes_FromStringAndSize(<const char*> (c.at - size), size)


cdef str _text(Cursor* c):
    cdef int size = _u16(c)
    cdef const uint8_t* start = c.at
    _need(c, size)
    c.at += size
    if size and memchr(start, 0, size) != NULL:
        raise MalformedPacket("U+0000 in a UTF-8 string")  # [MQTT-1.5.4-2]
    try:
        return PyUnicode_DecodeUTF8(<const char*> start, size, NULL)
    except UnicodeDecodeError as e:  # Python refuses surrogates and overlong forms too [MQTT-1.5.4-1]
        raise MalformedPacket("ill-formed UTF-8 string") from e


cdef int _packet_id(Cursor* c) except -1:
    cdef int packet_id = _u16(c)
    if packet_id == 0:
        raise ProtocolError("packet identifier 0")  # [MQTT-2.2.1-3]
    return packet_id


cdef int _finish(Cursor* c) except -1:
    if c.at != c.end:
        raise MalformedPacket("bytes follow the end of the packet")
    return 0


cdef bint _has_wildcard(str topic):
    return "+" in topic or "#" in topic


cdef object _properties(Cursor* c, int packet_type):
    cdef uint32_t size = _varint(c), code, number
    cdef Cursor p
    cdef unsigned long long seen = 0, bit
    cdef object found = Properties()
    if size == 0:
        return found
    _need(c, size)
    p.at = c.at
    p.end = c.at + size
    c.at = p.end
    while p.at < p.end:
        code = _varint(&p)
        if code >= PROPERTY_IDS or not allowed[code] & (1 << packet_type):
            raise MalformedPacket(f"property 0x{code:02X} does not belong into this packet")  # MQTT 5, 2.2.2.2
        if code == 0x26:
            found.user_properties.append((_text(&p), _text(&p)))
            continue
        if code == 0x0B and packet_type == PUBLISH:
            found.subscription_identifiers.append(_subscription_identifier(&p))
            continue
        bit = 1ULL << code
        if seen & bit:
            raise ProtocolError(f"property {names[code]} appears twice")
        seen |= bit
        if code == 0x0B:
            found.subscription_identifiers.append(_subscription_identifier(&p))
        elif kinds[code] == TEXT:
            setattr(found, names[code], _text(&p))
        elif kinds[code] == BINARY:
            setattr(found, names[code], _binary(&p))
        elif kinds[code] == FLAG:
            number = <uint32_t> _u8(&p)
            if number > 1:
                raise ProtocolError(f"{names[code]} is neither 0 nor 1")
            setattr(found, names[code], number == 1)
        else:
            setattr(found, names[code], _number(&p, code))
    if (seen >> 0x08) & 1 and (not found.response_topic or _has_wildcard(found.response_topic)):
        raise ProtocolError("response_topic is not a topic name")  # [MQTT-3.3.2-14]
    if (seen >> 0x16) & 1 and not (seen >> 0x15) & 1:
        raise ProtocolError("authentication_data without authentication_method")  # MQTT 5, 3.1.2.11.10
    return found


cdef uint32_t _subscription_identifier(Cursor* p) except? 0xFFFFFFFF:
    cdef uint32_t number = _varint(p)
    if number == 0:
        raise ProtocolError("subscription identifier 0")
    return number


cdef uint32_t _number(Cursor* p, uint32_t code) except? 0xFFFFFFFF:
    cdef uint32_t number
    if kinds[code] == BYTE:
        number = <uint32_t> _u8(p)
        if number > 1:
            raise ProtocolError(f"{names[code]} is neither 0 nor 1")
    elif kinds[code] == TWO:
        number = <uint32_t> _u16(p)
    else:
        number = _u32(p)
    if number == 0:
        if code == 0x23:
            raise ProtocolError("topic alias 0", Reason.TOPIC_ALIAS_INVALID)  # [MQTT-3.3.2-8]
        if code == 0x21 or code == 0x27:
            raise ProtocolError(f"{names[code]} is 0")
    return number


cdef int _reason(Cursor* c, int packet_type) except -1:
    cdef int code = _u8(c)
    if not reasons[code] & (1 << packet_type):
        raise ProtocolError(f"reason code 0x{code:02X} does not belong into this packet")
    return code


# ---- Decoding, a function per packet


cdef object decode_connect_body(const uint8_t* body, Py_ssize_t size):
    cdef Cursor c = Cursor(body, body + size)
    cdef str name = _text(&c)
    cdef int version, flags, keepalive
    cdef object will = None, username = None, password = None, properties, will_properties
    if name == "MQTT":
        version = _u8(&c)
        if version != 4 and version != 5:
            raise ProtocolError(f"protocol level {version}", Reason.UNSUPPORTED_PROTOCOL_VERSION)  # [MQTT-3.1.2-2]
    elif name == "MQIsdp":
        version = _u8(&c)
        if version != 3:
            raise ProtocolError(f"protocol level {version}", Reason.UNSUPPORTED_PROTOCOL_VERSION)
    else:
        raise ProtocolError(f"protocol name {name!r}", Reason.UNSUPPORTED_PROTOCOL_VERSION)  # [MQTT-3.1.2-1]
    flags = _u8(&c)
    if flags & 0x18 == 0x18:
        raise MalformedPacket("will QoS 3")  # [MQTT-3.1.2-12]
    if version != 3:  # MQTT 3.1 leaves unused bits open
        if flags & 0x01:
            raise MalformedPacket("reserved connect flag is set")  # [MQTT-3.1.2-3]
        if not flags & 0x04 and flags & 0x38:
            raise MalformedPacket("will QoS or retain without a will")  # [MQTT-3.1.2-11] [MQTT-3.1.2-13]
    if version == 4 and flags & 0xC0 == 0x40:
        raise MalformedPacket("password without a user name")  # 3.1.1 [MQTT-3.1.2-22]
    keepalive = _u16(&c)
    properties = _properties(&c, CONNECT) if version == 5 else Properties()
    client_id = _text(&c)
    if flags & 0x04:
        will_properties = _properties(&c, WILL) if version == 5 else Properties()
        topic = _text(&c)
        if not topic or _has_wildcard(topic):
            raise TopicNameInvalid("will topic is not a topic name")
        will = Will(topic, _binary(&c), (flags >> 3) & 3, bool(flags & 0x20), will_properties)
    # MQTT 3.1: a flag may be set and its field be missing; the remaining length wins (3.1, section 3.1).
    if flags & 0x80 and not (version == 3 and c.at == c.end):
        username = _text(&c)
    if flags & 0x40 and not (version == 3 and c.at == c.end):
        password = _binary(&c)
    _finish(&c)
    return Connect(client_id, version, bool(flags & 0x02), keepalive, username, password, will, properties)


cdef object _decode_connack(Cursor* c, int version):
    cdef int flags = _u8(c), reason
    if flags > 1:
        raise MalformedPacket("reserved connect acknowledge flags")  # [MQTT-3.2.2-1]
    if version == 5:
        reason = _reason(c, CONNACK)
        return Connack(flags == 1, reason, _properties(c, CONNACK))
    reason = _u8(c)
    if reason > 5:
        raise MalformedPacket("reserved return code")
    return Connack(flags == 1, reason)


cdef object _decode_publish(Cursor* c, int flags, int version):
    cdef int qos = (flags >> 1) & 3, packet_id = 0
    cdef str topic
    cdef object properties
    if qos == 3:
        raise MalformedPacket("QoS 3")  # [MQTT-3.3.1-4]
    if qos == 0 and flags & 8 and version != 3:
        raise MalformedPacket("DUP with QoS 0")  # [MQTT-3.3.1-2]
    topic = _text(c)
    if _has_wildcard(topic):
        raise TopicNameInvalid("wildcard in a topic name")  # [MQTT-3.3.2-2]
    if qos:
        packet_id = _packet_id(c)
    properties = _properties(c, PUBLISH) if version == 5 else Properties()
    if not topic and properties.topic_alias is None:
        raise ProtocolError("PUBLISH without topic and topic alias")  # [MQTT-4.7.3-1]
    payload = PyBytes_FromStringAndSize(<const char*> c.at, c.end - c.at)
    return Publish(topic, payload, qos, bool(flags & 1), bool(flags & 8), packet_id, properties)


cdef object _decode_ack(Cursor* c, int packet_type, int version):
    cdef int packet_id = _packet_id(c), reason = 0
    cdef object make = (Puback, Pubrec, Pubrel, Pubcomp)[packet_type - PUBACK]
    if version != 5 or c.at == c.end:
        _finish(c)
        return make(packet_id)
    reason = _reason(c, packet_type)
    properties = _properties(c, packet_type) if c.at < c.end else Properties()
    _finish(c)
    return make(packet_id, reason, properties)


cdef object _decode_subscribe(Cursor* c, int version):
    cdef int packet_id = _packet_id(c), options
    cdef object properties = _properties(c, SUBSCRIBE) if version == 5 else Properties()
    cdef list wanted = []
    cdef str topic_filter
    while c.at < c.end:
        topic_filter = _text(c)
        options = _u8(c)
        if not topic_filter:
            raise ProtocolError("empty topic filter")  # [MQTT-4.7.3-1]
        if options & (0xC0 if version == 5 else 0xFC):
            raise MalformedPacket("reserved bits in the subscription options")  # [MQTT-3.8.3-5]
        if options & 3 == 3 or options & 0x30 == 0x30:
            raise ProtocolError("QoS or retain handling 3 in a subscription")
        if options & 4 and topic_filter.startswith("$share/"):
            raise ProtocolError("no local on a shared subscription")  # [MQTT-3.8.3-4]
        flags = (bool(options & 4), bool(options & 8))
        wanted.append(SubscriptionRequest(topic_filter, options & 3, *flags, (options >> 4) & 3))
    if not wanted:
        raise ProtocolError("SUBSCRIBE without topic filter")  # [MQTT-3.8.3-2]
    return Subscribe(packet_id, wanted, properties)


cdef object _decode_unsubscribe(Cursor* c, int version):
    cdef int packet_id = _packet_id(c)
    cdef object properties = _properties(c, UNSUBSCRIBE) if version == 5 else Properties()
    cdef list filters = []
    cdef str topic_filter
    while c.at < c.end:
        topic_filter = _text(c)
        if not topic_filter:
            raise ProtocolError("empty topic filter")  # [MQTT-4.7.3-1]
        filters.append(topic_filter)
    if not filters:
        raise ProtocolError("UNSUBSCRIBE without topic filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, filters, properties)


cdef object _decode_suback(Cursor* c, int packet_type, int version):
    cdef int packet_id = _packet_id(c), code
    cdef object make = Suback if packet_type == SUBACK else Unsuback
    cdef object properties = _properties(c, packet_type) if version == 5 else Properties()
    cdef list codes = []
    if version != 5 and packet_type == UNSUBACK:
        _finish(c)
        return make(packet_id, codes, properties)
    while c.at < c.end:
        code = _reason(c, packet_type)
        if version != 5 and code > 2 and code != 0x80:
            raise MalformedPacket("reserved return code")  # [MQTT-3.9.3-2]
        codes.append(code)
    if not codes:
        raise ProtocolError("acknowledgement without reason code")
    return make(packet_id, codes, properties)


cdef object _decode_disconnect(Cursor* c, int packet_type, int version):
    cdef object make = Disconnect if packet_type == DISCONNECT else Auth
    cdef int reason
    if version != 5 or c.at == c.end:
        return make()
    reason = _reason(c, packet_type)
    properties = _properties(c, packet_type) if c.at < c.end else Properties()
    if packet_type == AUTH and reason and properties.authentication_method is None:
        raise ProtocolError("AUTH without authentication_method")  # MQTT 5, 3.15.2.2.2
    return make(reason, properties)


cdef int _check_first_byte(int first_byte, int version) except -1:
    """The packet type, when its flags are right [MQTT-2.1.3-1]."""
    cdef int packet_type = first_byte >> 4, flags = first_byte & 15
    if packet_type == 0 or (packet_type == AUTH and version != 5 and version != 0):
        raise MalformedPacket(f"reserved packet type {packet_type}")
    if packet_type == PUBLISH:
        return packet_type
    if packet_type == PUBREL or packet_type == SUBSCRIBE or packet_type == UNSUBSCRIBE:
        if flags == 2 or (version == 3 and flags == 10):  # MQTT 3.1 sends these with QoS 1 and may set DUP
            return packet_type
    elif flags == 0:
        return packet_type
    raise MalformedPacket("reserved flags in the fixed header")


cdef object decode_body(int first_byte, const uint8_t* body, Py_ssize_t size, int version):
    cdef int packet_type = _check_first_byte(first_byte, version)
    cdef Cursor c = Cursor(body, body + size)
    cdef object packet
    if packet_type == CONNECT:
        return decode_connect_body(body, size)
    if packet_type == PUBLISH:
        return _decode_publish(&c, first_byte & 15, version)
    if PUBACK <= packet_type <= PUBCOMP:
        return _decode_ack(&c, packet_type, version)
    if packet_type == CONNACK:
        packet = _decode_connack(&c, version)
    elif packet_type == SUBSCRIBE:
        packet = _decode_subscribe(&c, version)
    elif packet_type == UNSUBSCRIBE:
        packet = _decode_unsubscribe(&c, version)
    elif packet_type == SUBACK or packet_type == UNSUBACK:
        packet = _decode_suback(&c, packet_type, version)
    elif packet_type == PINGREQ:
        packet = Pingreq()
    elif packet_type == PINGRESP:
        packet = Pingresp()
    else:
        packet = _decode_disconnect(&c, packet_type, version)
    _finish(&c)
    return packet


def decode(int first_byte, body, int version):
    """The packet whose fixed header starts with `first_byte` and whose remaining bytes are `body`."""
    cdef Py_buffer view
    if version < 3 or version > 5:
        raise ValueError(f"no such MQTT version: {version}")
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        return decode_body(first_byte & 0xFF, <const uint8_t*> view.buf, view.len, version)
    finally:
        PyBuffer_Release(&view)


def decode_connect(body):
    """The CONNECT in `body`, of whichever version it says it is."""
    cdef Py_buffer view
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        return decode_connect_body(<const uint8_t*> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef class Decoder:
    """Cuts a stream of bytes into packets. `version` 0 waits for a CONNECT, which tells it (the server's side)."""

    def __init__(self, int version=0, Py_ssize_t maximum_packet_size=VARINT_MAX + FIXED_HEADER_MAX):
        if version and not 3 <= version <= 5:
            raise ValueError(f"no such MQTT version: {version}")
        self.version = version
        self.maximum_packet_size = maximum_packet_size
        self._rest = bytearray()
        self._needed = 0

    def feed(self, data):
        """The packets that `data` completes. Packets before a broken one are lost with it: the stream is over then."""
        cdef Py_buffer view
        cdef Py_ssize_t used
        cdef list packets = []
        if len(self._rest):
            self._rest += data
            if len(self._rest) < self._needed:
                return packets
            data, self._rest = self._rest, bytearray()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            used = self._cut(<const uint8_t*> view.buf, view.len, packets)
            if used < view.len:
                self._rest += PyBytes_FromStringAndSize(<const char*> view.buf + used, view.len - used)
        finally:
            PyBuffer_Release(&view)
        return packets

    cdef Py_ssize_t _cut(self, const uint8_t* data, Py_ssize_t size, list packets) except -1:
        cdef const uint8_t* at = data
        cdef const uint8_t* end = data + size
        cdef uint32_t length = 0
        cdef int used
        self._needed = 2
        while end - at >= 2:
            _check_first_byte(at[0], self.version)
            used = get_varint(at + 1, end, &length)
            if used == 0:
                break
            if used < 0:
                raise MalformedPacket("remaining length is too long or not minimal")
            if 1 + used + <Py_ssize_t> length > self.maximum_packet_size:
                raise ProtocolError("packet too large", Reason.PACKET_TOO_LARGE)  # [MQTT-3.1.2-24]
            if end - at < 1 + used + <Py_ssize_t> length:
                self._needed = 1 + used + <Py_ssize_t> length
                break
            if self.version == 0 and at[0] >> 4 != CONNECT:
                raise ProtocolError("the first packet is not CONNECT")  # [MQTT-3.1.0-1]
            packet = decode_body(at[0], at + 1 + used, length, self.version)
            packets.append(packet)
            if self.version == 0:
                self.version = packet.version
            at += 1 + used + length
        return at - data

# ---- Writing: one growing buffer; the first FIXED_HEADER_MAX bytes are kept free for the header

cdef struct Out:
    uint8_t* data
    Py_ssize_t size
    Py_ssize_t room


cdef int _reserve(Out* o, Py_ssize_t n) except -1:
    cdef uint8_t* grown
    if o.size + n <= o.room:
        return 0
    o.room = (o.size + n) * 2
    grown = <uint8_t*> PyMem_Realloc(o.data, o.room)
    if grown == NULL:
        raise MemoryError
    o.data = grown
    return 0


cdef int _put8(Out* o, long long value) except -1:
    if not 0 <= value <= 0xFF:
        raise ValueError(f"{value} does not fit into one byte")
    _reserve(o, 1)
    o.data[o.size] = <uint8_t> value
    o.size += 1
    return 0


cdef int _put16(Out* o, long long value) except -1:
    if not 0 <= value <= 0xFFFF:
        raise ValueError(f"{value} does not fit into two bytes")
    _reserve(o, 2)
    put16(o.data + o.size, <uint32_t> value)
    o.size += 2
    return 0


cdef int _put32(Out* o, long long value) except -1:
    if not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{value} does not fit into four bytes")
    _reserve(o, 4)
    put32(o.data + o.size, <uint32_t> value)
    o.size += 4
    return 0


cdef int _put_varint(Out* o, long long value) except -1:
    if not 0 <= value <= VARINT_MAX:
        raise ValueError(f"{value} does not fit into a variable byte integer")
    _reserve(o, 4)
    o.size = put_varint(o.data + o.size, <uint32_t> value) - o.data
    return 0


cdef int _put_raw(Out* o, bytes value) except -1:
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    _reserve(o, n)
    memcpy(o.data + o.size, PyBytes_AS_STRING(value), n)
    o.size += n
    return 0


cdef int _put_binary(Out* o, value) except -1:
    cdef bytes raw = bytes(value)
    if PyBytes_GET_SIZE(raw) > 0xFFFF:
        raise ValueError(f"{PyBytes_GET_SIZE(raw)} bytes: a field holds at most 65535")
    _put16(o, PyBytes_GET_SIZE(raw))
    return _put_raw(o, raw)


cdef int _put_text(Out* o, str value) except -1:
    cdef bytes raw = value.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
    if memchr(PyBytes_AS_STRING(raw), 0, PyBytes_GET_SIZE(raw)) != NULL:
        raise ValueError("U+0000 in a UTF-8 string")  # [MQTT-1.5.4-2]
    return _put_binary(o, raw)


cdef int _put_properties(Out* o, properties, int packet_type, int spared) except -1:
    """`spared` 1 leaves the user properties out, 2 the reason string too."""
    cdef Py_ssize_t start = o.size, size
    cdef uint32_t used
    cdef int code
    for code in range(1, PROPERTY_IDS):
        if kinds[code] == NONE:
            continue
        value = getattr(properties, names[code])
        if value is None or (kinds[code] == PAIR or kinds[code] == VARINT) and not value:
            continue
        if not allowed[code] & (1 << packet_type):
            raise ValueError(f"property {names[code]} does not belong into this packet")
        if (spared >= 1 and code == 0x26) or (spared >= 2 and code == 0x1F):
            continue
        _put_property(o, code, value)
    size = o.size - start
    if size > VARINT_MAX:
        raise ValueError("properties are too large")
    used = varint_size(<uint32_t> size)
    _reserve(o, used)
    memmove(o.data + start + used, o.data + start, size)
    put_varint(o.data + start, <uint32_t> size)
    o.size += used
    return 0


cdef int _put_property(Out* o, int code, value) except -1:
    if kinds[code] == PAIR:
        for name, text in value:
            _put8(o, code)
            _put_text(o, name)
            _put_text(o, text)
        return 0
    if kinds[code] == VARINT:
        for number in value:
            _put8(o, code)
            _put_varint(o, number)
        return 0
    _put8(o, code)
    if kinds[code] == TEXT:
        return _put_text(o, value)
    if kinds[code] == BINARY:
        return _put_binary(o, value)
    if kinds[code] == TWO:
        return _put16(o, value)
    if kinds[code] == FOUR:
        return _put32(o, value)
    return _put8(o, value)

# ---- Encoding

cdef dict packet_types = {kind: PacketType[kind.__name__.upper()] for kind in get_args(Packet)}


cdef int _put_connect(Out* o, packet) except -1:
    cdef int version = packet.version
    cdef int flags = 2 if packet.clean_start else 0
    will = packet.will
    if not 3 <= version <= 5:
        raise ValueError(f"no such MQTT version: {version}")
    if version != 5 and packet.password is not None and packet.username is None:
        raise ValueError("before MQTT 5 a password needs a user name")  # 3.1.1 [MQTT-3.1.2-22]
    if packet.username is not None:
        flags |= 0x80
    if packet.password is not None:
        flags |= 0x40
    if will is not None:
        if not 0 <= will.qos <= 2:
            raise ValueError(f"no such QoS: {will.qos}")
        flags |= 0x04 | <int> will.qos << 3 | (0x20 if will.retain else 0)
    _put_text(o, "MQIsdp" if version == 3 else "MQTT")
    _put8(o, version)
    _put8(o, flags)
    _put16(o, packet.keepalive)
    if version == 5:
        _put_properties(o, packet.properties, CONNECT, 0)
    _put_text(o, packet.client_id)
    if will is not None:
        if version == 5:
            _put_properties(o, will.properties, WILL, 0)
        _put_text(o, will.topic)
        _put_binary(o, will.payload)
    if packet.username is not None:
        _put_text(o, packet.username)
    if packet.password is not None:
        _put_binary(o, packet.password)
    return 0


cdef int _put_publish(Out* o, packet, int version) except -1:
    """The body; returns the flags of the fixed header."""
    cdef int qos = packet.qos
    if not 0 <= qos <= 2:
        raise ValueError(f"no such QoS: {qos}")
    if (qos != 0) != (packet.packet_id != 0):
        raise ValueError("a packet identifier is needed with QoS 1 and 2, and only then")  # [MQTT-2.2.1-2]
    _put_text(o, packet.topic)
    if qos:
        _put16(o, packet.packet_id)
    if version == 5:
        _put_properties(o, packet.properties, PUBLISH, 0)
    _put_raw(o, bytes(packet.payload))
    return qos << 1 | (1 if packet.retain else 0) | (8 if packet.dup else 0)


cdef int _return_code(int reason) except -1:
    """What CONNACK says before MQTT 5: `reason` is a return code already, or is translated."""
    if reason < 0x80:
        return reason
    told = connect_return(Reason(reason))
    if told is None:
        raise ValueError(f"MQTT 3 has no return code for reason 0x{reason:02X}: close without CONNACK")
    return told


cdef int _put_body(Out* o, packet, int packet_type, int version, int spared) except -1:
    """The body; returns the flags of the fixed header."""
    cdef int options
    if packet_type == PUBLISH:
        return _put_publish(o, packet, version)
    if packet_type == CONNECT:
        return _put_connect(o, packet)
    if packet_type == CONNACK:
        _put8(o, 1 if packet.session_present else 0)
        if version == 5:
            _put8(o, packet.reason)
            return _put_properties(o, packet.properties, CONNACK, spared)
        return _put8(o, _return_code(packet.reason))
    if packet_type == DISCONNECT or packet_type == AUTH:
        return _put_reason(o, packet, packet_type, version, spared)
    if packet_type == PINGREQ or packet_type == PINGRESP:
        return 0
    if packet.packet_id == 0:
        raise ValueError("packet identifier 0")  # [MQTT-2.2.1-3]
    _put16(o, packet.packet_id)
    if PUBACK <= packet_type <= PUBCOMP:
        _put_reason(o, packet, packet_type, version, spared)
        return 2 if packet_type == PUBREL else 0
    if version == 5:
        _put_properties(o, packet.properties, packet_type, spared)
    if packet_type == SUBSCRIBE:
        for wanted in packet.subscriptions:
            options = wanted.qos
            if version == 5:
                options |= (4 if wanted.no_local else 0) | (8 if wanted.retain_as_published else 0)
                options |= <int> wanted.retain_handling << 4
            _put_text(o, wanted.filter)
            _put8(o, options)
        return 2
    if packet_type == UNSUBSCRIBE:
        for topic_filter in packet.filters:
            _put_text(o, topic_filter)
        return 2
    if version == 5 or packet_type == SUBACK:  # [MQTT-3.9.3-1]
        for code in packet.reasons:
            _put8(o, code if version == 5 or code < 0x80 else 0x80)
    return 0


cdef int _put_reason(Out* o, packet, int packet_type, int version, int spared) except -1:
    """Reason code and properties, each left out where the rest of the packet may be."""
    cdef Py_ssize_t start = o.size
    if version != 5:
        if packet_type == AUTH:
            raise ValueError("AUTH needs MQTT 5")
        return 0
    _put8(o, packet.reason)
    _put_properties(o, packet.properties, packet_type, spared)
    if o.data[o.size - 1] == 0 and o.size - start == 2:
        # AUTH keeps its property length: some clients read it whatever the remaining length says.
        if packet.reason == 0:
            o.size = start
        elif packet_type != AUTH:
            o.size = start + 1
    return 0


cdef bytes _encode(packet, int packet_type, int version, int spared):
    cdef Out o
    cdef int flags
    cdef Py_ssize_t length, at
    o.room = 256
    o.size = FIXED_HEADER_MAX
    o.data = <uint8_t*> PyMem_Malloc(o.room)
    if o.data == NULL:
        raise MemoryError
    try:
        flags = _put_body(&o, packet, packet_type, version, spared)
        length = o.size - FIXED_HEADER_MAX
        if length > VARINT_MAX:
            raise ValueError(f"{length} bytes: no packet can be so large")
        at = FIXED_HEADER_MAX - 1 - varint_size(<uint32_t> length)
        o.data[at] = <uint8_t> (packet_type << 4 | flags)
        put_varint(o.data + at + 1, <uint32_t> length)
        return PyBytes_FromStringAndSize(<const char*> o.data + at, o.size - at)
    finally:
        PyMem_Free(o.data)


cpdef bytes encode(object packet, int version, Py_ssize_t maximum_packet_size=0):
    """The bytes of `packet`. ValueError when the packet says what `version` cannot carry.

    Where the peer set a maximum packet size, an answer sheds its user properties and then its reason string to fit
    [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3]; what still does not fit raises ValueError.
    """
    cdef int packet_type = packet_types.get(type(packet), 0), spared
    cdef bytes wire
    if packet_type == 0:
        raise TypeError(f"not a packet: {packet!r}")
    if not 3 <= version <= 5:
        raise ValueError(f"no such MQTT version: {version}")
    wire = _encode(packet, packet_type, version, 0)
    if maximum_packet_size <= 0 or PyBytes_GET_SIZE(wire) <= maximum_packet_size:
        return wire
    if version == 5 and allowed[0x1F] & (1 << packet_type):
        for spared in range(1, 3):
            wire = _encode(packet, packet_type, version, spared)
            if PyBytes_GET_SIZE(wire) <= maximum_packet_size:
                return wire
    raise ValueError(f"{PyBytes_GET_SIZE(wire)} bytes: the peer takes at most {maximum_packet_size}")
