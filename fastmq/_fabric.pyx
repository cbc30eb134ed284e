# cython: language_level=3, boundscheck=False, wraparound=False
"""See _fabric.pxd."""
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from fastmq._branch cimport (
    branch_back, branch_state, branch_take, branch_taken, branches_free, branches_lost, branches_swept, branches_tell,
    branches_tell_all, branches_tick,
)
from fastmq._items cimport (
    ITEM_ACKNOWLEDGED, ITEM_ADD, ITEM_BACK, ITEM_HEAD, ITEM_KEPT, ITEM_MARK, ITEM_MARKED, ITEM_PUBLISH, ITEM_READY,
    ITEM_REMOVE, ITEM_RETAIN, ITEM_RETAINED, ITEM_SHARED, ITEM_STATE, ITEM_SYNC, ITEM_TOLD, REMOTES_MAX, Told,
    WORKERS_MAX, is_there, is_tight, item_pass, item_send, item_text, items_acknowledged, items_again, items_free,
)
from fastmq._journal cimport journal_full, journal_gate
from fastmq._link cimport Link, SHARE_MIN, link_mark, link_open_gates, link_promise, link_reserve
from fastmq._message cimport Message, message_new, message_unref
from fastmq._retain cimport Found, retained_find, retained_get
from fastmq._router cimport (
    FROM_NODE, FROM_WORKER, Pub, Router, Subscriber, Waits, message_parts, pub_message, router_full, router_publish,
    router_retain,
)
from fastmq._stamps cimport stamps_free, stamps_get, stamps_next, stamps_set
from fastmq._table cimport table_at, table_size
from fastmq._trie cimport (
    Filter, NEAR, OPT_REMOTE, Subscription, filter_text, trie_add, trie_find_owned, trie_remove, trie_remove_all,
)
from fastmq._wait cimport ACK_ITEM, ACK_ITEM_SIZE, Wait, wait_ack, wait_less, wait_more, waits_forget
from fastmq._wire cimport (
    MALFORMED, PROTOCOL_ERROR, Publish, be16, be32, be64, check_filter, check_topic_name, fnv1a, hash_bytes,
    parse_publish, put32, put64, put_bytes, put_varint,
)

cdef enum:
    MARK_MS = 100                # so long SUBACKs wait for a worker that does not answer
    TOLD_MAX = 4194304           # bytes of the program's that wait for Python
    WANTED = 2 | 8 | OPT_REMOTE  # QoS 2, retain as published: what a client asked for is applied at its worker

cdef uint64_t ORIGIN_WORKER = <uint64_t> 1 << 56  # serials of sessions stay below


# -- to another worker -------------------------------------------------------------------------------------------------

cdef void drop(Router* r, uint64_t* why) noexcept nogil:
    why[0] += 1
    r.stats.publish_dropped += 1


cdef inline uint64_t origin_of(Fabric* f, uint64_t serial) noexcept nogil:
    return serial | (f.index + 1) * ORIGIN_WORKER


cdef void send_kept(Remote* x, uint8_t kind, Pub* pub, uint64_t origin) noexcept nogil:
    """Sends a message that must arrive; its publisher waits for that, unless its QoS is 0."""
    cdef Router* r = x.fabric.router
    cdef Message* m
    cdef Wait* wait = NULL
    if is_tight(x):              # nobody was promised anything yet: who publishes hears that it was not taken
        r.refused = 1
        drop(r, &r.stats.dropped_queue_full)
        return
    m = pub_message(r, pub)
    if pub.parts.qos and m != NULL:
        wait = wait_more(r)
    if m == NULL or (pub.parts.qos and wait == NULL) or not item_send(
        x, kind, pub.parts, m, origin, wait, NULL, 0, 0, 0, 0
    ):
        r.refused = 1
        wait_less(wait)
        drop(r, &r.stats.dropped_memory)


cdef inline bint is_own(const uint8_t* topic, uint32_t n) noexcept nogil:
    """What each node says of itself."""
    return n >= 5 and memcmp(topic, b"$SYS/", 5) == 0


