# cython: language_level=3, boundscheck=False, wraparound=False
"""See _session.pxd. Rules: MQTT 5, sections 3.1.2.11, 3.3, 4.1, 4.3, 4.4, 4.6, 4.9."""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from fastmq._inflight cimport (
    AWAIT_PUBACK, AWAIT_PUBCOMP, AWAIT_PUBREC, BY_GROUP, BY_NONE, BY_SESSION, Delivery, FREE, Resend,
    delivery_expired, delivery_fetch, delivery_ids, delivery_release, delivery_size, delivery_store_only, is_away,
    queue_at, queue_clear, queue_pop, queue_push, receive_free, records_forget, resend_ids, resend_new,
    window_clear, window_finish, window_get, window_ordered, window_take,
)
from fastmq._journal cimport (
    Journal, REC_ENDED, REC_WILL_GONE, journal_gate, journal_want, record_delivery, record_done,
    record_one, record_session, record_state, record_subscribed, record_will,
)
from fastmq._link cimport SHARE_MIN, link_ack, link_image, link_is_held, link_publish, link_reads
from fastmq._message cimport (
    charge, message_expired, message_ref, message_size, message_store, message_topic, message_unref,
)
from fastmq._retain cimport RetainJob, job_filter, job_free, jobs_have, retained_find
from fastmq._router cimport Pub, message_parts, pub_message, router_full, router_publish
from fastmq._share cimport (
    Group, group_drain, group_give_back, group_keep, group_leave, group_online, group_pull, group_record, groups_free,
    member_load,
)
from fastmq._table cimport table_at, table_drop, table_free, table_put, table_room, table_seek, table_size
from fastmq._terms cimport terms_wait
from fastmq._trie cimport Subscription, trie_find_owned, trie_remove_all
from fastmq._user cimport user_set, users_free
from fastmq._wait cimport waits_forget
from fastmq._wheel cimport timer_arm, timer_cancel
from fastmq._wire cimport PACKET_ID_NOT_FOUND, Publish, hash_bytes


cdef enum:
    AHEAD = 4096                 # queued messages whose bodies are asked back from the store at a time
    AHEAD_BYTES = 1048576        # of one client; less when memory is full


# -- delivery ----------------------------------------------------------------------------------------------------------

cdef void session_drop(Session* s, uint64_t* why) noexcept nogil:
    why[0] += 1
    s.dropped += 1
    s.sessions.router.stats.publish_dropped += 1


cdef void record_flight(Session* s, Delivery* d, const Delivery* queued) noexcept nogil:
    """Writes down that a delivery is in flight: under its session, or under its group when the session may not last."""
    cdef Journal* j = &s.sessions.router.journal
    cdef Group* g = <Group*> d.share
    cdef uint8_t recorded = queued.recorded if queued != NULL else <uint8_t> BY_NONE
    if not j.on:
        return
    if s.base.durable:
        if recorded == BY_SESSION:
            d.recorded = BY_SESSION
            record_state(j, s.base.serial, d.position, d.state, d.packet_id)
            return
        if message_store(j, d.message) != NULL:
            d.recorded = BY_SESSION
            record_delivery(j, s.base.serial, d.position, d.message.stored.id, d.qos, d.retain, d.state, d.packet_id,
                            d.ids + 1 if d.ids != NULL else &d.id, d.ids[0] if d.ids != NULL else d.id != 0)
        if recorded == BY_GROUP:
            record_done(j, g.base.serial, queued.position)
    elif g != NULL and recorded == BY_GROUP:
        d.recorded = BY_GROUP
        d.position = queued.position
    elif g != NULL and g.base.durable:
        g.last_position += 1
        d.position = g.last_position
        group_record(g, d)


cdef inline void record_over(Session* s, Delivery* d) noexcept nogil:
    """Writes down that a delivery is over."""
    if d.recorded == BY_SESSION:
        record_done(&s.sessions.router.journal, s.base.serial, d.position)
    elif d.recorded == BY_GROUP:
        record_done(&s.sessions.router.journal, (<Group*> d.share).base.serial, d.position)
    d.recorded = BY_NONE


