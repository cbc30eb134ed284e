# cython: language_level=3, boundscheck=False, wraparound=False
"""See _share.pxd. Rules: MQTT 5, section 4.8.2."""
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from fastmq._inflight cimport (
    BY_GROUP, delivery_expired, delivery_fetch, delivery_release, delivery_size, is_away, queue_at, queue_clear,
    queue_pop, queue_push, queue_push_front,
)
from fastmq._journal cimport (
    Journal, REC_GROUP, REC_GROUP_GONE, record_delivery, record_done, record_one, record_text,
)
from fastmq._message cimport charge, message_ref, message_size, message_store
from fastmq._router cimport FROM_NODE, message_parts, pub_message
from fastmq._table cimport (
    table_at, table_drop, table_free, table_init, table_put, table_room, table_seek, table_size,
)
from fastmq._trie cimport OPT_GROUP, trie_add, trie_remove_all
from fastmq._wire cimport fnv1a, hash_bytes


cdef uint64_t FIRST_POSITION = <uint64_t> 1 << 40  # room in front for what comes back, and it stays below 2^63


cdef uint32_t share_prefix(const uint8_t* text, uint32_t n) noexcept nogil:
    """Where the filter starts in '$share/name/filter' or '$queue/filter'; 0 for an ordinary filter, n if malformed."""
    cdef uint32_t i
    if n >= 7 and memcmp(text, b"$queue/", 7) == 0:
        return 7 if n > 7 else n
    if n < 7 or memcmp(text, b"$share/", 7) != 0:
        return n if n == 6 and memcmp(text, b"$share", 6) == 0 else 0
    for i in range(7, n):
        if text[i] == b"/":
            return i + 1 if i > 7 and i + 1 < n else n  # [MQTT-4.8.2-1]
        if text[i] == b"+" or text[i] == b"#":
            return n  # [MQTT-4.8.2-2]
    return n


cdef Group* group_find(Groups* gs, const uint8_t* text, uint32_t n) noexcept nogil:
    cdef uint32_t hash = hash_bytes(text, n)
    cdef uint32_t at = hash
    cdef Group* g = <Group*> table_seek(&gs.table, hash, &at)
    while g != NULL and not (g.hash == hash and g.name_len == n and memcmp(group_text(g), text, n) == 0):
        g = <Group*> table_seek(&gs.table, hash, &at)
    return g


cdef Group* group_make(
    Groups* gs, const uint8_t* text, uint32_t n, uint32_t filter_at, uint64_t serial
) noexcept nogil:
    """A new group without members, subscribed to its filter; serial 0: a fresh one. NULL: out of memory."""
    cdef Group* g
    cdef bint is_new
    if not table_room(&gs.table):
        return NULL
    g = <Group*> calloc(1, sizeof(Group) + n)
    if g == NULL:
        return NULL
    g.groups = gs
    g.base.owner.self = g
    if serial == 0:
        gs.router.last_serial += 1
        serial = gs.router.last_serial
    g.base.serial = serial
    g.last_position = g.first_position = FIRST_POSITION
    g.base.deliver = group_deliver
    g.base.load = NULL
    g.queue.ledger = &gs.router.ledger
    g.hash = hash_bytes(text, n)
    g.name_len = n
    g.filter_at = filter_at
    memcpy(group_text(g), text, n)
    g.home = fnv1a(text, n) % gs.count if gs.count > 1 else gs.index
    g.branch = g.home != gs.index
    # QoS 2 and retain-as-published: what a member asked for is applied when it is chosen.
    if not g.branch and trie_add(
        gs.router.trie, &g.base.owner, text + filter_at, n - filter_at, 2 | 8 | OPT_GROUP, 0, &is_new
    ) == NULL:
        free(g)
        return NULL
    table_put(&gs.table, g)
    charge(&gs.router.ledger, <int64_t> sizeof(Group) + n)
    return g


cdef void group_free(Group* g) noexcept nogil:
    """Ends a group that has no members any more, with what it queued."""
    cdef Groups* gs = g.groups
    cdef Group** at = &gs.changed
    if g.changed:
        while at[0] != g:
            at = &at[0].next_changed
        at[0] = g.next_changed
    if g.base.durable:
        record_one(&gs.router.journal, REC_GROUP_GONE, g.base.serial)
    trie_remove_all(gs.router.trie, &g.base.owner)
    table_drop(&gs.table, g)
    queue_clear(&g.queue)
    gs.router.ledger.bytes -= <int64_t> sizeof(Group) + g.name_len + <int64_t> g.cap * sizeof(void*)
    free(g.members)
    free(g)


cdef void group_empty(Group* g) noexcept nogil:
    """A group has no members: it ends, if it is here as a whole; else its home hears of it and gets what it queued."""
    g.ended = 1
    if g.branch or g.groups.clustered:
        group_note(g)
    else:
        group_free(g)


