# cython: language_level=3, boundscheck=False, wraparound=False
"""See _conn.pxd."""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from fastmq._link cimport Chunk, Link, chunk_waits, link_clear, link_mark, link_sent
from fastmq._linux cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_MOD, MSG_NOSIGNAL, SHUT_WR, close, epoll_ctl,
    epoll_event, iovec, msghdr, recv, sendmsg, shutdown, write,
)
from fastmq._message cimport charge
from fastmq._meter cimport meter_charge, meter_unref
from fastmq._protocol cimport (
    AWAIT_CONNECT, CLIENT_LEFT, CLOSING, ESCALATE, LINGERING, OPEN, peer_clear, peer_detach, peer_disconnect,
    peer_session,     protocol_packet,
)
from fastmq._session cimport Session, session_detach, session_id
from fastmq._wait cimport waits_drop
from fastmq._wheel cimport timer_arm, timer_cancel
from fastmq._wire cimport (
    KEEP_ALIVE_TIMEOUT, MALFORMED, MESSAGE_RATE_TOO_HIGH, PACKET_TOO_LARGE, PROTOCOL_ERROR, QUOTA_EXCEEDED,
    get_varint,
)

cdef enum:
    IOV_MAX_USED = 64
    OUTPUT_BUDGET = 4194304      # bytes that one read may cause to be queued before the others have their turn
    LINGER_MS = 1000
    AHEAD = 4194304              # bytes that a sink may bring after it was told not to read: it had them already
    HOLD_MS = 100                # how long an MQTT 3 publisher waits before it tries full memory again


# -- epoll and lists ---------------------------------------------------------------------------------------------------

cdef void watch(Conn* c, uint8_t events) noexcept nogil:
    cdef epoll_event event
    if c.events == events:
        return
    c.events = events
    if c.fd < 0:
        tell(c)
        return
    event.events = (EPOLLIN if events & IN else 0) | (EPOLLOUT if events & OUT else 0)
    event.data.u64 = conn_id(c)
    epoll_ctl(c.core.epfd, EPOLL_CTL_MOD, c.fd, &event)


cdef void tell(Conn* c) noexcept nogil:
    """There is news for the connection's sink: output, or whether to read."""
    if not c.has_news:
        c.has_news = 1
        c.next_sink = c.core.sinks
        c.core.sinks = c


cdef List* list_of(Conn* c) noexcept nogil:
    if c.listed == DEFERRED:
        return &c.core.deferred
    return &c.core.escalated if c.listed == ESCALATED else &c.core.waiting


cdef void enlist(Conn* c, uint8_t which) noexcept nogil:
    cdef List* to
    c.listed = which
    to = list_of(c)
    c.next = NULL
    if to.tail == NULL:
        to.head = c
    else:
        to.tail.next = c
    to.tail = c


cdef void unlist(Conn* c) noexcept nogil:
    cdef List* of
    cdef Conn* before = NULL
    cdef Conn* at
    if c.listed == NOT_LISTED:
        return
    of = list_of(c)
    at = of.head
    while at != c:
        before = at
        at = at.next
    if before == NULL:
        of.head = c.next
    else:
        before.next = c.next
    if of.tail == c:
        of.tail = before
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
    """A connection that has just come; fd -1: its bytes go through a sink. NULL: out of memory."""
    cdef Conn* c
    cdef epoll_event event
    if core.n_free == 0 and not slots_grow(core):
        return NULL
    c = <Conn*> calloc(1, sizeof(Conn))
    if c == NULL:
        return NULL
    if fd < 0:
        c.ended = <Ended*> malloc(sizeof(Ended))
        if c.ended == NULL:
            free(c)
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
    c.reads = 1
    if fd >= 0:
        event.events = EPOLLIN
        event.data.u64 = conn_id(c)
        epoll_ctl(core.epfd, EPOLL_CTL_ADD, fd, &event)
    timer_arm(&core.wheel, &c.timer, core.router.now_ms + core.connect_timeout_ms)
    charge(&core.router.ledger, <int64_t> sizeof(Conn))
    core.held[listener] += 1
    core.router.stats.connections += 1
    if core.router.stats.connections > core.router.stats.connections_peak:
        core.router.stats.connections_peak = core.router.stats.connections
    return c


cdef Conn* conn_remote(Core* core, int fd, Remote* remote) noexcept nogil:
    """A connection to or from another worker. NULL: out of memory; the caller keeps the socket."""
    cdef Conn* c = conn_new(core, fd, 0)
    if c == NULL:
        return NULL
    core.held[0] -= 1
    core.router.stats.connections -= 1
    c.peer.remote = remote
    conn_open(c, 0)
    return c


# -- connections go ----------------------------------------------------------------------------------------------------

