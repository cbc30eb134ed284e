# cython: language_level=3, boundscheck=False, wraparound=False
"""See _link.pxd. Encodes what the server sends on the hot path: PUBLISH and the four acknowledgements."""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from fastmq._message cimport charge, message_payload, message_ref, message_unref
from fastmq._router cimport IMAGE_MAX
from fastmq._terms cimport terms_charge
from fastmq._wire cimport (
    PROP_MESSAGE_EXPIRY, PROP_SUBSCRIPTION_ID, PROP_TOPIC_ALIAS, put16, put32, put_bytes, put_varint, varint_size,
)

cdef enum:
    POOL_SMALL_MAX = 4096        # free chunks kept; above, they go back to malloc
    POOL_LARGE_MAX = 512
    ALIAS_TOPIC_MIN = 4          # shorter topics cost no more than the alias property
    ALIAS_TOPIC_MAX = 1024       # longer ones are not worth their memory


cdef uint8_t* link_chunk(Link* l, uint32_t n) noexcept nogil:
    cdef Wire* w = l.wire
    cdef Chunk* c
    cdef uint32_t cap
    if l.broken:
        return NULL
    if l.head == NULL and n <= CHUNK_SMALL - sizeof(Chunk):
        c = w.small
        cap = CHUNK_SMALL - sizeof(Chunk)
        if c != NULL:
            w.small = c.next
            w.n_small -= 1
    else:
        cap = CHUNK_LARGE - sizeof(Chunk)
        c = NULL
        if n > cap:
            cap = n
        elif l.tail != NULL and l.tail.cap == 0 and n <= CHUNK_TINY - sizeof(Chunk):
            cap = CHUNK_TINY - sizeof(Chunk)  # the head of a message between two payloads that are referred to
        elif w.large != NULL:
            c = w.large
            w.large = c.next
            w.n_large -= 1
    if c == NULL:
        c = <Chunk*> malloc(sizeof(Chunk) + cap)
        if c == NULL:
            l.broken = 1
            link_mark(l)
            return NULL
    c.next = NULL
    c.message = NULL
    c.data = <uint8_t*> c + sizeof(Chunk)
    c.gate = 0
    c.mark = 0
    c.cap = cap
    c.off = 0
    c.len = n
    charge(&w.router.ledger, <int64_t> cap)
    link_hang(l, c, n)
    return c.data


cdef uint8_t* link_promise(Link* l, uint32_t n, uint64_t gate, uint32_t mark=0) noexcept nogil:
    """Like link_reserve, for bytes that may leave only when the journal's batch `gate` is committed; 0: at once.

    With a `mark`, they wait as well until other workers know what was wanted here when it was made.

    What is written after them waits behind them, so that a client hears everything in its order.
    """
    cdef Chunk* c = l.tail
    cdef uint8_t* out
    if gate == 0 and mark == 0:
        return link_reserve(l, n)
    if gate == l.wire.router.journal.seq:
        l.wire.router.journal.urgent = 1
    if c != NULL and c.gate == gate and c.mark == mark:
        return link_reserve(l, n)
    out = link_chunk(l, n)
    if out == NULL:
        return NULL
    l.tail.gate = gate
    l.tail.mark = mark
    l.gate = max(l.gate, gate)
    l.mark = max(l.mark, mark)
    if l.prev_gated == NULL:
        l.next_gated = l.wire.gated
        if l.next_gated != NULL:
            l.next_gated.prev_gated = &l.next_gated
        l.prev_gated = &l.wire.gated
        l.wire.gated = l
    return out


cdef void ungate(Link* l) noexcept nogil:
    if l.prev_gated != NULL:
        l.prev_gated[0] = l.next_gated
        if l.next_gated != NULL:
            l.next_gated.prev_gated = l.prev_gated
        l.prev_gated = NULL


cdef void link_open_gates(Wire* w) noexcept nogil:
    """A batch has been committed, or other workers have caught up: what waited for it may leave."""
    cdef Link* l = w.gated
    cdef Link* after
    while l != NULL:
        after = l.next_gated
        if not link_is_gated(l):
            link_mark(l)
        if l.gate <= w.router.journal.committed and l.mark <= w.router.marked:
            ungate(l)
        l = after


cdef void link_hang(Link* l, Chunk* c, uint32_t n) noexcept nogil:
    if l.tail == NULL:
        l.head = c
    else:
        l.tail.next = c
    l.tail = c
    l.out_bytes += n
    link_mark(l)


cdef bint link_refer(Link* l, Message* m, const uint8_t* data, uint32_t n) noexcept nogil:
    """Queues bytes of a message without copying them. False: out of memory, link broken."""
    cdef Chunk* c
    if l.broken:
        return False
    c = <Chunk*> malloc(sizeof(Chunk))
    if c == NULL:
        l.broken = 1
        link_mark(l)
        return False
    c.next = NULL
    c.message = message_ref(m)
    c.data = <uint8_t*> data
    c.gate = 0
    c.mark = 0
    c.len = n
    c.off = 0
    c.cap = 0
    link_hang(l, c, n)
    return True


