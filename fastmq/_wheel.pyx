# cython: language_level=3, boundscheck=False, wraparound=False
"""See _wheel.pxd."""
from libc.string cimport memset


cdef void wheel_start(Wheel* w, int64_t now_ms) noexcept nogil:
    memset(w, 0, sizeof(Wheel))
    w.tick = now_ms // TICK_MS


cdef void timer_arm(Wheel* w, Timer* t, int64_t due_ms) noexcept nogil:
    """Fires at the first tick at or after due_ms; replaces an earlier deadline."""
    cdef int64_t tick = (due_ms + TICK_MS - 1) // TICK_MS
    if tick <= w.tick:
        tick = w.tick + 1
    timer_cancel(t)
    t.due_ms = due_ms
    timer_hang(&w.slots[tick & (WHEEL_SLOTS - 1)], t)


cdef void wheel_advance(Wheel* w, int64_t now_ms) noexcept nogil:
    """Fires what is due. After a long sleep each slot is visited once, not once for each tick missed."""
    cdef int64_t last = now_ms // TICK_MS
    cdef int64_t tick = w.tick + 1
    cdef Timer* t
    cdef Timer* after
    if last - w.tick > WHEEL_SLOTS:
        tick = last - WHEEL_SLOTS + 1
    while tick <= last:
        t = w.slots[tick & (WHEEL_SLOTS - 1)]
        while t != NULL:
            after = t.next
            if t.due_ms <= now_ms:
                timer_cancel(t)
                timer_hang(&w.firing, t)
            t = after
        tick += 1
    if last > w.tick:
        w.tick = last
    while w.firing != NULL:
        t = w.firing
        timer_cancel(t)
        t.fire(t, now_ms)
