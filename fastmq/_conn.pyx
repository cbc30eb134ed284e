# cython: language_level=3, boundscheck=False, wraparound=False
"""See _conn.pxd."""
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, ENOSPC, errno
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from fastmq._linux cimport (
    CLOCK_MONOTONIC, EFD_CLOEXEC, EFD_NONBLOCK, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, EPOLL_CTL_ADD,
    EPOLL_CTL_DEL, EPOLL_CTL_MOD, IPPROTO_TCP, MSG_NOSIGNAL, SHUT_WR, SOCK_CLOEXEC, SOCK_NONBLOCK, TCP_NODELAY,
    TFD_CLOEXEC, TFD_NONBLOCK, accept4, clock_gettime, close, epoll_create1, epoll_ctl, epoll_event, epoll_wait,
    eventfd, iovec, itimerspec, msghdr, read, recv, sendmsg, setsockopt, shutdown, timerfd_create, timerfd_settime,
    timespec, write,
)
from fastmq._link cimport Chunk, Link, link_clear, link_mark, link_sent, wire_clear
from fastmq._message cimport charge
from fastmq._protocol cimport (
    AWAIT_CONNECT, CLIENT_LEFT, CLOSING, CONNECTING, ESCALATE, LINGERING, OPEN, peer_clear, peer_disconnect,
    peer_session, protocol_packet,
)
from fastmq._retain cimport retained_sweep
from fastmq._router cimport router_free, router_full, router_new
from fastmq._session cimport Session, session_detach, session_id, session_pump, session_waiting, sessions_free
from fastmq._tap cimport taps_detach
from fastmq._wheel cimport timer_arm, timer_cancel, wheel_advance, wheel_start
from fastmq._wire cimport KEEP_ALIVE_TIMEOUT, MALFORMED, PACKET_TOO_LARGE, PROTOCOL_ERROR, get_varint

cdef enum:
    HEADROOM = 65536             # a partial packet up to this size is completed in the shared buffer
    READ_MAX = 65536             # bytes of one connection a turn
    EVENTS_MAX = 512
    ACCEPT_MAX = 64              # connections of one listener a turn
    IOV_MAX_USED = 64
    FLUSH_ROUNDS = 8             # flushes of one connection a turn, so that a long backlog is no monopoly
    OUTPUT_BUDGET = 4194304      # bytes that one read may cause to be queued before the others have their turn
    LINGER_MS = 1000
    RETAINED_SWEEP = 2048        # slots looked at a tick
    HOLD_MS = 100                # how long an MQTT 3 publisher waits before it tries full memory again
    IN = 1
    OUT = 2
    LISTED = 1                   # of `closing`: on the core's list
    REAPED = 2                   # off it: the session is gone, last words may still leave
    NOT_LISTED = 0
    DEFERRED = 1
    ESCALATED = 2
    WAITING = 3

cdef uint64_t LISTENER = <uint64_t> 1 << 63
cdef uint64_t WAKE = (<uint64_t> 1 << 63) | (<uint64_t> 1 << 62)
cdef uint64_t TICK = (<uint64_t> 1 << 63) | (<uint64_t> 1 << 61)


# -- epoll and lists ---------------------------------------------------------------------------------------------------

cdef void watch(Conn* c, uint8_t events) noexcept nogil:
    cdef epoll_event event
    if c.events == events:
        return
    c.events = events
    event.events = (EPOLLIN if events & IN else 0) | (EPOLLOUT if events & OUT else 0)
    event.data.u64 = conn_id(c)
    epoll_ctl(c.core.epfd, EPOLL_CTL_MOD, c.fd, &event)


cdef Conn** list_of(Conn* c) noexcept nogil:
    if c.listed == DEFERRED:
        return &c.core.deferred
    return &c.core.escalated if c.listed == ESCALATED else &c.core.waiting