cdef inline void finish(Session* s, Delivery* d) noexcept nogil:
    """Ends a flight."""
    record_over(s, d)
    window_finish(&s.window, d)


cdef bint session_send(
    Session* s, const Publish* p, Message* m, uint8_t qos, bint retain, const uint32_t* ids, uint32_t n_ids,
    void* share, const Delivery* queued
) noexcept nogil:
    """Puts a QoS 1 or 2 message in flight. False: the window is full (nothing was done).

    `queued` is its place in the queue that it comes from, the session's own or that of the group `share`, or NULL.
    """
    cdef uint64_t gate = 0
    cdef Delivery* d = window_take(
        &s.window, s.send_max, queued.position if queued != NULL and share == NULL else 0)
    if d == NULL:
        return False
    if not delivery_ids(d, ids, n_ids):
        session_drop(s, &s.sessions.router.stats.dropped_memory)
        window_finish(&s.window, d)
        return True
    d.message = message_ref(m)
    d.share = share
    d.qos = qos
    d.retain = retain
    d.state = AWAIT_PUBACK if qos == 1 else AWAIT_PUBREC
    if s.base.durable or share != NULL:
        record_flight(s, d, queued)
        if qos == 2 and d.recorded == BY_SESSION:
            # Its packet id must be the same after a crash, else the client would take the message twice, or not at all.
            gate = journal_gate(&s.sessions.router.journal)
    if not link_publish(s.link, p, m, qos, retain, False, d.packet_id, ids, n_ids, m.hash, gate) and not s.link.broken:
        finish(s, d)             # larger than the client allows: as if it had been delivered [MQTT-3.1.2-25]
    return True


cdef void enqueue(Session* s, Message* m, uint8_t qos, bint retain, const uint32_t* ids, uint32_t n_ids) noexcept nogil:
    cdef Sessions* all = s.sessions
    cdef Journal* j = &all.router.journal
    cdef Delivery* d
    cdef int64_t size
    if m == NULL:
        session_drop(s, &all.router.stats.dropped_memory)
        return
    size = message_size(m)
    while s.queue.n and (s.queue.n >= all.queue_max or s.queue.bytes + size > all.queue_bytes_max):
        session_drop(s, &all.router.stats.dropped_queue_full)
        if not all.drop_oldest:
            return
        d = queue_at(&s.queue, 0)
        s.queue.bytes -= delivery_size(d)
        record_over(s, d)
        delivery_release(d)
        queue_pop(&s.queue)
    d = queue_push(&s.queue)
    if d == NULL or not delivery_ids(d, ids, n_ids):
        if d != NULL:
            s.queue.n -= 1
        session_drop(s, &all.router.stats.dropped_memory)
        return
    d.message = message_ref(m)
    d.qos = qos
    d.retain = retain
    s.window.last_position += 1
    d.position = s.window.last_position
    s.queue.bytes += size
    if s.base.durable and message_store(j, m) != NULL:
        d.recorded = BY_SESSION
        record_delivery(j, s.base.serial, d.position, m.stored.id, qos, retain, 0, 0, ids, n_ids)
        if s.link == NULL and not s.moving:
            delivery_store_only(d)


cdef inline void ask_to_wait(Session* s) noexcept nogil:
    """A subscriber that lags but drains holds its publishers back for a moment instead of losing messages."""
    cdef Sessions* all = s.sessions
    if s.link.slow or link_is_held(s.link):
        return
    if (
        s.link.out_bytes > all.wire.out_soft or s.queue.n > all.queue_soft or s.queue.bytes > all.queue_bytes_soft
    ):
        all.router.congested = s.link


