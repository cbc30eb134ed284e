# cython: language_level=3, boundscheck=False, wraparound=False
"""See _turn.pxd."""
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, ENOSPC, errno
from libc.stdlib cimport free, malloc

from fastmq._conn cimport (
    Conn, DEFERRED, Ended, Gone, HEADROOM, LISTED, LISTENERS_MAX, NOT_LISTED, OUT, READ_MAX, WAITING, conn_close,
    conn_flush, conn_free, conn_go_on, conn_id, conn_linger, conn_new, conn_ready, conn_reap, core_find, core_wake,
    enlist, listener_full, unlist, watch,
)
from fastmq._fabric cimport fabric_close, fabric_tick, fabric_turn
from fastmq._journal cimport journal_full, stored_unref
from fastmq._link cimport Link, link_is_gated, wire_clear
from fastmq._linux cimport (
    CLOCK_MONOTONIC, EFD_CLOEXEC, EFD_NONBLOCK, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD,
    IPPROTO_TCP, SOCK_CLOEXEC, SOCK_NONBLOCK, TCP_NODELAY, TFD_CLOEXEC, TFD_NONBLOCK, accept4, clock_gettime, close,
    epoll_create1, epoll_ctl, epoll_event, epoll_wait, eventfd, itimerspec, read, setsockopt, timerfd_create,
    timerfd_settime, timespec,
)
from fastmq._protocol cimport LINGERING
from fastmq._retain cimport retained_sweep
from fastmq._router cimport router_free, router_full, router_new
from fastmq._session cimport Session, session_pump, session_waiting, sessions_free
from fastmq._share cimport groups_init
from fastmq._table cimport table_init
from fastmq._tap cimport taps_detach
from fastmq._user cimport users_init
from fastmq._wheel cimport TICK_MS, wheel_advance, wheel_start

cdef enum:
    EVENTS_MAX = 512
    ACCEPT_MAX = 64              # connections of one listener a turn
    FLUSH_ROUNDS = 8             # flushes of one connection a turn, so that a long backlog is no monopoly
    RETAINED_SWEEP = 2048        # slots looked at a tick

cdef uint64_t LISTENER = <uint64_t> 1 << 63
cdef uint64_t WAKE = (<uint64_t> 1 << 63) | (<uint64_t> 1 << 62)
cdef uint64_t TICK = (<uint64_t> 1 << 63) | (<uint64_t> 1 << 61)


# -- listeners -----------------------------------------------------------------------------------------------------

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
    cdef int peer, _, on = 1
    for _ in range(ACCEPT_MAX):
        peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if peer < 0:
            if errno != EAGAIN and errno != EINTR and errno != ECONNABORTED:
                pause_accepting(core)  # out of descriptors, most likely: a listener left ready would spin
            return
        if listener_full(core, listener):
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


# -- waiting -------------------------------------------------------------------------------------------------------

cdef bint has_drained(Conn* c) noexcept nogil:
    cdef Core* core = c.core
    cdef Session* s = <Session*> c.peer.link.session
    if c.closing:
        return True
    if s == NULL:
        return c.peer.remote == NULL or c.peer.link.out_bytes * 2 <= core.wire.out_soft
    return (
        c.peer.link.out_bytes * 2 <= core.wire.out_soft and s.queue.n * 2 <= core.sessions.queue_soft
        and s.queue.bytes * 2 <= core.sessions.queue_bytes_soft
    )


cdef void judge(Conn* c) noexcept nogil:
    """Whether publishers need not wait for this connection, or no longer.

    It is slow when its socket took nothing for slow_after_ms, or when it has not drained in ten times that. It is so no
    more once it has drained, or has taken a fair amount within slow_after_ms.
    """
    cdef Core* core = c.core
    cdef int64_t now = core.router.now_ms
    if link_is_gated(&c.peer.link):
        c.progress_ms = now      # it waits for us
    if has_drained(c):
        c.peer.link.slow = 0
        c.held_since_ms = 0
    elif c.peer.link.slow:
        if now - c.held_since_ms >= core.slow_after_ms:
            if c.progress - c.slow_progress >= core.wire.out_soft // 8:
                c.peer.link.slow = 0
                c.held_since_ms = 0
            else:
                c.held_since_ms = now
                c.slow_progress = c.progress
    elif c.held_since_ms and (
        now - c.progress_ms >= core.slow_after_ms or now - c.held_since_ms >= <int64_t> core.slow_after_ms * 10
    ):
        c.peer.link.slow = 1
        c.held_since_ms = now
        c.slow_progress = c.progress


