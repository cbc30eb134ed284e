# cython: language_level=3
"""Connections: their sockets, their input and output, how they come and go. _turn drives them.

TLS and WebSocket are somebody else's: such a connection has a sink instead of a socket (fd -1), an object of Python's
that is served at the end of a turn: it takes the output, and its input is given to `conn_receive`.

A connection is named outside by its id: generation << 32 | slot, so a stale id never reaches a newcomer.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._items cimport Fabric, Remote
from fastmq._link cimport Wire
from fastmq._meter cimport Meter
from fastmq._protocol cimport Peer, Protocol
from fastmq._router cimport Router
from fastmq._session cimport Sessions
from fastmq._share cimport Groups
from fastmq._tap cimport Taps
from fastmq._terms cimport RATES_MAX
from fastmq._wheel cimport Timer, Wheel

cdef enum:
    HEADROOM = 65536             # a partial packet up to this size is completed in the shared buffer
    READ_MAX = 65536             # bytes of one connection a turn
    IN = 1                       # what epoll watches of a connection
    OUT = 2
    LISTED = 1                   # of `closing`: on the core's list
    REAPED = 2                   # off it: the session is gone, last words may still leave

cdef enum Listed:                # the list that a connection is on
    NOT_LISTED = 0
    DEFERRED = 1                 # has input to go on with next turn
    ESCALATED = 2                # has a packet for Python
    WAITING = 3                  # holds its input back until a subscriber has drained

cdef struct Ended:               # a connection whose sink must hear that it is gone
    Ended* next
    uint64_t id

cdef struct List:                # of connections, by `next`, first come first served
    Conn* head
    Conn* tail

cdef struct Conn:
    Peer peer                    # first: a Conn* is a Peer* is a Link*
    Core* core
    Timer timer                  # CONNECT timeout, keep-alive, lingering
    Conn* next                   # in at most one of the core's lists below, see `listed`
    Conn* next_closing
    uint8_t* rest                # input that is not parsed yet; owned
    uint32_t rest_len
    uint32_t rest_cap
    int64_t last_seen_ms
    int64_t waits_until_ms       # for memory, when it waits for no connection
    uint64_t waits_for           # id of the connection whose congestion it waits for, 0 = none
    int64_t held_since_ms        # publishers wait for this connection since then, 0 = none does
    int64_t progress_ms          # its socket last took bytes, or publishers began to wait for it
    uint64_t progress            # bytes its socket took
    uint64_t slow_progress       # the same, when it was found slow
    uint32_t keepalive_ms        # with the grace, 0 = none
    uint32_t slot
    uint32_t generation
    int fd
    uint16_t listener
    uint8_t events               # what epoll watches: IN, OUT
    uint8_t listed               # a Listed
    uint8_t closing              # 0, or its place: on the closing list, or reaped
    uint8_t close_reason
    uint8_t with_will
    uint8_t promises             # its CONNACK says what must be committed first
    uint8_t flushed_much         # this turn's share of output is used up
    uint8_t has_news             # it is on the core's list of sinks
    uint8_t blocked              # its sink takes nothing for now
    uint8_t reads                # its sink knows that it is to read
    uint8_t throttled            # it waits since it sent too much
    Meter* meters[RATES_MAX]        # NULL: none
    Conn* next_sink
    Ended* ended                 # for the day when it ends; NULL: it has a socket, and nobody else knows of it

cdef enum:
    LISTENERS_MAX = 64

cdef struct ListenerSlot:
    int fd
    uint16_t key

cdef struct Gone:
    Gone* next
    uint16_t id_len
    uint8_t reason
    # client id follows

cdef struct Core:
    Router* router
    Wire wire
    Wheel wheel
    Sessions sessions
    Groups groups
    Protocol protocol
    Taps taps
    Fabric* fabric               # NULL: there is one worker; owned
    Gone* gone                   # connections with a session that ended this turn, for the log
    int64_t clock_offset_ms      # tests move the clock
    ListenerSlot listeners[LISTENERS_MAX]
    uint32_t n_listeners
    uint8_t accept_paused        # until the next tick
    uint8_t ticked               # in this turn
    uint8_t wants_gone
    Conn** conns                 # by slot
    uint32_t* generations
    uint32_t conns_cap
    uint32_t* free_slots
    uint32_t n_free
    List deferred
    List escalated
    List waiting
    Conn* closing
    Conn* sinks                  # connections whose sinks are to be served
    Ended* ended
    uint8_t* buffer              # HEADROOM bytes for a partial packet, then READ_MAX to read into
    uint32_t packet_max
    uint32_t slow_after_ms
    uint32_t connect_timeout_ms
    uint32_t connections_max
    uint32_t connect_max         # bytes of a CONNECT
    uint32_t held[LISTENERS_MAX]  # connections of each listener
    uint32_t most[LISTENERS_MAX]  # how many it may have, 0 = no limit
    uint32_t pause_max_ms        # who sends so much that it would have to wait longer is disconnected
    int epfd
    int timer_fd
    int wake_fd                  # an eventfd: the next turn comes at once
    uint8_t woken

cdef inline uint64_t conn_id(const Conn* c) noexcept nogil:
    return (<uint64_t> c.generation << 32) | c.slot

cdef void watch(Conn* c, uint8_t events) noexcept nogil
cdef void enlist(Conn* c, uint8_t which) noexcept nogil
cdef void unlist(Conn* c) noexcept nogil
cdef Conn* core_find(Core* core, uint64_t id) noexcept nogil
cdef void core_wake(Core* core) noexcept nogil
cdef inline bint listener_full(const Core* core, uint16_t listener) noexcept nogil:
    """Whether there may be no more connections, of this listener or at all."""
    if core.connections_max and core.router.stats.connections >= core.connections_max:
        return True
    return core.most[listener] != 0 and core.held[listener] >= core.most[listener]

cdef Conn* conn_new(Core* core, int fd, uint16_t listener) noexcept nogil
cdef Conn* conn_remote(Core* core, int fd, Remote* remote) noexcept nogil
cdef void conn_receive(Conn* c, const uint8_t* p, size_t n) noexcept nogil
cdef uint32_t conn_offers(Conn* c, uint32_t most) noexcept nogil
cdef void conn_take(Conn* c, uint8_t* out, uint32_t n) noexcept nogil
cdef void conn_lost(Conn* c) noexcept nogil
cdef void conn_open(Conn* c, uint32_t keepalive_ms) noexcept nogil
cdef void conn_park(Conn* c) noexcept nogil
cdef void conn_ready(Conn* c, uint32_t events) noexcept nogil
cdef void conn_go_on(Conn* c) noexcept nogil
cdef void conn_go_on_soon(Conn* c) noexcept nogil
cdef bint conn_take_packet(Conn* c, uint8_t* first, uint32_t* at, uint32_t* n) noexcept nogil
cdef void conn_consume(Conn* c, uint32_t n) noexcept nogil
cdef bint conn_flush(Conn* c) noexcept nogil
cdef void conn_close(Conn* c, uint8_t reason, bint with_will) noexcept nogil
cdef void conn_detach(Conn* c) noexcept nogil
cdef void conn_linger(Conn* c) noexcept nogil
cdef void conn_reap(Conn* c) noexcept nogil
cdef void conn_free(Conn* c) noexcept nogil
