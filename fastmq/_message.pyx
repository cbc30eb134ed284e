# cython: language_level=3, boundscheck=False, wraparound=False
"""See _message.pxd."""
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


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
    memcpy(message_topic(m), p.topic, p.topic_len)
    memcpy(message_props(m), p.props, p.props_len)
    memcpy(message_payload(m), p.payload, p.payload_len)
    charge(ledger, <int64_t> size)
    return m


cdef void message_free(Message* m) noexcept nogil:
    m.ledger.bytes -= message_size(m)
    free(m)
