# cython: language_level=3
"""What is special about some connections: a mount point, and rates that hold for what the client is sent.

A mount point is put in front of all topics that a client names, and taken off those that it is sent: its client sees
nothing else. Rates are token buckets; who is in debt gets no QoS 0, and the rest later.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp
from fastmq._meter cimport Meter

cdef enum:
    RATES_MAX = 3                # a connection's own, its user's, its listener's

cdef struct Terms:
    Meter* rates[RATES_MAX]      # NULL: none
    uint8_t* mount               # owned; NULL: none
    uint16_t mount_len

cdef inline bint terms_reach(const Terms* t, const uint8_t* topic, uint32_t n) noexcept nogil:
    """Whether a topic, or a filter, is below the mount point."""
    return t.mount_len == 0 or (n > t.mount_len and memcmp(topic, t.mount, t.mount_len) == 0)

cdef bint terms_mount(Terms** at, const uint8_t* mount, uint16_t n) noexcept nogil
cdef bint terms_rates(Terms** at, Meter** rates, uint32_t n) noexcept nogil
cdef void terms_charge(Terms* t, uint32_t n, int64_t now_ms) noexcept nogil
cdef int64_t terms_wait(const Terms* t, int64_t now_ms) noexcept nogil
cdef void terms_free(Terms** at) noexcept nogil
