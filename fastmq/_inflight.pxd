# cython: language_level=3
"""Packet ids and the QoS 1/2 state of one session, both ways. Knows nothing of connections.

Window: what was sent and is not finished. A ring keyed by packet id, allocated on first use, doubled as far as the
peer's Receive Maximum asks. ReceiveSet: the packet ids of QoS 2 publishes that await PUBREL, a bitmap in 16 lazy pages.
Queue: deliveries that wait for the window, oldest first: a ring; a long one in blocks, so that it never stops to grow.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._journal cimport Stored
from fastmq._message cimport Ledger, Message, message_expired, message_size

cdef enum DeliveryState:
    FREE = 0
    AWAIT_PUBACK = 1
    AWAIT_PUBREC = 2
    AWAIT_PUBCOMP = 3

cdef enum RecordedBy:            # under whose serial the store has a delivery
    BY_NONE = 0
    BY_SESSION = 1
    BY_GROUP = 2                 # it is in flight to a member whose session ends with its connection

cdef struct Delivery:
    Message* message             # one reference; NULL once PUBREC came [MQTT-4.3.3-6], and while it is only stored
    Stored* stored               # one reference, while the message is only in the store
    void* share                  # the Group* that it came from, or NULL
    uint32_t* ids                # NULL, or [n, id, ...] when there is more than one; owned
    uint64_t position            # in the order of its subscriber's deliveries
    uint32_t id                  # Subscription Identifier, 0 = none
    uint16_t packet_id
    uint8_t qos
    uint8_t retain
    uint8_t state
    uint8_t recorded             # a RecordedBy

cdef struct Window:
    Ledger* ledger
    Delivery* slots
    uint32_t cap                 # a power of two, 0 = none yet
    uint32_t used
    uint64_t last_position       # of the session's deliveries, queued ones too
    uint16_t last_id

cdef enum:
    BLOCK = 1024                 # deliveries: 1 << 10

cdef struct Queue:
    Ledger* ledger
    void* ring                   # up to BLOCK: Delivery*, cap of them; beyond: Delivery**, NULL if unused
    uint32_t cap                 # a power of two, 0 = none yet
    uint32_t head
    uint32_t n
    int64_t bytes                # of the messages queued

cdef struct ReceiveSet:
    uint8_t* pages[16]           # 4096 ids each
    uint16_t page_used[16]
    uint32_t used

cdef struct Resend:              # packet ids to send again after a resume, in order
    uint32_t n
    uint32_t at
    # n uint16_t follow

cdef inline uint16_t* resend_ids(const Resend* again) noexcept nogil:
    return <uint16_t*> (<uint8_t*> again + sizeof(Resend))

cdef inline Delivery* queue_at(Queue* q, uint32_t i) noexcept nogil:
    cdef uint32_t at = (q.head + i) & (q.cap - 1)
    if q.cap <= BLOCK:
        return <Delivery*> q.ring + at
    return (<Delivery**> q.ring)[at >> 10] + (at & (BLOCK - 1))

cdef inline bint is_away(const Delivery* d) noexcept nogil:
    """Whether the message is only in the store."""
    return d.message == NULL and d.stored != NULL

cdef inline uint32_t delivery_size(const Delivery* d) noexcept nogil:
    if d.message != NULL:
        return message_size(d.message)
    return d.stored.size if d.stored != NULL else 0

cdef inline bint delivery_expired(const Delivery* d, int64_t now_ms) noexcept nogil:
    if d.message != NULL:
        return message_expired(d.message, now_ms)
    return d.stored != NULL and d.stored.expires_ms != 0 and d.stored.expires_ms <= now_ms

cdef bint delivery_ids(Delivery* d, const uint32_t* ids, uint32_t n) noexcept nogil
cdef bint delivery_fetch(Delivery* d) noexcept nogil
cdef void delivery_store_only(Delivery* d) noexcept nogil
cdef void delivery_release(Delivery* d) noexcept nogil

cdef Delivery* window_take(Window* w, uint32_t limit, uint64_t position) noexcept nogil
cdef Delivery* window_restore(Window* w, uint16_t packet_id, uint64_t position) noexcept nogil
cdef Delivery* window_get(Window* w, uint16_t packet_id) noexcept nogil
cdef void window_finish(Window* w, Delivery* d) noexcept nogil
cdef uint32_t window_ordered(Window* w, Delivery** out) noexcept nogil
cdef void window_clear(Window* w) noexcept nogil
cdef Resend* resend_new(Window* w) noexcept nogil

cdef Delivery* queue_push(Queue* q) noexcept nogil
cdef Delivery* queue_push_front(Queue* q) noexcept nogil
cdef void queue_pop(Queue* q) noexcept nogil
cdef void queue_clear(Queue* q) noexcept nogil

cdef void records_forget(Window* w, Queue* q) noexcept nogil

cdef int receive_add(ReceiveSet** set, uint16_t packet_id) noexcept nogil
cdef bint receive_has(ReceiveSet* set, uint16_t packet_id) noexcept nogil
cdef bint receive_drop(ReceiveSet* set, uint16_t packet_id) noexcept nogil
cdef void receive_free(ReceiveSet* set) noexcept nogil