cdef void chunk_free(Wire* w, Chunk* c) noexcept nogil:
    if c.message != NULL:
        message_unref(c.message)
        free(c)
        return
    w.router.ledger.bytes -= c.cap
    if c.cap == CHUNK_SMALL - sizeof(Chunk) and w.n_small < POOL_SMALL_MAX:
        c.next = w.small
        w.small = c
        w.n_small += 1
    elif c.cap == CHUNK_LARGE - sizeof(Chunk) and w.n_large < POOL_LARGE_MAX:
        c.next = w.large
        w.large = c
        w.n_large += 1
    else:
        free(c)


cdef void link_sent(Link* l, uint32_t n) noexcept nogil:
    """n bytes from the front have left."""
    cdef Chunk* c
    l.out_bytes -= n
    while n:
        c = l.head
        if n < c.len - c.off:
            c.off += n
            return
        n -= c.len - c.off
        l.head = c.next
        chunk_free(l.wire, c)
    if l.head == NULL:
        l.tail = NULL


cdef void link_clear(Link* l) noexcept nogil:
    """Drops what is queued and frees what the link holds."""
    cdef Chunk* c
    cdef uint32_t i
    ungate(l)
    while l.head != NULL:
        c = l.head
        l.head = c.next
        chunk_free(l.wire, c)
    l.tail = NULL
    l.out_bytes = 0
    if l.aliases != NULL:
        for i in range(l.aliases.mask + 1):
            l.wire.router.ledger.bytes -= l.aliases.slots[i].len
            free(l.aliases.slots[i].topic)
        l.wire.router.ledger.bytes -= alias_table_size(l.aliases.mask + 1)
        free(l.aliases)
        l.aliases = NULL


cdef void wire_clear(Wire* w) noexcept nogil:
    cdef Chunk* c
    while w.small != NULL:
        c = w.small
        w.small = c.next
        free(c)
    while w.large != NULL:
        c = w.large
        w.large = c.next
        free(c)


cdef inline size_t alias_table_size(uint32_t cap) noexcept nogil:
    return sizeof(AliasTable) + (cap - 1) * sizeof(Alias)


cdef bint link_set_aliases(Link* l, uint16_t limit) noexcept nogil:
    """Allows `limit` aliases towards the client. False: out of memory."""
    cdef uint32_t cap = 4
    while cap < <uint32_t> limit * 2:
        cap *= 2
    l.aliases = <AliasTable*> calloc(1, alias_table_size(cap))
    if l.aliases == NULL:
        return False
    charge(&l.wire.router.ledger, alias_table_size(cap))
    l.aliases.mask = cap - 1
    l.aliases.limit = limit
    return True


cdef Alias* alias_find(AliasTable* t, const uint8_t* topic, uint32_t n, uint32_t hash) noexcept nogil:
    """The topic's slot, or the free one where it would go (there always is one: the table is at most half full)."""
    cdef uint32_t at = hash & t.mask
    cdef Alias* a
    while True:
        a = &t.slots[at]
        if a.number == 0 or (a.hash == hash and a.len == n and memcmp(a.topic, topic, n) == 0):
            return a
        at = (at + 1) & t.mask


cdef bint alias_learn(Link* l, Alias* a, const uint8_t* topic, uint32_t n, uint32_t hash) noexcept nogil:
    cdef AliasTable* t = l.aliases
    a.topic = <uint8_t*> malloc(n)
    if a.topic == NULL:
        return False
    charge(&l.wire.router.ledger, n)
    memcpy(a.topic, topic, n)
    t.used += 1
    a.hash = hash
    a.len = <uint16_t> n
    a.number = t.used
    return True


cdef bint link_fits(Link* l, uint32_t remaining) noexcept nogil:
    """Whether a packet of this Remaining Length exists, within the client's Maximum Packet Size [MQTT-3.1.2-24]."""
    if remaining > 268435455:
        return False
    return l.packet_max == 0 or 1 + varint_size(remaining) + remaining <= l.packet_max


