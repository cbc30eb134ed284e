# cython: language_level=3
"""User names of sessions, each kept once however many sessions are its; what they have together is counted."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from fastmq._table cimport Table

cdef struct User:
    Users* all
    uint32_t sessions
    uint32_t subscriptions       # of all its sessions
    uint32_t retained            # messages that they have set, and that still are
    uint32_t hash
    uint16_t len
    # the name follows

cdef struct Users:
    Table table                  # User* by name
    int64_t* bytes               # where they are counted
    uint32_t subscriptions_max   # of one user, 0 = no limit
    uint32_t retained_max

cdef inline uint8_t* user_name(const User* u) noexcept nogil:
    return <uint8_t*> u + sizeof(User)

cdef void users_init(Users* all, int64_t* bytes) noexcept nogil
cdef User* user_find(const Users* all, const uint8_t* name, uint32_t n) noexcept nogil
cdef bint user_set(Users* all, User** at, const uint8_t* name, uint16_t n, uint32_t subscriptions) noexcept nogil
cdef void users_free(Users* all) noexcept nogil
cdef void user_retains(User* u) noexcept nogil
cdef void user_retains_no_more(User* u) noexcept nogil
