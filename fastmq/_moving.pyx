# cython: language_level=3, boundscheck=False, wraparound=False
"""See _moving.pxd. What comes has been read and checked as a whole (_state) before anything changes."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastmq._conn cimport core_wake
from fastmq._inflight cimport (
    BY_GROUP, BY_NONE, BY_SESSION, Delivery, FREE, Queue, Window, delivery_fetch, delivery_store_only, is_away,
    queue_at, queue_clear, queue_push, receive_add, receive_has, window_clear, window_ordered,
)
from fastmq._journal cimport (
    Journal, REC_RECEIVED, Stored, journal_break, journal_want, record_delivery, record_done, record_message,
    record_packet_id, record_subscribed, record_will, stored_new, stored_unref,
)
from fastmq._message cimport message_size, message_store
from fastmq._records cimport Buffer
from fastmq._retain cimport jobs_have
from fastmq._session cimport (
    EXPIRY_NEVER, RETAINED_DUE, Session, Sessions, session_arm, session_drop_will, session_due, session_end,
    session_find, session_id, session_leave, session_new, session_record,
)
from fastmq._share cimport Group, Member, group_drain, group_find, group_give_back
from fastmq._state cimport (
    Interest, MALFORMED_STATE, NO_MEMORY, State, is_alone, state_free, state_read, state_write,
)
from fastmq._subscribe cimport session_add_job, session_share
from fastmq._table cimport table_at, table_size
from fastmq._trie cimport OPT_QOS, trie_add, trie_find_owned, trie_remove
from fastmq._turn cimport core_clock
from fastmq._wheel cimport timer_cancel
from fastmq._wire cimport Publish, utf8_valid

cdef enum:
    KEPT_BYTES = 1048576         # of the messages that a session brings; the store has the bodies of the others


# -- adopted -----------------------------------------------------------------------------------------------------------

cdef Member* membership(Session* s, const Interest* each) noexcept nogil:
    cdef Group* g = group_find(s.sessions.groups, each.filter, each.n)
    cdef Member* m = s.memberships
    while m != NULL and m.group != g:
        m = m.next_of_session
    return m


cdef bint merge(State* x, Session* s) noexcept nogil:
    """Puts what the session has behind what it brings, in the state; it changes nothing else. False: no memory."""
    cdef uint32_t i
    cdef Delivery* d
    x.flight = <Delivery**> malloc((x.window.used + 1) * sizeof(void*))
    if x.flight == NULL:
        return False
    if s.received != NULL and s.received.used:
        for i in range(1, 65536):
            if receive_has(s.received, <uint16_t> i) and receive_add(&x.received, <uint16_t> i) < 0:
                return False
    for i in range(s.queue.n):
        d = queue_push(&x.queue)
        if d == NULL:
            return False
        d[0] = queue_at(&s.queue, i)[0]
    return True


cdef bint subscribe(State* x, Session* s) noexcept nogil:
    """Makes the subscriptions that the session does not have. False: out of memory, and none was made."""
    cdef Interest* each
    cdef bint is_new
    cdef uint32_t i = x.n_interests, before = s.base.owner.n + s.n_memberships
    while i:                     # from the last one: that leaves memberships in their order
        i -= 1
        each = x.interests + i
        is_new = False
        if each.filter_at:
            each.added = membership(s, each) == NULL
            if session_share(
                s, each.filter, each.n, each.filter_at, each.options & ~RETAINED_DUE, each.id
            ) != NULL:
                continue
        elif trie_add(
            x.router.trie, &s.base.owner, each.filter, each.n, each.options & ~RETAINED_DUE, each.id, &is_new
        ) != NULL:
            each.added = is_new
            continue
        each.added = 0
        while i < x.n_interests:
            each = x.interests + i
            if each.added and each.filter_at:
                session_leave(s, membership(s, each))
            elif each.added:
                trie_remove(x.router.trie, trie_find_owned(x.router.trie, &s.base.owner, each.filter, each.n))
            i += 1
        return False
    if s.user != NULL:
        s.user.subscriptions += s.base.owner.n + s.n_memberships - before
    return True


cdef void note_subscriptions(State* x, Session* s) noexcept nogil:
    """Writes down what `subscribe` did, and has the retained messages sent that were still to come."""
    cdef Interest* each
    cdef uint8_t options
    cdef uint32_t i
    for i in range(x.n_interests):
        each = x.interests + i
        options = each.options & ~RETAINED_DUE
        if each.options & RETAINED_DUE and not each.filter_at:
            session_add_job(s, each.filter, each.n, options & OPT_QOS, each.id)
        if not each.filter_at and jobs_have(s.jobs, each.filter, each.n):
            options |= RETAINED_DUE
        if s.base.durable:
            record_subscribed(&x.router.journal, s.base.serial, each.filter, each.n, options, each.id)


cdef inline void record(Session* s, Delivery* d, const Stored* st) noexcept nogil:
    d.recorded = BY_SESSION
    record_delivery(&s.sessions.router.journal, s.base.serial, d.position, st.id, d.qos, d.retain, d.state, d.packet_id,
                    d.ids + 1 if d.ids != NULL else &d.id, d.ids[0] if d.ids != NULL else d.id != 0)


cdef void take_window(State* x, Session* s, uint64_t first) noexcept nogil:
    """Puts in flight what was so, with its packet ids. The session has nothing in flight."""
    cdef Journal* j = &x.router.journal
    cdef Delivery* d
    cdef Interest* each
    cdef Stored* released = NULL
    cdef Publish p
    cdef uint32_t i, n
    if x.window.used == 0:
        return
    n = window_ordered(&x.window, x.flight)
    for i in range(n):
        d = x.flight[i]
        d.position += first
        if d.share != NULL:
            each = x.interests + (<size_t> d.share - 1)
            d.share = group_find(s.sessions.groups, each.filter, each.n)
        if not s.base.durable:
            continue
        if d.message != NULL:
            if message_store(j, d.message) != NULL:
                record(s, d, d.message.stored)
            continue
        if released == NULL:     # the store keeps packet ids only as deliveries, and deliveries only of a message
            released = stored_new(j, j.last_message + 1, 0, 0)
            if released == NULL:
                journal_break(j)  # its packet id could be forgotten
                continue
            j.last_message += 1
            memset(&p, 0, sizeof(Publish))
            p.topic = p.props = p.payload = b"released"
            p.topic_len = 8
            record_message(j, released.id, &p, 0, 0, j.state_level)
        record(s, d, released)
    if released != NULL:
        stored_unref(released)
    window_clear(&s.window)
    s.window.slots, s.window.cap, s.window.used = x.window.slots, x.window.cap, x.window.used
    s.window.last_id = x.window.last_id
    memset(&x.window, 0, sizeof(Window))
    x.window.ledger = &x.router.ledger


cdef void take_queue(State* x, Session* s, uint64_t first) noexcept nogil:
    """Puts the queue in front of what has been queued since, which gets new positions behind it."""
    cdef Journal* j = &x.router.journal
    cdef Delivery* d
    cdef uint64_t before
    cdef uint32_t i
    cdef int64_t kept = 0
    if x.position == 0:
        return                   # nothing comes in front of what there is
    for i in range(x.queue.n):
        d = queue_at(&x.queue, i)
        if i < x.n_own:
            d.position += first
            kept += message_size(d.message)
            if s.base.durable and message_store(j, d.message) != NULL:
                record(s, d, d.message.stored)
                if kept > KEPT_BYTES:
                    delivery_store_only(d)
            continue
        before = d.position
        x.position += 1
        d.position = first + x.position
        if d.recorded == BY_SESSION:
            record(s, d, d.stored if is_away(d) else d.message.stored)
            record_done(j, s.base.serial, before)
    x.queue.bytes += s.queue.bytes
    s.queue.n = 0                # they are in the other one now
    queue_clear(&s.queue)
    s.queue = x.queue
    s.ahead = s.ahead_low = 0
    memset(&x.queue, 0, sizeof(Queue))
    x.queue.ledger = &x.router.ledger
    x.n_own = 0
    s.window.last_position = first + x.position


cdef void take_of_groups(State* x, Session* s) noexcept nogil:
    """What waited for groups waits in front of what they have here, or goes to members that can take it."""
    cdef uint32_t i = x.of_groups.n
    cdef Delivery* d
    cdef Interest* each
    cdef Member* m = s.memberships
    while i:
        i -= 1
        d = queue_at(&x.of_groups, i)
        each = x.interests + (<size_t> d.share - 1)
        group_give_back(group_find(s.sessions.groups, each.filter, each.n), d)
    if x.of_groups.n:
        while m != NULL:
            group_drain(m.group)
            m = m.next_of_session


cdef void take_received(State* x, Session* s) noexcept nogil:
    cdef uint32_t i
    if x.received == NULL:
        return
    for i in range(1, 65536):
        if s.base.durable and receive_has(x.received, <uint16_t> i) and not receive_has(s.received, <uint16_t> i):
            record_packet_id(&x.router.journal, REC_RECEIVED, s.base.serial, <uint16_t> i)
    s.received, x.received = x.received, s.received


cdef void take_will(State* x, Session* s) noexcept nogil:
    cdef Journal* j = &x.router.journal
    if x.will == NULL:
        return
    session_drop_will(s)
    s.will, x.will = x.will, NULL
    s.will.origin = s.base.serial
    s.will_at_ms = x.now_ms + x.will_left_ms
    s.will_at_ms += s.will_at_ms == 0
    s.will_delay_s = x.will_delay_s
    s.will_has_expiry = x.will_has_expiry
    s.will_expiry_s = x.will_expiry_s
    if s.base.durable and message_store(j, s.will) != NULL:
        s.will_recorded = 1
        record_will(j, s.base.serial, s.will.stored.id, s.will_delay_s, s.will_has_expiry, s.will_expiry_s)


cdef void take_expiry(State* x, Session* s) noexcept nogil:
    cdef int64_t most
    s.expiry_s = x.expiry_s if x.expiry_s < s.sessions.expiry_max_s else s.sessions.expiry_max_s
    most = <int64_t> s.expiry_s * 1000
    s.expires_at_ms = 0
    if s.expiry_s != EXPIRY_NEVER:
        s.expires_at_ms = x.now_ms + (x.left_ms if 0 <= x.left_ms < most else most)
        s.expires_at_ms += s.expires_at_ms == 0


cdef void end_here(Session* s) noexcept nogil:
    """Ends a session that lives on elsewhere: nothing of it goes to anybody."""
    cdef Delivery* d
    cdef uint32_t i
    session_drop_will(s)
    for i in range(s.window.cap):
        d = s.window.slots + i
        if d.state != FREE and d.recorded == BY_GROUP:
            record_done(&s.sessions.router.journal, (<Group*> d.share).base.serial, d.position)
            d.recorded = BY_NONE
        d.share = NULL           # its group does not get it back
    session_end(s)


cdef int adopt_session(Sessions* all, State* x, const uint8_t* client_id, uint32_t n) noexcept nogil:
    """1: done; 0: it is in use here; -2: out of memory, nothing changed."""
    cdef Session* s = session_find(all, client_id, n)
    cdef uint64_t first
    cdef bint fresh
    if s != NULL and s.link != NULL:
        return 0
    if s != NULL:
        s = session_due(s, x.now_ms)
    if s != NULL and s.window.used and x.window.used:
        return 0
    fresh = s == NULL
    if fresh:
        s = session_new(all, client_id, n)
        if s == NULL:
            return NO_MEMORY
        take_expiry(x, s)
        s.base.durable = all.router.journal.on and s.expiry_s != 0
        if s.base.durable:
            session_record(s)
    if not merge(x, s) or not subscribe(x, s):
        if fresh:
            end_here(s)
        return NO_MEMORY
    note_subscriptions(x, s)
    first = s.window.last_position
    take_window(x, s, first)
    take_queue(x, s, first)
    take_of_groups(x, s)
    take_received(x, s)
    take_will(x, s)
    take_expiry(x, s)
    s.moving = 0
    if s.base.durable:
        session_record(s)
    timer_cancel(&s.timer)
    session_arm(s)
    return 1


# -- bodies ------------------------------------------------------------------------------------------------------------

cdef int64_t fetch_bodies(Session* s, bint want) noexcept nogil:
    """Takes the bodies that are in memory; returns how many are not, and may still come. -2: out of memory."""
    cdef Journal* j = &s.sessions.router.journal
    cdef Delivery* d
    cdef Member* m = s.memberships
    cdef uint32_t i
    cdef int64_t missing = 0
    for i in range(s.window.cap + s.queue.n):
        d = s.window.slots + i if i < s.window.cap else queue_at(&s.queue, i - s.window.cap)
        if i < s.window.cap and d.state == FREE or not is_away(d) or delivery_fetch(d) or d.stored.lost:
            continue
        missing += 1
        if want and not journal_want(j, d.stored):
            return NO_MEMORY
    while m != NULL:             # theirs have been asked for since the start, and are taken by themselves
        for i in range(m.group.queue.n if is_alone(m.group) else 0):
            d = queue_at(&m.group.queue, i)
            missing += is_away(d) and d.stored.message == NULL and not d.stored.lost
        m = m.next_of_session
    return missing


# -- what Python sees --------------------------------------------------------------------------------------------------

cdef class Moving:
    """Sessions that go to other engines, and come from there. A session is moved while its client is not connected.

    There, `adopt` with the subscriptions alone comes first, so that no message is missed; here, the connection is
    closed, `want` is asked until it says True, and `export` and `drop` follow at once; there, `adopt` again, and once
    the hub has settled the client can be let in.
    """

    def __cinit__(self):
        self.core = NULL
        self._wanted = set()

    cdef Session* _find(self, bytes client_id) except? NULL:
        if self.core == NULL:
            raise RuntimeError("the hub is closed")
        return session_find(&self.core.sessions, <uint8_t*> <char*> client_id, <uint32_t> len(client_id))

    def want(self, bytes client_id not None) -> bool:
        """Whether all that a session holds is in memory; what is only in the store has been asked back when it is not.

        What comes for it from now on stays in memory, until it is exported or its client connects.
        """
        cdef Session* s = self._find(client_id)
        cdef int64_t missing
        if s == NULL:
            return True
        s.moving = s.link == NULL
        missing = fetch_bodies(s, True)
        if missing < 0:
            raise MemoryError("no memory for what is asked back from the store")
        if missing:
            self._wanted.add(client_id)
            core_wake(self.core)
        return missing == 0

    cdef int take_bodies(self) except -1:
        """The store has brought something back, which is gone with this turn unless it is taken."""
        cdef Session* s
        for client_id in list(self._wanted):
            s = self._find(client_id)
            if s == NULL or fetch_bodies(s, False) == 0:
                self._wanted.discard(client_id)
        return 0

    def export(self, bytes client_id not None, bint only_subscriptions=False) -> bytes | None:
        """A session as bytes; None: there is none. RuntimeError: some of it is only in the store, see `want`."""
        cdef Session* s = self._find(client_id)
        cdef Buffer out
        cdef int64_t now
        cdef int failed
        if s == NULL:
            return None
        now = core_clock(self.core)
        if s.link == NULL and s.expires_at_ms and s.expires_at_ms <= now:
            return None          # its timer has not come yet
        memset(&out, 0, sizeof(Buffer))
        with nogil:
            failed = state_write(&out, s, now, not only_subscriptions)
        try:
            if failed == NO_MEMORY:
                raise MemoryError("no memory for the state of a session")
            if failed:
                raise RuntimeError("the store has messages of the session that are not in memory: want them first")
            state = PyBytes_FromStringAndSize(<char*> out.data, <Py_ssize_t> out.size)
        finally:
            free(out.data)
        if not only_subscriptions:
            s.moving = 0
        return state

    def adopt(self, bytes client_id not None, bytes state not None) -> bool:
        """Takes a session's state over, in front of what the session has here already.

        False: its client is connected, or it has something in flight, as the state has. ValueError: it is malformed.
        MemoryError: there is no room for it. Nothing has changed then.
        """
        self._find(client_id)
        cdef State x
        cdef const uint8_t* data = <uint8_t*> <char*> state
        cdef size_t n = len(state)
        cdef const uint8_t* name = <uint8_t*> <char*> client_id
        cdef size_t name_n = len(client_id)
        cdef int done
        if name_n > 65535 or not utf8_valid(name, <uint32_t> name_n):
            raise ValueError("not a client identifier")
        with nogil:
            done = state_read(&x, self.core.router, core_clock(self.core), data, n)
            if done == 0:
                done = adopt_session(&self.core.sessions, &x, name, <uint32_t> name_n)
            state_free(&x)
        if done == MALFORMED_STATE:
            raise ValueError("the state of a session is malformed")
        if done == NO_MEMORY:
            raise MemoryError("no memory for a session")
        core_wake(self.core)
        return done == 1

    def drop(self, bytes client_id not None) -> bool:
        """Ends a session that lives on elsewhere: without its will, and nothing of it goes to others.

        False: there is none, or its client is connected.
        """
        cdef Session* s = self._find(client_id)
        if s == NULL or s.link != NULL:
            return False
        self._wanted.discard(client_id)
        end_here(s)
        core_wake(self.core)
        return True

    def sessions(self) -> list:
        """The client identifiers of all sessions."""
        self._find(b"")
        cdef Session* s
        cdef uint32_t i
        cdef list out = []
        for i in range(table_size(&self.core.sessions.table)):
            s = <Session*> table_at(&self.core.sessions.table, i)
            if s != NULL:
                out.append((<char*> session_id(s))[:s.id_len])
        return out