cdef bint must_wait(Conn* c) noexcept nogil:
    """Whether a connection that holds its input back has still reason to."""
    cdef Conn* target
    if c.throttled:
        return c.core.router.now_ms < c.waits_until_ms
    if c.waits_for == 0:
        return c.core.router.now_ms < c.waits_until_ms and (
            router_full(c.core.router) or c.core.router.journal.trouble or journal_full(&c.core.router.journal)
        )
    target = core_find(c.core, c.waits_for)
    if target == NULL:
        return False
    if target == c:
        return c.peer.link.out_bytes * 2 > c.core.wire.out_soft
    if not target.peer.link.slow:
        judge(target)
    return target.held_since_ms != 0 and not target.peer.link.slow


cdef void release_waiting(Core* core) noexcept nogil:
    """Lets publishers go on, in the order in which they came to wait."""
    cdef Conn* c = core.waiting.head
    cdef Conn* after
    while c != NULL:
        after = c.next
        if not must_wait(c):
            c.throttled = 0
            unlist(c)
            enlist(c, DEFERRED)
            if c.waits_for != conn_id(c):
                c.last_seen_ms = core.router.now_ms
        c = after


cdef bint is_congested(Core* core, uint64_t id) noexcept nogil:
    """Whether another publisher has filled a subscriber's buffers up again in the meantime."""
    cdef Conn* target = core_find(core, id)
    return target != NULL and target.held_since_ms != 0 and not target.peer.link.slow


# -- output ------------------------------------------------------------------------------------------------------------

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
        if l.broken or not conn_flush(c):
            l.broken = 1
            if c.closing:
                conn_free(c)
            else:
                conn_close(c, 0, True)
            continue
        if c.closing:
            if l.out_bytes == 0:
                conn_linger(c)
            continue
        s = <Session*> l.session
        if l.slow or c.held_since_ms:
            judge(c)
        if s == NULL:
            continue
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


cdef void flush_remotes(Core* core) noexcept nogil:
    """Writes to other workers first: that a client wants something is on its way to them before its SUBACK leaves."""
    cdef uint32_t i
    cdef Link* l
    for i in range(core.fabric.top):
        l = core.fabric.remotes[i].out
        if l != NULL and l.dirty and not l.broken and not (<Conn*> l).closing and not conn_flush(<Conn*> l):
            l.broken = 1


# -- turns ---------------------------------------------------------------------------------------------------------

cdef void core_go_on(Core* core) noexcept nogil:
    """Works off the connections whose input was set aside."""
    cdef Conn* c = core.deferred.head
    cdef Conn* after
    core.deferred.head = core.deferred.tail = NULL
    while c != NULL:
        after = c.next
        c.listed = NOT_LISTED
        if not c.closing:
            if c.waits_for and is_congested(core, c.waits_for):
                enlist(c, WAITING)
            else:
                c.waits_for = 0
                conn_go_on(c)
        c = after


