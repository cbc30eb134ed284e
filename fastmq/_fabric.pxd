# cython: language_level=3
"""Messages between the workers of a host: each other worker is one subscriber, of all that its own clients want.

A worker says which filters its subscribers have, over the connection that it opens to each other one; what matches them
comes to it over theirs. A message crosses once to a worker, whoever wants it there, and never goes on to a third.
What is retained is so at every worker; a topic's home orders the changes. See _items.pxd for what is sent.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from fastmq._items cimport Fabric, Remote
from fastmq._link cimport Link, Wire
from fastmq._router cimport Router, Waits
from fastmq._share cimport Groups

cdef enum FabricNews:            # of a Remote
    NEWS_LOST = 1
    NEWS_READY = 2

cdef void fabric_place(
    Fabric* f, Router* r, Groups* groups, Wire* wire, uint32_t index, uint32_t count, int64_t backlog_max,
    bint clustered
) noexcept nogil
cdef void fabric_out(Fabric* f, uint32_t index, Link* link, uint64_t instance) noexcept nogil
cdef void fabric_in(Fabric* f, uint32_t index, Link* link, uint64_t instance) noexcept nogil
cdef Remote* fabric_add(Fabric* f, uint32_t worker, uint32_t workers) noexcept nogil
cdef void fabric_remove(Remote* x) noexcept nogil
cdef void fabric_gone(Remote* x, Link* link) noexcept nogil
cdef int fabric_item(Remote* x, Link* link, Waits* waits, uint8_t first, uint8_t* body, uint32_t n) noexcept nogil
cdef uint32_t fabric_mark(Fabric* f) noexcept nogil
cdef bint fabric_must_hold(const Router* r) noexcept nogil
cdef void fabric_turn(Fabric* f) noexcept nogil
cdef void fabric_tick(Fabric* f) noexcept nogil
cdef void fabric_close(Fabric* f) noexcept nogil
