# cython: language_level=3
"""Bytes on the wire, below packets: variable byte integers, UTF-8 and topic rules, and the parts of a PUBLISH.

Everything here takes a pointer and a length that the caller has already proved, allocates nothing and needs no GIL.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum PacketType:
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15

cdef enum PropertyId:
    PROP_PAYLOAD_FORMAT = 0x01
    PROP_MESSAGE_EXPIRY = 0x02
    PROP_CONTENT_TYPE = 0x03
    PROP_RESPONSE_TOPIC = 0x08
    PROP_CORRELATION_DATA = 0x09
    PROP_SUBSCRIPTION_ID = 0x0B
    PROP_SESSION_EXPIRY = 0x11
    PROP_REASON_STRING = 0x1F
    PROP_SERVER_REFERENCE = 0x1C
    PROP_TOPIC_ALIAS = 0x23
    PROP_USER_PROPERTY = 0x26

cdef enum Reason:  # the codes that the engine itself gives; all of them are in reasons.py
    OK = 0x00
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    UNSPECIFIED = 0x80
    MALFORMED = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC = 0x83
    NOT_AUTHORIZED = 0x87
    SERVER_BUSY = 0x89
    SERVER_SHUTTING_DOWN = 0x8B
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_ID_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    SHARED_NOT_SUPPORTED = 0x9E
    SUBSCRIPTION_IDS_NOT_SUPPORTED = 0xA1
    WILDCARDS_NOT_SUPPORTED = 0xA2

cdef struct Publish:
    # The parts of one PUBLISH. All pointers are borrowed: they live as long as the buffer that was parsed.
    const uint8_t* topic
    const uint8_t* props       # the properties a subscriber gets verbatim (no alias, expiry or subscription id)
    const uint8_t* payload
    uint32_t topic_len         # bytes; 0 when only an alias names the topic
    uint32_t props_len
    uint32_t payload_len
    uint32_t expiry_s          # meaningful when has_expiry
    uint16_t packet_id         # 0 with QoS 0
    uint16_t alias             # 0 = none
    uint8_t qos
    uint8_t retain
    uint8_t dup
    uint8_t has_expiry
    uint8_t utf8_payload       # the publisher says so: Payload Format Indicator 1

cdef inline uint32_t varint_size(uint32_t v) noexcept nogil:
    return 1 if v < 128 else (2 if v < 16384 else (3 if v < 2097152 else 4))

cdef inline uint8_t* put_varint(uint8_t* p, uint32_t v) noexcept nogil:
    while v >= 128:
        p[0] = <uint8_t> ((v & 127) | 128)
        v >>= 7
        p += 1
    p[0] = <uint8_t> v
    return p + 1

cdef inline int get_varint(const uint8_t* p, const uint8_t* end, uint32_t* out) noexcept nogil:
    """Bytes used (1-4), 0 when more bytes are needed, -1 when malformed or not minimal [MQTT-1.5.5-1]."""
    cdef uint32_t v = 0
    cdef int i = 0
    while i < 4:
        if p + i >= end:
            return 0
        v |= <uint32_t> (p[i] & 127) << (7 * i)
        if not p[i] & 128:
            if i > 0 and p[i] == 0:
                return -1
            out[0] = v
            return i + 1
        i += 1
    return -1

cdef inline uint32_t be16(const uint8_t* p) noexcept nogil:
    return (<uint32_t> p[0] << 8) | p[1]

cdef inline uint32_t be32(const uint8_t* p) noexcept nogil:
    return (<uint32_t> p[0] << 24) | (<uint32_t> p[1] << 16) | (<uint32_t> p[2] << 8) | p[3]

cdef inline uint8_t* put16(uint8_t* p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t> (v >> 8)
    p[1] = <uint8_t> v
    return p + 2

cdef inline uint8_t* put32(uint8_t* p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t> (v >> 24)
    p[1] = <uint8_t> (v >> 16)
    p[2] = <uint8_t> (v >> 8)
    p[3] = <uint8_t> v
    return p + 4

cdef inline uint64_t be64(const uint8_t* p) noexcept nogil:
    return (<uint64_t> be32(p) << 32) | be32(p + 4)

cdef inline uint8_t* put64(uint8_t* p, uint64_t v) noexcept nogil:
    return put32(put32(p, <uint32_t> (v >> 32)), <uint32_t> v)

cdef inline uint8_t* put_bytes(uint8_t* p, const uint8_t* data, uint32_t n) noexcept nogil:
    memcpy(p, data, n)
    return p + n

cdef inline uint32_t fnv1a(const uint8_t* p, uint32_t n) noexcept nogil:
    """A 32-bit hash that is the same in every process; see config/place.py."""
    cdef uint32_t h = 0x811C9DC5, i
    for i in range(n):
        h = (h ^ p[i]) * 0x01000193
    return h

cdef uint64_t hash_secret

cdef inline uint32_t hash_bytes(const uint8_t* p, uint32_t n) noexcept nogil:
    """A 32-bit hash, eight bytes a step: fold, multiply, fold.

    The multiplier is a secret of this process, so that nobody can choose topics or client ids that collide.
    """
    cdef uint64_t h = hash_secret ^ (<uint64_t> n * 0xD6E8FEB86659FD93ULL)
    cdef uint64_t w
    while n >= 8:
        memcpy(&w, p, 8)
        h ^= w
        h = (h ^ (h >> 29)) * hash_secret
        h ^= h >> 32
        p += 8
        n -= 8
    if n:
        w = 0
        memcpy(&w, p, n)
        h ^= w
        h = (h ^ (h >> 29)) * hash_secret
        h ^= h >> 32
    h *= hash_secret
    return <uint32_t> (h ^ (h >> 32))

cdef bint utf8_valid(const uint8_t* p, uint32_t n) noexcept nogil
cdef int check_topic_name(const uint8_t* p, uint32_t n, uint32_t levels_max) noexcept nogil
cdef int check_filter(const uint8_t* p, uint32_t n, uint32_t levels_max, bint* has_wildcard) noexcept nogil
cdef bint filter_matches(const uint8_t* filter, uint32_t n, const uint8_t* topic, uint32_t m) noexcept nogil
cdef int parse_publish(uint8_t first, uint8_t* body, uint32_t n, int version, Publish* out) noexcept nogil
cdef int skip_property(const uint8_t* p, const uint8_t* end) noexcept nogil
cdef int split_publish(bytes packet, Publish* out) except -1
