# cython: language_level=3, boundscheck=False, wraparound=False
"""See _sink.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastmq._conn cimport (
    Ended, IN, OUT, REAPED, conn_close, conn_id, conn_linger, conn_lost, conn_new, conn_offers, conn_receive, conn_take,
    core_find, core_wake, listener_full,
)
from fastmq._link cimport link_mark
from fastmq._linux cimport EPOLL_CTL_DEL, F_DUPFD_CLOEXEC, epoll_ctl, fcntl
from fastmq._protocol cimport CONNECTING, LINGERING
from fastmq._turn cimport core_clock, core_finish

cdef enum:
    SHARE = 131072               # bytes that a sink gets at a time


cdef class Sinks:
    """Those of one hub. A sink is told to `write`, `pause_reading`, `resume_reading` and `end`; see _sink.pyi.

    No connection has the id -1, which `attach` may return: whatever is told of it is not heard.
    """

    def __cinit__(self):
        self.core = NULL
        self._by_id = {}
        self.turn_soon = None
        self.turn_comes = False

    def close(self) -> None:
        """The hub closes: no sink has a connection any more."""
        self.core = NULL
        sinks, self._by_id = self._by_id, {}
        for sink in sinks.values():
            sink.end()

    def attach(self, uint16_t listener, sink) -> int:
        """A connection whose bytes go through a sink; returns its id, or -1 when there may be no more connections."""
        cdef Conn* c
        if self.core == NULL:
            return -1
        self.core.router.now_ms = core_clock(self.core)
        if listener_full(self.core, listener):
            self.core.router.stats.connections_refused += 1
            return -1
        c = conn_new(self.core, -1, listener)
        if c == NULL:
            raise MemoryError("no memory for a connection")
        self._by_id[conn_id(c)] = sink
        return conn_id(c)

    def release(self, int64_t id) -> tuple | None:
        """Gives away a connection whose CONNECT Python decides about: here it ends without a word.

        Returns its sink or, if it has a socket, a descriptor of that for the caller to close, and the input that is
        left; None: it is gone.
        """
        cdef Conn* c = core_find(self.core, <uint64_t> id) if self.core != NULL else NULL
        cdef int fd
        if c == NULL or c.closing or c.peer.phase != CONNECTING:
            return None
        rest = (<char*> c.rest)[:c.rest_len] if c.rest_len else b""
        there = self._by_id.pop(id, None)
        if c.fd >= 0:
            fd = fcntl(c.fd, F_DUPFD_CLOEXEC, 0)
            if fd < 0:
                return None
            epoll_ctl(self.core.epfd, EPOLL_CTL_DEL, c.fd, NULL)  # else it would stay there with the copy
            there = fd
        conn_close(c, 0, False)
        core_wake(self.core)
        return there, rest

    def adopt(self, int fd, uint16_t listener, const uint8_t[::1] data, known=None) -> int:
        """A connection that another worker gave away, and the input that it had: its CONNECT and what followed it.

        `known` is what is known of it, with `peer` and `end` as a sink; None: its socket tells. Returns its id, or -1
        when there may be no more connections: then the descriptor stays the caller's.
        """
        cdef Core* core = self.core
        cdef Conn* c
        cdef size_t n = data.shape[0]
        if core == NULL:
            return -1
        core.router.now_ms = core_clock(core)
        if listener_full(core, listener):
            core.router.stats.connections_refused += 1
            return -1
        c = conn_new(core, fd, listener)
        if c == NULL:
            return -1
        if known is not None:
            c.ended = <Ended*> malloc(sizeof(Ended))
            if c.ended == NULL:
                c.fd = -1        # it is the caller's
                epoll_ctl(core.epfd, EPOLL_CTL_DEL, fd, NULL)
                conn_close(c, 0, False)
                return -1
            self._by_id[conn_id(c)] = known
        id = conn_id(c)
        if n:
            with nogil:
                conn_receive(c, &data[0], n)
        self._turn()
        return id

    def receive(self, int64_t id, const uint8_t[::1] data) -> bool:
        """Input from a sink; what it causes is done soon. False: the connection is gone."""
        cdef Core* core = self.core
        cdef size_t n = data.shape[0]
        cdef Conn* c
        if core == NULL:
            return False
        c = core_find(core, <uint64_t> id)
        if c == NULL or c.closing:
            return False
        if n:
            with nogil:
                core.router.now_ms = core_clock(core)
                conn_receive(c, &data[0], n)
            if c.reads and not c.events & IN and not c.closing:
                self._pause(c)   # at once: a transport may read many times before the turn
            self._turn()
        return True

    cdef int _pause(self, Conn* c) except -1:
        sink = self._by_id.get(conn_id(c))
        c.reads = 0
        try:
            if sink is not None:
                sink.pause_reading()
        except Exception:        # its transport broke under it, which it will say itself
            pass
        return 0

    def block(self, int64_t id, bint blocked) -> None:
        """Whether a sink takes nothing for now."""
        cdef Conn* c = core_find(self.core, <uint64_t> id) if self.core != NULL else NULL
        if c == NULL:
            return
        c.blocked = blocked
        if not blocked:
            c.flushed_much = 0
            link_mark(&c.peer.link)
            self._turn()

    def lost(self, int64_t id) -> None:
        """A sink's transport is gone."""
        cdef Conn* c = core_find(self.core, <uint64_t> id) if self.core != NULL else NULL
        self._by_id.pop(id, None)
        if c != NULL:
            conn_lost(c)
            self._turn()

    def sink(self, int64_t id) -> object:
        """The sink of a connection; None: it has none, or is gone."""
        return self._by_id.get(id)

    def peer(self, int64_t id) -> str:
        """'address:port' of a connection that has a sink."""
        sink = self._by_id.get(id)
        return sink.peer if sink is not None else ""

    cdef int _turn(self) except -1:
        if not self.turn_comes:
            self.turn_comes = True
            self.turn_soon()
        return 0

    cdef int serve(self) except -1:
        """Serves the sinks that there is news for."""
        cdef Core* core = self.core
        cdef Conn* c
        cdef Ended* ended
        while core.sinks != NULL or core.ended != NULL:
            while core.sinks != NULL:
                c = core.sinks
                core.sinks = c.next_sink
                c.has_news = 0
                self._serve(c)
            while core.ended != NULL:
                ended = core.ended
                core.ended = ended.next
                sink = self._by_id.pop(ended.id, None)
                free(ended)
                if sink is not None:
                    sink.end()
            if core.closing != NULL:
                with nogil:
                    core_finish(core)
        return 0

    cdef int _serve(self, Conn* c) except -1:
        """Tells a sink whether to read, and gives it what it takes."""
        cdef uint8_t reads = c.events & IN
        cdef uint32_t n
        cdef uint64_t id = conn_id(c)
        sink = self._by_id.get(id)
        if sink is None:
            return 0
        try:
            if c.reads != reads and not c.closing:
                c.reads = reads
                if reads:
                    sink.resume_reading()
                else:
                    sink.pause_reading()
                c = core_find(self.core, id)
                if c == NULL:
                    return 0
            n = 0 if c.blocked else conn_offers(c, SHARE)
            if n:
                data = PyBytes_FromStringAndSize(NULL, n)
                conn_take(c, <uint8_t*> PyBytes_AS_STRING(data), n)
                sink.write(data)
        except Exception:        # its transport broke under it
            c = core_find(self.core, id)
            if c != NULL:
                conn_close(c, 0, True)
            return 0
        c = core_find(self.core, id)  # the sink may have lost its transport meanwhile
        if c == NULL:
            return 0
        if c.peer.phase == LINGERING:
            sink.end()
        elif c.closing == REAPED and c.peer.link.out_bytes == 0:
            conn_linger(c)       # tells it again
        elif not c.blocked and (c.events & OUT or conn_offers(c, 1)):
            c.events &= ~OUT
            c.flushed_much = 0
            link_mark(&c.peer.link)
            self._turn()
        return 0
