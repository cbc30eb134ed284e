# cython: language_level=3, boundscheck=False, wraparound=False
"""See _restore.pxd. The records are those of store/records.py; their bytes are checked like a stranger's."""
from libc.stdint cimport uint16_t
from libc.stdlib cimport bsearch, free, qsort, realloc
from libc.string cimport memset

from fastmq._inflight cimport (
    AWAIT_PUBCOMP, BY_GROUP, BY_SESSION, Delivery, delivery_ids, queue_at, queue_push, receive_add, window_finish,
    window_restore,
)
from fastmq._journal cimport (
    REC_CLOCK, REC_DELIVERY, REC_GROUP, REC_MESSAGE, REC_RECEIVED, REC_RETAINED, REC_SESSION, REC_STUB, REC_SUBSCRIBED,
    REC_WILL, Journal, journal_want, stored_new, stored_ref, stored_unref,
)
from fastmq._message cimport RECORDED, message_new, message_ref, message_size, message_unref
from fastmq._retain cimport retained_put
from fastmq._session cimport (
    EXPIRY_NEVER, RETAINED_DUE, Session, session_arm, session_find, session_new, session_record,
)
from fastmq._share cimport Group, group_empty, group_find, group_make, share_prefix
from fastmq._subscribe cimport session_add_job, session_share
from fastmq._table cimport table_at, table_free, table_init, table_put, table_room, table_seek, table_size
from fastmq._trie cimport OPT_QOS, trie_add
from fastmq._wire cimport Publish, check_filter, check_topic_name, hash_bytes, utf8_valid

cdef enum:
    IDS_MAX = 4096               # subscription identifiers of one delivery
    MALFORMED_RECORD = -1
    NO_MEMORY = -2


cdef uint64_t number(Cursor* c) noexcept nogil:
    cdef uint64_t v = 0
    cdef int shift = 0
    cdef uint8_t each
    while c.p < c.end and shift < 64:
        each = c.p[0]
        v |= <uint64_t> (each & 127) << shift
        c.p += 1
        if each < 128:
            return v
        shift += 7
    c.bad = 1
    return 0


cdef uint8_t octet(Cursor* c) noexcept nogil:
    cdef const uint8_t* at = c.p
    if at >= c.end:
        c.bad = 1
        return 0
    c.p += 1
    return at[0]


cdef uint32_t packet_id(Cursor* c) noexcept nogil:
    cdef uint32_t low = octet(c)
    return low | (<uint32_t> octet(c) << 8)


cdef Text text(Cursor* c) noexcept nogil:
    cdef Text t
    cdef uint64_t n = number(c)
    t.p = c.p
    t.n = 0
    if c.bad or n > <uint64_t> (c.end - c.p) or n > 268435455:
        c.bad = 1
        return t
    t.n = <uint32_t> n
    c.p += n
    return t


# -- what is known -----------------------------------------------------------------------------------------------------

cdef int by_serial(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<Known*> a).serial, y = (<Known*> b).serial
    return (x > y) - (x < y)


cdef Known* know(Restoration* x, uint64_t serial, Session* s, Group* g) noexcept nogil:
    """Remembers a session or group by its serial. NULL: out of memory."""
    cdef Known* grown
    cdef uint32_t cap
    if x.n_known == x.known_cap:
        cap = x.known_cap * 2 + 256
        grown = <Known*> realloc(x.known, cap * sizeof(Known))
        if grown == NULL:
            return NULL
        x.known = grown
        x.known_cap = cap
    if x.n_known and x.known[x.n_known - 1].serial >= serial:
        x.unsorted = 1
    x.known[x.n_known].serial = serial
    x.known[x.n_known].session = s
    x.known[x.n_known].group = g
    x.n_known += 1
    if serial > x.router.last_serial:
        x.router.last_serial = serial
    return x.known + x.n_known - 1


