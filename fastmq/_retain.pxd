# cython: language_level=3
"""Retained messages: a tree of topic levels, asked the other way round (which topics does this filter match?).

A leaf holds one reference to its message and sets `message.current`, so that a paced delivery can tell that a message
it collected has been replaced or deleted since.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from fastmq._message cimport Message
from fastmq._table cimport Table
from fastmq._user cimport User

cdef struct Branch:
    Branch* parent
    Branch* first_child
    Branch* next_sibling
    Branch* prev_sibling
    Message* message             # NULL: only a way to its children
    User* user                   # who has set it, as far as that is counted; NULL: nobody in particular
    uint32_t hash                # of (parent, text)
    uint32_t len
    # text follows

cdef struct Retained:
    Branch root
    Table branches               # Branch* by (parent, text)
    uint32_t count               # retained messages
    uint32_t expiring            # of them, those with an expiry
    uint32_t swept               # where the next sweep goes on
    int64_t payload_bytes        # topics and payloads
    int64_t bytes                # the tree itself

cdef struct Found:               # what a filter matched; references are the holder's
    Message** messages
    uint32_t n
    uint32_t cap

cdef struct RetainJob:           # a new subscription's retained messages, delivered as fast as the client takes them
    RetainJob* next
    Found found
    uint32_t at
    uint32_t id                  # Subscription Identifier
    uint32_t filter_len
    uint8_t qos
    uint8_t active               # `found` has been collected
    # the filter follows

cdef inline uint8_t* job_filter(const RetainJob* job) noexcept nogil:
    return <uint8_t*> job + sizeof(RetainJob)

cdef Retained* retained_new() noexcept nogil
cdef void retained_free(Retained* r) noexcept nogil
cdef bint retained_put(Retained* r, Message* m, User* user) noexcept nogil
cdef User* retained_user(Retained* r, const uint8_t* topic, uint32_t n) noexcept nogil
cdef bint retained_drop(Retained* r, const uint8_t* topic, uint32_t n) noexcept nogil
cdef Message* retained_get(Retained* r, const uint8_t* topic, uint32_t n, int64_t now_ms) noexcept nogil
cdef bint retained_find(Retained* r, const uint8_t* filter, uint32_t n, int64_t now_ms, Found* out) noexcept nogil
cdef bint jobs_have(RetainJob* jobs, const uint8_t* filter, uint32_t n) noexcept nogil
cdef void job_free(RetainJob* job) noexcept nogil
cdef uint32_t retained_sweep(Retained* r, uint32_t budget, int64_t now_ms) noexcept nogil
