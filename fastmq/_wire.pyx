# cython: language_level=3, boundscheck=False, wraparound=False
"""See _wire.pxd. The functions that are too long to be inlined, and thin Python faces for the tests and benches."""
from libc.string cimport memmove

import os

hash_secret = int.from_bytes(os.urandom(8), "little") | 1


cdef bint utf8_valid(const uint8_t* p, uint32_t n) noexcept nogil:
    """Well-formed UTF-8 without U+0000, surrogates or overlong forms [MQTT-1.5.4-1] [MQTT-1.5.4-2]."""
    cdef const uint8_t* end = p + n
    cdef uint32_t need, code, least
    while p < end:
        if p[0] < 0x80:
            if p[0] == 0:
                return False
            p += 1
            continue
        if p[0] & 0xE0 == 0xC0:
            need, code, least = 1, p[0] & 0x1F, 0x80
        elif p[0] & 0xF0 == 0xE0:
            need, code, least = 2, p[0] & 0x0F, 0x800
        elif p[0] & 0xF8 == 0xF0:
            need, code, least = 3, p[0] & 0x07, 0x10000
        else:
            return False
        if <uint32_t> (end - p) <= need:
            return False
        p += 1
        while need:
            if p[0] & 0xC0 != 0x80:
                return False
            code = (code << 6) | (p[0] & 0x3F)
            p += 1
            need -= 1
        if code < least or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            return False
    return True


cdef uint64_t ONES = 0x0101010101010101ULL
cdef uint64_t HIGH_BITS = 0x8080808080808080ULL
cdef uint64_t PLUSES = 0x2B2B2B2B2B2B2B2BULL
cdef uint64_t HASHES = 0x2323232323232323ULL
cdef uint64_t SPACES = 0x2020202020202020ULL
cdef uint64_t SLASHES = 0x2F2F2F2F2F2F2F2FULL


cdef inline bint has_zero(uint64_t w) noexcept nogil:
    """Whether one of the eight bytes is 0."""
    return ((w - ONES) & ~w & HIGH_BITS) != 0


cdef int check_topic_name(const uint8_t* p, uint32_t n, uint32_t levels_max) noexcept nogil:
    """0, or the reason: MALFORMED for bad UTF-8, TOPIC_NAME_INVALID for wildcards, emptiness, too many levels."""
    cdef uint32_t i = 0, at, levels = 1
    cdef uint8_t high = 0, c
    cdef uint64_t w, slashes
    if n == 0:
        return TOPIC_NAME_INVALID  # [MQTT-4.7.3-1]
    while i < n:                 # eight plain bytes at once; what is special is looked at below
        if n - i >= 8:
            memcpy(&w, p + i, 8)
        else:
            w = SPACES
            memcpy(&w, p + i, n - i)
        if w & HIGH_BITS or has_zero(w) or has_zero(w ^ PLUSES) or has_zero(w ^ HASHES):
            break
        slashes = w ^ SLASHES
        slashes = ~(((slashes & ~HIGH_BITS) + ~HIGH_BITS) | slashes | ~HIGH_BITS)
        levels += <uint32_t> ((slashes >> 7) * ONES >> 56)
        i += 8
    for at in range(i, n):
        c = p[at]
        high |= c
        if c == b"/":
            levels += 1
        elif c == b"+" or c == b"#":
            return TOPIC_NAME_INVALID  # [MQTT-3.3.2-2]
        elif c == 0:
            return MALFORMED
    if high & 0x80 and not utf8_valid(p, n):
        return MALFORMED
    return TOPIC_NAME_INVALID if levels > levels_max else 0


