# cython: language_level=3
"""The state of a session as bytes, all that MQTT 5, section 4.1, names: for another engine, see _moving.pxd.

Version 1: numbers are unsigned LEB128, texts a length and that many bytes, packet ids little endian. All times are what
is left of them, in ms, for no two engines have the same clock.

    octet version, octet what (1: with all that is below the subscriptions), number expiry_s, number 0 or 1 + ms left
    number of subscriptions: octet options (and RETAINED_DUE), number identifier, text filter or '$share/name/filter'
    octet has a will that is to come: number ms until then, number delay_s, octet has expiry, number expiry_s, message
    number of received ids: packet id
    number of deliveries, first those in flight, in their order: octet qos | retain << 2 | state << 3 | of a group << 5,
        if in flight a packet id, if of a group the number of its subscription (from 1), number of identifiers: number,
        a message unless it awaits PUBCOMP
    number of messages that wait for groups of which it is the only member: number of the subscription, message
    message: octet qos | retain << 2 | expires << 3, if it expires number ms, text topic, text properties, text payload
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from fastmq._inflight cimport Delivery, Queue, ReceiveSet, Window
from fastmq._message cimport Message
from fastmq._records cimport Buffer
from fastmq._router cimport Router
from fastmq._session cimport Session
from fastmq._share cimport Group

cdef enum:
    MALFORMED_STATE = -1
    NO_MEMORY = -2
    AWAY = -3                    # a message is only in the store

cdef struct Interest:            # a subscription
    const uint8_t* filter        # borrowed from the bytes
    uint32_t n
    uint32_t filter_at           # of a shared group: where the filter starts, else 0
    uint32_t id
    uint8_t options              # with RETAINED_DUE
    uint8_t added                # the session did not have it

cdef struct State:               # what the bytes say, before anything of it holds
    Router* router
    int64_t now_ms
    uint32_t expiry_s
    int64_t left_ms              # until it expires, -1 = that has not begun
    Interest* interests          # owned
    uint32_t n_interests
    Window window                # positions from 1; the `share` of a delivery is the number of an Interest, from 1
    Queue queue                  # positions go on
    uint64_t position            # the last one
    Queue of_groups              # with the number of their Interest as well
    ReceiveSet* received
    Message* will                # one reference
    int64_t will_left_ms
    uint32_t will_delay_s
    uint32_t will_expiry_s
    uint8_t will_has_expiry
    Delivery** flight            # room for the order of what is in flight
    uint32_t n_own               # of the queue; behind them are those of the session, which still owns them

cdef inline bint is_alone(const Group* g) noexcept nogil:
    """Whether the only member of a group takes along what waits for it: else it would end with the group."""
    return g.n == 1 and not g.branch

cdef int state_write(Buffer* b, Session* s, int64_t now_ms, bint whole) noexcept nogil
cdef int state_read(State* x, Router* r, int64_t now_ms, const uint8_t* data, size_t n) noexcept nogil
cdef void state_free(State* x) noexcept nogil