cdef Known* find_known(Restoration* x, uint64_t serial) noexcept nogil:
    cdef Known key
    if x.unsorted:
        qsort(x.known, x.n_known, sizeof(Known), by_serial)
        x.unsorted = 0
    key.serial = serial
    return <Known*> bsearch(&key, x.known, x.n_known, sizeof(Known), by_serial) if x.n_known else NULL


cdef Session* find_session(Restoration* x, uint64_t serial) noexcept nogil:
    cdef Known* k = find_known(x, serial)
    if k == NULL or k.session == NULL:
        x.skipped += 1
        return NULL
    return <Session*> k.session


cdef Stored* find_stored(Restoration* x, uint64_t id) noexcept nogil:
    cdef uint32_t hash = <uint32_t> ((id * 0x9E3779B97F4A7C15ULL) >> 32), at = hash
    cdef Stored* st = <Stored*> table_seek(&x.stored, hash, &at)
    while st != NULL and st.id != id:
        st = <Stored*> table_seek(&x.stored, hash, &at)
    return st


cdef Stored* add_stored(Restoration* x, uint64_t id, uint32_t size, int64_t expires_ms) noexcept nogil:
    cdef Journal* j = &x.router.journal
    cdef Stored* st
    if not table_room(&x.stored):
        return NULL
    st = stored_new(j, id, size, expires_ms)
    if st == NULL:
        return NULL
    st.seq = 0
    if id > j.last_message:
        j.last_message = id
    table_put(&x.stored, st)
    return st


# -- records -----------------------------------------------------------------------------------------------------------

cdef bint read_message(Cursor* c, uint64_t* id, Publish* p, uint64_t* origin, int64_t* expires_ms) noexcept nogil:
    """The body of a MESSAGE record; the parts point into it. False: it is none."""
    cdef uint8_t flags
    cdef Text t
    memset(p, 0, sizeof(Publish))
    id[0] = number(c)
    flags = octet(c)
    origin[0] = number(c)
    expires_ms[0] = <int64_t> number(c) if flags & 8 else 0
    p.qos = flags & 3
    p.retain = (flags >> 2) & 1
    t = text(c)
    p.topic = t.p
    p.topic_len = t.n
    t = text(c)
    p.props = t.p
    p.props_len = t.n
    t = text(c)
    p.payload = t.p
    p.payload_len = t.n
    return not (
        c.bad or flags > 15 or p.qos == 3 or p.topic_len > 65535 or p.props_len > 268435455
        or check_topic_name(p.topic, p.topic_len, 65535)
    )


cdef Message* make_message(Router* r, const Publish* p, uint64_t origin, int64_t expires_ms) noexcept nogil:
    cdef Message* m = message_new(&r.ledger, p, hash_bytes(p.topic, p.topic_len), origin, 0)
    if m != NULL:
        m.expires_ms = expires_ms
    return m


cdef Message* restore_message(Router* r, const uint8_t* record, size_t n) noexcept nogil:
    """The message of a MESSAGE record, with a reference for the caller. NULL: it is none, or memory is out."""
    cdef Cursor c
    cdef Publish p
    cdef uint64_t id, origin
    cdef int64_t expires_ms
    c.p = record + 1
    c.end = record + n
    c.bad = 0
    if n == 0 or record[0] != REC_MESSAGE or not read_message(&c, &id, &p, &origin, &expires_ms):
        return NULL
    return make_message(r, &p, origin, expires_ms)


cdef int on_message(Restoration* x, Cursor* c) noexcept nogil:
    cdef Publish p
    cdef uint64_t id, origin
    cdef int64_t expires_ms
    cdef Message* m
    if not read_message(c, &id, &p, &origin, &expires_ms):
        return MALFORMED_RECORD
    if find_stored(x, id) != NULL:
        x.skipped += 1
        return 0
    m = make_message(x.router, &p, origin, expires_ms)
    if m == NULL:
        return NO_MEMORY
    m.stored = add_stored(x, id, message_size(m), expires_ms)
    if m.stored == NULL:
        message_unref(m)
        return NO_MEMORY
    m.stored.message = m         # the table's reference is the message's own, which the table holds
    return 0


