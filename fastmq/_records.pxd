# cython: language_level=3
"""The records of a store in C: fastmq/store/records.py says what they are, and is the oracle for this file.

The bytes may come from a damaged file: every length and every number is checked here, once, and nowhere else.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum Kind:
    K_MESSAGE = 1
    K_FORGET = 2
    K_DELIVERY = 3
    K_STATE = 4
    K_DONE = 5
    K_RECEIVED = 6
    K_RELEASED = 7
    K_SESSION = 8
    K_ENDED = 9
    K_SUBSCRIBED = 10
    K_UNSUBSCRIBED = 11
    K_RETAINED = 12
    K_UNRETAINED = 13
    K_WILL = 14
    K_WILL_GONE = 15
    K_GROUP = 16
    K_GROUP_GONE = 17
    K_CLOCK = 18
    K_STUB = 19

cdef struct Record:
    # One record. All pointers are borrowed from the batch.
    const uint8_t* start       # its kind
    const uint8_t* text        # MESSAGE: topic; SESSION: client id; SUBSCRIBED, UNSUBSCRIBED: filter; GROUP: its text
    const uint8_t* properties  # MESSAGE
    const uint8_t* ids         # DELIVERY: the subscription ids, uv each
    size_t size                # bytes of the record
    size_t text_len
    size_t properties_len
    size_t payload_len
    size_t ids_len             # bytes
    int64_t a                  # message (MESSAGE, FORGET, RETAINED, UNRETAINED, STUB), time (CLOCK), else whose it is
    # position; MESSAGE: expires_ms, 0 = never; SESSION: expiry_s; SUBSCRIBED: id; WILL: message; STUB: size
    int64_t b
    int64_t c                  # DELIVERY: message; SESSION: expires_ms; WILL: delay_s; STUB: expires_ms
    int64_t d                  # SESSION: will_at_ms; WILL: expiry_s
    uint16_t packet_id
    uint8_t kind
    uint8_t flags              # MESSAGE, DELIVERY, STATE: state << 3; SUBSCRIBED: options; WILL: has expiry

cdef struct Buffer:
    # Bytes that grow. `data` is its owner's to free.
    uint8_t* data
    size_t size
    size_t room

cdef const char* record_next(const uint8_t** at, const uint8_t* end, Record* out) noexcept nogil
cdef bint buffer_room(Buffer* b, size_t more) noexcept nogil
cdef size_t put_uv(uint8_t* p, uint64_t value) noexcept nogil
