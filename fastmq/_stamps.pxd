# cython: language_level=3
"""When topics got what they retain, as all nodes see it: the later change wins everywhere.

A stamp is a time (48 bits: milliseconds since 1970) and a number of the node (16 bits), so hardly ever do two nodes
make the same one. A node's stamps rise, whatever its clock does, and are above all that it has seen. A topic that
retains nothing any more keeps its stamp, so that what a node says that was away does not bring it back; at most
STAMPS_MAX are kept, the oldest go.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    STAMPS_MAX = 1 << 20

cdef struct Stamp:
    uint64_t key                 # of the topic, 0 = free
    uint64_t stamp

cdef struct Stamps:
    Stamp* slots                 # owned
    uint32_t mask                # slots - 1; meaningless while slots is NULL
    uint32_t used
    int64_t* bytes               # where the slots are counted
    const int64_t* now_ms        # engine time
    int64_t wall_ms              # what it lacks of the time since 1970
    uint64_t last                # the highest seen
    uint64_t base                # of what the store brought back
    uint16_t node

cdef uint64_t stamps_next(Stamps* s) noexcept nogil
cdef uint64_t stamps_get(const Stamps* s, const uint8_t* topic, uint32_t n) noexcept nogil
cdef bint stamps_set(Stamps* s, const uint8_t* topic, uint32_t n, uint64_t stamp) noexcept nogil
cdef void stamps_free(Stamps* s) noexcept nogil
