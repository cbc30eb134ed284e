# cython: language_level=3
"""Subscriptions of a session, ordinary and shared: how they come and go, and the retained messages that they cause."""
from libc.stdint cimport uint8_t, uint32_t
from fastmq._session cimport Session
from fastmq._share cimport Member

cdef void session_bar(Session* s) noexcept nogil
cdef int session_subscribe(Session* s, const uint8_t* filter, uint32_t n, uint8_t options, uint32_t id) noexcept nogil
cdef bint session_unsubscribe(Session* s, const uint8_t* filter, uint32_t n) noexcept nogil
cdef Member* session_share(
    Session* s, const uint8_t* text, uint32_t n, uint32_t filter_at, uint8_t options, uint32_t id
) noexcept nogil
cdef void session_add_job(Session* s, const uint8_t* filter, uint32_t n, uint8_t qos, uint32_t id) noexcept nogil
