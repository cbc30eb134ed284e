# cython: language_level=3
"""Acknowledgements that wait for other workers: each leaves when all that it promises has been acknowledged to us.

While a publish is routed, `Router.wait` collects for how many of its copies somebody else has taken no responsibility
yet. A client's acknowledgements leave in the order of its publishes, those of workers to each other in any.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._link cimport Link
from fastmq._router cimport Router, Waits

cdef enum:
    ACK_ITEM = 0xC0              # the first byte of an acknowledgement between workers
    ACK_ITEM_SIZE = 10

cdef struct Wait:
    Wait* next                   # in its list
    Wait* prev
    Waits* waits                 # NULL: whoever waited is gone, or has not been named yet
    Router* router               # borrowed
    uint64_t gate                # the journal's batch that must be committed as well
    uint64_t value               # PUBREC: the serial of its session; between workers: the item's number
    uint32_t n                   # copies that have not been acknowledged
    uint16_t packet_id
    uint8_t kind                 # 0x40 PUBACK, 0x50 PUBREC, ACK_ITEM
    uint8_t reason
    uint8_t records              # PUBREC of a durable session: that the packet id was received is written down first

cdef Wait* wait_more(Router* r) noexcept nogil
cdef void wait_less(Wait* w) noexcept nogil
cdef bint wait_ack(
    Waits* waits, Link* link, Router* r, uint8_t kind, uint16_t packet_id, uint8_t reason, uint64_t gate,
    uint64_t value, bint records
) noexcept nogil
cdef void wait_commit(Wait* w) noexcept nogil
cdef bint wait_resume(Waits* waits, Link* link, Router* r, uint64_t serial, uint16_t packet_id) noexcept nogil
cdef void waits_drop(Waits* waits) noexcept nogil
cdef void waits_forget(Router* r, uint64_t serial) noexcept nogil

cdef inline bint must_wait(const Waits* waits, const Router* r) noexcept nogil:
    """Whether an acknowledgement must be left to wait_ack."""
    return r.wait != NULL or waits.head != NULL
