# cython: language_level=3
"""Shared subscriptions: a group is one subscriber in the trie, with one queue from which its members pull.

A message goes to a member only when that member can take it now, so nothing is parked on a dead or slow one.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
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
    uint8_t far                  # it stands for members at another node

cdef struct Group:
    Subscriber base              # first: a Group* is a Subscriber*
    Groups* groups
    Member** members             # owned array of records that belong to the sessions' lists
    uint32_t n
    uint32_t cap
    uint32_t turn                # round robin
    Member* favourite            # sticky
    uint32_t online              # members with a connection
    uint32_t far                 # of the members, those at other nodes
    uint32_t far_online
    uint32_t told_n              # what other nodes know of those that are here,
    uint32_t told_online
    uint32_t told_queue          # and of the queue
    uint8_t told_durable
    Queue queue
    uint32_t here                # right after the start: so many of the queue have come back from the store
    uint64_t last_position       # of its queue
    uint64_t first_position      # the next one in front of it
    uint32_t hash
    uint32_t name_len            # of '$share/name/filter' as it was subscribed
    uint32_t filter_at           # where the filter starts in it
    uint32_t pending             # messages on their way back to its home
    uint32_t home                # the worker that the whole group is at
    uint64_t received            # messages that came from there
    void* proxies                # members at other workers: Proxy*, see _branch.pxd
    Group* next_changed
    uint8_t branch               # its home is another worker: it hears nothing of the router
    uint8_t ended                # its last member left: it goes when other nodes have been told
    uint8_t changed              # on the list of those that have news for their home
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
    uint32_t index               # of this worker
    uint32_t count               # of workers
    uint8_t clustered            # there are other nodes
    uint8_t even                 # members at other nodes count as much as those here, which are preferred otherwise
    uint8_t near_only            # set while only members here may be chosen
    Group* changed

cdef inline void group_note(Group* g) noexcept nogil:
    """There is news for the home of a group, if that is another worker, or for other nodes."""
    if (g.branch or g.groups.clustered) and not g.changed:
        g.changed = 1
        g.next_changed = g.groups.changed
        g.groups.changed = g

cdef inline void group_online(Group* g, int32_t more) noexcept nogil:
    """So many more members are connected."""
    g.online += more
    group_note(g)

cdef inline int64_t member_load(const Member* m) noexcept nogil:
    return -1 if m.barred or (m.far and m.group.groups.near_only) else m.who.load(m.who)

cdef inline uint8_t* group_text(const Group* g) noexcept nogil:
    return <uint8_t*> g + sizeof(Group)

cdef uint32_t share_prefix(const uint8_t* text, uint32_t n) noexcept nogil
cdef Group* group_find(Groups* gs, const uint8_t* text, uint32_t n) noexcept nogil
cdef Group* group_make(
    Groups* gs, const uint8_t* text, uint32_t n, uint32_t filter_at, uint64_t serial
) noexcept nogil
cdef void group_free(Group* g) noexcept nogil
cdef void group_empty(Group* g) noexcept nogil
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
