# cython: language_level=3
"""A timing wheel: very many deadlines, most of which are moved or cancelled before they come.

A timer embeds in what it times. Arming and cancelling are constant time; resolution is TICK_MS. Firing order within a
tick is not defined. A timer may arm or cancel any timer while it fires, itself included.
"""
from libc.stdint cimport int64_t

cdef enum:
    TICK_MS = 250
    WHEEL_SLOTS = 1024

cdef struct Timer:
    Timer* next
    Timer** prev                 # what points at this timer; NULL while it is not armed
    int64_t due_ms
    void (*fire)(Timer* t, int64_t now_ms) noexcept nogil
    void* self                   # what it times

cdef struct Wheel:
    Timer* slots[WHEEL_SLOTS]
    Timer* firing
    int64_t tick                 # the last one that was worked off

cdef inline void timer_cancel(Timer* t) noexcept nogil:
    if t.prev != NULL:
        t.prev[0] = t.next
        if t.next != NULL:
            t.next.prev = t.prev
        t.prev = NULL

cdef inline void timer_hang(Timer** head, Timer* t) noexcept nogil:
    t.next = head[0]
    if t.next != NULL:
        t.next.prev = &t.next
    t.prev = head
    head[0] = t

cdef void timer_arm(Wheel* w, Timer* t, int64_t due_ms) noexcept nogil
cdef void wheel_start(Wheel* w, int64_t now_ms) noexcept nogil
cdef void wheel_advance(Wheel* w, int64_t now_ms) noexcept nogil
