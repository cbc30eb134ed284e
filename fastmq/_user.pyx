# cython: language_level=3, boundscheck=False, wraparound=False
"""See _user.pxd."""
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from fastmq._table cimport (
    table_at, table_drop, table_free, table_init, table_put, table_room, table_seek, table_size,
)
from fastmq._wire cimport hash_bytes


cdef void users_init(Users* all, int64_t* bytes) noexcept nogil:
    table_init(&all.table, <uint32_t> <size_t> &(<User*> NULL).hash, bytes)
    all.bytes = bytes


cdef void users_free(Users* all) noexcept nogil:
    """The broker ends: what is retained refers to its users no more."""
    cdef uint32_t i
    for i in range(table_size(&all.table)):
        free(table_at(&all.table, i))
    table_free(&all.table)


cdef User* user_find(const Users* all, const uint8_t* name, uint32_t n) noexcept nogil:
    """NULL: no session is this user's."""
    cdef uint32_t hash = hash_bytes(name, n), at = hash
    cdef User* u = <User*> table_seek(&all.table, hash, &at)
    while u != NULL and not (u.hash == hash and u.len == n and memcmp(user_name(u), name, n) == 0):
        u = <User*> table_seek(&all.table, hash, &at)
    return u


cdef User* user_ref(Users* all, const uint8_t* name, uint16_t n) noexcept nogil:
    """The user, with one session more. NULL: out of memory."""
    cdef User* u = user_find(all, name, n)
    if u == NULL:
        if not table_room(&all.table):
            return NULL
        u = <User*> malloc(sizeof(User) + n)
        if u == NULL:
            return NULL
        u.all = all
        u.sessions = u.subscriptions = u.retained = 0
        u.hash = hash_bytes(name, n)
        u.len = n
        memcpy(user_name(u), name, n)
        table_put(&all.table, u)
        all.bytes[0] += <int64_t> sizeof(User) + n
    u.sessions += 1
    return u


cdef void user_end(Users* all, User* u) noexcept nogil:
    """Forgets a user that has nothing here any more."""
    if u.sessions == 0 and u.retained == 0:
        table_drop(&all.table, u)
        all.bytes[0] -= <int64_t> sizeof(User) + u.len
        free(u)


cdef void user_retains(User* u) noexcept nogil:
    u.retained += 1


cdef void user_retains_no_more(User* u) noexcept nogil:
    u.retained -= 1
    user_end(u.all, u)


cdef bint user_set(Users* all, User** at, const uint8_t* name, uint16_t n, uint32_t subscriptions) noexcept nogil:
    """Notes whose a session is, and so its subscriptions; name NULL: nobody's in particular.

    False: out of memory, then it is nobody's.
    """
    cdef User* before = at[0]
    at[0] = user_ref(all, name, n) if name != NULL else NULL
    if at[0] != NULL:
        at[0].subscriptions += subscriptions
    if before != NULL:
        before.sessions -= 1
        before.subscriptions -= subscriptions
        user_end(all, before)
    return at[0] != NULL or name == NULL
