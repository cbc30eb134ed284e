# cython: language_level=3
"""Sinks: the Python objects that stand between a connection of the engine and a transport of the event loop."""
from fastmq._conn cimport Conn, Core

cdef class Sinks:
    cdef Core* core              # NULL: the hub is closed
    cdef dict _by_id
    #: Callable[[], object] | None: sees to it that a turn comes, outside of what goes on
    cdef public object turn_soon
    cdef bint turn_comes
    cdef int serve(self) except -1
    cdef int _serve(self, Conn* c) except -1
    cdef int _turn(self) except -1
    cdef int _pause(self, Conn* c) except -1