cdef void remote_deliver(
    Subscriber* self, Pub* pub, uint8_t qos, bint retain, const uint32_t* ids, uint32_t n_ids
) noexcept nogil:
    cdef Remote* x = <Remote*> self
    cdef Router* r = x.fabric.router
    cdef Message* m
    if r.crossing:
        return                   # its worker sent it to everybody who wants it
    if x.workers and is_own(pub.parts.topic, pub.parts.topic_len):
        return
    if pub.parts.qos:
        send_kept(x, ITEM_PUBLISH, pub, origin_of(x.fabric, pub.origin))
    elif x.out == NULL:
        drop(r, &r.stats.dropped_offline)
        return
    elif x.out.out_bytes > x.out.wire.out_max:
        drop(r, &r.stats.dropped_output_full)
        return
    else:
        m = pub_message(r, pub) if pub.parts.payload_len >= SHARE_MIN else NULL
        item_pass(x, ITEM_PUBLISH, pub.parts, m, origin_of(x.fabric, pub.origin))
    if x.out != NULL and x.out.out_bytes > x.out.wire.out_soft and not x.out.slow:
        r.congested = x.out


cdef void on_retain(void* fabric, Pub* pub) noexcept nogil:
    """A client or the program has a message retained: its topic's home tells everybody."""
    cdef Fabric* f = <Fabric*> fabric
    cdef uint32_t hash = fnv1a(pub.parts.topic, pub.parts.topic_len), home = hash % f.count, i
    cdef uint64_t stamp, origin = origin_of(f, pub.origin)
    if home != f.index:
        send_kept(&f.remotes[home], ITEM_RETAINED, pub, origin)
        return
    for i in range(f.count):
        if i != f.index:
            send_kept(&f.remotes[i], ITEM_RETAIN, pub, origin)
    if not f.clustered or f.from_node or is_own(pub.parts.topic, pub.parts.topic_len):
        return
    stamp = stamps_next(&f.stamps)
    if not stamps_set(&f.stamps, pub.parts.topic, pub.parts.topic_len, stamp):
        f.router.refused = 1
    for i in range(WORKERS_MAX, f.top):
        if is_there(&f.remotes[i], hash):
            send_kept(&f.remotes[i], ITEM_KEPT, pub, stamp)


cdef void on_filter(void* fabric, Filter* filter, bint wanted, int which) noexcept nogil:
    """Our first subscription of a filter came, or the last one went. Other nodes do not send for our groups."""
    cdef Fabric* f = <Fabric*> fabric
    cdef uint32_t i
    for i in range(0 if which == NEAR else WORKERS_MAX, f.count if which == NEAR else f.top):
        item_text(&f.remotes[i], ITEM_ADD if wanted else ITEM_REMOVE, filter_text(filter), filter.len)


# -- from another worker -----------------------------------------------------------------------------------------------

cdef bint fabric_must_hold(const Router* r) noexcept nogil:
    """Whether messages of other workers stay unread until there is room."""
    return router_full(r) or journal_full(&r.journal)


cdef inline void give_up(Link* link) noexcept nogil:
    """Ends the connection: over the next one, everything comes again that was not acknowledged."""
    link.broken = 1
    link_mark(link)


cdef void acknowledge(
    Router* r, Link* link, Waits* waits, uint64_t number, uint64_t records
) noexcept nogil:
    """The other worker may forget the item when its effects are committed, and others have taken what went on."""
    cdef uint64_t gate = journal_gate(&r.journal) if r.journal.records != records else 0
    cdef uint8_t* out
    if r.wait != NULL:
        if not wait_ack(waits, link, r, ACK_ITEM, 0, 0, gate, number, False):
            give_up(link)
        return
    out = link_promise(link, ACK_ITEM_SIZE, gate)
    if out != NULL:
        out[0] = ACK_ITEM
        put64(put_varint(out + 1, 8), number)


cdef uint64_t stamp_of(Fabric* f, const uint8_t* topic, uint32_t n) noexcept nogil:
    """Since when a topic retains what it does; 0: it has never retained anything, as far as we know."""
    cdef uint64_t stamp = stamps_get(&f.stamps, topic, n)
    if stamp == 0 and retained_get(f.router.retained, topic, n, 0) != NULL:
        return f.stamps.base
    return stamp