cdef int64_t core_clock(Core* core) noexcept nogil:
    """Milliseconds of the monotonic clock, plus what a test has moved it."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t> t.tv_sec * 1000 + t.tv_nsec // 1000000 + core.clock_offset_ms


cdef void start_ticking(Core* core) noexcept nogil:
    cdef itimerspec period
    core.router.now_ms = core_clock(core)
    wheel_start(&core.wheel, core.router.now_ms)
    period.it_interval.tv_sec = 0
    period.it_interval.tv_nsec = 250000000
    period.it_value.tv_sec = 0  # on the wheel's ticks from the first time on, else everything would be late twice
    period.it_value.tv_nsec = (TICK_MS - core.router.now_ms % TICK_MS) * 1000000
    timerfd_settime(core.timer_fd, 0, &period, NULL)


cdef void core_set_clock(Core* core, int64_t now_ms) noexcept nogil:
    """Lets engine time go on from now_ms. No timer may be armed yet."""
    core.clock_offset_ms += now_ms - core_clock(core)
    start_ticking(core)


cdef void core_advance(Core* core, int64_t now_ms) noexcept nogil:
    core.router.now_ms = now_ms
    wheel_advance(&core.wheel, now_ms)
    retained_sweep(core.router.retained, RETAINED_SWEEP, now_ms)
    if core.fabric != NULL:
        fabric_tick(core.fabric)


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
            core.ticked = 1
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
    cdef Conn* c
    if core.fabric != NULL:
        fabric_turn(core.fabric)
        flush_remotes(core)
    while core.wire.dirty != NULL or core.closing != NULL:
        flush_dirty(core)
        while core.closing != NULL:
            c = core.closing
            core.closing = c.next_closing
            conn_reap(c)
        if core.fabric != NULL:
            fabric_turn(core.fabric)  # those that went may have been members of shared groups
    if core.waiting.head != NULL:
        release_waiting(core)
    if core.deferred.head != NULL:
        core_wake(core)


# -- start and end -----------------------------------------------------------------------------------------------------

cdef bint core_open(Core* core, uint32_t packet_max, uint32_t out_max) noexcept nogil:
    """Makes the epoll set and its clockwork. False: the system refused (see errno) or memory is out."""
    cdef epoll_event event
    core.packet_max = packet_max
    core.wire.out_max = out_max
    core.wire.out_soft = out_max // 4
    core.router = router_new()
    if core.router == NULL:
        return False
    groups_init(&core.groups, core.router)
    core.sessions.router = core.router
    core.sessions.wheel = &core.wheel
    core.sessions.wire = &core.wire
    core.sessions.groups = &core.groups
    table_init(&core.sessions.table, <uint32_t> <size_t> &(<Session*> NULL).hash, &core.router.ledger.bytes)
    users_init(&core.sessions.users, &core.router.ledger.bytes)
    core.buffer = <uint8_t*> malloc(HEADROOM + READ_MAX)
    core.epfd = epoll_create1(EPOLL_CLOEXEC)
    core.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    core.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    if core.buffer == NULL or core.epfd < 0 or core.wake_fd < 0 or core.timer_fd < 0:
        return False
    event.events = EPOLLIN
    event.data.u64 = WAKE
    epoll_ctl(core.epfd, EPOLL_CTL_ADD, core.wake_fd, &event)
    event.data.u64 = TICK
    epoll_ctl(core.epfd, EPOLL_CTL_ADD, core.timer_fd, &event)
    core.wire.router = core.router
    core.protocol.router = core.router
    core.protocol.sessions = &core.sessions
    core.taps.router = core.router
    start_ticking(core)
    return True


cdef void core_close(Core* core) noexcept nogil:
    """Frees everything; connections that are left are cut without a word or a will."""
    cdef uint32_t i
    cdef Gone* gone
    cdef Ended* ended
    while core.gone != NULL:
        gone = core.gone
        core.gone = gone.next
        free(gone)
    if core.router != NULL:
        core.router.journal.closed = 1  # what is freed from here on is not over
        if core.fabric != NULL:
            fabric_close(core.fabric)
        for i in range(core.conns_cap):
            if core.conns[i] != NULL:
                if core.conns[i].peer.link.session != NULL:
                    (<Session*> core.conns[i].peer.link.session).link = NULL
                conn_free(core.conns[i])
        while core.ended != NULL:
            ended = core.ended
            core.ended = ended.next
            free(ended)
        taps_detach(&core.taps)
        sessions_free(&core.sessions)
        for i in range(core.router.journal.n_wanted):
            stored_unref(core.router.journal.wanted[i])
        for i in range(core.router.journal.n_asked):
            stored_unref(core.router.journal.asked[i])
        wire_clear(&core.wire)
        router_free(core.router)
        core.router = NULL
        free(core.fabric)
        core.fabric = NULL
    free(core.conns)
    free(core.generations)
    free(core.free_slots)
    free(core.buffer)
    free(core.protocol.room)
    if core.epfd >= 0:
        close(core.epfd)
    if core.wake_fd >= 0:
        close(core.wake_fd)
    if core.timer_fd >= 0:
        close(core.timer_fd)
