# cython: language_level=3, boundscheck=False, wraparound=False
"""See _branch.pxd. Rules: MQTT 5, section 4.8.2."""
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from fastmq._inflight cimport (
    BY_GROUP, Delivery, delivery_expired, delivery_fetch, delivery_release, delivery_size, is_away, queue_at,
)
from fastmq._items cimport (
    ITEM_BACK, ITEM_SHARED, ITEM_STATE, Item, is_there, is_tight, item_at, item_of_group, item_send, item_void,
)
from fastmq._journal cimport record_done
from fastmq._link cimport link_reserve
from fastmq._message cimport Message, charge, message_new, message_ref, message_unref
from fastmq._router cimport Router, message_parts, router_offer
from fastmq._share cimport (
    Groups, group_drain, group_find, group_free, group_give_back, group_join, group_keep, group_leave, group_make,
    group_note, group_text, share_prefix,
)
from fastmq._table cimport table_at, table_size
from fastmq._wait cimport Wait, wait_commit, wait_less, wait_more
from fastmq._wire cimport be32, be64, fnv1a, hash_bytes, put32, put64, put_bytes, put_varint, varint_size


# -- at home -----------------------------------------------------------------------------------------------------------

cdef int64_t proxy_load(Subscriber* self) noexcept nogil:
    cdef Proxy* y = <Proxy*> self
    cdef int64_t out = <int64_t> (y.sent - y.received) + <int64_t> y.backlog  # it may know of some that we do not count
    if y.remote.out == NULL or y.remote.out.broken or y.online == 0 or out >= <int64_t> y.online * PULL:
        return -1
    if y.remote.out.out_bytes > y.remote.out.wire.out_soft or is_tight(y.remote):
        return -1
    return out // <int64_t> y.online if out > 0 else 0


cdef void proxy_take(
    Subscriber* self, const Publish* p, Message* m, uint8_t qos, Member* by, const Delivery* queued
) noexcept nogil:
    """Sends one message to a branch; proxy_load has just said that it fits."""
    cdef Proxy* y = <Proxy*> self
    cdef Group* g = y.group
    cdef Remote* x = y.remote
    cdef Router* r = x.fabric.router
    cdef uint64_t origin = m.origin if m != NULL else 0
    cdef uint8_t flags = GROUP_DURABLE if g.base.durable else 0
    cdef Wait* wait = NULL
    cdef bint recorded = queued != NULL and queued.recorded == BY_GROUP
    y.sent += 1
    if m == NULL:
        m = message_new(&r.ledger, p, hash_bytes(p.topic, p.topic_len), 0, r.now_ms)
    else:
        message_ref(m)
    if queued == NULL and p.qos:
        wait = wait_more(r)      # who publishes it waits; a message of the queue has been acknowledged already
    if m == NULL or (queued == NULL and p.qos and wait == NULL) or not item_send(
        x, ITEM_SHARED, p, m, origin, wait, group_text(g), g.name_len, flags, g.base.serial if recorded else 0,
        queued.position if recorded else 0
    ):
        r.refused = 1
        wait_less(wait)
        r.stats.dropped_memory += 1
        r.stats.publish_dropped += 1
    if m != NULL:
        message_unref(m)


cdef bint proxy_fill(Proxy* y, uint32_t n) noexcept nogil:
    """Gives the proxy n memberships of its group. The last one that leaves takes the group along, see group_leave."""
    cdef Router* r = y.remote.fabric.router
    cdef Member* m
    cdef Member** grown
    while y.n < n:
        if y.n == y.cap:
            grown = <Member**> realloc(y.members, (y.cap * 2 + 2) * sizeof(void*))
            if grown == NULL:
                return False
            charge(&r.ledger, <int64_t> (y.cap + 2) * sizeof(void*))
            y.members = grown
            y.cap = y.cap * 2 + 2
        m = <Member*> calloc(1, sizeof(Member))
        if m == NULL:
            return False
        m.who = &y.base
        m.take = proxy_take
        m.qos = 2
        m.retain_as_published = 1
        m.far = y.far
        if not group_join(y.group, m):
            free(m)
            return False
        r.stats.shared_subscriptions -= 1  # the other worker counts them
        charge(&r.ledger, sizeof(Member))
        y.members[y.n] = m
        y.n += 1
    while y.n > n:
        y.n -= 1
        m = y.members[y.n]
        r.stats.shared_subscriptions += 1
        r.ledger.bytes -= <int64_t> sizeof(Member)
        group_leave(y.group, m)
        free(m)
    return True