cdef int on_stub(Restoration* x, Cursor* c) noexcept nogil:
    cdef uint64_t id = number(c), size = number(c), expires_ms = number(c)
    if c.bad or size > 0xFFFF0000ULL:
        return MALFORMED_RECORD
    if find_stored(x, id) != NULL:
        x.skipped += 1
        return 0
    size += sizeof(Message)      # as it will count when it is in memory
    return 0 if add_stored(x, id, <uint32_t> size, <int64_t> expires_ms) != NULL else <int> NO_MEMORY


cdef int on_session(Restoration* x, Cursor* c) noexcept nogil:
    cdef uint64_t serial = number(c)
    cdef Text id = text(c)
    cdef uint64_t expiry_s = number(c), expires_ms = number(c), will_at_ms = number(c)
    cdef Session* s
    if c.bad or id.n > 65535 or expiry_s > EXPIRY_NEVER or not utf8_valid(id.p, id.n):
        return MALFORMED_RECORD
    if session_find(x.sessions, id.p, id.n) != NULL:
        x.skipped += 1
        return 0
    s = session_new(x.sessions, id.p, id.n)
    if s == NULL or know(x, serial, s, NULL) == NULL:
        return NO_MEMORY
    s.base.serial = serial
    s.base.durable = 1
    s.expiry_s = <uint32_t> expiry_s
    s.expires_at_ms = <int64_t> expires_ms
    s.will_at_ms = <int64_t> will_at_ms
    return 0


cdef int on_group(Restoration* x, Cursor* c) noexcept nogil:
    cdef uint64_t serial = number(c)
    cdef Text t = text(c)
    cdef uint32_t at
    cdef Group* g
    cdef bint ignored
    if c.bad or t.n > 65535:
        return MALFORMED_RECORD
    at = share_prefix(t.p, t.n)
    if at == 0 or at == t.n or check_filter(t.p + at, t.n - at, 65535, &ignored):
        return MALFORMED_RECORD
    if group_find(x.sessions.groups, t.p, t.n) != NULL:
        x.skipped += 1
        return 0
    g = group_make(x.sessions.groups, t.p, t.n, at, serial)
    if g == NULL or know(x, serial, NULL, g) == NULL:
        return NO_MEMORY
    g.base.durable = 1
    return 0


cdef int on_subscribed(Restoration* x, Cursor* c) noexcept nogil:
    cdef uint64_t serial = number(c)
    cdef uint8_t options = octet(c)
    cdef uint64_t id = number(c)
    cdef Text t = text(c)
    cdef Session* s
    cdef uint32_t at
    cdef bint is_new
    if c.bad or t.n > 65535 or id > 268435455 or options & 3 == 3:
        return MALFORMED_RECORD
    at = share_prefix(t.p, t.n)
    if (at and at == t.n) or check_filter(t.p + at, t.n - at, 65535, &is_new):
        return MALFORMED_RECORD
    s = find_session(x, serial)
    if s == NULL:
        return 0
    if at:
        return 0 if session_share(s, t.p, t.n, at, options & ~RETAINED_DUE, <uint32_t> id) != NULL else <int> NO_MEMORY
    if trie_add(x.router.trie, &s.base.owner, t.p, t.n, options & ~RETAINED_DUE, <uint32_t> id, &is_new) == NULL:
        return NO_MEMORY
    if options & RETAINED_DUE:
        session_add_job(s, t.p, t.n, options & OPT_QOS, <uint32_t> id)
    return 0


cdef int on_received(Restoration* x, Cursor* c) noexcept nogil:
    cdef uint64_t serial = number(c)
    cdef uint32_t id = packet_id(c)
    cdef Session* s
    if c.bad or id == 0:
        return MALFORMED_RECORD
    s = find_session(x, serial)
    if s == NULL:
        return 0
    return 0 if receive_add(&s.received, <uint16_t> id) >= 0 else <int> NO_MEMORY