cdef void enlist(Conn* c, uint8_t which) noexcept nogil:
    cdef Conn** head
    c.listed = which
    head = list_of(c)
    c.next = head[0]
    head[0] = c


cdef void unlist(Conn* c) noexcept nogil:
    cdef Conn** at
    if c.listed == NOT_LISTED:
        return
    at = list_of(c)
    while at[0] != c:
        at = &at[0].next
    at[0] = c.next
    c.listed = NOT_LISTED


cdef Conn* core_find(Core* core, uint64_t id) noexcept nogil:
    """The connection of an id; NULL when it is gone, whoever has its slot now."""
    cdef uint32_t slot = <uint32_t> id
    if slot >= core.conns_cap or core.conns[slot] == NULL or core.conns[slot].generation != <uint32_t> (id >> 32):
        return NULL
    return core.conns[slot]


cdef void core_wake(Core* core) noexcept nogil:
    cdef uint64_t one = 1
    if not core.woken:
        core.woken = 1
        write(core.wake_fd, &one, 8)


# -- connections come --------------------------------------------------------------------------------------------------

cdef bint slots_grow(Core* core) noexcept nogil:
    cdef uint32_t cap = core.conns_cap * 2 if core.conns_cap else 64, i
    cdef void* grown = realloc(core.conns, cap * sizeof(void*))
    if grown == NULL:
        return False
    core.conns = <Conn**> grown
    grown = realloc(core.generations, cap * sizeof(uint32_t))
    if grown == NULL:
        return False
    core.generations = <uint32_t*> grown
    grown = realloc(core.free_slots, cap * sizeof(uint32_t))
    if grown == NULL:
        return False
    core.free_slots = <uint32_t*> grown
    for i in range(core.conns_cap, cap):
        core.conns[i] = NULL
        core.generations[i] = 0
        core.free_slots[core.n_free] = cap - 1 - (i - core.conns_cap)
        core.n_free += 1
    core.conns_cap = cap
    return True


cdef Conn* conn_new(Core* core, int fd, uint16_t listener) noexcept nogil:
    cdef Conn* c
    cdef epoll_event event
    if core.n_free == 0 and not slots_grow(core):
        return NULL
    c = <Conn*> calloc(1, sizeof(Conn))
    if c == NULL:
        return NULL
    core.n_free -= 1
    c.slot = core.free_slots[core.n_free]
    core.generations[c.slot] = (core.generations[c.slot] + 1) & 0x1FFFFFFF
    c.generation = core.generations[c.slot]
    core.conns[c.slot] = c
    c.core = core
    c.fd = fd
    c.listener = listener
    c.peer.link.wire = &core.wire
    c.peer.link.problem_info = 1
    c.peer.protocol = &core.protocol
    c.timer.fire = conn_timer
    c.timer.self = c
    c.last_seen_ms = core.router.now_ms
    c.events = IN
    event.events = EPOLLIN
    event.data.u64 = conn_id(c)
    epoll_ctl(core.epfd, EPOLL_CTL_ADD, fd, &event)
    timer_arm(&core.wheel, &c.timer, core.router.now_ms + core.connect_timeout_ms)
    core.router.stats.connections += 1
    if core.router.stats.connections > core.router.stats.connections_peak:
        core.router.stats.connections_peak = core.router.stats.connections
    return c


cdef void watch_listeners(Core* core, uint32_t events) noexcept nogil:
    cdef epoll_event event
    cdef uint32_t i
    for i in range(core.n_listeners):
        event.events = events
        event.data.u64 = LISTENER | (<uint64_t> core.listeners[i].key << 32) | <uint32_t> core.listeners[i].fd
        epoll_ctl(core.epfd, EPOLL_CTL_MOD, core.listeners[i].fd, &event)


cdef void pause_accepting(Core* core) noexcept nogil:
    """Accepts nothing until the next tick; what waits meanwhile stays in the kernel's backlog."""
    core.router.stats.accept_failures += 1
    core.accept_paused = 1
    watch_listeners(core, 0)


