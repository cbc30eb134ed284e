# cython: language_level=3
"""The hub: the sockets of one worker, in an epoll set of its own that nests in the event loop.

The loop watches one descriptor and calls `Hub.on_ready` once a turn. Below it, without the GIL: read, parse, route,
write. What needs Python (CONNECT, AUTH) is collected and handed over after that, then everything that became dirty is
flushed with one writev per connection, then closed connections are freed. A connection is named outside by its id:
generation << 32 | slot, so a stale id never reaches a newcomer.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._link cimport Wire
from fastmq._protocol cimport Peer, Protocol
from fastmq._router cimport Router
from fastmq._session cimport Sessions
from fastmq._share cimport Groups
from fastmq._tap cimport Taps
from fastmq._wheel cimport Timer, Wheel

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
    int64_t waits_until_ms
    uint64_t waits_for           # id of the connection whose congestion it waits for, 0 = none
    uint32_t keepalive_ms        # with the grace, 0 = none
    uint32_t slot
    uint32_t generation
    int fd
    uint16_t listener
    uint8_t events               # what epoll watches: 1 in, 2 out
    uint8_t listed               # 0 none, 1 deferred, 2 escalated, 3 waiting
    uint8_t closing              # 0, or its place: on the closing list, or reaped
    uint8_t close_reason
    uint8_t with_will
    uint8_t flushed_much         # this turn's share of output is used up

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
    Gone* gone                   # connections with a session that ended this turn, for the log
    int64_t clock_offset_ms      # tests move the clock
    ListenerSlot listeners[LISTENERS_MAX]
    uint32_t n_listeners
    uint8_t accept_paused        # until the next tick
    uint8_t wants_gone
    Conn** conns                 # by slot
    uint32_t* generations
    uint32_t conns_cap
    uint32_t* free_slots
    uint32_t n_free
    Conn* deferred               # have input to go on with next turn
    Conn* escalated              # have a packet for Python
    Conn* waiting                # hold their input back until a subscriber has drained
    Conn* closing
    uint8_t* buffer              # HEADROOM bytes for a partial packet, then READ_MAX to read into
    uint32_t packet_max
    uint32_t slow_after_ms
    uint32_t connect_timeout_ms
    uint32_t connections_max
    int epfd
    int timer_fd
    int wake_fd                  # an eventfd: the next turn comes at once
    uint8_t woken

cdef inline uint64_t conn_id(const Conn* c) noexcept nogil:
    return (<uint64_t> c.generation << 32) | c.slot

cdef bint core_open(Core* core, uint32_t packet_max, uint32_t out_max) noexcept nogil
cdef void core_close(Core* core) noexcept nogil
cdef void core_read(Core* core) noexcept nogil
cdef void core_go_on(Core* core) noexcept nogil
cdef void core_finish(Core* core) noexcept nogil
cdef void core_wake(Core* core) noexcept nogil
cdef int64_t core_clock(Core* core) noexcept nogil
cdef void core_unlisten(Core* core, int fd) noexcept nogil
cdef int core_listen(Core* core, int fd, uint16_t listener) noexcept nogil
cdef void core_advance(Core* core, int64_t now_ms) noexcept nogil
cdef Conn* core_find(Core* core, uint64_t id) noexcept nogil
cdef bint conn_take_packet(Conn* c, uint8_t* first, uint32_t* at, uint32_t* n) noexcept nogil
cdef void conn_consume(Conn* c, uint32_t n) noexcept nogil
cdef void conn_open(Conn* c, uint32_t keepalive_ms) noexcept nogil
cdef void conn_go_on_soon(Conn* c) noexcept nogil
cdef void conn_park(Conn* c) noexcept nogil
cdef void conn_close(Conn* c, uint8_t reason, bint with_will) noexcept nogil
cdef void conn_detach(Conn* c) noexcept nogil
