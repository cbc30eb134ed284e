# cython: language_level=3, boundscheck=False, wraparound=False
"""See _meter.pxd."""
from libc.stdlib cimport calloc, free


cdef inline void fill(Bucket* b, int64_t now_ms) noexcept nogil:
    if now_ms > b.at_ms:
        b.tokens += (now_ms - b.at_ms) * b.per_ms
        if b.tokens > b.most:
            b.tokens = b.most
        b.at_ms = now_ms


cdef inline int64_t debt(const Bucket* b) noexcept nogil:
    return 0 if b.tokens >= 0 else <int64_t> (-b.tokens / b.per_ms) + 1


cdef int64_t charge_bucket(Bucket* b, double n, int64_t now_ms) noexcept nogil:
    """Takes n tokens; returns the milliseconds until the debt is paid, 0 = there is none."""
    if b.per_ms == 0:
        return 0
    fill(b, now_ms)
    b.tokens -= n
    return debt(b)


cdef int64_t meter_charge(Meter* m, uint32_t n, int64_t now_ms) noexcept nogil:
    """Counts a message of n bytes; returns the milliseconds that its sender must wait, 0 = none."""
    cdef int64_t by_messages = charge_bucket(&m.messages, 1, now_ms)
    cdef int64_t by_bytes = charge_bucket(&m.bytes, n, now_ms)
    return by_messages if by_messages > by_bytes else by_bytes


cdef int64_t meter_debt(Meter* m, int64_t now_ms) noexcept nogil:
    """The milliseconds until all debts are paid, 0 = there are none."""
    cdef int64_t wait = 0, each
    if m.messages.per_ms:
        fill(&m.messages, now_ms)
        wait = debt(&m.messages)
    if m.bytes.per_ms:
        fill(&m.bytes, now_ms)
        each = debt(&m.bytes)
        wait = each if each > wait else wait
    return wait


cdef Meter* meter_ref(Meter* m) noexcept nogil:
    m.refs += 1
    return m


cdef void meter_unref(Meter* m) noexcept nogil:
    m.refs -= 1
    if m.refs == 0:
        free(m)


cdef void bucket_start(Bucket* b, double per_s, double burst_s) noexcept nogil:
    b.per_ms = per_s / 1000
    b.most = per_s * burst_s
    if b.most < 1:
        b.most = 1
    b.tokens = b.most


cdef class Rates:
    """What clients that share it may send, or be sent, in a second, 0 = no limit; in a burst, as much as in burst_s."""

    def __cinit__(self, double messages_per_s, double bytes_per_s, double burst_s=1.0):
        self._meter = <Meter*> calloc(1, sizeof(Meter))
        if self._meter == NULL:
            raise MemoryError("no memory for a rate")
        self._meter.refs = 1
        bucket_start(&self._meter.messages, messages_per_s, burst_s)
        bucket_start(&self._meter.bytes, bytes_per_s, burst_s)

    def __dealloc__(self):
        if self._meter != NULL:
            meter_unref(self._meter)

    @property
    def is_used(self) -> bool:
        """Whether a connection is held to it."""
        return self._meter.refs > 1

    def charge(self, uint32_t n, int64_t now_ms) -> int:
        """Counts a message of n bytes at this time; returns the milliseconds that its sender must wait."""
        return meter_charge(self._meter, n, now_ms)

    def take(self, int64_t now_ms) -> bool:
        """Counts a message, unless there have been too many: who is refused makes no debt."""
        fill(&self._meter.messages, now_ms)
        if self._meter.messages.tokens < 1:
            return False
        self._meter.messages.tokens -= 1
        return True