cdef void session_deliver(
    Subscriber* self, Pub* pub, uint8_t sub_qos, bint retain, const uint32_t* ids, uint32_t n_ids
) noexcept nogil:
    cdef Session* s = <Session*> self
    cdef Link* l = s.link
    cdef Router* r = s.sessions.router
    cdef Message* m
    cdef uint8_t qos = pub.parts.qos if pub.parts.qos < sub_qos else sub_qos  # [MQTT-3.8.4-8]
    if not link_reads(s.link, pub.parts.topic, pub.parts.topic_len):
        r.stats.delivery_denied += 1
        return
    if qos == 0:
        if l == NULL:
            if s.sessions.qos0_offline:
                enqueue(s, pub_message(r, pub), 0, retain, ids, n_ids)
            else:
                session_drop(s, &r.stats.dropped_offline)
            return
        if l.out_bytes > l.wire.out_max:
            session_drop(s, &r.stats.dropped_output_full)
            return
        if link_is_held(l):
            session_drop(s, &r.stats.dropped_rate)
            return
        if n_ids or not link_image(l, pub, retain):
            m = pub_message(r, pub) if pub.parts.payload_len >= SHARE_MIN else NULL
            link_publish(l, pub.parts, m, 0, retain, False, 0, ids, n_ids, pub.hash, 0)
        if l.out_bytes > l.wire.out_soft:
            ask_to_wait(s)
        return
    m = pub_message(r, pub)
    if (
        l == NULL or s.queue.n or s.resend != NULL or l.out_bytes > l.wire.out_max or m == NULL or link_is_held(l)
        or not session_send(s, pub.parts, m, qos, retain, ids, n_ids, NULL, NULL)
    ):
        enqueue(s, m, qos, retain, ids, n_ids)
        if l != NULL and l.terms != NULL:
            is_held(s)
    if l != NULL:
        ask_to_wait(s)


cdef int64_t session_load(Subscriber* self) noexcept nogil:
    cdef Session* s = <Session*> self
    if s.link == NULL or s.link.broken or s.queue.n or s.resend != NULL or s.window.used >= s.send_max:
        return -1
    if s.link.terms != NULL and is_held(s):
        return -1
    return -1 if s.link.out_bytes > s.sessions.wire.out_soft else s.window.used


cdef inline uint32_t n_due(const Session* s) noexcept nogil:
    return s.queue.n + (s.resend.n - s.resend.at if s.resend != NULL else 0)


cdef Delivery* due(Session* s, uint32_t i) noexcept nogil:
    """What is due to the client as the i-th, of n_due: first what it has not acknowledged; NULL when it has, since."""
    cdef uint32_t n = s.resend.n - s.resend.at if s.resend != NULL else 0
    if i < n:
        return window_get(&s.window, resend_ids(s.resend)[s.resend.at + i])
    return queue_at(&s.queue, i - n)


cdef void wait(Session* s) noexcept nogil:
    if not s.waiting:
        s.waiting = 1
        s.next_waiting = s.sessions.waiting
        s.sessions.waiting = s


cdef void want_bodies(Session* s) noexcept nogil:
    """Asks the store for the messages that are due next; the session goes on when they are there."""
    cdef Router* r = s.sessions.router
    cdef Delivery* d
    cdef int64_t bytes = 0, bytes_max = 1 if router_full(r) else AHEAD_BYTES
    if s.waiting and due(s, 0).stored.wanted:
        return                   # it is on its way, and so is what follows it
    s.ahead = 0
    while s.ahead < min(n_due(s), AHEAD) and bytes < bytes_max:
        d = due(s, s.ahead)
        s.ahead += 1
        bytes += delivery_size(d) if d != NULL else 0
        if d != NULL and is_away(d):
            journal_want(&r.journal, d.stored)
    s.ahead_low = s.ahead // 2
    wait(s)


cdef bint take_bodies(Session* s) noexcept nogil:
    """Takes what the store has brought back for this session. True: more of what it wants is to come."""
    cdef Delivery* d
    cdef uint32_t i
    cdef bint more = False
    for i in range(min(n_due(s), s.ahead)):
        d = due(s, i)
        if d != NULL and is_away(d) and not delivery_fetch(d) and d.stored.wanted:
            more = True
    return more


