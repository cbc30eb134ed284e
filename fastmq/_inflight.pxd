# cython: language_level=3
"""Packet ids and the QoS 1/2 state of one session, both ways. Knows nothing of connections.

Window: what was sent and is not finished. A ring keyed by packet id, allocated on first use, doubled as far as the
peer's Receive Maximum asks. ReceiveSet: the packet ids of QoS 2 publishes that await PUBREL, a bitmap in 16 lazy pages.
Queue: deliveries that wait for the window, oldest first.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from fastmq._message cimport Ledger, Message

cdef enum DeliveryState:
    FREE = 0
    AWAIT_PUBACK = 1
    AWAIT_PUBREC = 2
    AWAIT_PUBCOMP = 3

cdef struct Delivery:
    Message* message             # one reference; NULL once PUBREC came [MQTT-4.3.3-6]
    void* share                  # the Group* that it came from, or NULL
    uint32_t* ids                # NULL, or [n, id, ...] when there is more than one; owned
    uint32_t id                  # Subscription Identifier, 0 = none
    uint32_t order               # of sending, for redelivery in the original order
    uint16_t packet_id
    uint8_t qos
    uint8_t retain
    uint8_t state

cdef struct Window:
    Ledger* ledger
    Delivery* slots
    uint32_t cap                 # a power of two, 0 = none yet
    uint32_t used
    uint32_t next_order
    uint16_t last_id

cdef struct Queue:
    Ledger* ledger
    Delivery* ring
    uint32_t cap                 # a power of two, 0 = none yet
    uint32_t head
    uint32_t n
    int64_t bytes                # of the messages queued

cdef struct ReceiveSet:
    uint8_t* pages[16]           # 4096 ids each
    uint16_t page_used[16]
    uint32_t used

cdef inline Delivery* queue_at(Queue* q, uint32_t i) noexcept nogil:
    return q.ring + ((q.head + i) & (q.cap - 1))

cdef bint delivery_ids(Delivery* d, const uint32_t* ids, uint32_t n) noexcept nogil
cdef void delivery_release(Delivery* d) noexcept nogil

cdef Delivery* window_take(Window* w, uint32_t limit) noexcept nogil
cdef Delivery* window_get(Window* w, uint16_t packet_id) noexcept nogil
cdef void window_finish(Window* w, Delivery* d) noexcept nogil
cdef uint32_t window_ordered(Window* w, Delivery** out) noexcept nogil
cdef void window_clear(Window* w) noexcept nogil

cdef Delivery* queue_push(Queue* q) noexcept nogil
cdef Delivery* queue_push_front(Queue* q) noexcept nogil
cdef void queue_pop(Queue* q) noexcept nogil
cdef void queue_clear(Queue* q) noexcept nogil

cdef int receive_add(ReceiveSet** set, uint16_t packet_id) noexcept nogil
cdef bint receive_has(ReceiveSet* set, uint16_t packet_id) noexcept nogil
cdef bint receive_drop(ReceiveSet* set, uint16_t packet_id) noexcept nogil
cdef void receive_free(ReceiveSet* set) noexcept nogil