cdef bint say_kept(Remote* x, const uint8_t* topic, uint32_t n, uint64_t stamp) noexcept nogil:
    """Tells another node what a topic retains. False: out of memory."""
    cdef Router* r = x.fabric.router
    cdef Message* m = retained_get(r.retained, topic, n, r.now_ms)
    cdef Publish p
    cdef bint done
    if m != NULL:
        message_parts(m, r.now_ms, &p)
        p.retain = 1
        return item_send(x, ITEM_KEPT, &p, m, stamp, NULL, NULL, 0, 0, 0, 0)
    memset(&p, 0, sizeof(p))
    p.topic = p.props = p.payload = topic  # empty ones are somewhere, too
    p.topic_len = n
    p.retain = 1
    m = message_new(&r.ledger, &p, hash_bytes(topic, n), 0, r.now_ms)
    if m == NULL:
        return False
    done = item_send(x, ITEM_KEPT, &p, m, stamp, NULL, NULL, 0, 0, 0, 0)
    message_unref(m)
    return done


cdef void on_kept(Remote* x, Publish* p, uint64_t stamp) noexcept nogil:
    """A topic's home at another node says what it retains since when: the later change wins, everywhere."""
    cdef Fabric* f = x.fabric
    cdef Router* r = f.router
    cdef uint64_t here = stamp_of(f, p.topic, p.topic_len)
    if fnv1a(p.topic, p.topic_len) % f.count != f.index or here == stamp:
        return
    if here > stamp:
        if not say_kept(x, p.topic, p.topic_len, here):
            r.refused = 1
        return
    if not stamps_set(&f.stamps, p.topic, p.topic_len, stamp):
        r.refused = 1
        return
    p.retain = 1
    r.crossing = 0
    f.from_node = 1              # we are its home here, and tell our workers
    router_retain(r, p, 0)
    f.from_node = 0


cdef int on_message(Remote* x, Link* link, Waits* waits, uint8_t first, uint8_t* body, uint32_t n) noexcept nogil:
    cdef Fabric* f = x.fabric
    cdef Router* r = f.router
    cdef uint8_t kind = first >> 4, flags = 0
    cdef uint64_t number, origin, records = r.journal.records
    cdef const uint8_t* name = NULL
    cdef uint32_t name_len = 0
    cdef Publish p
    if n < ITEM_HEAD:
        return MALFORMED
    number = be64(body)
    origin = be64(body + 8)
    r.wait = NULL
    r.refused = 0
    if number and number <= x.taken:  # it came over an earlier connection; perhaps it is not committed yet
        acknowledge(r, link, waits, number, records + 1)
        return 0
    if kind == ITEM_SYNC:
        x.taken = number
        acknowledge(r, link, waits, number, records + 1)
        return 0
    body += ITEM_HEAD
    n -= ITEM_HEAD
    if kind == ITEM_SHARED or kind == ITEM_BACK:
        if n < 3 or n - 3 < be16(body + 1):
            return MALFORMED
        flags = body[0]
        name_len = be16(body + 1)
        name = body + 3
        body += 3 + name_len
        n -= 3 + name_len
    if parse_publish(first & 7, body, n, 5, &p) or check_topic_name(p.topic, p.topic_len, 65535):
        return MALFORMED
    r.crossing = FROM_WORKER
    if kind == ITEM_PUBLISH:
        r.crossing = FROM_NODE if x.workers else FROM_WORKER
        router_publish(r, &p, origin, NULL)
    elif kind == ITEM_SHARED:
        branch_take(x, &p, origin, flags, name, name_len)
    elif kind == ITEM_BACK:
        branch_back(f, &p, origin, name, name_len)
    elif kind == ITEM_RETAIN:
        p.retain = 1
        router_retain(r, &p, origin)
    elif kind == ITEM_KEPT:
        on_kept(x, &p, origin)
    else:
        p.retain = 1
        r.crossing = 0           # we are its home, and tell everybody
        router_retain(r, &p, origin & (ORIGIN_WORKER - 1))
    r.crossing = 0
    if number == 0:
        return 0
    # What could not be taken is sent again over the next connection; but a third worker that stands still, and hears no
    # more of what is retained, must not hold up who says so. If it starts anew, it is told.
    if r.refused and kind != ITEM_RETAINED:
        give_up(link)
        return 0
    x.taken = number
    acknowledge(r, link, waits, number, records)
    return 0