cdef void accept_some(Core* core, int fd, uint16_t listener) noexcept nogil:
    cdef int peer, i, on = 1
    for i in range(ACCEPT_MAX):
        peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if peer < 0:
            if errno != EAGAIN and errno != EINTR and errno != ECONNABORTED:
                pause_accepting(core)  # out of descriptors, most likely: a listener left ready would spin
            return
        if core.connections_max and core.router.stats.connections >= core.connections_max:
            core.router.stats.connections_refused += 1
            close(peer)
            continue
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        if conn_new(core, peer, listener) == NULL:
            core.router.stats.connections_refused += 1
            close(peer)


cdef int core_listen(Core* core, int fd, uint16_t listener) noexcept nogil:
    """Accepts from a listening socket from now on; the caller keeps it open. 0, or errno."""
    cdef epoll_event event
    if core.n_listeners == LISTENERS_MAX:
        return ENOSPC
    event.events = EPOLLIN
    event.data.u64 = LISTENER | (<uint64_t> listener << 32) | <uint32_t> fd
    if epoll_ctl(core.epfd, EPOLL_CTL_ADD, fd, &event):
        return errno
    core.listeners[core.n_listeners].fd = fd
    core.listeners[core.n_listeners].key = listener
    core.n_listeners += 1
    return 0


cdef void core_unlisten(Core* core, int fd) noexcept nogil:
    cdef uint32_t i
    for i in range(core.n_listeners):
        if core.listeners[i].fd == fd:
            epoll_ctl(core.epfd, EPOLL_CTL_DEL, fd, NULL)
            core.n_listeners -= 1
            core.listeners[i] = core.listeners[core.n_listeners]
            return


# -- connections go ----------------------------------------------------------------------------------------------------

cdef void conn_close(Conn* c, uint8_t reason, bint with_will) noexcept nogil:
    """Ends the connection at the end of this turn; a reason is told to the client if its version can hear it."""
    if c.closing:
        return
    if reason:
        peer_disconnect(&c.peer, reason)
    c.closing = LISTED
    timer_cancel(&c.timer)
    c.close_reason = reason
    c.with_will = with_will
    c.peer.phase = CLOSING
    c.next_closing = c.core.closing
    c.core.closing = c


cdef void conn_detach(Conn* c) noexcept nogil:
    """Lets go of the session, whose will and timers take their course."""
    cdef Session* s = peer_session(&c.peer)
    cdef Gone* gone
    if s == NULL:
        return
    c.core.router.stats.disconnects += 1
    if c.core.wants_gone:
        gone = <Gone*> malloc(sizeof(Gone) + s.id_len)
        if gone != NULL:
            gone.reason = c.close_reason
            gone.id_len = s.id_len
            memcpy(<uint8_t*> gone + sizeof(Gone), session_id(s), s.id_len)
            gone.next = c.core.gone
            c.core.gone = gone
    session_detach(s, c.with_will)


cdef void conn_free(Conn* c) noexcept nogil:
    cdef Core* core = c.core
    cdef Link* l = &c.peer.link
    cdef Link** at = &core.wire.dirty
    if l.dirty:
        while at[0] != l:
            at = &at[0].next_dirty
        at[0] = l.next_dirty
    unlist(c)
    timer_cancel(&c.timer)
    link_clear(l)
    peer_clear(&c.peer)
    drop_rest(c)
    close(c.fd)
    core.conns[c.slot] = NULL
    core.free_slots[core.n_free] = c.slot
    core.n_free += 1
    core.router.stats.connections -= 1
    free(c)


cdef void linger(Conn* c) noexcept nogil:
    """Shuts our side and reads the rest away, so that the client gets our last packet and not a reset."""
    c.peer.phase = LINGERING
    shutdown(c.fd, SHUT_WR)
    watch(c, IN)
    timer_arm(&c.core.wheel, &c.timer, c.core.router.now_ms + LINGER_MS)


