# cython: language_level=3
"""The other workers of the host, as Python sees them."""
from libc.stdint cimport uint32_t
from fastmq._conn cimport Conn, Core
from fastmq._items cimport Remote

cdef class Remotes:
    cdef Core* core              # NULL: the hub is closed
    cdef public object on_lost   #: Callable[[int], None] | None: the connection to a worker has ended
    cdef public object on_ready  #: Callable[[int], None] | None: a worker has said all that its clients want
    cdef public object on_told   #: Callable[[int, bytes], None] | None: what a worker's program says
    cdef Remote* _remote(self, uint32_t index) except NULL
    cdef Conn* _conn(self, Remote* x, int fd) except NULL
    cdef uint32_t subscriptions(self)
    cdef int notify(self) except -1