cdef bint must_wait(Session* s) noexcept nogil:
    """Whether what is due next to a connected client is still only in the store."""
    cdef Delivery* d = due(s, 0) if s.link != NULL and n_due(s) else NULL
    return d != NULL and is_away(d) and d.stored.message == NULL and not d.stored.lost


cdef void sessions_go_on(Sessions* all) noexcept nogil:
    """Messages have come back from the store: those who waited for them take them, and go on."""
    cdef Session* s = all.waiting
    cdef Session* after
    cdef Session* waiting = NULL
    all.waiting = NULL
    while s != NULL:
        after = s.next_waiting
        if must_wait(s):
            s.next_waiting = all.waiting
            all.waiting = s
        else:
            s.next_waiting = waiting
            waiting = s
        s = after
    while waiting != NULL:
        s, waiting = waiting, waiting.next_waiting
        s.waiting = 0
        if s.link != NULL and take_bodies(s):
            wait(s)
        session_pump(s)          # asks for more, and waits again, if it must


cdef bint pump_resend(Session* s) noexcept nogil:
    """Sends the next of what was in flight when the last connection ended [MQTT-4.4.0-1]. False: it must wait."""
    cdef Resend* again = s.resend
    cdef uint16_t* ids = resend_ids(again)
    cdef Journal* j = &s.sessions.router.journal
    cdef Delivery* d
    cdef Publish p
    if <int64_t> s.window.used - (again.n - again.at) >= s.send_max:
        return False
    d = window_get(&s.window, ids[again.at])
    if d != NULL and is_away(d) and not delivery_fetch(d) and not d.stored.lost:
        want_bodies(s)
        return False
    again.at += 1
    s.ahead -= s.ahead != 0
    if d != NULL:
        if d.state == AWAIT_PUBCOMP:
            link_ack(s.link, 0x62, d.packet_id, 0, journal_gate(j) if d.recorded else 0)
        elif d.message == NULL:
            session_drop(s, &s.sessions.router.stats.dropped_lost)
            finish(s, d)
        elif not link_reads(s.link, message_topic(d.message), d.message.topic_len):
            s.sessions.router.stats.delivery_denied += 1
            give_back_one(s, d)
        else:
            message_parts(d.message, s.sessions.router.now_ms, &p)
            if not link_publish(s.link, &p, d.message, d.qos, d.retain, True, d.packet_id,
                                d.ids + 1 if d.ids != NULL else &d.id,
                                d.ids[0] if d.ids != NULL else d.id != 0, d.message.hash,
                                journal_gate(j) if d.qos == 2 and d.recorded else 0) and not s.link.broken:
                finish(s, d)
    if again.at == again.n:
        free(again)
        s.resend = NULL
    return True


cdef bint pump_queue(Session* s) noexcept nogil:
    """Sends the first of the queue. False: the window is full."""
    cdef Delivery* d = queue_at(&s.queue, 0)
    cdef Router* r = s.sessions.router
    cdef Publish p
    cdef const uint32_t* ids = d.ids + 1 if d.ids != NULL else &d.id
    cdef uint32_t n_ids = d.ids[0] if d.ids != NULL else d.id != 0
    if delivery_expired(d, r.now_ms):  # [MQTT-3.3.2-5]
        session_drop(s, &r.stats.dropped_expired)
        record_over(s, d)
    elif d.message == NULL and not delivery_fetch(d):
        if d.stored != NULL and not d.stored.lost:
            want_bodies(s)
            return False
        session_drop(s, &r.stats.dropped_lost)
        record_over(s, d)
    elif not link_reads(s.link, message_topic(d.message), d.message.topic_len):
        r.stats.delivery_denied += 1
        record_over(s, d)
    else:
        message_parts(d.message, r.now_ms, &p)
        if d.qos == 0:
            link_publish(s.link, &p, d.message, 0, d.retain, False, 0, ids, n_ids, d.message.hash, 0)
            record_over(s, d)
        elif not session_send(s, &p, d.message, d.qos, d.retain, ids, n_ids, NULL, d):
            return False
    s.queue.bytes -= delivery_size(d)
    delivery_release(d)
    queue_pop(&s.queue)
    s.ahead -= s.ahead != 0
    if s.ahead <= s.ahead_low and not s.waiting and s.queue.n > s.ahead and is_away(queue_at(&s.queue, s.ahead)):
        want_bodies(s)           # in time: the client has half of them to go on with
    return True