cdef void reap(Core* core) noexcept nogil:
    cdef Conn* c
    while core.closing != NULL:
        c = core.closing
        core.closing = c.next_closing
        c.closing = REAPED
        conn_detach(c)
        unlist(c)
        drop_rest(c)
        if c.peer.link.broken or (c.close_reason == 0 and c.peer.link.out_bytes == 0):
            conn_free(c)
        elif not flush(c):
            conn_free(c)
        elif c.peer.link.out_bytes == 0:
            linger(c)
        else:
            watch(c, OUT)
            timer_arm(&core.wheel, &c.timer, core.router.now_ms + LINGER_MS)


cdef void conn_timer(Timer* t, int64_t now_ms) noexcept nogil:
    cdef Conn* c = <Conn*> t.self
    if c.closing == REAPED:
        conn_free(c)
        return
    if c.peer.phase != OPEN:
        conn_close(c, 0, False)  # no CONNECT in time
        return
    if c.listed == WAITING and c.waits_for != conn_id(c):  # it is we who do not read
        c.last_seen_ms = now_ms
    if now_ms - c.last_seen_ms >= c.keepalive_ms:
        conn_close(c, KEEP_ALIVE_TIMEOUT, True)  # [MQTT-3.1.2-22]
        return
    timer_arm(&c.core.wheel, t, c.last_seen_ms + c.keepalive_ms)


# -- input -------------------------------------------------------------------------------------------------------------

cdef void drop_rest(Conn* c) noexcept nogil:
    if c.rest != NULL:
        c.core.router.ledger.bytes -= c.rest_cap
        free(c.rest)
        c.rest = NULL
        c.rest_cap = 0
    c.rest_len = 0


cdef bint rest_room(Conn* c, uint32_t need) noexcept nogil:
    cdef uint32_t cap = c.rest_cap * 2 if c.rest_cap * 2 > need else need
    cdef uint8_t* grown
    if c.rest_cap >= need:
        return True
    grown = <uint8_t*> realloc(c.rest, cap)
    if grown == NULL:
        return False
    charge(&c.core.router.ledger, <int64_t> cap - c.rest_cap)
    c.rest = grown
    c.rest_cap = cap
    return True


cdef void keep_rest(Conn* c, const uint8_t* p, uint32_t n) noexcept nogil:
    """Keeps n unparsed bytes for later; p may point into the old rest."""
    if n == 0 or c.closing:
        drop_rest(c)
        return
    if c.rest != NULL and p >= c.rest and p < c.rest + c.rest_cap:
        memmove(c.rest, p, n)
    elif rest_room(c, n):
        memcpy(c.rest, p, n)
    else:
        conn_close(c, 0x83, True)
        return
    c.rest_len = n


cdef void conn_wait(Conn* c, Conn* target) noexcept nogil:
    """Stops reading from a publisher until its congested subscriber has drained, or has proved to be slow."""
    c.waits_for = conn_id(target) if target != NULL else 0
    c.waits_until_ms = c.core.router.now_ms + (c.core.slow_after_ms if target != NULL else HOLD_MS)
    enlist(c, WAITING)
    watch(c, c.events & ~IN)