cdef int check_filter(const uint8_t* p, uint32_t n, uint32_t levels_max, bint* has_wildcard) noexcept nogil:
    """0, or the reason: MALFORMED for bad UTF-8, TOPIC_FILTER_INVALID for misplaced wildcards or too many levels."""
    cdef uint32_t i, levels = 1
    has_wildcard[0] = False
    if n == 0:
        return TOPIC_FILTER_INVALID  # [MQTT-4.7.3-1]
    if not utf8_valid(p, n):
        return MALFORMED
    for i in range(n):
        if p[i] == b"/":
            levels += 1
        elif p[i] == b"+":  # [MQTT-4.7.1-2]
            if (i > 0 and p[i - 1] != b"/") or (i + 1 < n and p[i + 1] != b"/"):
                return TOPIC_FILTER_INVALID
            has_wildcard[0] = True
        elif p[i] == b"#":  # [MQTT-4.7.1-1]
            if i + 1 != n or (i > 0 and p[i - 1] != b"/"):
                return TOPIC_FILTER_INVALID
            has_wildcard[0] = True
    return TOPIC_FILTER_INVALID if levels > levels_max else 0


cdef bint filter_matches(const uint8_t* filter, uint32_t n, const uint8_t* topic, uint32_t m) noexcept nogil:
    """Whether a valid filter matches a topic [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.2-1]."""
    cdef uint32_t f = 0, t = 0
    if m and topic[0] == b"$" and n and (filter[0] == b"#" or filter[0] == b"+"):
        return False
    while f < n:
        if filter[f] == b"#":
            return True
        if filter[f] == b"+":
            while t < m and topic[t] != b"/":
                t += 1
            f += 1
        elif t < m and filter[f] == topic[t]:
            f += 1
            t += 1
        else:
            return t == m and n - f == 2 and filter[f] == b"/" and filter[f + 1] == b"#"
    return t == m


