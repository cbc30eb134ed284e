# cython: language_level=3
"""The hub's turns: the sockets of one worker, in an epoll set of its own that nests in the event loop.

The loop watches one descriptor and calls `Hub.on_ready` once a turn. Below it, without the GIL: read, parse, route,
write. What needs Python (CONNECT, AUTH) is collected and handed over after that, then everything that became dirty is
flushed with one sendmsg per connection, then closed connections are freed and their wills written too.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._conn cimport Core

cdef bint core_open(Core* core, uint32_t packet_max, uint32_t out_max) noexcept nogil
cdef void core_close(Core* core) noexcept nogil
cdef int core_listen(Core* core, int fd, uint16_t listener) noexcept nogil
cdef void core_unlisten(Core* core, int fd) noexcept nogil
cdef int64_t core_clock(Core* core) noexcept nogil
cdef void core_set_clock(Core* core, int64_t now_ms) noexcept nogil
cdef void core_advance(Core* core, int64_t now_ms) noexcept nogil
cdef void core_read(Core* core) noexcept nogil
cdef void core_go_on(Core* core) noexcept nogil
cdef void core_finish(Core* core) noexcept nogil