cdef int on_retained(Restoration* x, Cursor* c) noexcept nogil:
    cdef Stored* st = find_stored(x, number(c))
    cdef Message* m
    if c.bad:
        return MALFORMED_RECORD
    if st == NULL or st.message == NULL:
        x.skipped += 1
        return 0
    m = <Message*> st.message
    if m.current:
        return 0
    if not retained_put(x.router.retained, m, NULL):
        return NO_MEMORY
    m.current |= RECORDED
    return 0


cdef int on_will(Restoration* x, Cursor* c) noexcept nogil:
    cdef uint64_t serial = number(c)
    cdef Stored* st = find_stored(x, number(c))
    cdef uint64_t delay_s = number(c)
    cdef uint8_t has_expiry = octet(c)
    cdef uint64_t expiry_s = number(c)
    cdef Session* s
    if c.bad or delay_s > 0xFFFFFFFFULL or expiry_s > 0xFFFFFFFFULL or has_expiry > 1:
        return MALFORMED_RECORD
    s = find_session(x, serial)
    if s == NULL or s.will != NULL or st == NULL or st.message == NULL:
        x.skipped += 1
        return 0
    s.will = message_ref(<Message*> st.message)
    s.will_recorded = 1
    s.will_delay_s = <uint32_t> delay_s
    s.will_has_expiry = has_expiry
    s.will_expiry_s = <uint32_t> expiry_s
    return 0


cdef bint fill(Delivery* d, Stored* st, uint64_t position, uint8_t flags, uint8_t recorded, const uint32_t* ids,
               uint32_t n_ids) noexcept nogil:
    if not delivery_ids(d, ids, n_ids):
        return False
    if st != NULL and st.message != NULL:
        d.message = message_ref(<Message*> st.message)
    elif st != NULL:
        d.stored = stored_ref(st)
    d.position = position
    d.qos = flags & 3
    d.retain = (flags >> 2) & 1
    d.recorded = recorded
    return True


cdef int on_delivery(Restoration* x, Cursor* c) noexcept nogil:
    cdef uint32_t ids[IDS_MAX]
    cdef uint64_t serial = number(c), position = number(c)
    cdef Stored* st = find_stored(x, number(c))
    cdef uint8_t flags = octet(c), state = flags >> 3
    cdef uint32_t id = packet_id(c), i
    cdef uint64_t n_ids = number(c), each
    cdef Known* k
    cdef Session* s
    cdef Group* g
    cdef Delivery* d
    if c.bad or n_ids > IDS_MAX or flags & 3 == 3 or state > 3 or (state != 0) != (id != 0):
        return MALFORMED_RECORD
    for i in range(<uint32_t> n_ids):
        each = number(c)
        if each == 0 or each > 268435455:
            c.bad = 1
        ids[i] = <uint32_t> each
    if c.bad:
        return MALFORMED_RECORD
    k = find_known(x, serial)
    if k == NULL or (st == NULL and state != AWAIT_PUBCOMP):
        x.skipped += 1
        return 0
    if k.group != NULL:
        g = <Group*> k.group
        if state or (g.queue.n and position <= queue_at(&g.queue, g.queue.n - 1).position):
            x.skipped += 1
            return 0
        d = queue_push(&g.queue)
        if d == NULL or not fill(d, st, position, flags, BY_GROUP, NULL, 0):
            return NO_MEMORY
        g.queue.bytes += st.size
        if position > g.last_position:
            g.last_position = position
        if position <= g.first_position:
            g.first_position = position - 1
        if st.message != NULL:
            return 0
        x.sessions.groups.away += 1
        return 0 if journal_want(&x.router.journal, st) else <int> NO_MEMORY
    s = <Session*> k.session
    if state:
        d = window_restore(&s.window, <uint16_t> id, position)
        if d == NULL:
            x.skipped += 1
            return 0
        if not fill(d, st if state != AWAIT_PUBCOMP else NULL, position, flags, BY_SESSION, ids, <uint32_t> n_ids):
            window_finish(&s.window, d)
            return NO_MEMORY
        d.state = state
        return 0
    d = queue_push(&s.queue)
    if d == NULL or not fill(d, st, position, flags, BY_SESSION, ids, <uint32_t> n_ids):
        return NO_MEMORY
    s.queue.bytes += st.size
    if position > s.window.last_position:
        s.window.last_position = position
    return 0