cdef bint group_join(Group* g, Member* m) noexcept nogil:
    """Adds a member. False: out of memory (a group that has no other member is gone then)."""
    cdef Member** grown
    if g.n == g.cap:
        grown = <Member**> realloc(g.members, (g.cap * 2 + 2) * sizeof(void*))
        if grown == NULL:
            if g.n == 0:
                group_empty(g)
            return False
        charge(&g.groups.router.ledger, <int64_t> (g.cap + 2) * sizeof(void*))
        g.members = grown
        g.cap = g.cap * 2 + 2
    m.group = g
    g.ended = 0
    g.far += m.far
    m.at = g.n
    g.members[g.n] = m
    g.n += 1
    g.groups.router.stats.shared_subscriptions += 1
    if not m.far:
        group_note(g)
    return True


cdef void group_keep(Group* g) noexcept nogil:
    """The store keeps the group, and what it has queued, since it keeps the session of a member; until the group ends.

    What is in flight to members is not recorded: nobody was promised that it would be kept.
    """
    cdef Delivery* d
    cdef uint32_t i
    if g.base.durable:
        return
    g.base.durable = 1
    group_note(g)
    record_text(&g.groups.router.journal, REC_GROUP, g.base.serial, group_text(g), g.name_len)
    for i in range(g.queue.n):
        d = queue_at(&g.queue, i)
        if d.qos or g.groups.qos0_offline:
            group_record(g, d)


cdef bint group_record(Group* g, Delivery* d) noexcept nogil:
    """Writes down that the group has a message, which waits in its queue or is with a member that may forget it."""
    cdef Journal* j = &g.groups.router.journal
    if not g.base.durable or d.message == NULL or message_store(j, d.message) == NULL:
        return False
    d.recorded = BY_GROUP
    record_delivery(j, g.base.serial, d.position, d.message.stored.id, d.message.qos, False, 0, 0, NULL, 0)
    return True


cdef void group_leave(Group* g, Member* m) noexcept nogil:
    """Takes a member out; the last one takes the group and what it queued along."""
    g.n -= 1
    g.far -= m.far
    g.members[m.at] = g.members[g.n]
    g.members[m.at].at = m.at
    if g.favourite == m:
        g.favourite = NULL
    m.group = NULL
    g.groups.router.stats.shared_subscriptions -= 1
    if not m.far:
        group_note(g)
    if g.n == 0:
        group_empty(g)


cdef Member* ready_from(Group* g, uint32_t start) noexcept nogil:
    """The first member at or after `start`, going round, that can take a message now."""
    cdef uint32_t i, at
    for i in range(g.n):
        at = (start + i) % g.n
        if member_load(g.members[at]) >= 0:
            return g.members[at]
    return NULL


cdef Member* least_loaded(Group* g) noexcept nogil:
    cdef uint32_t i, at
    cdef int64_t load, least = -1
    cdef Member* best = NULL
    g.turn += 1
    for i in range(g.n):
        at = (g.turn + i) % g.n
        load = member_load(g.members[at])
        if load >= 0 and (best == NULL or load < least):
            best = g.members[at]
            least = load
    return best


cdef Member* choose(Group* g, uint64_t origin, uint32_t topic_hash) noexcept nogil:
    """The strategy's member among those that can take a message now, of this node if possible; NULL: none can."""
    cdef Groups* gs = g.groups
    cdef Member* m
    if g.n == 0:
        return NULL
    if g.far == 0 or gs.even or gs.near_only:
        return choose_any(g, origin, topic_hash)
    gs.near_only = 1
    m = choose_any(g, origin, topic_hash) if g.far < g.n else NULL
    gs.near_only = 0
    return m if m != NULL else choose_any(g, origin, topic_hash)


cdef Member* choose_any(Group* g, uint64_t origin, uint32_t topic_hash) noexcept nogil:
    cdef Groups* gs = g.groups
    cdef Member* m
    if gs.strategy == LEAST_INFLIGHT:
        return least_loaded(g)
    if gs.strategy == HASH_CLIENTID:
        return ready_from(g, <uint32_t> (((origin * 0x9E3779B97F4A7C15ULL) >> 32) % g.n))
    if gs.strategy == HASH_TOPIC:
        return ready_from(g, topic_hash % g.n)
    if gs.strategy == RANDOM:
        gs.random ^= gs.random << 13
        gs.random ^= gs.random >> 7
        gs.random ^= gs.random << 17
        return ready_from(g, <uint32_t> (gs.random % g.n))
    if gs.strategy == STICKY:
        m = g.favourite
        if m == NULL or member_load(m) < 0:
            g.turn += 1
            m = ready_from(g, g.turn % g.n)
            if m != NULL:
                g.favourite = m
        return m
    m = ready_from(g, g.turn % g.n)
    if m != NULL:
        g.turn = m.at + 1
    return m


