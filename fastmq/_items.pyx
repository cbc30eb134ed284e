# cython: language_level=3, boundscheck=False, wraparound=False
"""See _items.pxd."""
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastmq._journal cimport record_done
from fastmq._link cimport SHARE_MIN, link_refer, link_reserve
from fastmq._message cimport charge, message_payload, message_ref, message_size, message_unref
from fastmq._router cimport message_parts
from fastmq._share cimport Group, group_note
from fastmq._wait cimport wait_less
from fastmq._wire cimport PROP_MESSAGE_EXPIRY, put16, put32, put64, put_bytes, put_varint, varint_size


# -- bytes -------------------------------------------------------------------------------------------------------------

cdef bint write_message(
    Remote* x, uint8_t kind, uint64_t number, uint64_t origin, const uint8_t* name, uint32_t name_len, uint8_t flags,
    const Publish* p, Message* m, bint retain
) noexcept nogil:
    """Queues an item with a message; with `m`, a large payload is shared instead of copied. False: out of memory."""
    cdef bint named = kind == ITEM_SHARED or kind == ITEM_BACK
    cdef uint32_t props = p.props_len + (5 if p.has_expiry else 0), copied = p.payload_len, remaining, size
    cdef uint8_t* out
    remaining = (
        ITEM_HEAD + (3 + name_len if named else 0) + 2 + p.topic_len + (2 if p.qos else 0) + varint_size(props) + props
        + p.payload_len
    )
    if m != NULL and p.payload_len >= SHARE_MIN:
        copied = 0
    size = 1 + varint_size(remaining) + remaining - p.payload_len + copied
    out = link_reserve(x.out, size)
    if out == NULL:
        return False
    out[0] = <uint8_t> ((kind << 4) | (p.qos << 1) | retain)
    out = put_varint(out + 1, remaining)
    out = put64(put64(out, number), origin)
    if named:
        out[0] = flags
        out = put_bytes(put16(out + 1, name_len), name, name_len)
    out = put_bytes(put16(out, p.topic_len), p.topic, p.topic_len)
    if p.qos:
        out = put16(out, 1)      # the parser of PUBLISH wants one
    out = put_varint(out, props)
    if p.has_expiry:
        out[0] = PROP_MESSAGE_EXPIRY
        out = put32(out + 1, p.expiry_s)
    out = put_bytes(out, p.props, p.props_len)
    if copied:
        memcpy(out, p.payload, copied)
    elif p.payload_len and not link_refer(x.out, m, message_payload(m), p.payload_len):
        return False
    return True


cdef bint write_sync(Remote* x, uint64_t number) noexcept nogil:
    cdef uint8_t* out = link_reserve(x.out, 2 + ITEM_HEAD)
    if out == NULL:
        return False
    out[0] = ITEM_SYNC << 4
    put64(put64(put_varint(out + 1, ITEM_HEAD), number), 0)
    return True


cdef bint item_text(Remote* x, uint8_t kind, const uint8_t* text, uint32_t n) noexcept nogil:
    """Queues an item without a number. False: there is no connection, or no memory."""
    cdef uint8_t* out
    if x.out == NULL:
        return False
    out = link_reserve(x.out, 1 + varint_size(n) + n)
    if out == NULL:
        return False
    out[0] = <uint8_t> (kind << 4)
    out = put_varint(out + 1, n)
    if n:
        memcpy(out, text, n)
    return True


cdef bint item_pass(Remote* x, uint8_t kind, const Publish* p, Message* m, uint64_t origin) noexcept nogil:
    """Queues a message that nobody keeps for the other worker. False: it cannot be sent now."""
    return x.out != NULL and write_message(x, kind, 0, origin, NULL, 0, 0, p, m, p.retain)


# -- what has not been acknowledged ------------------------------------------------------------------------------------

cdef bint is_tight(const Remote* x) noexcept nogil:
    """Whether so much waits for the other worker that it is kept no more."""
    return x.bytes > x.fabric.backlog_max


cdef Item* item_at(Remote* x, uint32_t i) noexcept nogil:
    return x.ring + ((x.head + i) & (x.cap - 1))


