# cython: language_level=3
"""Shared groups across workers: the whole group is at its home worker, and has a branch wherever it has members.

At home, the members of one branch are a proxy's: it can take a message while fewer than PULL for each of them that is
connected have been sent and not been taken from the branch's queue. A branch chooses among its members as any group
does. What its members cannot take any more, all of them being away, goes back home.

Between nodes, there is no home: each node has the whole group (at the worker that is its home there), with proxies for
the members of the other nodes, and gives away what is published at it. A message comes over once, and goes to members
there.

A branch tells how it stands with STATE: members (4), of them connected (4), durable (1), messages that it has
received (8), messages in its queue (4), name.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastmq._items cimport Fabric, Remote
from fastmq._router cimport Subscriber
from fastmq._share cimport Group, Member
from fastmq._wire cimport Publish

cdef enum:
    STATE_HEAD = 21
    GROUP_DURABLE = 1            # of the flags of SHARED
    PULL = 16

cdef struct Proxy:
    Subscriber base              # first: a Proxy* is a Subscriber*
    Proxy* next                  # of the same group
    Proxy* next_of_remote
    Remote* remote
    Group* group
    Member** members             # owned, records as of sessions; one for each that is connected, at least one
    uint32_t n
    uint32_t cap
    uint32_t online
    uint32_t backlog             # in the branch's queue, as it said last
    uint64_t sent
    uint64_t received            # as the branch said last
    uint32_t epoch
    uint8_t fresh                # the counts begin anew with its next word
    uint8_t far                  # at another node, whose own members it stands for; `received` is counted here

cdef bint branch_state(Remote* from_, const uint8_t* body, uint32_t n) noexcept nogil
cdef void branch_take(
    Remote* from_, Publish* p, uint64_t origin, uint8_t flags, const uint8_t* name, uint32_t n
) noexcept nogil
cdef void branch_back(Fabric* f, Publish* p, uint64_t origin, const uint8_t* name, uint32_t n) noexcept nogil
cdef void branches_tell(Fabric* f) noexcept nogil
cdef void branches_tell_all(Remote* x) noexcept nogil
cdef void branches_lost(Remote* x) noexcept nogil
cdef void branches_swept(Remote* x) noexcept nogil
cdef void branches_tick(Fabric* f) noexcept nogil
cdef void branches_free(Remote* x) noexcept nogil
cdef void branches_drop(Fabric* f) noexcept nogil
cdef void branch_taken(Remote* x, const uint8_t* name, uint32_t n) noexcept nogil
