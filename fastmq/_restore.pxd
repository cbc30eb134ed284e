# cython: language_level=3
"""From what a store kept back to sessions, queues and retained messages, before the first connection."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from fastmq._journal cimport Stored
from fastmq._message cimport Message
from fastmq._router cimport Router
from fastmq._session cimport Sessions
from fastmq._table cimport Table

cdef struct Known:               # a session or a group, by its serial
    uint64_t serial
    void* session                # Session*, or NULL
    void* group                  # Group*, or NULL

cdef struct Restoration:         # lasts from the first batch that is loaded to the last
    Router* router
    Sessions* sessions
    Known* known                 # by serial; owned
    uint32_t n_known
    uint32_t known_cap
    uint8_t unsorted
    Table stored                 # Stored* by id, with a reference each, those in memory with their message
    int64_t clock_ms             # engine time of the CLOCK record, -1 = there was none
    uint64_t records
    uint64_t skipped             # records of something that is not there

cdef struct Cursor:              # bytes of a stranger, as far as they have been read
    const uint8_t* p
    const uint8_t* end
    uint8_t bad                  # something did not fit; what was read since is zero

cdef struct Text:
    const uint8_t* p
    uint32_t n

cdef uint64_t number(Cursor* c) noexcept nogil
cdef uint8_t octet(Cursor* c) noexcept nogil
cdef uint32_t packet_id(Cursor* c) noexcept nogil
cdef Text text(Cursor* c) noexcept nogil
cdef void restoration_init(Restoration* x, Sessions* sessions) noexcept nogil
cdef int restore_batch(Restoration* x, const uint8_t* data, size_t n) noexcept nogil
cdef void restoration_end(Restoration* x, bint use) noexcept nogil
cdef Message* restore_message(Router* r, const uint8_t* record, size_t n) noexcept nogil