cdef bint link_publish(
    Link* l, const Publish* p, Message* m, uint8_t qos, bint retain, bint dup, uint16_t packet_id,
    const uint32_t* ids, uint32_t n_ids, uint32_t hash, uint64_t gate
) noexcept nogil:
    """Queues one PUBLISH; with `m`, a large payload is shared instead of copied. `gate`: see link_promise.

    False: above the client's Maximum Packet Size (it is as if it had been sent [MQTT-3.1.2-25]), or the link is broken.
    """
    cdef uint32_t cut = l.terms.mount_len if l.terms != NULL else 0
    cdef const uint8_t* topic = p.topic + cut
    cdef uint32_t topic_len = p.topic_len - cut, props = 0, i, copied = p.payload_len, size
    cdef uint32_t remaining = 2 + topic_len + p.payload_len + (2 if qos else 0)
    cdef Alias* alias = NULL
    cdef uint8_t* out
    if l.version == 5:
        props = p.props_len + (5 if p.has_expiry else 0)
        for i in range(n_ids):
            props += 1 + varint_size(ids[i])
        if l.aliases != NULL and ALIAS_TOPIC_MIN <= topic_len <= ALIAS_TOPIC_MAX:
            alias = alias_find(l.aliases, topic, topic_len, hash)
            if alias.number:
                remaining -= topic_len
                topic_len = 0
                props += 3
            elif l.aliases.used < l.aliases.limit:
                if l.packet_max == 0 or remaining + props + 16 < l.packet_max:
                    if alias_learn(l, alias, topic, topic_len, hash):
                        props += 3
                    else:
                        alias = NULL
                else:
                    alias = NULL
            else:
                alias = NULL
        remaining += varint_size(props) + props
    if not link_fits(l, remaining):
        l.wire.router.stats.dropped_too_large += 1
        l.wire.router.stats.publish_dropped += 1
        return False
    if m != NULL and p.payload_len >= SHARE_MIN:
        copied = 0
    size = 1 + varint_size(remaining) + remaining - p.payload_len + copied
    out = link_reserve(l, size) if gate == 0 else link_promise(l, size, gate)
    if out == NULL:
        return False
    out[0] = <uint8_t> (0x30 | (dup << 3) | (qos << 1) | retain)
    out = put_varint(out + 1, remaining)
    out = put16(out, topic_len)
    out = put_bytes(out, topic, topic_len)
    if qos:
        out = put16(out, packet_id)
    if l.version == 5:
        out = put_varint(out, props)
        if p.has_expiry:
            out[0] = PROP_MESSAGE_EXPIRY
            out = put32(out + 1, p.expiry_s)
        for i in range(n_ids):
            out[0] = PROP_SUBSCRIPTION_ID
            out = put_varint(out + 1, ids[i])
        if alias != NULL:
            out[0] = PROP_TOPIC_ALIAS
            out = put16(out + 1, alias.number)
        out = put_bytes(out, p.props, p.props_len)
    if copied:
        memcpy(out, p.payload, copied)
    elif p.payload_len and not link_refer(l, m, message_payload(m), p.payload_len):  # p's bytes are only borrowed
        return False
    if l.terms != NULL:
        terms_charge(l.terms, 1 + varint_size(remaining) + remaining, l.wire.router.now_ms)
    l.wire.router.stats.publish_sent += 1
    l.wire.router.stats.publish_bytes_sent += p.payload_len
    l.wire.router.stats.packets_sent += 1
    return True


cdef void image_make(Image* image, const Publish* p, bint v5) noexcept nogil:
    """Encodes a QoS 0 PUBLISH without identifiers or alias, retain 0; image.len 0 when it is too long for an image."""
    cdef uint32_t remaining = 2 + p.topic_len + p.payload_len, props = 0
    cdef uint8_t* out = image.own
    if v5:
        props = p.props_len + (5 if p.has_expiry else 0)
        remaining += varint_size(props) + props
    image.data = image.own
    image.len = 1 + varint_size(remaining) + remaining
    if image.len > IMAGE_MAX:
        image.len = 0
        return
    out[0] = 0x30
    out = put_varint(out + 1, remaining)
    out = put16(out, p.topic_len)
    out = put_bytes(out, p.topic, p.topic_len)
    if v5:
        out = put_varint(out, props)
        if p.has_expiry:
            out[0] = PROP_MESSAGE_EXPIRY
            out = put32(out + 1, p.expiry_s)
        out = put_bytes(out, p.props, p.props_len)
    memcpy(out, p.payload, p.payload_len)


cdef bint link_image(Link* l, Pub* pub, bint retain) noexcept nogil:
    """Queues a QoS 0 PUBLISH from the image that all such receivers share. False: it has none, use link_publish."""
    cdef Image* image = pub.v5 if l.version == 5 else pub.v4
    cdef uint8_t* out
    if l.aliases != NULL or l.terms != NULL:
        return False
    if image.data == NULL:
        image_make(image, pub.parts, l.version == 5)
    if image.len == 0 or (l.packet_max and image.len > l.packet_max):
        return False
    out = link_reserve(l, image.len)
    if out == NULL:
        return True
    memcpy(out, image.data, image.len)
    if retain:
        out[0] |= 1
    l.wire.router.stats.publish_sent += 1
    l.wire.router.stats.publish_bytes_sent += pub.parts.payload_len
    l.wire.router.stats.packets_sent += 1
    return True


cdef bint link_ack(Link* l, uint8_t first, uint16_t packet_id, uint8_t reason, uint64_t gate) noexcept nogil:
    """Queues PUBACK, PUBREC, PUBREL or PUBCOMP; a reason other than success needs MQTT 5. `gate`: see link_promise."""
    cdef uint8_t* out
    cdef bint long_form = reason != 0 and l.version == 5
    cdef uint32_t size = 5 if long_form else 4
    out = link_reserve(l, size) if gate == 0 else link_promise(l, size, gate)
    if out == NULL:
        return False
    out[0] = first
    out[1] = 3 if long_form else 2
    put16(out + 2, packet_id)
    if long_form:
        out[4] = reason
    l.wire.router.stats.packets_sent += 1
    return True
