# cython: language_level=3, boundscheck=False, wraparound=False
"""See _protocol.pxd. Rules: MQTT 5, chapter 3 and sections 4.3, 4.9, 4.13; MQTT 3.1.1, chapter 3."""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from fastmq._access cimport (
    MAY_PUBLISH, MAY_SUBSCRIBE, denials_add, guard_publish, guard_set, guard_subscribe, is_allowed,
)
from fastmq._fabric cimport fabric_gone, fabric_item, fabric_mark, fabric_must_hold
from fastmq._inflight cimport receive_add, receive_drop, receive_has
from fastmq._journal cimport (
    Journal, REC_RECEIVED, REC_RELEASED, journal_full, journal_gate, record_clock, record_packet_id,
)
from fastmq._link cimport link_ack, link_promise, link_reserve
from fastmq._message cimport charge
from fastmq._router cimport router_full, router_keeps, router_publish, router_strained
from fastmq._session cimport session_id, session_pubcomp, session_pubrec, session_puback, session_pump, session_waiting
from fastmq._share cimport share_prefix
from fastmq._subscribe cimport session_subscribe, session_unsubscribe
from fastmq._terms cimport terms_free
from fastmq._trie cimport OPT_NO_LOCAL, OPT_RETAIN_AS_PUBLISHED
from fastmq._wait cimport must_wait, wait_ack, wait_resume, waits_drop
from fastmq._wire cimport (
    AUTH, CONNECT, DISCONNECT, MALFORMED, NOT_AUTHORIZED, NO_MATCHING_SUBSCRIBERS, NO_SUBSCRIPTION_EXISTED,
    PACKET_ID_NOT_FOUND, PACKET_TOO_LARGE, PAYLOAD_FORMAT_INVALID, PINGREQ, PROP_REASON_STRING, PROP_SESSION_EXPIRY,
    PROP_SUBSCRIPTION_ID, PROP_USER_PROPERTY, PROTOCOL_ERROR, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Publish,
    QOS_NOT_SUPPORTED, QUOTA_EXCEEDED, RECEIVE_MAXIMUM_EXCEEDED, RETAIN_NOT_SUPPORTED, SHARED_NOT_SUPPORTED,
    SUBSCRIBE, SUBSCRIPTION_IDS_NOT_SUPPORTED, TOPIC_ALIAS_INVALID, TOPIC_FILTER_INVALID, TOPIC_NAME_INVALID,
    UNSPECIFIED, UNSUBSCRIBE, WILDCARDS_NOT_SUPPORTED, be16, be32, check_filter, check_topic_name, get_varint,
    parse_publish, put16, put_varint, skip_property, utf8_valid, varint_size,
)

cdef enum:
    HOLD = -1


# -- PUBLISH -----------------------------------------------------------------------------------------------------------

cdef int resolve_alias(Peer* c, Publish* p) noexcept nogil:
    """Sets or uses a topic alias. 0, or the reason to disconnect."""
    cdef uint16_t limit = c.protocol.alias_max
    cdef InboundAlias* a
    cdef uint8_t* topic
    if p.alias > limit:
        return TOPIC_ALIAS_INVALID  # [MQTT-3.3.2-9]
    if c.aliases == NULL:
        c.aliases = <InboundAlias*> calloc(limit, sizeof(InboundAlias))
        if c.aliases == NULL:
            return QUOTA_EXCEEDED
        charge(&c.protocol.router.ledger, <int64_t> limit * sizeof(InboundAlias))
    a = &c.aliases[p.alias - 1]
    if p.topic_len == 0:
        if a.topic == NULL:
            return PROTOCOL_ERROR  # [MQTT-3.3.2-7] leaves 0x82 for an alias that nothing was set for
        p.topic = a.topic
        p.topic_len = a.len
        return 0
    if a.len == p.topic_len and memcmp(a.topic, p.topic, a.len) == 0:
        return 0
    topic = <uint8_t*> malloc(p.topic_len)
    if topic == NULL:
        return QUOTA_EXCEEDED
    memcpy(topic, p.topic, p.topic_len)
    charge(&c.protocol.router.ledger, <int64_t> p.topic_len - a.len)
    free(a.topic)
    a.topic = topic
    a.len = p.topic_len
    return 0


