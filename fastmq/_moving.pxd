# cython: language_level=3
"""A session moves to another engine, and comes from there, with all its state: the bytes of _state.pxd.

Here it is in front of what the session has had here since; its positions, which the store knows deliveries by, are new.
"""
from fastmq._conn cimport Core
from fastmq._session cimport Session

cdef class Moving:
    cdef Core* core              # NULL: the hub is closed
    cdef set _wanted             # client identifiers whose bodies have been asked back from the store
    cdef Session* _find(self, bytes client_id) except? NULL
    cdef int take_bodies(self) except -1