cdef bint pump_groups(Session* s) noexcept nogil:
    """Takes one message from the first of its groups that has one. False: there is none, or no room for it."""
    cdef Member* m = s.memberships
    while m != NULL:
        if m.group.queue.n and member_load(m) >= 0 and group_pull(m.group, m):
            return True
        m = m.next_of_session
    return False


cdef void job_over(Session* s, RetainJob* job) noexcept nogil:
    """Writes down that a subscription's retained messages have all been sent; the job is off the list."""
    cdef uint8_t* filter = job_filter(job)
    cdef Subscription* sub
    if s.base.durable and not jobs_have(s.jobs, filter, job.filter_len):
        sub = trie_find_owned(s.sessions.router.trie, &s.base.owner, filter, job.filter_len)
        if sub != NULL:
            record_subscribed(&s.sessions.router.journal, s.base.serial, filter, job.filter_len, sub.options, sub.id)


cdef bint pump_retained(Session* s) noexcept nogil:
    """Delivers the next retained message of the oldest job. False: the window is full."""
    cdef RetainJob* job = s.jobs
    cdef Router* r = s.sessions.router
    cdef Message* m
    cdef Publish p
    cdef uint8_t qos
    if not job.active:
        job.active = 1
        retained_find(r.retained, job_filter(job), job.filter_len, r.now_ms, &job.found)
    if job.at == job.found.n:
        s.jobs = job.next
        job_over(s, job)
        job_free(job)
        return True
    m = job.found.messages[job.at]
    # If it is not current, its successor was delivered as a new message.
    if m.current and not message_expired(m, r.now_ms) and link_reads(s.link, message_topic(m), m.topic_len):
        message_parts(m, r.now_ms, &p)
        qos = m.qos if m.qos < job.qos else job.qos
        if qos == 0:
            link_publish(s.link, &p, m, 0, True, False, 0, &job.id, job.id != 0, m.hash, 0)
        elif not session_send(s, &p, m, qos, True, &job.id, job.id != 0, NULL, NULL):
            return False
    job.at += 1
    message_unref(m)
    return True


cdef bint is_held(Session* s) noexcept nogil:
    """Whether the client has been sent as much as it may; then the session's timer goes on as soon as it may again."""
    cdef int64_t now = s.sessions.router.now_ms, wait = terms_wait(s.link.terms, now)
    if wait and session_waiting(s):
        timer_arm(s.sessions.wheel, &s.timer, now + wait)
    return wait != 0


cdef void session_pump(Session* s) noexcept nogil:
    """Sends what waits, as far as the window and the output buffer have room."""
    cdef uint32_t soft = s.sessions.wire.out_soft
    while s.link != NULL and not s.link.broken and s.link.out_bytes < soft:
        if s.link.terms != NULL and is_held(s):
            return
        if s.resend != NULL:
            if not pump_resend(s):
                return
        elif s.queue.n:
            if not pump_queue(s):
                return
        elif s.memberships != NULL and pump_groups(s):
            pass
        elif s.jobs != NULL:
            if not pump_retained(s):
                return
        else:
            return


# -- acknowledgements from the client ----------------------------------------------------------------------------------

cdef bint session_puback(Session* s, uint16_t packet_id) noexcept nogil:
    """Ends a QoS 1 delivery. False: no such packet id is in flight."""
    cdef Delivery* d = window_get(&s.window, packet_id)
    if d == NULL or d.state != AWAIT_PUBACK:
        return False
    finish(s, d)
    if session_waiting(s):
        session_pump(s)
    return True