cdef const uint8_t* mounted(Peer* c, const uint8_t* text, uint32_t* n, uint32_t at) noexcept nogil:
    """The topic or filter with the mount point in front of it; `at` is where that is in a shared one.

    The bytes live until the next call. NULL: it would be too long.
    """
    cdef uint8_t* out = c.protocol.room
    cdef uint32_t cut = c.link.terms.mount_len
    if n[0] + cut > TOPIC_MAX:
        return NULL
    memcpy(out, text, at)
    memcpy(out + at, c.link.terms.mount, cut)
    memcpy(out + at + cut, text + at, n[0] - at)
    n[0] += cut
    return out


cdef inline bint is_mounted(const Peer* c) noexcept nogil:
    return c.link.terms != NULL and c.link.terms.mount_len != 0


cdef bint may(Peer* c, uint8_t action, const uint8_t* topic, uint32_t n, uint8_t qos, bint flag) noexcept nogil:
    """Whether the client's access control list allows it; `flag`: retained, or shared. Only for those that have one."""
    cdef Session* s = peer_session(c)
    cdef uint32_t result
    if action == MAY_PUBLISH:
        result = guard_publish(&c.link.guard, topic, n, qos, flag)
    else:
        result = guard_subscribe(&c.link.guard, topic, n, qos, flag)
    if is_allowed(result):
        return True
    c.unwelcome = c.protocol.deny_closes
    denials_add(&c.protocol.denials, action, &c.link.guard, result, session_id(s), s.id_len, topic, n)
    return False


cdef inline bint is_reserved(const Publish* p) noexcept nogil:
    """Topics that only the broker writes to: a client's publish is refused as Mosquitto does, not routed.

    The state of a Mosquitto bridge is the exception: its clients publish it themselves.
    """
    if p.topic[0] != b"$" or p.topic_len < 5 or memcmp(p.topic, b"$SYS/", 5) != 0:
        return False
    return p.topic_len < 23 or memcmp(p.topic, b"$SYS/broker/connection/", 23) != 0


cdef int under_strain(Peer* c, const Publish* p) noexcept nogil:
    """What becomes of a publish while memory is full, or the store is full or behind: 0: it goes on; HOLD; a reason.

    HOLD: it stays unread until there is room, since the store will soon have it, or MQTT 3 has no way to refuse it.
    """
    cdef Router* r = c.protocol.router
    cdef Journal* j = &r.journal
    cdef bint mute = p.qos and c.link.version < 5
    if j.trouble and (p.qos or p.retain) and router_keeps(r, p):
        return <int> HOLD if mute else j.trouble
    if router_full(r):
        return <int> HOLD if mute else <int> QUOTA_EXCEEDED
    return 0


cdef inline int acknowledge(
    Peer* c, uint8_t kind, uint16_t packet_id, uint8_t reason, uint64_t gate, bint records
) noexcept nogil:
    """PUBACK or PUBREC: when `gate` is committed, and other workers have what they were sent. A Verdict."""
    if not must_wait(&c.waits, c.protocol.router):
        link_ack(&c.link, kind, packet_id, reason, gate)
        return GO_ON
    return <int> GO_ON if wait_ack(
        &c.waits, &c.link, c.protocol.router, kind, packet_id, reason, gate, peer_session(c).base.serial, records
    ) else <int> QUOTA_EXCEEDED