cdef uint32_t feed(Conn* c, uint8_t* p, uint32_t n) noexcept nogil:
    """Parses and acts on whole packets; returns how many bytes it used. Stops when c is closed, or listed to go on later."""
    cdef Core* core = c.core
    cdef uint32_t at = 0, length = 0
    cdef int used, verdict
    cdef int64_t budget = core.router.ledger.bytes + OUTPUT_BUDGET
    cdef Conn* target
    core.router.congested = NULL
    while at < n and not c.closing:
        if c.peer.phase == AWAIT_CONNECT and p[at] != 0x10:
            conn_close(c, PROTOCOL_ERROR, False)
            break
        used = get_varint(p + at + 1, p + n, &length)
        if used < 0:
            conn_close(c, MALFORMED, True)  # [MQTT-1.5.5-1]
            break
        if used == 0:
            break
        if 1 + used + length > core.packet_max:
            conn_close(c, PACKET_TOO_LARGE, True)  # [MQTT-3.2.2-15]
            break
        if n - at < 1 + used + length:
            break
        verdict = protocol_packet(&c.peer, p[at], p + at + 1 + used, length)
        if verdict == ESCALATE:
            enlist(c, ESCALATED)
            break
        if c.peer.hold:
            c.peer.hold = 0
            conn_wait(c, NULL)
            break
        at += 1 + used + length
        if verdict:
            conn_close(c, <uint8_t> verdict if verdict != CLIENT_LEFT else 0,
                       verdict != CLIENT_LEFT or c.peer.keep_will)
            break
        if core.router.congested != NULL:
            target = <Conn*> core.router.congested
            core.router.congested = NULL
            if target != c:      # its own acknowledgements come over this very connection
                conn_wait(c, target)
                break
        if c.peer.link.out_bytes > core.wire.out_max:
            conn_wait(c, c)      # it asks and does not read the answers
            break
        if core.router.ledger.bytes > budget:
            enlist(c, DEFERRED)
            break
    return at


cdef uint32_t packet_total(Conn* c) noexcept nogil:
    """Size of the packet that the rest starts with; 0 while its length is not known."""
    cdef uint32_t length = 0
    cdef int used = get_varint(c.rest + 1, c.rest + c.rest_len, &length) if c.rest_len > 1 else 0
    return 1 + used + length if used > 0 else 0


cdef void conn_read_large(Conn* c) noexcept nogil:
    """Goes on with a packet that is larger than the shared buffer's headroom, in a buffer of its own.

    The buffer grows with what has arrived, not with what the header announces.
    """
    cdef uint32_t total = packet_total(c), want, used
    cdef ssize_t n
    want = total - c.rest_len
    if want > READ_MAX * 4:
        want = READ_MAX * 4
    if not rest_room(c, c.rest_len + want):
        conn_close(c, 0x83, True)
        return
    n = recv(c.fd, c.rest + c.rest_len, want, 0)
    if n <= 0:
        conn_read_failed(c, n)
        return
    c.last_seen_ms = c.core.router.now_ms
    c.core.router.stats.bytes_received += n
    c.rest_len += <uint32_t> n
    if c.rest_len == total:
        used = feed(c, c.rest, c.rest_len)
        keep_rest(c, c.rest + used, c.rest_len - used)


cdef void conn_read_failed(Conn* c, ssize_t n) noexcept nogil:
    if n < 0 and (errno == EAGAIN or errno == EINTR):
        return
    conn_close(c, 0, True)


cdef void conn_read(Conn* c) noexcept nogil:
    cdef Core* core = c.core
    cdef uint8_t* start = core.buffer + HEADROOM
    cdef uint32_t used, total
    cdef ssize_t n
    if c.rest_len > HEADROOM:
        conn_read_large(c)
        return
    n = recv(c.fd, start, READ_MAX, 0)
    if n <= 0:
        conn_read_failed(c, n)
        return
    c.last_seen_ms = core.router.now_ms
    core.router.stats.bytes_received += n
    if c.rest_len:
        start -= c.rest_len
        memcpy(start, c.rest, c.rest_len)
    total = c.rest_len + <uint32_t> n
    used = feed(c, start, total)
    keep_rest(c, start + used, total - used)