cdef int session_pubrec(Session* s, uint16_t packet_id, uint8_t reason) noexcept nogil:
    """0: answer with PUBREL; -1: the client refused, delivery is over [MQTT-4.3.3-5]; else the reason for PUBREL."""
    cdef Delivery* d = window_get(&s.window, packet_id)
    if d == NULL or d.state == AWAIT_PUBACK:
        return PACKET_ID_NOT_FOUND
    if d.state == AWAIT_PUBREC:
        if reason >= 0x80:
            finish(s, d)
            if session_waiting(s):
                session_pump(s)
            return -1
        d.state = AWAIT_PUBCOMP
        if d.recorded == BY_SESSION:
            record_state(&s.sessions.router.journal, s.base.serial, d.position, AWAIT_PUBCOMP, packet_id)
        else:
            record_over(s, d)
        delivery_release(d)
    return 0


cdef bint session_pubcomp(Session* s, uint16_t packet_id) noexcept nogil:
    """Ends a QoS 2 delivery. False: no such packet id awaits it."""
    cdef Delivery* d = window_get(&s.window, packet_id)
    if d == NULL or d.state != AWAIT_PUBCOMP:
        return False
    finish(s, d)
    if session_waiting(s):
        session_pump(s)
    return True


# -- life --------------------------------------------------------------------------------------------------------------

cdef Session* session_find(Sessions* all, const uint8_t* client_id, uint32_t n) noexcept nogil:
    cdef uint32_t hash = hash_bytes(client_id, n)
    cdef uint32_t at = hash
    cdef Session* s = <Session*> table_seek(&all.table, hash, &at)
    while s != NULL and not (s.hash == hash and s.id_len == n and memcmp(session_id(s), client_id, n) == 0):
        s = <Session*> table_seek(&all.table, hash, &at)
    return s


cdef Session* session_new(Sessions* all, const uint8_t* client_id, uint32_t n) noexcept nogil:
    """A fresh session under a client id that has none. NULL: out of memory."""
    cdef Session* s
    if not table_room(&all.table):
        return NULL
    s = <Session*> calloc(1, sizeof(Session) + n)
    if s == NULL:
        return NULL
    s.sessions = all
    s.base.owner.self = s
    all.router.last_serial += 1
    s.base.serial = all.router.last_serial
    s.base.deliver = session_deliver
    s.base.load = session_load
    s.window.ledger = &all.router.ledger
    s.queue.ledger = &all.router.ledger
    s.timer.fire = session_timer
    s.timer.self = s
    s.id_len = <uint16_t> n
    s.hash = hash_bytes(client_id, n)
    memcpy(session_id(s), client_id, n)
    table_put(&all.table, s)
    all.router.stats.sessions += 1
    charge(&all.router.ledger, <int64_t> sizeof(Session) + n)
    return s


cdef void session_forget(Session* s) noexcept nogil:
    cdef Sessions* all = s.sessions
    cdef Session** at = &all.waiting
    if s.waiting:
        while at[0] != s:
            at = &at[0].next_waiting
        at[0] = s.next_waiting
    waits_forget(all.router, s.base.serial)
    table_drop(&all.table, s)
    all.router.stats.sessions -= 1
    all.router.ledger.bytes -= <int64_t> sizeof(Session) + s.id_len


cdef void record_will_gone(Session* s) noexcept nogil:
    if s.will_recorded:
        s.will_recorded = 0
        record_one(&s.sessions.router.journal, REC_WILL_GONE, s.base.serial)


cdef void session_drop_will(Session* s) noexcept nogil:
    record_will_gone(s)
    if s.will != NULL:
        message_unref(s.will)
        s.will = NULL
    s.will_at_ms = 0


cdef void publish_will(Session* s) noexcept nogil:
    cdef Message* will = s.will
    cdef Publish p
    s.will = NULL
    s.will_at_ms = 0
    if will == NULL:
        return
    record_will_gone(s)
    message_parts(will, s.sessions.router.now_ms, &p)
    s.sessions.router.publisher = s.user
    p.has_expiry = s.will_has_expiry  # the interval starts when the will is published
    p.expiry_s = s.will_expiry_s
    if p.has_expiry:
        router_publish(s.sessions.router, &p, s.base.serial, NULL)
    else:
        router_publish(s.sessions.router, &p, s.base.serial, will)
    s.sessions.router.congested = s.sessions.router.publisher = NULL  # there is no publisher to wait
    message_unref(will)