cdef int on_publish(Peer* c, uint8_t first, uint8_t* body, uint32_t n) noexcept nogil:
    cdef Router* r = c.protocol.router
    cdef Journal* j = &r.journal
    cdef Session* s = peer_session(c)
    cdef Publish p
    cdef uint64_t gate = 0, records = j.records
    cdef int fresh, reason
    cdef bint waits = False
    r.wait = NULL
    if first & 7 and journal_full(j):
        c.hold = 1               # before it is parsed, which can be done once
        return GO_ON
    reason = parse_publish(first, body, n, c.link.version, &p)
    if reason:
        return reason
    if p.topic_len:
        reason = check_topic_name(p.topic, p.topic_len, c.protocol.levels_max)
        if reason:
            return reason
    if p.alias:
        reason = resolve_alias(c, &p)
        if reason:
            return reason
    elif p.topic_len == 0:
        return PROTOCOL_ERROR  # [MQTT-3.3.2-8], and [MQTT-4.7.3-1] for MQTT 3
    if is_mounted(c):
        p.topic = mounted(c, p.topic, &p.topic_len, 0)
        if p.topic == NULL or check_topic_name(p.topic, p.topic_len, c.protocol.levels_max):
            return TOPIC_NAME_INVALID
    if p.qos > c.protocol.qos_max:
        return QOS_NOT_SUPPORTED  # [MQTT-3.2.2-11]
    if p.retain and not c.protocol.retain_available:
        return RETAIN_NOT_SUPPORTED  # [MQTT-3.2.2-14]
    r.stats.publish_received += 1
    r.stats.publish_bytes_received += p.payload_len
    if p.qos == 2:
        if receive_has(s.received, p.packet_id):
            # A repeat: acknowledged, not routed again [MQTT-4.3.3-10]; what it repeats may not be committed yet.
            if wait_resume(&c.waits, &c.link, r, s.base.serial, p.packet_id):
                return GO_ON
            return acknowledge(c, 0x50, p.packet_id, 0, journal_gate(j) if s.base.durable else 0, False)
        if c.link.version == 5 and s.received != NULL and s.received.used >= c.protocol.receive_max:
            return RECEIVE_MAXIMUM_EXCEEDED  # [MQTT-3.3.4-9]
    if is_reserved(&p) or (
        c.link.guard.list != NULL and not may(c, MAY_PUBLISH, p.topic, p.topic_len, p.qos, p.retain)
    ):
        r.stats.dropped_denied += 1
        r.stats.publish_dropped += 1
        reason = NOT_AUTHORIZED
        if c.unwelcome:
            return reason
    elif p.utf8_payload and c.protocol.check_payload and not utf8_valid(p.payload, p.payload_len):
        r.stats.dropped_denied += 1
        r.stats.publish_dropped += 1
        reason = PAYLOAD_FORMAT_INVALID
    else:
        reason = under_strain(c, &p) if router_strained(r) else 0
        if reason == HOLD:
            r.stats.publish_received -= 1
            r.stats.publish_bytes_received -= p.payload_len
            c.hold = 1
            return GO_ON
        if reason:
            r.stats.dropped_memory += 1
            r.stats.publish_dropped += 1
        else:
            if p.retain:
                r.publisher = s.user
            if router_publish(r, &p, s.base.serial, NULL) == 0:
                reason = NO_MATCHING_SUBSCRIBERS
            r.publisher = NULL
        if r.refused and p.qos and reason < 0x80:
            if c.link.version < 5:
                return QUOTA_EXCEEDED  # which it does not hear: it is to come again and repeat it
            reason = QUOTA_EXCEEDED
            r.wait = NULL        # what was sent already will be sent again
    if p.qos == 1:
        if j.records != records:
            gate = journal_gate(j)
        return acknowledge(c, 0x40, p.packet_id, <uint8_t> reason, gate, False)  # when it is stored, see link_promise
    elif p.qos == 2:
        if reason < 0x80 or c.link.version < 5:
            fresh = receive_add(&s.received, p.packet_id)
            if fresh < 0:
                return QUOTA_EXCEEDED
            waits = must_wait(&c.waits, r)
            if s.base.durable and not waits:
                record_packet_id(j, REC_RECEIVED, s.base.serial, p.packet_id)
        if j.records != records:
            gate = journal_gate(j)
        return acknowledge(c, 0x50, p.packet_id, <uint8_t> reason, gate, waits and s.base.durable)
    return GO_ON