cdef void conn_close(Conn* c, uint8_t reason, bint with_will) noexcept nogil:
    """Ends the connection at the end of this turn; a reason is told to the client if its version can hear it."""
    if c.closing:
        return
    waits_drop(&c.peer.waits)    # nothing follows our DISCONNECT
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
    peer_detach(&c.peer)
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
    cdef Conn** before = &core.sinks
    cdef int i
    if c.has_news:
        while before[0] != c:
            before = &before[0].next_sink
        before[0] = c.next_sink
    if l.dirty:
        while at[0] != l:
            at = &at[0].next_dirty
        at[0] = l.next_dirty
    unlist(c)
    timer_cancel(&c.timer)
    link_clear(l)
    peer_clear(&c.peer)
    for i in range(RATES_MAX):
        if c.meters[i] != NULL:
            meter_unref(c.meters[i])
    drop_rest(c)
    if c.fd >= 0:
        close(c.fd)
    if c.ended != NULL:
        c.ended.id = conn_id(c)
        c.ended.next = core.ended
        core.ended = c.ended
    core.conns[c.slot] = NULL
    core.free_slots[core.n_free] = c.slot
    core.n_free += 1
    if c.peer.remote == NULL:
        core.held[c.listener] -= 1
        core.router.stats.connections -= 1
    core.router.ledger.bytes -= <int64_t> sizeof(Conn)
    free(c)


cdef void conn_linger(Conn* c) noexcept nogil:
    """Shuts our side and reads the rest away, so that the client gets our last packet and not a reset."""
    c.peer.phase = LINGERING
    if c.fd < 0:
        tell(c)                  # its sink closes in its own way
    else:
        shutdown(c.fd, SHUT_WR)
        watch(c, IN)
    timer_arm(&c.core.wheel, &c.timer, c.core.router.now_ms + LINGER_MS)


cdef void conn_reap(Conn* c) noexcept nogil:
    """Lets a closed connection's session go and sends its last words; frees it now, or when they have left."""
    c.closing = REAPED
    conn_detach(c)
    unlist(c)
    drop_rest(c)
    if c.peer.link.broken or (c.close_reason == 0 and c.peer.link.out_bytes == 0):
        conn_free(c)
    elif not conn_flush(c):
        conn_free(c)
    elif c.peer.link.out_bytes == 0:
        conn_linger(c)
    else:
        watch(c, OUT)
        timer_arm(&c.core.wheel, &c.timer, c.core.router.now_ms + LINGER_MS)


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
    cdef int64_t now = c.core.router.now_ms
    c.waits_for = conn_id(target) if target != NULL else 0
    c.waits_until_ms = now + HOLD_MS
    if target != NULL and target.held_since_ms == 0:
        target.held_since_ms = target.progress_ms = now
    enlist(c, WAITING)
    watch(c, c.events & ~IN)


cdef void conn_charge(Conn* c, uint32_t n) noexcept nogil:
    """Counts a PUBLISH of n bytes. Who sends too fast is not read from until its debt is paid, or is disconnected."""
    cdef int64_t now = c.core.router.now_ms, wait = 0, each
    cdef int i
    for i in range(RATES_MAX):
        if c.meters[i] != NULL:
            each = meter_charge(c.meters[i], n, now)
            if each > wait:
                wait = each
    if wait == 0:
        return
    c.core.router.stats.publish_throttled += 1
    if wait > c.core.pause_max_ms:
        conn_close(c, MESSAGE_RATE_TOO_HIGH, True)
        return
    c.throttled = 1
    c.waits_for = 0
    c.waits_until_ms = now + wait
    enlist(c, WAITING)
    watch(c, c.events & ~IN)


cdef uint32_t feed(Conn* c, uint8_t* p, uint32_t n) noexcept nogil:
    """Parses and acts on whole packets; returns how many bytes it used. Stops when c is closed, or listed for later."""
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
        if 1 + used + length > (core.packet_max if c.peer.phase != AWAIT_CONNECT else core.connect_max) and (
            c.peer.remote == NULL
        ):
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
        if c.meters[0] != NULL and p[at - used - 1 - length] >> 4 == 3:
            conn_charge(c, 1 + used + length)
            if c.listed != NOT_LISTED or c.closing:
                core.router.congested = NULL
                break
        if core.router.congested != NULL:
            target = <Conn*> core.router.congested
            core.router.congested = NULL
            if target != c:      # its own acknowledgements come over this very connection
                conn_wait(c, target)
                break
        if c.peer.link.out_bytes > core.wire.out_max and c.peer.remote == NULL:
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
    if c.peer.remote == NULL:
        core.router.stats.bytes_received += n
    if c.rest_len:
        start -= c.rest_len
        memcpy(start, c.rest, c.rest_len)
    total = c.rest_len + <uint32_t> n
    used = feed(c, start, total)
    keep_rest(c, start + used, total - used)