cdef int on_wanted(Remote* x, uint8_t kind, const uint8_t* filter, uint32_t n) noexcept nogil:
    cdef Subscription* s
    cdef bint ignored
    if n > 65535 or check_filter(filter, n, 65535, &ignored):
        return MALFORMED
    if kind == ITEM_ADD:
        # The subscription identifier is not one of a client: it says when the other worker named the filter last.
        return 0 if trie_add(x.fabric.router.trie, &x.base.owner, filter, n, WANTED, x.epoch, &ignored) != NULL else -1
    s = trie_find_owned(x.fabric.router.trie, &x.base.owner, filter, n)
    if s != NULL:
        trie_remove(x.fabric.router.trie, s)
    return 0


cdef void on_ready(Remote* x) noexcept nogil:
    """All that the other worker wants has been said: what it has not named over this connection, it wants no more."""
    cdef uint32_t i = x.base.owner.n
    cdef Subscription* s
    while i:
        i -= 1
        s = <Subscription*> x.base.owner.subs[i]
        if s.id != x.epoch:
            trie_remove(x.fabric.router.trie, s)
    x.ready = 1
    branches_swept(x)
    x.news |= NEWS_READY
    x.fabric.news = 1


cdef int on_told(Remote* x, const uint8_t* body, uint32_t n) noexcept nogil:
    cdef Fabric* f = x.fabric
    cdef Told* told
    if n > TOLD_MAX:
        return MALFORMED
    told = <Told*> malloc(sizeof(Told) + n)
    if told == NULL:
        return -1
    told.next = NULL
    told.index = x.index
    told.len = n
    memcpy(<uint8_t*> told + sizeof(Told), body, n)
    if f.last_told == NULL:
        f.told = told
    else:
        f.last_told.next = told
    f.last_told = told
    f.news = 1
    return 0


cdef int fabric_item(Remote* x, Link* link, Waits* waits, uint8_t first, uint8_t* body, uint32_t n) noexcept nogil:
    """One item: its first byte, and the n bytes after its length. 0, or a reason to close the connection."""
    cdef uint8_t kind = first >> 4
    cdef uint8_t* out
    if link != (x.out if kind == ITEM_ACKNOWLEDGED or kind == ITEM_MARKED else x.into):
        return PROTOCOL_ERROR    # what it says is numbered as an earlier process did
    if x.workers and (kind == ITEM_RETAIN or kind == ITEM_RETAINED) or not x.workers and kind == ITEM_KEPT:
        return PROTOCOL_ERROR
    if kind in (ITEM_PUBLISH, ITEM_SHARED, ITEM_BACK, ITEM_RETAIN, ITEM_RETAINED, ITEM_KEPT, ITEM_SYNC):
        return on_message(x, link, waits, first, body, n)
    if kind == ITEM_ACKNOWLEDGED:
        if n != 8:
            return MALFORMED
        items_acknowledged(x, be64(body))
        return 0
    if kind == ITEM_ADD or kind == ITEM_REMOVE:
        return on_wanted(x, kind, body, n) & 0xFF
    if kind == ITEM_STATE:
        return 0 if branch_state(x, body, n) else <int> MALFORMED
    if kind == ITEM_MARK:
        if n != 4:
            return MALFORMED
        out = link_reserve(link, 6)
        if out != NULL:
            out[0] = ITEM_MARKED << 4
            put_bytes(put_varint(out + 1, 4), body, 4)
        return 0
    if kind == ITEM_MARKED:
        if n != 4:
            return MALFORMED
        on_marked(x, be32(body))
        return 0
    if kind == ITEM_READY:
        on_ready(x)
        return 0
    if kind == ITEM_TOLD:
        return on_told(x, body, n) & 0xFF
    return PROTOCOL_ERROR


# -- connections -------------------------------------------------------------------------------------------------------