# -- properties of the small packets -----------------------------------------------------------------------------------

cdef int small_properties(const uint8_t* p, uint32_t n, uint64_t allowed, uint32_t* value) noexcept nogil:
    """Checks the property block at p, which must fill n bytes together with its length. 0, or the reason.

    `allowed` has a bit for each property id; the one integer that such packets carry goes into `value`.
    """
    cdef const uint8_t* end = p + n
    cdef uint32_t length
    cdef uint64_t seen = 0, bit
    cdef int used = get_varint(p, end, &length)
    if used <= 0 or <uint32_t> (end - p) - used != length:
        return MALFORMED
    p += used
    while p < end:
        used = skip_property(p, end)
        if used < 0:
            return MALFORMED
        bit = <uint64_t> 1 << (p[0] & 63)
        if not allowed & bit:
            return MALFORMED  # MQTT 5, section 2.2.2.2
        if seen & bit and p[0] != PROP_USER_PROPERTY:
            return PROTOCOL_ERROR
        seen |= bit
        if p[0] == PROP_SESSION_EXPIRY:
            value[0] = be32(p + 1)
        elif p[0] == PROP_SUBSCRIPTION_ID:
            get_varint(p + 1, end, value)
            if value[0] == 0:
                return PROTOCOL_ERROR
        p += used
    return 0


# -- acknowledgements --------------------------------------------------------------------------------------------------

cdef int parse_ack(Peer* c, const uint8_t* body, uint32_t n, uint16_t* packet_id, uint8_t* reason) noexcept nogil:
    cdef uint32_t ignored
    if n < 2 or (n > 2 and c.link.version < 5):
        return MALFORMED
    packet_id[0] = <uint16_t> be16(body)
    reason[0] = body[2] if n > 2 else 0
    if packet_id[0] == 0:
        return PROTOCOL_ERROR
    if n > 3:
        return small_properties(
            body + 3, n - 3, (<uint64_t> 1 << PROP_REASON_STRING) | (<uint64_t> 1 << PROP_USER_PROPERTY), &ignored)
    return 0


cdef inline bint is_ack_reason(uint8_t reason) noexcept nogil:
    return reason in (0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)


cdef int on_ack(Peer* c, uint8_t kind, const uint8_t* body, uint32_t n) noexcept nogil:
    cdef Journal* j = &c.protocol.router.journal
    cdef Session* s = peer_session(c)
    cdef uint16_t packet_id = 0
    cdef uint8_t reason = 0
    cdef int verdict = parse_ack(c, body, n, &packet_id, &reason)
    if verdict:
        return verdict
    if kind == PUBACK:
        if not is_ack_reason(reason):
            return PROTOCOL_ERROR
        session_puback(s, packet_id)
    elif kind == PUBREC:
        if not is_ack_reason(reason):
            return PROTOCOL_ERROR
        verdict = session_pubrec(s, packet_id, reason)
        if verdict >= 0:
            # [MQTT-4.3.3-4]; with PUBREL the client may forget the id: we must not send the message again.
            link_ack(&c.link, 0x62, packet_id, <uint8_t> verdict, journal_gate(j) if s.base.durable else 0)
    elif reason not in (0x00, PACKET_ID_NOT_FOUND):
        return PROTOCOL_ERROR
    elif kind == PUBREL:
        verdict = 0 if receive_drop(s.received, packet_id) else PACKET_ID_NOT_FOUND
        if verdict == 0 and s.base.durable:
            record_packet_id(j, REC_RELEASED, s.base.serial, packet_id)
        # [MQTT-4.3.3-11]; after PUBCOMP the client may use the id for another message.
        link_ack(&c.link, 0x70, packet_id, <uint8_t> verdict, journal_gate(j) if s.base.durable else 0)
    else:
        session_pubcomp(s, packet_id)
    return GO_ON


