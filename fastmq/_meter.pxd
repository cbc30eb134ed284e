# cython: language_level=3
"""Rates: token buckets for messages and bytes, of one client or shared by several."""
from libc.stdint cimport int64_t, uint32_t

cdef struct Bucket:
    double tokens                # below 0: a debt
    double per_ms                # 0: no limit
    double most
    int64_t at_ms                # when it was filled last

cdef struct Meter:
    uint32_t refs
    Bucket messages
    Bucket bytes

cdef int64_t meter_charge(Meter* m, uint32_t n, int64_t now_ms) noexcept nogil
cdef int64_t meter_debt(Meter* m, int64_t now_ms) noexcept nogil
cdef Meter* meter_ref(Meter* m) noexcept nogil
cdef void meter_unref(Meter* m) noexcept nogil

cdef class Rates:
    cdef Meter* _meter