cdef void say_retained(Remote* x, const uint8_t* filter, uint32_t n) noexcept nogil:
    """Tells a worker that has just started what is retained, of those topics whose home is here, or is that worker."""
    cdef Fabric* f = x.fabric
    cdef Found found
    cdef Publish p
    cdef uint32_t i, hash, home, first = 0 if x.index else 1
    memset(&found, 0, sizeof(found))
    retained_find(f.router.retained, filter, n, f.router.now_ms, &found)
    for i in range(found.n):
        message_parts(found.messages[i], f.router.now_ms, &p)
        p.retain = 1
        hash = fnv1a(p.topic, p.topic_len)
        home = hash % f.count
        if x.workers:
            if home == f.index and is_there(x, hash):
                say_kept(x, p.topic, p.topic_len, stamp_of(f, p.topic, p.topic_len))
        elif home == f.index or (home == x.index and f.index == first):
            item_pass(x, ITEM_RETAIN, &p, found.messages[i], found.messages[i].origin)
        message_unref(found.messages[i])
    free(found.messages)


cdef void fabric_out(Fabric* f, uint32_t index, Link* link, uint64_t instance) noexcept nogil:
    """A connection to another worker is open: it hears what we want, and gets again what it has not acknowledged."""
    cdef Remote* x = &f.remotes[index]
    cdef bint is_new = x.told_instance != instance
    cdef Filter* filter
    cdef uint32_t i
    x.out = link
    x.asked_ms = 0
    x.told_instance = instance
    for i in range(table_size(&f.router.trie.filters)):
        filter = <Filter*> table_at(&f.router.trie.filters, i)
        if filter != NULL and filter.n > filter.remotes + (filter.groups if x.workers else 0):
            item_text(x, ITEM_ADD, filter_text(filter), filter.len)
    branches_tell_all(x)
    if x.workers:
        items_again(x)           # what is retained is numbered, too, and comes after them
        if is_new:
            say_retained(x, b"#", 1)
        item_text(x, ITEM_READY, NULL, 0)
        return
    if is_new and f.serving:
        say_retained(x, b"#", 1)
        say_retained(x, b"$SYS/#", 6)
    item_text(x, ITEM_READY, NULL, 0)
    items_again(x)


cdef void fabric_in(Fabric* f, uint32_t index, Link* link, uint64_t instance) noexcept nogil:
    """A connection from another worker is open: the process at the other end of the one before is no more."""
    cdef Remote* x = &f.remotes[index]
    if x.into != NULL:
        give_up(x.into)
    x.into = link
    x.ready = 0
    x.epoch += 1
    if x.instance != instance:
        x.instance = instance
        x.taken = 0


cdef void fabric_gone(Remote* x, Link* link) noexcept nogil:
    """A connection has ended."""
    if x.into == link:
        x.into = NULL
    if x.out != link:
        return
    x.out = NULL
    x.news |= NEWS_LOST
    x.fabric.news = 1
    branches_lost(x)


cdef uint32_t fabric_mark(Fabric* f) noexcept nogil:
    """The mark that others will have answered when they know what our clients want after this turn."""
    f.wants_mark = 1
    return f.mark + 1


cdef void marks_settle(Fabric* f) noexcept nogil:
    """SUBACKs leave that all others know enough for; one that does not answer holds nobody up for long."""
    cdef uint32_t least = f.mark, i
    cdef Remote* x
    for i in range(f.top):
        x = &f.remotes[i]
        if x.out != NULL and x.asked_ms and f.router.now_ms - x.asked_ms < MARK_MS and x.marked < least:
            least = x.marked
    if least > f.router.marked:
        f.router.marked = least
        link_open_gates(f.wire)


cdef void send_marks(Fabric* f) noexcept nogil:
    cdef uint8_t number[4]
    cdef uint32_t i
    cdef Remote* x
    f.wants_mark = 0
    f.mark += 1
    put32(number, f.mark)
    for i in range(f.top):
        x = &f.remotes[i]
        if item_text(x, ITEM_MARK, number, 4) and x.asked_ms == 0:
            x.asked_ms = f.router.now_ms
    marks_settle(f)