cdef void conn_receive(Conn* c, const uint8_t* p, size_t n) noexcept nogil:
    """Takes n bytes of input from the connection's sink."""
    cdef Core* core = c.core
    cdef uint8_t* start
    cdef uint32_t k, used
    c.last_seen_ms = core.router.now_ms
    core.router.stats.bytes_received += n
    while n and not c.closing:
        if c.listed != NOT_LISTED or not c.events & IN:
            k = <uint32_t> min(n, <size_t> HEADROOM + core.packet_max)  # it came although we do not read
            if c.rest_len > AHEAD + core.packet_max or not rest_room(c, c.rest_len + k):
                conn_close(c, QUOTA_EXCEEDED, True)
                return
            memcpy(c.rest + c.rest_len, p, k)
            c.rest_len += k
        elif c.rest_len > HEADROOM:
            k = <uint32_t> min(n, <size_t> (packet_total(c) - c.rest_len))
            if not rest_room(c, c.rest_len + k):
                conn_close(c, 0x83, True)
                return
            memcpy(c.rest + c.rest_len, p, k)
            c.rest_len += k
            if c.rest_len == packet_total(c):
                used = feed(c, c.rest, c.rest_len)
                keep_rest(c, c.rest + used, c.rest_len - used)
        else:
            k = <uint32_t> min(n, <size_t> READ_MAX)
            start = core.buffer + HEADROOM
            memcpy(start, p, k)
            start -= c.rest_len
            if c.rest_len:
                memcpy(start, c.rest, c.rest_len)
            used = feed(c, start, c.rest_len + k)
            keep_rest(c, start + used, c.rest_len + k - used)
        p += k
        n -= k


cdef void conn_lost(Conn* c) noexcept nogil:
    """The connection's sink has lost its transport."""
    if c.closing == REAPED:
        conn_free(c)
    else:
        conn_close(c, 0, True)


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
    """Takes up the input that was set aside, and reads on when all of it could be worked off."""
    cdef uint32_t used
    if c.rest_len and c.rest_len <= HEADROOM + READ_MAX:
        # Parsed in the shared buffer: a packet may be set aside again, and the rest must not move under the parser.
        memcpy(c.core.buffer, c.rest, c.rest_len)
        used = feed(c, c.core.buffer, c.rest_len)
        keep_rest(c, c.core.buffer + used, c.rest_len - used)
    elif c.rest_len:
        used = feed(c, c.rest, c.rest_len)
        keep_rest(c, c.rest + used, c.rest_len - used)
    if c.listed == NOT_LISTED and not c.closing:
        watch(c, c.events | IN)


# -- output ------------------------------------------------------------------------------------------------------------

cdef bint conn_flush(Conn* c) noexcept nogil:
    """Writes what the socket takes. False: it is dead."""
    cdef Link* l = &c.peer.link
    cdef iovec iov[IOV_MAX_USED]
    cdef msghdr message
    cdef Chunk* chunk
    cdef size_t n_iov, size
    cdef ssize_t n
    if c.fd < 0:
        tell(c)
        return True
    memset(&message, 0, sizeof(message))
    cdef Router* router = c.core.router
    message.msg_iov = iov
    while l.head != NULL:
        chunk = l.head
        if chunk_waits(chunk, router):
            c.progress_ms = c.core.router.now_ms  # it waits for us
            break
        n_iov = 0
        size = 0
        while chunk != NULL and n_iov < IOV_MAX_USED and not chunk_waits(chunk, router):
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
        c.progress_ms = c.core.router.now_ms
        c.progress += n
        if c.peer.remote == NULL:
            c.core.router.stats.bytes_sent += n
        if <size_t> n < size:
            watch(c, c.events | OUT)
            return True
    if c.events & OUT:
        watch(c, c.events & ~OUT)
    return True


cdef uint32_t conn_offers(Conn* c, uint32_t most) noexcept nogil:
    """How many bytes its sink may take now, at most `most`; nothing leaves before what it promises is committed."""
    cdef Chunk* chunk = c.peer.link.head
    cdef uint32_t n = 0
    while chunk != NULL and not chunk_waits(chunk, c.core.router) and n < most:
        n += chunk.len - chunk.off
        chunk = chunk.next
    if n == 0:
        c.progress_ms = c.core.router.now_ms  # it waits for us
    return n if n < most else most


cdef void conn_take(Conn* c, uint8_t* out, uint32_t n) noexcept nogil:
    """Moves n bytes of output to `out`."""
    cdef Chunk* chunk = c.peer.link.head
    cdef uint32_t k, left = n
    while left:
        k = min(left, chunk.len - chunk.off)
        memcpy(out, chunk.data + chunk.off, k)
        out += k
        left -= k
        chunk = chunk.next
    link_sent(&c.peer.link, n)
    c.progress_ms = c.core.router.now_ms
    c.progress += n
    c.core.router.stats.bytes_sent += n


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
