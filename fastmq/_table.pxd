# cython: language_level=3
"""A hash table of pointers: open addressing, linear probing, no tombstones. It owns its slots, never its entries.

An entry is a struct with a uint32_t hash at a fixed offset. A slot is the entry's address with 16 bits of that hash
above it, so that few probes touch an entry that is not meant. Look-ups compare the rest themselves:

    at = hash
    e = <Filter*> table_seek(t, hash, &at)
    while e != NULL and not (e.hash == hash and ...):
        e = <Filter*> table_seek(t, hash, &at)
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef struct Table:
    uint64_t* slots
    int64_t* bytes               # where the slots are counted; NULL = nowhere
    uint32_t mask                # slots - 1; meaningless while slots is NULL
    uint32_t used
    uint32_t hash_at             # offset of the hash in an entry

cdef inline void* slot_entry(uint64_t slot) noexcept nogil:
    return <void*> <size_t> (slot & 0xFFFFFFFFFFFFULL)

cdef inline void* table_seek(const Table* t, uint32_t hash, uint32_t* at) noexcept nogil:
    """The next entry that may have this hash, NULL when there is none; `at` starts as the hash itself."""
    cdef uint64_t slot
    if t.slots == NULL:
        return NULL
    while True:
        slot = t.slots[at[0] & t.mask]
        at[0] += 1
        if slot == 0:
            return NULL
        if slot >> 48 == hash >> 16:
            return slot_entry(slot)

cdef inline uint32_t table_size(const Table* t) noexcept nogil:
    return t.mask + 1 if t.slots != NULL else 0

cdef inline void* table_at(const Table* t, uint32_t i) noexcept nogil:
    """The entry in slot i, or NULL: for walks over all slots."""
    return slot_entry(t.slots[i])

cdef void table_init(Table* t, uint32_t hash_at, int64_t* bytes) noexcept nogil
cdef bint table_room(Table* t) noexcept nogil
cdef void table_put(Table* t, void* entry) noexcept nogil
cdef void table_drop(Table* t, void* entry) noexcept nogil
cdef void table_free(Table* t) noexcept nogil