cdef int skip_property(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Bytes of the property at p, its id included; -1 when it is unknown, truncated or its UTF-8 is bad."""
    cdef uint32_t n = <uint32_t> (end - p), first, second, ignored
    cdef uint8_t kind
    cdef int used
    if n < 2:
        return -1
    kind = p[0]
    if kind in (0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A):
        return 2
    if kind in (0x13, 0x21, 0x22, 0x23):
        return 3 if n >= 3 else -1
    if kind in (0x02, 0x11, 0x18, 0x27):
        return 5 if n >= 5 else -1
    if kind == PROP_SUBSCRIPTION_ID:
        used = get_varint(p + 1, end, &ignored)
        return 1 + used if used > 0 else -1
    if kind in (0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x26):
        if n < 3:
            return -1
        first = be16(p + 1)
        if n < 3 + first:
            return -1
        if kind != PROP_CORRELATION_DATA and kind != 0x16 and not utf8_valid(p + 3, first):
            return -1
        if kind != PROP_USER_PROPERTY:
            return <int> (3 + first)
        if n < 5 + first:
            return -1
        second = be16(p + 3 + first)
        if n < 5 + first + second or not utf8_valid(p + 5 + first, second):
            return -1
        return <int> (5 + first + second)
    return -1


cdef int parse_properties(uint8_t* p, uint32_t n, Publish* out) noexcept nogil:
    """Validates the properties of a PUBLISH from a client and leaves those that are forwarded, in order, in place.

    Alias and expiry go into `out`; what follows them is moved down over them, so that `out.props` is one run.
    """
    cdef uint8_t* end = p + n
    cdef uint8_t* keep = p
    cdef uint8_t* at = p
    cdef uint32_t seen = 0, bit
    cdef int size
    cdef uint8_t kind
    while at < end:
        kind = at[0]
        size = skip_property(at, end)
        if size < 0:
            return MALFORMED
        if kind != PROP_USER_PROPERTY:
            if kind not in (0x01, 0x02, 0x03, 0x08, 0x09, 0x23):
                # Foreign ones are malformed (section 2.2.2.2); a subscription id is not a client's [MQTT-3.3.4-6].
                return PROTOCOL_ERROR if kind == PROP_SUBSCRIPTION_ID else MALFORMED
            bit = 1 << (kind & 31) if kind < 32 else 1 << 31
            if seen & bit:
                return PROTOCOL_ERROR
            seen |= bit
        if kind == PROP_MESSAGE_EXPIRY:
            out.expiry_s = be32(at + 1)
            out.has_expiry = 1
        elif kind == PROP_TOPIC_ALIAS:
            out.alias = <uint16_t> be16(at + 1)
            if out.alias == 0:
                return TOPIC_ALIAS_INVALID  # [MQTT-3.3.2-8]
        else:
            if kind == PROP_PAYLOAD_FORMAT:
                if at[1] > 1:
                    return PROTOCOL_ERROR
                out.utf8_payload = at[1]
            elif kind == PROP_RESPONSE_TOPIC and check_topic_name(at + 3, size - 3, 65535):
                return PROTOCOL_ERROR  # [MQTT-3.3.2-14]
            if keep != at:
                memmove(keep, at, size)
            keep += size
        at += size
    out.props = p
    out.props_len = <uint32_t> (keep - p)
    return 0


cdef int parse_publish(uint8_t first, uint8_t* body, uint32_t n, int version, Publish* out) noexcept nogil:
    """Splits the body of a PUBLISH (n bytes after the fixed header). 0, or the reason it is refused.

    The topic's characters are not looked at here: an alias may supply it, and a known topic needs no second look.
    May rewrite the property bytes in place (see parse_properties), so a body is parsed once.
    """
    cdef uint32_t at, props_len
    cdef int used
    out.qos = (first >> 1) & 3
    out.retain = first & 1
    out.dup = (first >> 3) & 1
    out.packet_id = 0
    out.alias = 0
    out.has_expiry = 0
    out.expiry_s = 0
    out.props_len = 0
    out.props = body
    out.utf8_payload = 0
    if out.qos == 3 or (out.dup and out.qos == 0):
        return MALFORMED  # [MQTT-3.3.1-4] [MQTT-3.3.1-2]
    if n < 2:
        return MALFORMED
    out.topic_len = be16(body)
    out.topic = body + 2
    at = 2 + out.topic_len
    if out.qos:
        if n < at + 2:
            return MALFORMED
        out.packet_id = <uint16_t> be16(body + at)
        if out.packet_id == 0:
            return PROTOCOL_ERROR  # [MQTT-2.2.1-3]
        at += 2
    if n < at:
        return MALFORMED
    if version == 5:
        used = get_varint(body + at, body + n, &props_len)
        if used <= 0:
            return MALFORMED
        at += used
        if n - at < props_len:
            return MALFORMED
        if props_len:
            used = parse_properties(body + at, props_len, out)
            if used:
                return used
        at += props_len
    out.payload = body + at
    out.payload_len = n - at
    return 0


cdef int split_publish(bytes packet, Publish* out) except -1:
    """Parses an encoded MQTT 5 PUBLISH; the bytes must stay alive as long as the parts are used."""
    cdef uint8_t* p = <uint8_t*> <char*> packet
    cdef uint32_t length = 0, size = <uint32_t> len(packet)
    cdef int used = get_varint(p + 1, p + size, &length) if size > 1 else 0
    cdef int reason
    if used <= 0 or 1 + used + length != size or p[0] >> 4 != 3:
        raise ValueError("not one encoded PUBLISH packet")
    reason = parse_publish(p[0], p + 1 + used, length, 5, out)
    if not reason:
        reason = check_topic_name(out.topic, out.topic_len, 65535)
    if reason:
        raise ValueError(f"the PUBLISH is refused with reason code {reason:#04x}")
    return 0


def is_utf8(bytes text not None) -> bool:
    """Whether MQTT allows these bytes as a UTF-8 string (MQTT 5, section 1.5.4)."""
    return utf8_valid(<const uint8_t*> <char*> text, <uint32_t> len(text))


def topic_reason(bytes topic not None, int levels_max=128) -> int:
    """0 if a client may publish to this topic, else the reason code."""
    return check_topic_name(<const uint8_t*> <char*> topic, <uint32_t> len(topic), levels_max)


def filter_reason(bytes topic_filter not None, int levels_max=128) -> int:
    """0 if this is a topic filter, else the reason code."""
    cdef bint wildcard
    return check_filter(<const uint8_t*> <char*> topic_filter, <uint32_t> len(topic_filter), levels_max, &wildcard)