cdef Proxy* proxy_find(Group* g, Remote* x) noexcept nogil:
    cdef Proxy* y = <Proxy*> g.proxies
    while y != NULL and y.remote != x:
        y = y.next
    return y


cdef Proxy* proxy_make(Group* g, Remote* x) noexcept nogil:
    cdef Proxy* y = <Proxy*> calloc(1, sizeof(Proxy))
    if y == NULL:
        return NULL
    charge(&x.fabric.router.ledger, sizeof(Proxy))
    y.base.owner.self = y
    y.base.load = proxy_load
    y.remote = x
    y.group = g
    y.fresh = 1
    y.far = x.workers != 0
    y.next = <Proxy*> g.proxies
    g.proxies = y
    y.next_of_remote = <Proxy*> x.proxies
    x.proxies = y
    return y


cdef void go_online(Proxy* y, uint32_t online) noexcept nogil:
    """So many of its members are connected now."""
    y.group.online += online - y.online
    if y.far:
        y.group.far_online += online - y.online
    y.online = online


cdef void proxy_free(Proxy* y) noexcept nogil:
    """Takes the branch's members out of the group."""
    cdef Remote* x = y.remote
    cdef Group* g = y.group
    cdef Proxy** at = <Proxy**> &g.proxies
    cdef bint alone = y.n == 0 and g.n == 0
    while at[0] != y:
        at = &at[0].next
    at[0] = y.next
    at = <Proxy**> &x.proxies
    while at[0] != y:
        at = &at[0].next_of_remote
    at[0] = y.next_of_remote
    go_online(y, 0)
    proxy_fill(y, 0)
    if alone:
        group_free(g)
    x.fabric.router.ledger.bytes -= <int64_t> sizeof(Proxy) + <int64_t> y.cap * sizeof(void*)
    free(y.members)
    free(y)


cdef bint branch_state(Remote* from_, const uint8_t* body, uint32_t n) noexcept nogil:
    """A branch says how it stands. False: it is malformed, or memory is out."""
    cdef Groups* gs = from_.fabric.groups
    cdef uint32_t members, online, at
    cdef const uint8_t* name = body + STATE_HEAD
    cdef Group* g
    cdef Proxy* y
    if n <= STATE_HEAD:
        return False
    members = be32(body)
    online = be32(body + 4)
    n -= STATE_HEAD
    at = share_prefix(name, n)
    if at == 0 or at == n or online > members:
        return False
    g = group_find(gs, name, n)
    if g == NULL:
        if members == 0:
            return True
        g = group_make(gs, name, n, at, 0)
        if g == NULL:
            return False
    if g.branch:                 # the number of workers is the same everywhere, and so is the home
        return False
    y = proxy_find(g, from_)
    if members == 0:
        if y != NULL:
            proxy_free(y)
        return True
    if y == NULL:
        y = proxy_make(g, from_)
        if y == NULL:
            if g.n == 0:
                group_free(g)
            return False
    y.epoch = from_.epoch
    y.backlog = be32(body + 17)
    if not y.far:
        y.received = be64(body + 9)
    if y.fresh:
        y.sent = y.received
        y.fresh = 0
    go_online(y, online)
    if not y.far:
        group_note(g)
    if not proxy_fill(y, online if online else 1):
        return False
    if body[8]:
        group_keep(g)
    group_drain(g)
    return True


cdef void branch_back(Fabric* f, Publish* p, uint64_t origin, const uint8_t* name, uint32_t n) noexcept nogil:
    """A branch returns a message: it goes to others, or waits in front of the queue; nowhere if the group ended."""
    cdef Router* r = f.router
    cdef Group* g = group_find(f.groups, name, n)
    cdef Delivery d
    if g == NULL or g.branch or (p.qos == 0 and g.online == 0 and not f.groups.qos0_offline):
        r.stats.publish_dropped += 1
        r.stats.dropped_offline += 1
        return
    memset(&d, 0, sizeof(Delivery))
    d.message = message_new(&r.ledger, p, hash_bytes(p.topic, p.topic_len), origin, r.now_ms)
    if d.message == NULL:
        r.refused = 1
        return
    group_give_back(g, &d)
    group_drain(g)