cdef void group_deliver(
    Subscriber* self, Pub* pub, uint8_t qos, bint retain, const uint32_t* ids, uint32_t n_ids
) noexcept nogil:
    cdef Group* g = <Group*> self
    cdef Groups* gs = g.groups
    cdef Router* r = gs.router
    cdef Member* by
    if r.crossing == FROM_NODE:
        return                   # one member of all nodes gets it: the node where it was published chooses
    cdef Message* m
    cdef Delivery* d
    if g.queue.n == 0:
        by = choose(g, pub.origin, pub.hash)
        if by != NULL:
            by.take(by.who, pub.parts, pub_message(r, pub) if pub.parts.qos and by.qos else pub.message,
                    pub.parts.qos if pub.parts.qos < by.qos else by.qos, by, NULL)
            return
    if pub.parts.qos == 0 and g.online == 0 and not gs.qos0_offline:
        r.stats.dropped_offline += 1
        r.stats.publish_dropped += 1
        return
    m = pub_message(r, pub)
    if m == NULL:
        r.stats.dropped_memory += 1
        r.stats.publish_dropped += 1
        return
    if g.queue.n >= gs.queue_max or g.queue.bytes + message_size(m) > gs.queue_bytes_max:
        r.stats.dropped_queue_full += 1
        r.stats.publish_dropped += 1
        return
    d = queue_push(&g.queue)
    if d == NULL:
        r.stats.dropped_memory += 1
        r.stats.publish_dropped += 1
        return
    d.message = message_ref(m)
    d.qos = m.qos
    g.last_position += 1
    d.position = g.last_position
    g.queue.bytes += message_size(m)
    if m.qos or gs.qos0_offline:
        group_record(g, d)


cdef bint group_pull(Group* g, Member* m) noexcept nogil:
    """Hands the oldest queued message to a member that can take one. False: the queue is empty."""
    cdef Router* r = g.groups.router
    cdef Delivery d
    cdef Publish p
    cdef uint8_t qos
    group_note(g)
    while g.queue.n:
        d = queue_at(&g.queue, 0)[0]
        g.queue.bytes -= delivery_size(&d)
        queue_pop(&g.queue)
        if delivery_expired(&d, r.now_ms) or (d.message == NULL and not delivery_fetch(&d)):
            if d.message == NULL:
                r.stats.dropped_lost += 1
            else:
                r.stats.dropped_expired += 1
            r.stats.publish_dropped += 1
            if d.recorded == BY_GROUP:
                record_done(&r.journal, g.base.serial, d.position)
            delivery_release(&d)
            continue
        message_parts(d.message, r.now_ms, &p)
        qos = p.qos if p.qos < m.qos else m.qos
        m.take(m.who, &p, d.message, qos, m, &d)
        if qos == 0 and d.recorded == BY_GROUP:
            record_done(&r.journal, g.base.serial, d.position)
        delivery_release(&d)
        return True
    return False


cdef void group_give_back(Group* g, Delivery* d) noexcept nogil:
    """Puts a message that a leaving member did not acknowledge back to the front, and to others if they can take it.

    Takes over what the delivery holds. The queue's limit does not apply: the message was inside it before.
    """
    cdef Delivery* front
    group_note(g)
    front = queue_push_front(&g.queue)
    if front == NULL:
        g.groups.router.stats.dropped_memory += 1
        g.groups.router.stats.publish_dropped += 1
        delivery_release(d)
        return
    front.message = d.message
    front.qos = d.message.qos
    if d.recorded == BY_GROUP:
        front.position = d.position
        front.recorded = BY_GROUP
    else:
        front.position = g.first_position
        g.first_position -= 1
        group_record(g, front)
    g.queue.bytes += message_size(d.message)
    free(d.ids)
    d.ids = NULL
    d.message = NULL


cdef void group_drain(Group* g) noexcept nogil:
    """Hands out what is queued as long as a member can take it."""
    cdef Member* m
    cdef Message* first
    while g.queue.n:
        first = queue_at(&g.queue, 0).message
        m = choose(g, first.origin, first.hash) if first != NULL else choose(g, 0, 0)
        if m == NULL or not group_pull(g, m):
            return


cdef void groups_take_bodies(Groups* gs) noexcept nogil:
    """Takes what the store has brought back for the groups' queues: all of it, before the first member comes."""
    cdef uint32_t i
    cdef Group* g
    cdef Delivery* d
    if gs.away == 0:
        return
    for i in range(table_size(&gs.table)):
        g = <Group*> table_at(&gs.table, i)
        while g != NULL and g.here < g.queue.n:  # they come in the order in which they were asked for
            d = queue_at(&g.queue, g.here)
            if is_away(d):
                if not delivery_fetch(d) and not d.stored.lost:
                    break
                gs.away -= 1
            g.here += 1


cdef void groups_init(Groups* gs, Router* router) noexcept nogil:
    gs.router = router
    gs.count = 1
    gs.random = 0x9E3779B97F4A7C15ULL
    table_init(&gs.table, <uint32_t> <size_t> &(<Group*> NULL).hash, &router.ledger.bytes)


cdef void groups_free(Groups* gs) noexcept nogil:
    """Frees the table, and groups that are kept for members elsewhere; every other one went with its last member."""
    cdef uint32_t i
    for i in range(table_size(&gs.table)):
        while table_at(&gs.table, i) != NULL:
            group_free(<Group*> table_at(&gs.table, i))
    table_free(&gs.table)