cdef void session_attach(Session* s, Link* link) noexcept nogil:
    """The client is connected through `link` now; its delayed will and its expiry are off [MQTT-3.1.3-9]."""
    cdef Member* m = s.memberships
    timer_cancel(&s.timer)
    session_drop_will(s)
    s.expires_at_ms = s.moving = 0
    s.link = link
    link.session = s
    while m != NULL:
        group_online(m.group, 1)
        m = m.next_of_session


cdef void session_record(Session* s) noexcept nogil:
    """Writes down how the session stands."""
    record_session(&s.sessions.router.journal, s.base.serial, session_id(s), s.id_len, s.expiry_s, s.expires_at_ms,
                   s.will_at_ms)


cdef void session_opened(Session* s) noexcept nogil:
    """Its expiry and its will are known: writes down what outlives the connection, or that nothing does any more."""
    cdef Journal* j = &s.sessions.router.journal
    cdef Member* m = s.memberships
    cdef bint durable = j.on and s.expiry_s != 0
    if s.base.durable and not durable:
        give_back(s, True)       # this client may be gone with the process, its groups are not
        records_forget(&s.window, &s.queue)
        record_one(j, REC_ENDED, s.base.serial)
    s.base.durable = durable
    if not durable:
        return
    while m != NULL:
        group_keep(m.group)
        m = m.next_of_session
    session_record(s)
    if s.will != NULL and message_store(j, s.will) != NULL:
        s.will_recorded = 1
        record_will(j, s.base.serial, s.will.stored.id, s.will_delay_s, s.will_has_expiry, s.will_expiry_s)


cdef void session_leave(Session* s, Member* m) noexcept nogil:
    """Ends a membership; what is in flight completes here, as a message of no group."""
    cdef Member** at = &s.memberships
    cdef uint32_t i
    for i in range(s.window.cap):
        if s.window.slots[i].state != FREE and s.window.slots[i].share == m.group:
            if s.window.slots[i].recorded == BY_GROUP:
                record_over(s, s.window.slots + i)
            s.window.slots[i].share = NULL
    while at[0] != m:
        at = &at[0].next_of_session
    at[0] = m.next_of_session
    s.n_memberships -= 1
    if s.link != NULL:
        group_online(m.group, -1)
    group_leave(m.group, m)
    s.sessions.router.ledger.bytes -= <int64_t> sizeof(Member)
    free(m)


cdef void give_back_one(Session* s, Delivery* d) noexcept nogil:
    """Ends a flight here; its group, if it has one, may send the message to others, unless its QoS is 2."""
    if d.recorded == BY_SESSION or d.share == NULL or d.state != AWAIT_PUBACK:
        record_over(s, d)
    if d.share != NULL and d.state == AWAIT_PUBACK:
        group_give_back(<Group*> d.share, d)
    window_finish(&s.window, d)


cdef void give_back(Session* s, bint to_all) noexcept nogil:
    """Returns unacknowledged QoS 1 messages of shared groups: when the session ends, or others are there to take them.

    QoS 2 stays with its member, or dies with it [MQTT-4.8.2-4] [MQTT-4.8.2-5].
    """
    cdef Delivery** flight
    cdef Delivery* d
    cdef Group* g
    cdef uint32_t n
    if s.memberships == NULL or s.window.used == 0:
        return
    flight = <Delivery**> malloc(s.window.used * sizeof(void*))
    if flight == NULL:
        return
    n = window_ordered(&s.window, flight)
    while n:
        n -= 1
        d = flight[n]
        g = <Group*> d.share
        if g != NULL and d.state == AWAIT_PUBACK and d.message != NULL and (to_all or g.online):
            give_back_one(s, d)
    free(flight)