# -- SUBSCRIBE, UNSUBSCRIBE --------------------------------------------------------------------------------------------

cdef int parse_filters(Peer* c, uint8_t* body, uint32_t n, bint options, uint32_t* first, uint32_t* count,
                       uint32_t* sub_id) noexcept nogil:
    """Checks a SUBSCRIBE or UNSUBSCRIBE as far as it could be malformed; nothing is done before all is checked."""
    cdef uint32_t at = 2, length
    cdef int used
    cdef uint64_t allowed = <uint64_t> 1 << PROP_USER_PROPERTY
    cdef uint8_t option
    sub_id[0] = 0
    if n < 2:
        return MALFORMED
    if be16(body) == 0:
        return PROTOCOL_ERROR
    if c.link.version == 5:
        used = get_varint(body + 2, body + n, &length)
        if used <= 0 or n - 2 - used < length:
            return MALFORMED
        if options:
            allowed |= <uint64_t> 1 << PROP_SUBSCRIPTION_ID
        used = small_properties(body + 2, <uint32_t> used + length, allowed, sub_id)
        if used:
            return used
        at += varint_size(length) + length
        if sub_id[0] and not c.protocol.ids_available:
            return SUBSCRIPTION_IDS_NOT_SUPPORTED
    first[0] = at
    count[0] = 0
    while at < n:
        if n - at < 2 or n - at - 2 < be16(body + at) + <uint32_t> options:
            return MALFORMED
        length = be16(body + at)
        if not utf8_valid(body + at + 2, length):
            return MALFORMED  # [MQTT-3.8.3-1]
        at += 2 + length
        if options:
            option = body[at]
            if option & 3 == 3 or (option & 0xC0 if c.link.version == 5 else option & 0xFC):
                return MALFORMED if c.link.version < 5 or option & 0xC0 else PROTOCOL_ERROR  # [MQTT-3.8.3-5]
            if option & 0x30 == 0x30:
                return PROTOCOL_ERROR
            if option & 4 and length >= 6 and memcmp(body + at - length, b"$share", 6) == 0:
                return PROTOCOL_ERROR  # [MQTT-3.8.3-4]
            at += 1
        count[0] += 1
    return 0 if count[0] else <int> PROTOCOL_ERROR  # [MQTT-3.8.3-2] [MQTT-3.10.3-2]


cdef int subscribe_one(Peer* c, const uint8_t* filter, uint32_t n, uint8_t options, uint32_t sub_id) noexcept nogil:
    cdef Session* s = peer_session(c)
    cdef uint32_t at = share_prefix(filter, n)
    cdef bint wildcard
    if at == n and n:
        return TOPIC_FILTER_INVALID
    if is_mounted(c):
        if check_filter(filter + at, n - at, c.protocol.levels_max, &wildcard):
            return TOPIC_FILTER_INVALID
        filter = mounted(c, filter, &n, at)
        if filter == NULL:
            return TOPIC_FILTER_INVALID
    if check_filter(filter + at, n - at, c.protocol.levels_max, &wildcard):
        return TOPIC_FILTER_INVALID
    if at and not c.protocol.shared_available:
        return SHARED_NOT_SUPPORTED
    if wildcard and not c.protocol.wildcard_available:
        return WILDCARDS_NOT_SUPPORTED
    if c.link.guard.list != NULL and not may(c, MAY_SUBSCRIBE, filter + at, n - at, options & 3, at != 0):
        c.protocol.router.stats.subscribe_denied += 1
        return NOT_AUTHORIZED
    if router_full(c.protocol.router):
        return QUOTA_EXCEEDED
    if s.base.durable and c.protocol.router.journal.trouble:
        return c.protocol.router.journal.trouble
    if options & 3 > c.protocol.qos_max:
        options = (options & 0xFC) | c.protocol.qos_max
    return session_subscribe(s, filter, n, options, sub_id)


