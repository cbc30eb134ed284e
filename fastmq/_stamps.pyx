# cython: language_level=3, boundscheck=False, wraparound=False
"""See _stamps.pxd."""
from libc.stdlib cimport calloc, free

from fastmq._wire cimport fnv1a, hash_bytes


cdef inline uint64_t key_of(const uint8_t* topic, uint32_t n) noexcept nogil:
    return (<uint64_t> hash_bytes(topic, n) << 32 | fnv1a(topic, n)) or 1


cdef inline Stamp* slot_of(const Stamps* s, uint64_t key) noexcept nogil:
    """The topic's slot, or the free one where it would go."""
    cdef uint32_t at = <uint32_t> ((key * 0x9E3779B97F4A7C15ULL) >> 32)
    while s.slots[at & s.mask].key and s.slots[at & s.mask].key != key:
        at += 1
    return s.slots + (at & s.mask)


cdef bint resize(Stamps* s, uint32_t size, uint64_t least) noexcept nogil:
    """Moves stamps from `least` on to another array. False: out of memory."""
    cdef Stamps grown = s[0]
    cdef uint32_t i
    grown.slots = <Stamp*> calloc(size, sizeof(Stamp))
    if grown.slots == NULL:
        return False
    grown.mask = size - 1
    grown.used = 0
    if s.slots != NULL:
        for i in range(s.mask + 1):
            if s.slots[i].key and s.slots[i].stamp >= least:
                slot_of(&grown, s.slots[i].key)[0] = s.slots[i]
                grown.used += 1
        s.bytes[0] -= <int64_t> (s.mask + 1) * sizeof(Stamp)
        free(s.slots)
    s.bytes[0] += <int64_t> size * sizeof(Stamp)
    s[0] = grown
    return True


cdef bint make_room(Stamps* s) noexcept nogil:
    cdef uint64_t oldest, newest
    cdef uint32_t i
    if s.slots == NULL:
        return resize(s, 64, 0)
    if s.used * 4 <= s.mask * 3:
        return True
    if s.mask + 1 < STAMPS_MAX:
        return resize(s, (s.mask + 1) * 2, 0)
    while s.used * 2 > s.mask:   # the older half of their time goes; of one time, all
        oldest, newest = <uint64_t> -1, 0
        for i in range(s.mask + 1):
            if s.slots[i].key:
                oldest = min(oldest, s.slots[i].stamp)
                newest = max(newest, s.slots[i].stamp)
        if not resize(s, s.mask + 1, oldest + (newest - oldest) // 2 + 1):
            return False
    return True


cdef uint64_t stamps_next(Stamps* s) noexcept nogil:
    """A stamp for what happens now."""
    cdef uint64_t now = <uint64_t> (s.now_ms[0] + s.wall_ms) << 16 | s.node
    if now <= s.last:
        now = ((s.last >> 16) + 1) << 16 | s.node
    s.last = now
    return now


cdef uint64_t stamps_get(const Stamps* s, const uint8_t* topic, uint32_t n) noexcept nogil:
    """The topic's stamp, 0 when none is known."""
    return slot_of(s, key_of(topic, n)).stamp if s.slots != NULL else 0


cdef bint stamps_set(Stamps* s, const uint8_t* topic, uint32_t n, uint64_t stamp) noexcept nogil:
    """False: out of memory."""
    cdef uint64_t key = key_of(topic, n)
    cdef Stamp* slot
    if stamp > s.last:
        s.last = stamp
    if not make_room(s):
        return False
    slot = slot_of(s, key)
    s.used += slot.key == 0
    slot.key = key
    slot.stamp = stamp
    return True


cdef void stamps_free(Stamps* s) noexcept nogil:
    if s.slots != NULL:
        s.bytes[0] -= <int64_t> (s.mask + 1) * sizeof(Stamp)
    free(s.slots)
    s.slots = NULL
    s.used = 0
