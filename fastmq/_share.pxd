# cython: language_level=3
"""Shared subscriptions: a group is one subscriber in the trie, with one queue from which its members pull.

A message goes to a member only when that member can take it now, so nothing is parked on a dead or slow one.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from fastmq._inflight cimport Delivery, Queue
from fastmq._message cimport Message
from fastmq._router cimport Pub, Router, Subscriber
from fastmq._table cimport Table
from fastmq._wire cimport Publish

cdef enum Strategy:
    ROUND_ROBIN = 0
    RANDOM = 1
    STICKY = 2
    HASH_CLIENTID = 3
    HASH_TOPIC = 4
    LEAST_INFLIGHT = 5

cdef struct Member:
    Subscriber* who
    # Hands over one message; the member has said (by `load`) that it can take it.
    # `queued` is its place in the group's queue, or NULL if it has had none.
    void (*take)(
        Subscriber* who, const Publish* p, Message* m, uint8_t qos, Member* by, const Delivery* queued
    ) noexcept nogil
    Group* group
    Member* next_of_session      # the session's list of its memberships
    uint32_t at                  # index in group.members
    uint32_t id                  # Subscription Identifier
    uint8_t qos
    uint8_t retain_as_published
    uint8_t barred               # its access control list no longer allows the subscription

cdef struct Group:
    Subscriber base              # first: a Group* is a Subscriber*
    Groups* groups
    Member** members             # owned array of records that belong to the sessions' lists
    uint32_t n
    uint32_t cap
    uint32_t turn                # round robin
    Member* favourite            # sticky
    uint32_t online              # members with a connection
    Queue queue
    uint32_t here                # right after the start: so many of the queue have come back from the store
    uint64_t last_position       # of its queue
    uint64_t first_position      # the next one in front of it
    uint32_t hash
    uint32_t name_len            # of '$share/name/filter' as it was subscribed
    uint32_t filter_at           # where the filter starts in it
    # the whole text follows

cdef struct Groups:
    Router* router
    Table table                  # Group* by the whole text
    uint32_t queue_max           # messages per group
    int64_t queue_bytes_max
    uint64_t random
    Strategy strategy
    uint32_t away                # messages in the queues that are only in the store: right after the start
    uint8_t qos0_offline         # keep QoS 0 while no member is connected

cdef inline int64_t member_load(const Member* m) noexcept nogil:
    return -1 if m.barred else m.who.load(m.who)

cdef inline uint8_t* group_text(const Group* g) noexcept nogil:
    return <uint8_t*> g + sizeof(Group)

cdef uint32_t share_prefix(const uint8_t* text, uint32_t n) noexcept nogil
cdef Group* group_find(Groups* gs, const uint8_t* text, uint32_t n) noexcept nogil
cdef Group* group_make(
    Groups* gs, const uint8_t* text, uint32_t n, uint32_t filter_at, uint64_t serial
) noexcept nogil
cdef void group_free(Group* g) noexcept nogil
cdef void group_keep(Group* g) noexcept nogil
cdef bint group_record(Group* g, Delivery* d) noexcept nogil
cdef bint group_join(Group* g, Member* m) noexcept nogil
cdef void group_leave(Group* g, Member* m) noexcept nogil
cdef bint group_pull(Group* g, Member* m) noexcept nogil
cdef void group_drain(Group* g) noexcept nogil
cdef void group_give_back(Group* g, Delivery* d) noexcept nogil
cdef void groups_take_bodies(Groups* gs) noexcept nogil
cdef void groups_init(Groups* gs, Router* router) noexcept nogil
cdef void groups_free(Groups* gs) noexcept nogil