cdef bint unsubscribe_one(Peer* c, const uint8_t* filter, uint32_t n) noexcept nogil:
    """False: there was no such subscription."""
    if is_mounted(c):
        filter = mounted(c, filter, &n, share_prefix(filter, n))
    return filter != NULL and session_unsubscribe(peer_session(c), filter, n)


cdef int on_filters(Peer* c, uint8_t kind, uint8_t* body, uint32_t n) noexcept nogil:
    cdef bint subscribe = kind == SUBSCRIBE
    cdef bint codes = subscribe or c.link.version == 5
    cdef uint32_t at = 0, count = 0, sub_id, length, remaining, size
    cdef int reason = parse_filters(c, body, n, subscribe, &at, &count, &sub_id)
    cdef Journal* j = &c.protocol.router.journal
    cdef bint durable = peer_session(c).base.durable != 0
    cdef uint64_t records = j.records, gate = j.seq if durable and not (subscribe and j.trouble) else 0
    cdef uint8_t* out
    cdef uint8_t implied = OPT_NO_LOCAL | OPT_RETAIN_AS_PUBLISHED if c.is_bridge else 0
    if reason:
        return reason
    remaining = 2 + (c.link.version == 5) + (count if codes else 0)
    size = 1 + varint_size(remaining) + remaining
    if c.link.packet_max and size > c.link.packet_max:
        return PACKET_TOO_LARGE
    # The acknowledgement is written first and filled in as the filters are worked off: retained messages follow it.
    out = link_promise(
        &c.link, size, gate, fabric_mark(c.protocol.fabric) if subscribe and c.protocol.fabric != NULL else 0
    )
    if out == NULL:
        return UNSPECIFIED
    out[0] = 0x90 if subscribe else 0xB0
    out = put_varint(out + 1, remaining)
    out = put16(out, be16(body))
    if c.link.version == 5:
        out[0] = 0
        out += 1
    while at < n:
        length = be16(body + at)
        at += 2
        if subscribe:
            reason = subscribe_one(c, body + at, length, body[at + length] | implied, sub_id)
            if reason >= 0x80 and c.link.version < 5:
                reason = 0x80
            at += 1
        else:
            reason = 0 if unsubscribe_one(c, body + at, length) else NO_SUBSCRIPTION_EXISTED
        if codes:
            out[0] = <uint8_t> reason
            out += 1
        at += length
    if gate and j.records == records:
        record_clock(j)  # nothing changed, but the answer waits for this batch already
    c.protocol.router.stats.packets_sent += 1
    if subscribe and session_waiting(peer_session(c)):
        session_pump(peer_session(c))
    return <int> NOT_AUTHORIZED if c.unwelcome else <int> GO_ON


# -- the rest ----------------------------------------------------------------------------------------------------------

cdef bint is_disconnect_reason(uint8_t reason) noexcept nogil:
    return reason in (0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99)


cdef int on_disconnect(Peer* c, const uint8_t* body, uint32_t n) noexcept nogil:
    cdef Session* s = peer_session(c)
    cdef uint32_t expiry = s.expiry_s
    cdef int reason
    if c.link.version < 5:
        if n:
            return MALFORMED
        return CLIENT_LEFT
    if n and not is_disconnect_reason(body[0]):
        return PROTOCOL_ERROR
    if n > 1:
        reason = small_properties(
            body + 1, n - 1,
            (<uint64_t> 1 << PROP_REASON_STRING) | (<uint64_t> 1 << PROP_USER_PROPERTY)
            | (<uint64_t> 1 << PROP_SESSION_EXPIRY), &expiry)
        if reason:
            return reason
    if expiry and s.expiry_s == 0:
        return PROTOCOL_ERROR  # [MQTT-3.14.2-2]: a session that was to end with its connection cannot be kept
    s.expiry_s = expiry if expiry < s.sessions.expiry_max_s else s.sessions.expiry_max_s
    c.keep_will = n > 0 and body[0] != 0  # any reason but 0x00 leaves the will in place [MQTT-3.14.4-3]
    return CLIENT_LEFT


