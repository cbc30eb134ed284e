# cython: language_level=3, boundscheck=False, wraparound=False
"""See _terms.pxd."""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from fastmq._meter cimport meter_charge, meter_debt, meter_ref, meter_unref


cdef bint terms_some(Terms** at) noexcept nogil:
    if at[0] == NULL:
        at[0] = <Terms*> calloc(1, sizeof(Terms))
    return at[0] != NULL


cdef bint terms_mount(Terms** at, const uint8_t* mount, uint16_t n) noexcept nogil:
    """Sets the mount point; n 0: none. False: out of memory, nothing changed."""
    cdef uint8_t* own = NULL
    if n:
        own = <uint8_t*> malloc(n)
        if own == NULL or not terms_some(at):
            free(own)
            return False
        memcpy(own, mount, n)
    if at[0] != NULL:
        free(at[0].mount)
        at[0].mount = own
        at[0].mount_len = n
    return True


cdef bint terms_rates(Terms** at, Meter** rates, uint32_t n) noexcept nogil:
    """Sets the n rates. False: out of memory, nothing changed."""
    cdef uint32_t i
    if n and not terms_some(at):
        return False
    if at[0] != NULL:
        for i in range(RATES_MAX):
            if at[0].rates[i] != NULL:
                meter_unref(at[0].rates[i])
            at[0].rates[i] = meter_ref(rates[i]) if i < n else NULL
    return True


cdef void terms_charge(Terms* t, uint32_t n, int64_t now_ms) noexcept nogil:
    """Counts a message of n bytes that is sent."""
    cdef uint32_t i
    for i in range(RATES_MAX):
        if t.rates[i] != NULL:
            meter_charge(t.rates[i], n, now_ms)


cdef int64_t terms_wait(const Terms* t, int64_t now_ms) noexcept nogil:
    """The milliseconds until another message may be sent; 0: now."""
    cdef int64_t wait = 0, each
    cdef uint32_t i
    for i in range(RATES_MAX):
        if t.rates[i] != NULL:
            each = meter_debt(t.rates[i], now_ms)
            wait = each if each > wait else wait
    return wait


cdef void terms_free(Terms** at) noexcept nogil:
    if at[0] != NULL:
        terms_rates(at, NULL, 0)
        free(at[0].mount)
        free(at[0])
        at[0] = NULL