cdef void branches_lost(Remote* x) noexcept nogil:
    """The connection is over: what its branches have not acknowledged goes to others."""
    cdef Fabric* f = x.fabric
    cdef Proxy* y = <Proxy*> x.proxies
    cdef Item* item
    cdef Group* g
    cdef Delivery d
    cdef uint32_t i = x.n
    while y != NULL:
        go_online(y, 0)
        y.backlog = 0
        y.fresh = 1
        y = y.next_of_remote
    while i:
        i -= 1
        item = item_at(x, i)
        if item.kind != ITEM_SHARED or item.over:
            continue
        g = group_find(f.groups, item.name, item.name_len)
        if g != NULL and not g.branch:
            memset(&d, 0, sizeof(Delivery))
            d.message = message_ref(item.message)
            if item.serial == g.base.serial:
                d.recorded = BY_GROUP
                d.position = item.position
            group_give_back(g, &d)
            wait_commit(item.wait)
        item_void(x, item)
    y = <Proxy*> x.proxies
    while y != NULL:
        group_drain(y.group)
        y = y.next_of_remote


cdef void branches_swept(Remote* x) noexcept nogil:
    """All has been said over the newest connection: branches that were not named are no more."""
    cdef Proxy* y = <Proxy*> x.proxies
    cdef Proxy* after
    cdef uint32_t i
    while y != NULL:
        after = y.next_of_remote
        if y.epoch != x.epoch:
            proxy_free(y)
        y = after
    for i in range(x.fabric.top):
        if x.fabric.remotes[i].exists and not x.fabric.remotes[i].ready and &x.fabric.remotes[i] != x:
            return
    if not x.fabric.clustered:   # else other nodes may still come
        branches_drop(x.fabric)


cdef void branches_drop(Fabric* f) noexcept nogil:
    """Everybody has said what groups he has members of: those that nobody has named are no more."""
    cdef Groups* gs = f.groups
    cdef Group* g
    cdef uint32_t i
    for i in range(table_size(&gs.table)):  # from the store, and nobody has come for them
        while True:
            g = <Group*> table_at(&gs.table, i)
            if g == NULL or g.n or g.branch:
                break
            group_free(g)


cdef void branches_tick(Fabric* f) noexcept nogil:
    """What found no branch that could take it, and has no other occasion, is tried again."""
    cdef uint32_t i
    cdef Proxy* y
    if f.stuck:
        f.stuck = 0
        for i in range(table_size(&f.groups.table)):
            if table_at(&f.groups.table, i) != NULL:
                group_note(<Group*> table_at(&f.groups.table, i))
    for i in range(f.top):
        y = <Proxy*> f.remotes[i].proxies
        while y != NULL:
            if y.group.queue.n:
                group_drain(y.group)
            y = y.next_of_remote


cdef void branch_taken(Remote* x, const uint8_t* name, uint32_t n) noexcept nogil:
    """Another node has taken a message of a group."""
    cdef Group* g = group_find(x.fabric.groups, name, n)
    cdef Proxy* y = proxy_find(g, x) if g != NULL else NULL
    if y != NULL and not y.fresh and y.received < y.sent:
        y.received += 1


cdef void branches_free(Remote* x) noexcept nogil:
    while x.proxies != NULL:
        proxy_free(<Proxy*> x.proxies)


# -- at a branch -------------------------------------------------------------------------------------------------------

cdef bint give_home(Remote* x, Group* g, Publish* p, Message* m, uint64_t origin, bint is_recorded,
                    uint64_t position) noexcept nogil:
    """Sends a message of the branch's queue back. False: out of memory."""
    if not item_send(x, ITEM_BACK, p, m, origin, NULL, group_text(g), g.name_len, 0,
                     g.base.serial if is_recorded else 0, position):
        return False
    item_of_group(x, g)
    return True


cdef void branch_take(
    Remote* from_, Publish* p, uint64_t origin, uint8_t flags, const uint8_t* name, uint32_t n
) noexcept nogil:
    """A message for our members of a group."""
    cdef Fabric* f = from_.fabric
    cdef Router* r = f.router
    cdef Group* g = group_find(f.groups, name, n)
    cdef Message* m
    cdef Wait* wait = NULL
    if g != NULL and g.branch == (from_.workers == 0) and g.n > g.far and g.online > g.far_online:
        if flags & GROUP_DURABLE:
            group_keep(g)
        g.received += 1
        group_note(g)
        f.groups.near_only = 1
        router_offer(r, &g.base, p, origin)
        f.groups.near_only = 0
        return
    if g != NULL and g.branch:
        g.received += 1
        group_note(g)
    # Its members have just left; home hears of that, and gets the message back.
    m = message_new(&r.ledger, p, hash_bytes(p.topic, p.topic_len), origin, r.now_ms)
    if p.qos and m != NULL:
        wait = wait_more(r)
    if m == NULL or (p.qos and wait == NULL) or not item_send(
        from_, ITEM_BACK, p, m, origin, wait, name, n, 0, 0, 0
    ):
        wait_less(wait)
        r.refused = 1
    if m != NULL:
        message_unref(m)