cdef void conn_ready(Conn* c, uint32_t events) noexcept nogil:
    cdef ssize_t n
    if events & EPOLLOUT:
        c.flushed_much = 0
        link_mark(&c.peer.link)
    if c.closing and c.peer.phase != LINGERING:
        if c.closing == REAPED and events & (EPOLLHUP | EPOLLERR):
            conn_free(c)
        return
    if c.peer.phase == LINGERING:
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR):
            n = recv(c.fd, c.core.buffer, READ_MAX, 0)
            if n == 0 or (n < 0 and errno != EAGAIN):
                conn_free(c)
        return
    if c.listed == NOT_LISTED and c.events & IN:
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR):
            conn_read(c)
    elif events & (EPOLLHUP | EPOLLERR):
        conn_close(c, 0, True)


cdef void conn_go_on(Conn* c) noexcept nogil:
    """Takes up the input that was set aside."""
    cdef uint32_t used
    watch(c, c.events | IN)
    if c.rest_len and c.rest_len <= HEADROOM + READ_MAX:
        # Parsed in the shared buffer: a packet may be set aside again, and the rest must not move under the parser.
        memcpy(c.core.buffer, c.rest, c.rest_len)
        used = feed(c, c.core.buffer, c.rest_len)
        keep_rest(c, c.core.buffer + used, c.rest_len - used)
    elif c.rest_len:
        used = feed(c, c.rest, c.rest_len)
        keep_rest(c, c.rest + used, c.rest_len - used)


# -- output ------------------------------------------------------------------------------------------------------------

cdef bint flush(Conn* c) noexcept nogil:
    """Writes what the socket takes. False: it is dead."""
    cdef Link* l = &c.peer.link
    cdef iovec iov[IOV_MAX_USED]
    cdef msghdr message
    cdef Chunk* chunk
    cdef size_t n_iov, size
    cdef ssize_t n
    memset(&message, 0, sizeof(message))
    message.msg_iov = iov
    while l.head != NULL:
        chunk = l.head
        n_iov = 0
        size = 0
        while chunk != NULL and n_iov < IOV_MAX_USED:
            iov[n_iov].iov_base = chunk.data + chunk.off
            iov[n_iov].iov_len = chunk.len - chunk.off
            size += iov[n_iov].iov_len
            n_iov += 1
            chunk = chunk.next
        message.msg_iovlen = n_iov
        n = sendmsg(c.fd, &message, MSG_NOSIGNAL)
        if n < 0:
            if errno == EINTR:
                continue
            if errno != EAGAIN:
                return False
            watch(c, c.events | OUT)
            return True
        link_sent(l, <uint32_t> n)
        c.core.router.stats.bytes_sent += n
        if <size_t> n < size:
            watch(c, c.events | OUT)
            return True
    if c.events & OUT:
        watch(c, c.events & ~OUT)
    return True


cdef void flush_dirty(Core* core) noexcept nogil:
    """Writes to every connection that has something to say, and refills those with a backlog."""
    cdef Link* l
    cdef Conn* c
    cdef Session* s
    while core.wire.dirty != NULL:
        l = core.wire.dirty
        core.wire.dirty = l.next_dirty
        l.dirty = 0
        c = <Conn*> l
        if c.peer.phase == LINGERING or c.closing == LISTED:
            continue             # the first has nothing to say any more, the second is flushed by reap
        if l.broken or not flush(c):
            l.broken = 1
            if c.closing:
                conn_free(c)
            else:
                conn_close(c, 0, True)
            continue
        if c.closing:
            if l.out_bytes == 0:
                linger(c)
            continue
        s = <Session*> l.session
        if s == NULL:
            continue
        if l.out_bytes == 0 and s.queue.n == 0:
            l.slow = 0
        if session_waiting(s) and l.out_bytes < core.wire.out_soft:
            if c.flushed_much < FLUSH_ROUNDS:
                c.flushed_much += 1
                session_pump(s)
                if not l.dirty:
                    c.flushed_much = 0
            else:
                watch(c, c.events | OUT)  # the next turn goes on
        else:
            c.flushed_much = 0


# -- turns -------------------------------------------------------------------------------------------------------------