cdef int on_clock(Restoration* x, Cursor* c) noexcept nogil:
    cdef uint64_t now_ms = number(c)
    if c.bad or now_ms > <uint64_t> 1 << 60:
        return MALFORMED_RECORD
    x.clock_ms = <int64_t> now_ms
    return 0


cdef int restore_batch(Restoration* x, const uint8_t* data, size_t n) noexcept nogil:
    """Takes the records of one batch. -1: one of them is malformed; -2: memory is out."""
    cdef Cursor c
    cdef uint8_t kind
    cdef int failed = 0
    c.p = data
    c.end = data + n
    c.bad = 0
    while c.p < c.end and not failed:
        kind = octet(&c)
        x.records += 1
        if kind == REC_DELIVERY:
            failed = on_delivery(x, &c)
        elif kind == REC_STUB:
            failed = on_stub(x, &c)
        elif kind == REC_MESSAGE:
            failed = on_message(x, &c)
        elif kind == REC_SESSION:
            failed = on_session(x, &c)
        elif kind == REC_SUBSCRIBED:
            failed = on_subscribed(x, &c)
        elif kind == REC_RECEIVED:
            failed = on_received(x, &c)
        elif kind == REC_RETAINED:
            failed = on_retained(x, &c)
        elif kind == REC_WILL:
            failed = on_will(x, &c)
        elif kind == REC_GROUP:
            failed = on_group(x, &c)
        elif kind == REC_CLOCK:
            failed = on_clock(x, &c)
        else:
            failed = MALFORMED_RECORD
    return failed


# -- begin and end -----------------------------------------------------------------------------------------------------

cdef void restoration_init(Restoration* x, Sessions* sessions) noexcept nogil:
    memset(x, 0, sizeof(Restoration))
    x.router = sessions.router
    x.sessions = sessions
    x.clock_ms = -1
    table_init(&x.stored, <uint32_t> <size_t> &(<Stored*> NULL).hash, NULL)


cdef void settle(Session* s, int64_t now_ms) noexcept nogil:
    """Starts a session's clocks. One that was connected when the broker ended has lost its connection now."""
    cdef bint changed = False
    if s.expires_at_ms == 0 and s.expiry_s != EXPIRY_NEVER:
        s.expires_at_ms = now_ms + <int64_t> s.expiry_s * 1000
        changed = True
    if s.will != NULL and s.will_at_ms == 0:
        s.will_at_ms = now_ms + <int64_t> s.will_delay_s * 1000 + 1
        changed = True
    elif s.will == NULL:
        s.will_at_ms = 0
    if changed:
        session_record(s)
    session_arm(s)


cdef void restoration_end(Restoration* x, bint use) noexcept nogil:
    """Lets go of what nothing refers to; with `use`, starts the sessions' clocks. The journal is on, to note both."""
    cdef uint32_t i
    cdef Stored* st
    cdef Group* g
    for i in range(x.n_known):
        if use and x.known[i].session != NULL:
            settle(<Session*> x.known[i].session, x.router.now_ms)
        g = <Group*> x.known[i].group
        if g != NULL and g.n == 0 and (g.branch or (x.sessions.groups.count == 1 and not x.sessions.groups.clustered)):
            group_empty(g)       # members of another group may be at other workers, that have not been heard yet
    for i in range(table_size(&x.stored)):
        st = <Stored*> table_at(&x.stored, i)
        if st == NULL:
            continue
        if st.message != NULL:
            message_unref(<Message*> st.message)  # with it goes, or stays, what the table held
        else:
            stored_unref(st)
    table_free(&x.stored)
    free(x.known)
    x.known = NULL
    x.n_known = 0