cdef bint tell(Remote* x, Group* g) noexcept nogil:
    """Sends how the branch stands."""
    cdef uint32_t size = STATE_HEAD + g.name_len
    cdef uint8_t* out
    if x.out == NULL:
        return False
    out = link_reserve(x.out, 1 + varint_size(size) + size)
    if out == NULL:
        return False
    out[0] = ITEM_STATE << 4
    out = put32(put32(put_varint(out + 1, size), g.n - g.far), g.online - g.far_online)
    out[0] = g.base.durable
    put_bytes(put32(put64(out + 1, g.received), g.queue.n), group_text(g), g.name_len)
    return True


cdef void empty_queue(Remote* x, Group* g) noexcept nogil:
    """Nobody here can take what the branch has queued: it goes home, in its order when it is put in front again."""
    cdef Router* r = g.groups.router
    cdef uint32_t i = g.queue.n
    cdef Delivery* d
    cdef Publish p
    for i in range(g.queue.n):
        d = queue_at(&g.queue, i)
        if is_away(d) and not delivery_fetch(d) and not d.stored.lost:
            return               # it comes from the store right after the start
    while g.queue.n:
        d = queue_at(&g.queue, g.queue.n - 1)  # the newest first: each is put in front of the others
        if d.message != NULL and not delivery_expired(d, r.now_ms):
            message_parts(d.message, r.now_ms, &p)
            if not give_home(x, g, &p, d.message, d.message.origin, d.recorded == BY_GROUP, d.position):
                return
        elif d.recorded == BY_GROUP:
            record_done(&r.journal, g.base.serial, d.position)
        g.queue.bytes -= delivery_size(d)
        delivery_release(d)
        g.queue.n -= 1


cdef void tell_nodes(Fabric* f, Group* g) noexcept nogil:
    cdef uint32_t hash = fnv1a(group_text(g), g.name_len), i
    if g.branch or (
        g.told_n == g.n - g.far and g.told_online == g.online - g.far_online and g.told_queue == g.queue.n
        and g.told_durable == g.base.durable
    ):
        return                   # its home tells them, or there is no news
    g.told_n = g.n - g.far
    g.told_online = g.online - g.far_online
    g.told_queue = g.queue.n
    g.told_durable = g.base.durable
    for i in range(f.top):
        if is_there(&f.remotes[i], hash):
            tell(&f.remotes[i], g)


cdef void branches_tell(Fabric* f) noexcept nogil:
    """At the end of a turn: branches whose members or queues changed tell their homes."""
    cdef Groups* gs = f.groups
    cdef Group* g
    cdef Remote* x
    while gs.changed != NULL:
        g = gs.changed
        gs.changed = g.next_changed
        g.changed = 0
        if f.clustered:
            tell_nodes(f, g)
        if not g.branch:
            if g.ended:
                group_free(g)
            continue
        x = &f.remotes[g.home]
        if g.n == 0 or g.online == 0:
            tell(x, g)           # first, so that nothing comes again
            if g.queue.n and not is_tight(x):
                empty_queue(x, g)
            f.stuck |= g.queue.n != 0
        tell(x, g)
        if g.n == 0 and g.pending == 0 and g.queue.n == 0:
            group_free(g)


cdef void branches_tell_all(Remote* x) noexcept nogil:
    """All branches of the groups whose home is there; to another node, all groups that it has at that worker."""
    cdef Groups* gs = x.fabric.groups
    cdef Group* g
    cdef uint32_t i
    for i in range(table_size(&gs.table)):
        g = <Group*> table_at(&gs.table, i)
        if g == NULL:
            continue
        if x.workers == 0 and g.branch and g.home == x.index:
            tell(x, g)
        elif x.workers and not g.branch and is_there(x, fnv1a(group_text(g), g.name_len)):
            tell(x, g)