cdef void on_marked(Remote* x, uint32_t mark) noexcept nogil:
    x.marked = mark
    if mark == x.fabric.mark:
        x.asked_ms = 0
    elif x.fabric.router.now_ms - x.asked_ms < MARK_MS:
        x.asked_ms = x.fabric.router.now_ms  # it answers, and is as fast as it can
    marks_settle(x.fabric)


cdef void fabric_turn(Fabric* f) noexcept nogil:
    """At the end of a turn."""
    if f.groups.changed != NULL:
        branches_tell(f)
    if f.wants_mark:
        send_marks(f)


cdef void fabric_tick(Fabric* f) noexcept nogil:
    branches_tick(f)
    if f.router.marked < f.mark:
        marks_settle(f)


# -- other nodes -------------------------------------------------------------------------------------------------------

cdef Remote* fabric_add(Fabric* f, uint32_t worker, uint32_t workers) noexcept nogil:
    """Makes room for a worker of another node. NULL: there are too many."""
    cdef uint32_t i
    for i in range(WORKERS_MAX, REMOTES_MAX):
        if not f.remotes[i].exists and f.remotes[i].out == NULL and f.remotes[i].into == NULL:
            memset(&f.remotes[i], 0, sizeof(Remote))
            set_remote(f, i)
            f.remotes[i].worker = worker
            f.remotes[i].workers = workers
            f.top = max(f.top, i + 1)
            return &f.remotes[i]
    return NULL


cdef void fabric_remove(Remote* x) noexcept nogil:
    """A worker of another node is gone for good: nobody waits for it, nothing is kept for it, its clients are none."""
    if x.out != NULL:
        give_up(x.out)
        x.out = NULL
        branches_lost(x)
    if x.into != NULL:
        give_up(x.into)
        x.into = NULL
    x.ready = 0
    trie_remove_all(x.fabric.router.trie, &x.base.owner)
    branches_free(x)
    items_free(x)
    x.exists = 0
    x.news = 0
    marks_settle(x.fabric)


# -- start and end -----------------------------------------------------------------------------------------------------

cdef void set_remote(Fabric* f, uint32_t i) noexcept nogil:
    f.remotes[i].fabric = f
    f.remotes[i].index = i
    f.remotes[i].exists = 1
    f.remotes[i].base.owner.self = &f.remotes[i]
    f.remotes[i].base.deliver = remote_deliver
    f.router.last_serial += 1
    f.remotes[i].base.serial = f.router.last_serial


cdef void fabric_place(
    Fabric* f, Router* r, Groups* groups, Wire* wire, uint32_t index, uint32_t count, int64_t backlog_max,
    bint clustered
) noexcept nogil:
    """This worker is one of several, or there are other nodes. Before anything else happens."""
    cdef uint32_t i
    f.router = r
    f.wire = wire
    f.groups = groups
    f.index = groups.index = index
    f.count = groups.count = count
    f.top = count
    f.clustered = groups.clustered = clustered
    f.backlog_max = backlog_max
    f.taken = branch_taken
    f.stamps.bytes = &r.ledger.bytes
    f.stamps.now_ms = &r.now_ms
    for i in range(count):
        set_remote(f, i)
        f.remotes[i].exists = i != index
    r.fabric = r.trie.watcher = f
    r.on_retain = on_retain
    r.trie.changed = on_filter


cdef void fabric_close(Fabric* f) noexcept nogil:
    """The broker ends: nobody hears of it any more, and nothing is forgotten by the store."""
    cdef uint32_t i
    cdef Told* told
    if f.count == 0:
        return
    f.router.trie.changed = NULL
    f.router.on_retain = NULL
    stamps_free(&f.stamps)
    for i in range(f.top):
        if f.remotes[i].fabric == NULL:
            continue
        f.remotes[i].out = f.remotes[i].into = NULL
        items_free(&f.remotes[i])
        branches_free(&f.remotes[i])
        trie_remove_all(f.router.trie, &f.remotes[i].base.owner)
    waits_forget(f.router, 0)
    while f.told != NULL:
        told = f.told
        f.told = told.next
        free(told)
    f.last_told = NULL
