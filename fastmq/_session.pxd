# cython: language_level=3
"""A session: what the server keeps of one client, connected or not (MQTT 5, section 4.1).

Outbound order: what must be redelivered, then the queue, then shared groups, then retained messages of a fresh
subscription. A new message is written at once only when nothing older of QoS 1 or 2 waits.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._inflight cimport Delivery, Queue, ReceiveSet, Resend, Window
from fastmq._link cimport Link, Wire
from fastmq._message cimport Message
from fastmq._retain cimport RetainJob
from fastmq._router cimport Router, Subscriber
from fastmq._share cimport Groups, Member
from fastmq._table cimport Table
from fastmq._user cimport User, Users
from fastmq._wheel cimport Timer, Wheel
from fastmq._wire cimport Publish

cdef enum:
    RETAINED_DUE = 0x80          # with the options that the store has: not all retained messages have been sent yet
    EXPIRY_NEVER = 0xFFFFFFFF

cdef struct Session:
    Subscriber base              # first: a Session* is a Subscriber*
    Sessions* sessions
    Link* link                   # NULL while the client is not connected
    Window window
    Queue queue
    ReceiveSet* received
    Resend* resend
    Member* memberships
    RetainJob* jobs
    Message* will
    User* user                   # whose it is; NULL: nobody's in particular, or it is not known yet after a restart
    Timer timer                  # while offline: the next of the two below; else, when its client may be sent more
    int64_t expires_at_ms        # 0 = not running
    int64_t will_at_ms           # 0 = not running
    uint32_t expiry_s            # Session Expiry Interval, EXPIRY_NEVER = 0xFFFFFFFF
    uint32_t will_delay_s
    uint32_t will_expiry_s
    uint32_t hash
    uint32_t n_memberships
    uint32_t dropped             # messages for this session that were dropped
    uint32_t ahead               # of what is due, from the first on: asked back from the store, or never away
    uint32_t ahead_low           # with so many left it is time to ask for more
    uint16_t send_max            # QoS 1/2 in flight to the client
    uint16_t id_len
    uint8_t will_has_expiry
    uint8_t will_recorded        # the store knows of it
    uint8_t waiting              # for messages that are only in the store, see Sessions.waiting
    uint8_t moving               # to another engine soon: what comes for it stays in memory, see _moving.pxd
    Session* next_waiting
    # client id follows

cdef struct Sessions:            # all sessions of a worker, by client id
    Router* router
    Wheel* wheel
    Wire* wire
    Groups* groups
    Table table                  # Session* by client id
    Users users
    Session* waiting             # those whose next message has been asked back from the store
    uint32_t queue_max           # messages
    int64_t queue_bytes_max
    uint32_t queue_soft          # from here on publishers wait for a connected client
    int64_t queue_bytes_soft
    uint32_t subscriptions_max   # of one session, 0 = no limit
    uint32_t expiry_max_s
    uint8_t qos0_offline
    uint8_t drop_oldest

cdef inline uint8_t* session_id(const Session* s) noexcept nogil:
    return <uint8_t*> s + sizeof(Session)

cdef inline bint session_waiting(const Session* s) noexcept nogil:
    return s.queue.n != 0 or s.memberships != NULL or s.jobs != NULL or s.resend != NULL

cdef Session* session_find(Sessions* all, const uint8_t* client_id, uint32_t n) noexcept nogil
cdef Session* session_new(Sessions* all, const uint8_t* client_id, uint32_t n) noexcept nogil
cdef void session_attach(Session* s, Link* link) noexcept nogil
cdef void session_detach(Session* s, bint with_will) noexcept nogil
cdef Session* session_due(Session* s, int64_t now_ms) noexcept nogil
cdef void session_end(Session* s) noexcept nogil
cdef void session_resume(Session* s) noexcept nogil
cdef void session_pump(Session* s) noexcept nogil
cdef void session_opened(Session* s) noexcept nogil
cdef void session_record(Session* s) noexcept nogil
cdef void session_arm(Session* s) noexcept nogil
cdef void sessions_go_on(Sessions* all) noexcept nogil
cdef void session_leave(Session* s, Member* m) noexcept nogil
cdef void session_drop(Session* s, uint64_t* why) noexcept nogil
cdef bint session_send(
    Session* s, const Publish* p, Message* m, uint8_t qos, bint retain, const uint32_t* ids, uint32_t n_ids,
    void* share, const Delivery* queued
) noexcept nogil
cdef void session_drop_will(Session* s) noexcept nogil
cdef bint session_puback(Session* s, uint16_t packet_id) noexcept nogil
cdef int session_pubrec(Session* s, uint16_t packet_id, uint8_t reason) noexcept nogil
cdef bint session_pubcomp(Session* s, uint16_t packet_id) noexcept nogil
cdef void sessions_free(Sessions* all) noexcept nogil