cdef Item* item_push(Remote* x) noexcept nogil:
    """Room for the next number. NULL: out of memory."""
    cdef uint32_t cap = x.cap * 2 if x.cap else 64, i
    cdef Item* grown
    cdef Item* item
    if x.n == x.cap:
        grown = <Item*> malloc(cap * sizeof(Item))
        if grown == NULL:
            return NULL
        for i in range(x.n):
            grown[i] = item_at(x, i)[0]
        charge(&x.fabric.router.ledger, <int64_t> (cap - x.cap) * sizeof(Item))
        free(x.ring)
        x.ring = grown
        x.cap = cap
        x.head = 0
    item = item_at(x, x.n)
    memset(item, 0, sizeof(Item))
    x.n += 1
    x.last += 1
    return item


cdef void item_clear(Remote* x, Item* item) noexcept nogil:
    if item.message != NULL:
        x.bytes -= message_size(item.message) + item.name_len
        message_unref(item.message)
        item.message = NULL
    if item.name != NULL:
        free(item.name)
        item.name = NULL
        item.name_len = 0
    if item.group != NULL:
        (<Group*> item.group).pending -= 1
        group_note(<Group*> item.group)
        item.group = NULL


cdef bint send_again(Remote* x, Item* item, uint64_t number) noexcept nogil:
    cdef Publish p
    if item.over or item.kind == ITEM_SYNC:
        return write_sync(x, number)  # the numbers have no gap
    message_parts(item.message, x.fabric.router.now_ms, &p)
    p.retain = item.retain
    return write_message(x, item.kind, number, item.origin, item.name, item.name_len, item.flags, &p, item.message,
                         item.retain)


cdef bint item_send(
    Remote* x, uint8_t kind, const Publish* p, Message* m, uint64_t origin, Wait* wait, const uint8_t* name,
    uint32_t name_len, uint8_t flags, uint64_t serial, uint64_t position
) noexcept nogil:
    """Sends a message and keeps it until it is acknowledged. False: out of memory, nothing was done."""
    cdef Item* item
    cdef uint8_t* own = NULL
    if name_len:
        own = <uint8_t*> malloc(name_len)
        if own == NULL:
            return False
        memcpy(own, name, name_len)
    item = item_push(x)
    if item == NULL:
        free(own)
        return False
    item.message = message_ref(m)
    item.wait = wait
    item.name = own
    item.name_len = <uint16_t> name_len
    item.origin = origin
    item.serial = serial
    item.position = position
    item.kind = kind
    item.retain = p.retain
    item.flags = flags
    x.bytes += message_size(m) + name_len
    if x.out != NULL:            # a link that breaks here is closed at the turn's end, and all of it sent again
        write_message(x, kind, x.last, origin, name, name_len, flags, p, m, p.retain)
    return True


cdef void item_of_group(Remote* x, void* group) noexcept nogil:
    """The newest item is of this group, which must stay until it is acknowledged."""
    item_at(x, x.n - 1).group = group
    (<Group*> group).pending += 1


cdef void pop_over(Remote* x) noexcept nogil:
    while x.n and item_at(x, 0).over:
        x.head = (x.head + 1) & (x.cap - 1)
        x.n -= 1


cdef void items_acknowledged(Remote* x, uint64_t number) noexcept nogil:
    """The other worker has taken responsibility for an item."""
    cdef uint64_t first = x.last - x.n + 1
    cdef Item* item
    cdef Wait* wait
    if number < first or number > x.last:
        return
    item = item_at(x, <uint32_t> (number - first))
    if item.over:
        return
    item.over = 1
    if item.kind == ITEM_SHARED and x.workers:
        x.fabric.taken(x, item.name, item.name_len)
    if item.serial:
        record_done(&x.fabric.router.journal, item.serial, item.position)
    item_clear(x, item)
    wait = item.wait
    item.wait = NULL
    pop_over(x)
    wait_less(wait)


cdef void item_void(Remote* x, Item* item) noexcept nogil:
    """Takes an item's message back: others get it."""
    cdef Wait* wait = item.wait
    item.wait = NULL
    item.serial = 0
    item.kind = ITEM_SYNC
    item_clear(x, item)
    wait_less(wait)


cdef void items_again(Remote* x) noexcept nogil:
    """Sends everything again that has not been acknowledged."""
    cdef uint32_t i
    for i in range(x.n):
        if not send_again(x, item_at(x, i), x.last - x.n + 1 + i):
            return


cdef void items_free(Remote* x) noexcept nogil:
    cdef uint32_t i
    for i in range(x.n):
        item_clear(x, item_at(x, i))
        wait_less(item_at(x, i).wait)
    x.fabric.router.ledger.bytes -= <int64_t> x.cap * sizeof(Item)
    free(x.ring)
    x.ring = NULL
    x.n = x.cap = 0