cdef bint has_drained(Core* core, Conn* target) noexcept nogil:
    cdef Session* s = <Session*> target.peer.link.session
    if s == NULL or target.closing:
        return True
    return (
        target.peer.link.out_bytes * 2 <= core.wire.out_soft and s.queue.n * 4 <= core.sessions.queue_max
        and s.queue.bytes * 4 <= core.sessions.queue_bytes_max
    )


cdef void release_waiting(Core* core) noexcept nogil:
    """Lets publishers go on whose subscriber has drained; one that has not by the deadline is marked slow."""
    cdef Conn** at = &core.waiting
    cdef Conn* c
    cdef Conn* target
    while at[0] != NULL:
        c = at[0]
        target = core_find(core, c.waits_for) if c.waits_for else NULL
        if target == c:
            if c.peer.link.out_bytes * 2 > core.wire.out_soft:
                at = &c.next
                continue
        elif c.waits_for and target != NULL and not target.peer.link.slow and not has_drained(core, target):
            if core.router.now_ms < c.waits_until_ms:
                at = &c.next
                continue
            target.peer.link.slow = 1
        elif c.waits_for == 0 and core.router.now_ms < c.waits_until_ms and router_full(core.router):
            at = &c.next
            continue
        at[0] = c.next
        enlist(c, DEFERRED)
        if target != c:
            c.last_seen_ms = core.router.now_ms


cdef void core_go_on(Core* core) noexcept nogil:
    """Works off the connections whose input was set aside."""
    cdef Conn* c = core.deferred
    cdef Conn* after
    core.deferred = NULL
    while c != NULL:
        after = c.next
        c.listed = NOT_LISTED
        if not c.closing:
            conn_go_on(c)
        c = after


cdef int64_t core_clock(Core* core) noexcept nogil:
    """Milliseconds of the monotonic clock, plus what a test has moved it."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t> t.tv_sec * 1000 + t.tv_nsec // 1000000 + core.clock_offset_ms


cdef void core_advance(Core* core, int64_t now_ms) noexcept nogil:
    core.router.now_ms = now_ms
    wheel_advance(&core.wheel, now_ms)
    retained_sweep(core.router.retained, RETAINED_SWEEP, now_ms)


cdef void core_read(Core* core) noexcept nogil:
    """The first half of a turn: set-aside input, then what epoll has. Engine time must be set."""
    cdef epoll_event events[EVENTS_MAX]
    cdef uint64_t id, ignored
    cdef Conn* c
    cdef int i, n
    core_go_on(core)
    n = epoll_wait(core.epfd, events, EVENTS_MAX, 0)
    for i in range(n):
        id = events[i].data.u64
        if id == WAKE:
            read(core.wake_fd, &ignored, 8)
            core.woken = 0
        elif id == TICK:
            read(core.timer_fd, &ignored, 8)
            core_advance(core, core.router.now_ms)
            if core.accept_paused:
                core.accept_paused = 0
                watch_listeners(core, EPOLLIN)
        elif id & LISTENER:
            accept_some(core, <int> <uint32_t> id, <uint16_t> (id >> 32))
        else:
            c = core_find(core, id)
            if c != NULL:
                conn_ready(c, events[i].events)


cdef void core_finish(Core* core) noexcept nogil:
    """The second half: everything is written, closed connections go, and their wills are written too."""
    while core.wire.dirty != NULL or core.closing != NULL:
        flush_dirty(core)
        reap(core)
    if core.waiting != NULL:
        release_waiting(core)
    if core.deferred != NULL:
        core_wake(core)


cdef bint conn_take_packet(Conn* c, uint8_t* first, uint32_t* at, uint32_t* n) noexcept nogil:
    """Where the escalated packet lies in c.rest: its first byte, and its body's place and length."""
    cdef int used
    if c.rest_len < 2:
        return False
    used = get_varint(c.rest + 1, c.rest + c.rest_len, n)
    if used <= 0 or c.rest_len < 1 + used + n[0]:
        return False
    first[0] = c.rest[0]
    at[0] = 1 + used
    return True


