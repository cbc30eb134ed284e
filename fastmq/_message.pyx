# cython: language_level=3, boundscheck=False, wraparound=False
"""See _message.pxd."""
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastmq._journal cimport KEPT_NOT, journal_break, journal_level, record_message, stored_new, stored_unref


cdef Message* message_new(Ledger* ledger, const Publish* p, uint32_t hash, uint64_t origin,
                          int64_t now_ms) noexcept nogil:
    """A message that owns copies of the borrowed parts, with one reference for the caller. NULL: out of memory."""
    cdef size_t size = sizeof(Message) + p.topic_len + p.props_len + p.payload_len
    cdef Message* m = <Message*> malloc(size)
    if m == NULL:
        return NULL
    m.refs = 1
    m.topic_len = p.topic_len
    m.props_len = p.props_len
    m.payload_len = p.payload_len
    m.hash = hash
    m.qos = p.qos
    m.retain = p.retain
    m.current = 0
    m.origin = origin
    m.expires_ms = now_ms + <int64_t> p.expiry_s * 1000 if p.has_expiry else 0
    if p.has_expiry and m.expires_ms == 0:
        m.expires_ms = 1
    m.ledger = ledger
    m.stored = NULL
    memcpy(message_topic(m), p.topic, p.topic_len)
    memcpy(message_props(m), p.props, p.props_len)
    memcpy(message_payload(m), p.payload, p.payload_len)
    charge(ledger, <int64_t> size)
    return m


cdef Stored* message_store(Journal* j, Message* m) noexcept nogil:
    """Records a message, once, if the durability of its topic asks for it. NULL: it is not kept."""
    cdef Publish p
    cdef uint8_t level
    if m.stored != NULL:
        return m.stored
    level = journal_level(j, message_topic(m), m.topic_len)
    if level == KEPT_NOT:
        return NULL
    m.stored = stored_new(j, j.last_message + 1, message_size(m), m.expires_ms)
    if m.stored == NULL:
        journal_break(j)         # what its publisher is promised could not be kept
        return NULL
    j.last_message += 1
    m.stored.message = m
    memset(&p, 0, sizeof(p))
    p.qos = m.qos
    p.retain = m.retain
    p.topic = message_topic(m)
    p.topic_len = m.topic_len
    p.props = message_props(m)
    p.props_len = m.props_len
    p.payload = message_payload(m)
    p.payload_len = m.payload_len
    record_message(j, m.stored.id, &p, m.origin, m.expires_ms, level)
    return m.stored


cdef void message_free(Message* m) noexcept nogil:
    if m.stored != NULL:
        m.stored.message = NULL
        stored_unref(m.stored)
    m.ledger.bytes -= message_size(m)
    free(m)
