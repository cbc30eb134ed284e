# cython: language_level=3
"""A tap: a subscriber inside the program, whose messages wait in a bounded queue until Python takes them."""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from fastmq._inflight cimport Queue
from fastmq._router cimport Router, Subscriber

cdef struct TapState:
    Subscriber base              # first: a TapState* is a Subscriber*
    Taps* taps
    TapState* next               # of all taps
    TapState* next_ready
    Queue queue
    uint32_t messages_max
    int64_t bytes_max
    uint32_t dropped             # messages that found the queue full
    uint8_t ready                # on the ready list
    void* owner                  # the Tap object, borrowed

cdef struct Taps:
    Router* router
    TapState* all
    TapState* ready              # taps with messages that have not been notified

cdef class Tap:
    cdef TapState* _state
    cdef object _hub             #: Hub, kept alive
    cdef public object on_ready  #: Callable[[], None] | None, called at the end of a turn that queued something

cdef Tap tap_make(object hub, Taps* taps, uint32_t messages_max, int64_t bytes_max)
cdef void taps_detach(Taps* taps) noexcept nogil
cdef int taps_notify(Taps* taps) except -1