cdef void session_detach(Session* s, bint with_will) noexcept nogil:
    """The connection is over. Ends the session now or starts its timers."""
    cdef Member* m
    cdef RetainJob** at = &s.jobs
    cdef RetainJob* job
    cdef int64_t now = s.sessions.router.now_ms
    cdef uint32_t keep = s.expiry_s
    timer_cancel(&s.timer)
    s.link.session = NULL
    s.link = NULL
    free(s.resend)
    s.resend = NULL
    m = s.memberships
    while m != NULL:
        group_online(m.group, -1)
        m = m.next_of_session
    give_back(s, False)
    m = s.memberships
    while m != NULL:
        group_drain(m.group)
        m = m.next_of_session
    while at[0] != NULL:
        job = at[0]
        if job.qos == 0:
            at[0] = job.next
            job_over(s, job)
            job_free(job)
        else:
            at = &job.next
    if not with_will:
        session_drop_will(s)
    if keep == 0:
        session_end(s)
        return
    if s.will != NULL:
        if s.will_delay_s == 0:
            publish_will(s)
        else:
            s.will_at_ms = now + <int64_t> s.will_delay_s * 1000
    s.expires_at_ms = now + <int64_t> keep * 1000 if keep != EXPIRY_NEVER else 0
    session_arm(s)
    if s.base.durable:
        session_record(s)


cdef void session_arm(Session* s) noexcept nogil:
    """Starts the timer of a session without connection."""
    cdef int64_t due = s.expires_at_ms
    if s.will_at_ms and (due == 0 or s.will_at_ms < due):
        due = s.will_at_ms
    if due:
        timer_arm(s.sessions.wheel, &s.timer, due)


cdef Session* session_due(Session* s, int64_t now_ms) noexcept nogil:
    """Does what is due for a session without connection; NULL when it has ended with that."""
    if s.expires_at_ms and s.expires_at_ms <= now_ms:
        s.sessions.router.stats.sessions_expired += 1
        session_end(s)
        return NULL
    if s.will_at_ms and s.will_at_ms <= now_ms:
        publish_will(s)
    return s


cdef void session_timer(Timer* t, int64_t now_ms) noexcept nogil:
    cdef Session* s = <Session*> t.self
    if s.link != NULL:
        session_pump(s)
        return
    s = session_due(s, now_ms)
    if s != NULL:
        session_arm(s)


cdef void session_end(Session* s) noexcept nogil:
    """Ends the session: its pending will goes out, unfinished shared messages go to others, all else is freed."""
    cdef Member* m
    cdef RetainJob* job
    cdef Group* g
    timer_cancel(&s.timer)
    publish_will(s)
    user_set(&s.sessions.users, &s.user, NULL, 0, s.base.owner.n + s.n_memberships)
    give_back(s, True)
    while s.memberships != NULL:
        m = s.memberships
        g = m.group
        if g.n > 1:
            session_leave(s, m)
            group_drain(g)
        else:
            session_leave(s, m)
    if s.base.durable:
        record_one(&s.sessions.router.journal, REC_ENDED, s.base.serial)
    trie_remove_all(s.sessions.router.trie, &s.base.owner)
    window_clear(&s.window)
    queue_clear(&s.queue)
    receive_free(s.received)
    free(s.resend)
    while s.jobs != NULL:
        job = s.jobs
        s.jobs = job.next
        job_free(job)
    session_forget(s)
    free(s)


cdef void session_resume(Session* s) noexcept nogil:
    """Called once CONNACK is written: redelivers what was in flight, then what waits."""
    if s.window.used:
        s.resend = resend_new(&s.window)
        if s.resend == NULL:
            s.link.broken = 1
            return
    session_pump(s)


cdef void sessions_free(Sessions* all) noexcept nogil:
    """Ends every session without publishing wills: the broker stops."""
    cdef uint32_t i
    cdef Session* s
    for i in range(table_size(&all.table)):
        while table_at(&all.table, i) != NULL:  # another may have moved into the slot
            s = <Session*> table_at(&all.table, i)
            session_drop_will(s)
            s.link = NULL
            session_end(s)
    table_free(&all.table)
    users_free(&all.users)
    groups_free(all.groups)