cdef void conn_consume(Conn* c, uint32_t n) noexcept nogil:
    keep_rest(c, c.rest + n, c.rest_len - n)


cdef void conn_park(Conn* c) noexcept nogil:
    """Reads no more until conn_open: Python is still deciding."""
    watch(c, c.events & ~IN)


cdef void conn_open(Conn* c, uint32_t keepalive_ms) noexcept nogil:
    """CONNECT was accepted: packets are worked off from now on, those that came early at once."""
    c.peer.phase = OPEN
    c.keepalive_ms = keepalive_ms
    timer_cancel(&c.timer)
    if keepalive_ms:
        timer_arm(&c.core.wheel, &c.timer, c.core.router.now_ms + keepalive_ms)
    conn_go_on_soon(c)


cdef void conn_go_on_soon(Conn* c) noexcept nogil:
    """Reads again, starting with what was set aside."""
    if c.listed == NOT_LISTED and not c.closing:
        enlist(c, DEFERRED)
        core_wake(c.core)


cdef bint core_open(Core* core, uint32_t packet_max, uint32_t out_max) noexcept nogil:
    """Makes the epoll set and its clockwork. False: the system refused (see errno) or memory is out."""
    cdef epoll_event event
    cdef itimerspec period
    core.packet_max = packet_max
    core.wire.out_max = out_max
    core.wire.out_soft = out_max // 4
    core.router = router_new()
    core.buffer = <uint8_t*> malloc(HEADROOM + READ_MAX)
    core.epfd = epoll_create1(EPOLL_CLOEXEC)
    core.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    core.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    if core.router == NULL or core.buffer == NULL or core.epfd < 0 or core.wake_fd < 0 or core.timer_fd < 0:
        return False
    event.events = EPOLLIN
    event.data.u64 = WAKE
    epoll_ctl(core.epfd, EPOLL_CTL_ADD, core.wake_fd, &event)
    event.data.u64 = TICK
    epoll_ctl(core.epfd, EPOLL_CTL_ADD, core.timer_fd, &event)
    period.it_interval.tv_sec = 0
    period.it_interval.tv_nsec = 250000000
    period.it_value = period.it_interval
    timerfd_settime(core.timer_fd, 0, &period, NULL)
    core.wire.router = core.router
    core.groups.router = core.router
    core.groups.random = 0x9E3779B97F4A7C15ULL
    core.sessions.router = core.router
    core.sessions.wheel = &core.wheel
    core.sessions.wire = &core.wire
    core.sessions.groups = &core.groups
    core.protocol.router = core.router
    core.protocol.sessions = &core.sessions
    core.taps.router = core.router
    core.router.now_ms = core_clock(core)
    wheel_start(&core.wheel, core.router.now_ms)
    return True


cdef void core_close(Core* core) noexcept nogil:
    """Frees everything; connections that are left are cut without a word or a will."""
    cdef uint32_t i
    cdef Gone* gone
    while core.gone != NULL:
        gone = core.gone
        core.gone = gone.next
        free(gone)
    if core.router != NULL:
        for i in range(core.conns_cap):
            if core.conns[i] != NULL:
                if core.conns[i].peer.link.session != NULL:
                    (<Session*> core.conns[i].peer.link.session).link = NULL
                conn_free(core.conns[i])
        taps_detach(&core.taps)
        sessions_free(&core.sessions)
        wire_clear(&core.wire)
        router_free(core.router)
        core.router = NULL
    free(core.conns)
    free(core.generations)
    free(core.free_slots)
    free(core.buffer)
    if core.epfd >= 0:
        close(core.epfd)
    if core.wake_fd >= 0:
        close(core.wake_fd)
    if core.timer_fd >= 0:
        close(core.timer_fd)