cdef int protocol_packet(Peer* c, uint8_t first, uint8_t* body, uint32_t n) noexcept nogil:
    """One whole packet: its first byte, and the n bytes after its fixed header. Returns a Verdict or a reason code."""
    cdef uint8_t kind = first >> 4, flags = first & 15
    cdef uint8_t* out
    if c.remote != NULL:
        if first >> 4 < 8 and fabric_must_hold(c.protocol.router):
            c.hold = 1
            return GO_ON
        return fabric_item(c.remote, &c.link, &c.waits, first, body, n)
    c.protocol.router.stats.packets_received += 1
    if c.phase == AWAIT_CONNECT:
        if kind != CONNECT or flags:
            return PROTOCOL_ERROR  # [MQTT-3.1.0-1]
        return ESCALATE
    if c.phase == AUTHENTICATING and kind != AUTH and kind != DISCONNECT:
        return PROTOCOL_ERROR  # [MQTT-3.1.2-30]
    if kind == PUBLISH:
        return on_publish(c, first, body, n)
    if flags != (2 if kind in (PUBREL, SUBSCRIBE, UNSUBSCRIBE) else 0) and c.link.version != 3:
        return MALFORMED  # [MQTT-2.1.3-1]; MQTT 3.1 has DUP in these packets and leaves the rest unused
    if kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        return on_ack(c, kind, body, n)
    if kind == SUBSCRIBE or kind == UNSUBSCRIBE:
        return on_filters(c, kind, body, n)
    if kind == PINGREQ:
        if n:
            return MALFORMED
        out = link_reserve(&c.link, 2)
        if out != NULL:
            put16(out, 0xD000)
            c.protocol.router.stats.packets_sent += 1
        return GO_ON
    if kind == DISCONNECT:
        return on_disconnect(c, body, n) if c.phase == OPEN else <int> CLIENT_LEFT
    if kind == AUTH and (c.link.version == 5 or c.phase == AUTHENTICATING):
        return ESCALATE
    return PROTOCOL_ERROR  # a second CONNECT [MQTT-3.1.0-2], or a packet that only a server sends


cdef void peer_disconnect(Peer* c, uint8_t reason) noexcept nogil:
    """Says why, as far as the version has words for it [MQTT-3.14.0-1]."""
    cdef uint8_t* out
    if c.link.version != 5 or c.phase != OPEN:
        return
    out = link_reserve(&c.link, 3)
    if out == NULL:
        return
    out[0] = 0xE0
    out[1] = 1
    out[2] = reason
    c.protocol.router.stats.packets_sent += 1


cdef void peer_detach(Peer* c) noexcept nogil:
    """The connection is over, although last words may still leave."""
    waits_drop(&c.waits)
    if c.remote != NULL:
        fabric_gone(c.remote, &c.link)


cdef void peer_clear(Peer* c) noexcept nogil:
    cdef uint32_t i
    peer_detach(c)
    guard_set(&c.link.guard, NULL)
    terms_free(&c.link.terms)
    if c.aliases != NULL:
        for i in range(c.protocol.alias_max):
            c.protocol.router.ledger.bytes -= c.aliases[i].len
            free(c.aliases[i].topic)
        c.protocol.router.ledger.bytes -= <int64_t> c.protocol.alias_max * sizeof(InboundAlias)
        free(c.aliases)
        c.aliases = NULL
