# cython: language_level=3, boundscheck=False, wraparound=False
"""See _table.pxd."""
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free


cdef inline uint32_t hash_of(const Table* t, void* entry) noexcept nogil:
    return (<uint32_t*> (<uint8_t*> entry + t.hash_at))[0]


cdef void table_init(Table* t, uint32_t hash_at, int64_t* bytes) noexcept nogil:
    """An empty table; it allocates nothing before the first entry."""
    t.slots = NULL
    t.bytes = bytes
    t.mask = 0
    t.used = 0
    t.hash_at = hash_at


cdef void count(Table* t, int64_t slots) noexcept nogil:
    if t.bytes != NULL:
        t.bytes[0] += slots * <int64_t> sizeof(uint64_t)


cdef bint table_room(Table* t) noexcept nogil:
    """Makes sure that one more entry fits (at most 2/3 full). False: out of memory, nothing changed."""
    cdef uint32_t cap, i, at
    cdef uint64_t* slots
    if t.slots != NULL and t.used * 3 < t.mask * 2:
        return True
    cap = (t.mask + 1) * 2 if t.slots != NULL else 16
    slots = <uint64_t*> calloc(cap, sizeof(uint64_t))
    if slots == NULL:
        return False
    for i in range(table_size(t)):
        if t.slots[i]:
            at = hash_of(t, slot_entry(t.slots[i])) & (cap - 1)
            while slots[at]:
                at = (at + 1) & (cap - 1)
            slots[at] = t.slots[i]
    count(t, <int64_t> cap - table_size(t))
    free(t.slots)
    t.slots = slots
    t.mask = cap - 1
    return True


cdef void table_put(Table* t, void* entry) noexcept nogil:
    """Adds an entry for which table_room has just made room."""
    cdef uint32_t hash = hash_of(t, entry)
    cdef uint32_t at = hash & t.mask
    while t.slots[at]:
        at = (at + 1) & t.mask
    t.slots[at] = <uint64_t> <size_t> entry | (<uint64_t> (hash >> 16) << 48)
    t.used += 1


cdef void table_drop(Table* t, void* entry) noexcept nogil:
    """Removes an entry that is in the table, and shifts back those that probed past it."""
    cdef uint32_t at = hash_of(t, entry) & t.mask, hole, home
    while slot_entry(t.slots[at]) != entry:
        at = (at + 1) & t.mask
    hole = at
    while True:
        at = (at + 1) & t.mask
        if not t.slots[at]:
            break
        home = hash_of(t, slot_entry(t.slots[at])) & t.mask
        if ((at - home) & t.mask) >= ((at - hole) & t.mask):
            t.slots[hole] = t.slots[at]
            hole = at
    t.slots[hole] = 0
    t.used -= 1


cdef void table_free(Table* t) noexcept nogil:
    """Frees the slots; the entries are their owners'."""
    count(t, -<int64_t> table_size(t))
    free(t.slots)
    t.slots = NULL
    t.used = 0
