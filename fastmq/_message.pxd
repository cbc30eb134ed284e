# cython: language_level=3
"""The message: one immutable publish, reference counted, owned by nobody in particular.

A message is made once, when something must keep it past the read buffer (a queue, a window, a retained topic, a large
payload on its way out), and freed when the last holder lets go. Its bytes are on the ledger of its router.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._journal cimport Journal, Stored
from fastmq._wire cimport Publish

cdef enum:
    CURRENT = 1
    RECORDED = 2

cdef struct Ledger:
    int64_t bytes              # messages, queues, windows and output buffers alive now
    int64_t peak

cdef struct Message:
    int32_t refs
    uint32_t topic_len
    uint32_t props_len
    uint32_t payload_len
    uint32_t hash              # of the topic
    uint8_t qos                # as published
    uint8_t retain             # as published
    uint8_t current            # still the retained message of its topic; with RECORDED if the store knows that
    uint64_t origin            # serial of the publisher's session, 0 = the broker
    int64_t expires_ms         # engine time, 0 = never
    Ledger* ledger
    Stored* stored             # what the store knows it by, one reference; NULL: it has not been recorded
    # topic, properties and payload follow

cdef inline uint8_t* message_topic(const Message* m) noexcept nogil:
    return <uint8_t*> m + sizeof(Message)

cdef inline uint8_t* message_props(const Message* m) noexcept nogil:
    return <uint8_t*> m + sizeof(Message) + m.topic_len

cdef inline uint8_t* message_payload(const Message* m) noexcept nogil:
    return <uint8_t*> m + sizeof(Message) + m.topic_len + m.props_len

cdef inline uint32_t message_size(const Message* m) noexcept nogil:
    return <uint32_t> sizeof(Message) + m.topic_len + m.props_len + m.payload_len

cdef inline void charge(Ledger* ledger, int64_t n) noexcept nogil:
    ledger.bytes += n
    if ledger.bytes > ledger.peak:
        ledger.peak = ledger.bytes

cdef inline Message* message_ref(Message* m) noexcept nogil:
    m.refs += 1
    return m

cdef inline void message_unref(Message* m) noexcept nogil:
    m.refs -= 1
    if m.refs == 0:
        message_free(m)

cdef inline bint message_expired(const Message* m, int64_t now_ms) noexcept nogil:
    return m.expires_ms != 0 and m.expires_ms <= now_ms

cdef Message* message_new(Ledger* ledger, const Publish* p, uint32_t hash, uint64_t origin,
                          int64_t now_ms) noexcept nogil
cdef Stored* message_store(Journal* j, Message* m) noexcept nogil
cdef void message_free(Message* m) noexcept nogil
