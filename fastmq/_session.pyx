# cython: language_level=3, boundscheck=False, wraparound=False
"""See _session.pxd. Rules: MQTT 5, sections 3.1.2.11, 3.3, 4.1, 4.3, 4.4, 4.6, 4.9."""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from fastmq._inflight cimport (
    AWAIT_PUBACK, AWAIT_PUBCOMP, AWAIT_PUBREC, Delivery, FREE, delivery_ids, delivery_release, queue_at, queue_clear,
    queue_pop, queue_push, receive_free, window_clear, window_finish, window_get, window_ordered, window_take,
)
from fastmq._link cimport SHARE_MIN, link_ack, link_image, link_publish
from fastmq._message cimport charge, message_expired, message_ref, message_size, message_unref
from fastmq._retain cimport retained_find, retained_get
from fastmq._router cimport Pub, message_parts, pub_message, router_publish
from fastmq._share cimport (
    Group, group_drain, group_find, group_give_back, group_join, group_leave, group_make, group_pull, groups_free,
    share_prefix,
)
from fastmq._table cimport (
    table_at, table_drop, table_free, table_init, table_put, table_room, table_seek, table_size,
)
from fastmq._trie cimport (
    OPT_QOS, OPT_RETAIN_AS_PUBLISHED, OPT_RETAIN_HANDLING, Subscription, trie_add, trie_find_owned, trie_remove,
    trie_remove_all,
)
from fastmq._wheel cimport timer_arm, timer_cancel
from fastmq._wire cimport PACKET_ID_NOT_FOUND, Publish, QUOTA_EXCEEDED, hash_bytes


# -- delivery ----------------------------------------------------------------------------------------------------------

cdef inline void drop(Session* s, uint64_t* why) noexcept nogil:
    why[0] += 1
    s.dropped += 1
    s.sessions.router.stats.publish_dropped += 1


cdef bint send(
    Session* s, const Publish* p, Message* m, uint8_t qos, bint retain, const uint32_t* ids, uint32_t n_ids, void* share
) noexcept nogil:
    """Puts a QoS 1 or 2 message in flight. False: the window is full (nothing was done)."""
    cdef Delivery* d = window_take(&s.window, s.send_max)
    if d == NULL:
        return False
    if not delivery_ids(d, ids, n_ids):
        drop(s, &s.sessions.router.stats.dropped_memory)
        window_finish(&s.window, d)
        return True
    d.message = message_ref(m)
    d.share = share
    d.qos = qos
    d.retain = retain
    d.state = AWAIT_PUBACK if qos == 1 else AWAIT_PUBREC
    if not link_publish(s.link, p, m, qos, retain, False, d.packet_id, ids, n_ids, m.hash) and not s.link.broken:
        window_finish(&s.window, d)  # larger than the client allows: as if it had been delivered [MQTT-3.1.2-25]
    return True


cdef void enqueue(
    Session* s, Message* m, uint8_t qos, bint retain, const uint32_t* ids, uint32_t n_ids
) noexcept nogil:
    cdef Sessions* all = s.sessions
    cdef Delivery* d
    cdef int64_t size
    if m == NULL:
        drop(s, &all.router.stats.dropped_memory)
        return
    size = message_size(m)
    while s.queue.n and (s.queue.n >= all.queue_max or s.queue.bytes + size > all.queue_bytes_max):
        drop(s, &all.router.stats.dropped_queue_full)
        if not all.drop_oldest:
            return
        d = queue_at(&s.queue, 0)
        s.queue.bytes -= message_size(d.message)
        delivery_release(d)
        queue_pop(&s.queue)
    d = queue_push(&s.queue)
    if d == NULL or not delivery_ids(d, ids, n_ids):
        if d != NULL:
            s.queue.n -= 1
        drop(s, &all.router.stats.dropped_memory)
        return
    d.message = message_ref(m)
    d.qos = qos
    d.retain = retain
    s.queue.bytes += size


cdef inline void ask_to_wait(Session* s) noexcept nogil:
    """A subscriber that lags but drains holds its publishers back for a moment instead of losing messages."""
    cdef Sessions* all = s.sessions
    if s.link.slow:
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
    if qos == 0:
        if l == NULL:
            if s.sessions.qos0_offline:
                enqueue(s, pub_message(r, pub), 0, retain, ids, n_ids)
            else:
                drop(s, &r.stats.dropped_offline)
            return
        if l.out_bytes > l.wire.out_max:
            drop(s, &r.stats.dropped_output_full)
            return
        if n_ids or not link_image(l, pub, retain):
            m = pub_message(r, pub) if pub.parts.payload_len >= SHARE_MIN else NULL
            link_publish(l, pub.parts, m, 0, retain, False, 0, ids, n_ids, pub.hash)
        if l.out_bytes > l.wire.out_soft:
            ask_to_wait(s)
        return
    m = pub_message(r, pub)
    if (
        l == NULL or s.queue.n or s.resend != NULL or l.out_bytes > l.wire.out_max or m == NULL
        or not send(s, pub.parts, m, qos, retain, ids, n_ids, NULL)
    ):
        enqueue(s, m, qos, retain, ids, n_ids)
    if l != NULL:
        ask_to_wait(s)


cdef int64_t session_load(Subscriber* self) noexcept nogil:
    cdef Session* s = <Session*> self
    if s.link == NULL or s.link.broken or s.queue.n or s.resend != NULL or s.window.used >= s.send_max:
        return -1
    return -1 if s.link.out_bytes > s.sessions.wire.out_soft else s.window.used


cdef void session_take(Subscriber* self, const Publish* p, Message* m, uint8_t qos, Member* by) noexcept nogil:
    """One message from a shared group; session_load has just said that it fits."""
    cdef Session* s = <Session*> self
    cdef bint retain = p.retain and by.retain_as_published
    if qos == 0:
        link_publish(s.link, p, m, 0, retain, False, 0, &by.id, by.id != 0, hash_bytes(p.topic, p.topic_len))
    elif m == NULL or not send(s, p, m, qos, retain, &by.id, by.id != 0, by.group):
        drop(s, &s.sessions.router.stats.dropped_memory)


cdef bint pump_resend(Session* s) noexcept nogil:
    """Sends the next of what was in flight when the last connection ended [MQTT-4.4.0-1]. False: it must wait."""
    cdef Resend* again = s.resend
    cdef uint16_t* ids = <uint16_t*> (<uint8_t*> again + sizeof(Resend))
    cdef Delivery* d
    cdef Publish p
    if <int64_t> s.window.used - (again.n - again.at) >= s.send_max:
        return False
    d = window_get(&s.window, ids[again.at])
    again.at += 1
    if d != NULL:
        if d.state == AWAIT_PUBCOMP:
            link_ack(s.link, 0x62, d.packet_id, 0)
        else:
            message_parts(d.message, s.sessions.router.now_ms, &p)
            if not link_publish(s.link, &p, d.message, d.qos, d.retain, True, d.packet_id,
                                d.ids + 1 if d.ids != NULL else &d.id,
                                d.ids[0] if d.ids != NULL else d.id != 0, d.message.hash) and not s.link.broken:
                window_finish(&s.window, d)
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
    if message_expired(d.message, r.now_ms):  # [MQTT-3.3.2-5]
        drop(s, &r.stats.dropped_expired)
    else:
        message_parts(d.message, r.now_ms, &p)
        if d.qos == 0:
            link_publish(s.link, &p, d.message, 0, d.retain, False, 0, ids, n_ids, d.message.hash)
        elif not send(s, &p, d.message, d.qos, d.retain, ids, n_ids, NULL):
            return False
    s.queue.bytes -= message_size(d.message)
    delivery_release(d)
    queue_pop(&s.queue)
    return True


cdef bint pump_groups(Session* s) noexcept nogil:
    """Takes one message from the first of its groups that has one. False: there is none, or no room for it."""
    cdef Member* m = s.memberships
    while m != NULL:
        if m.group.queue.n and session_load(&s.base) >= 0 and group_pull(m.group, m):
            return True
        m = m.next_of_session
    return False


cdef void job_free(RetainJob* job) noexcept nogil:
    while job.at < job.found.n:
        message_unref(job.found.messages[job.at])
        job.at += 1
    free(job.found.messages)
    free(job)


cdef bint pump_retained(Session* s) noexcept nogil:
    """Delivers the next retained message of the oldest job. False: the window is full."""
    cdef RetainJob* job = s.jobs
    cdef Router* r = s.sessions.router
    cdef Message* m
    cdef Publish p
    cdef uint8_t qos
    if not job.active:
        job.active = 1
        retained_find(r.retained, <uint8_t*> job + sizeof(RetainJob), job.filter_len, r.now_ms, &job.found)
    if job.at == job.found.n:
        s.jobs = job.next
        job_free(job)
        return True
    m = job.found.messages[job.at]
    if m.current and not message_expired(m, r.now_ms):  # else its successor was delivered as a new message
        message_parts(m, r.now_ms, &p)
        qos = m.qos if m.qos < job.qos else job.qos
        if qos == 0:
            link_publish(s.link, &p, m, 0, True, False, 0, &job.id, job.id != 0, m.hash)
        elif not send(s, &p, m, qos, True, &job.id, job.id != 0, NULL):
            return False
    job.at += 1
    message_unref(m)
    return True


cdef void session_pump(Session* s) noexcept nogil:
    """Sends what waits, as far as the window and the output buffer have room."""
    cdef uint32_t soft = s.sessions.wire.out_soft
    while s.link != NULL and not s.link.broken and s.link.out_bytes < soft:
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
    window_finish(&s.window, d)
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
            window_finish(&s.window, d)
            if session_waiting(s):
                session_pump(s)
            return -1
        delivery_release(d)
        d.state = AWAIT_PUBCOMP
    return 0


cdef bint session_pubcomp(Session* s, uint16_t packet_id) noexcept nogil:
    """Ends a QoS 2 delivery. False: no such packet id awaits it."""
    cdef Delivery* d = window_get(&s.window, packet_id)
    if d == NULL or d.state != AWAIT_PUBCOMP:
        return False
    window_finish(&s.window, d)
    if session_waiting(s):
        session_pump(s)
    return True


# -- subscriptions -----------------------------------------------------------------------------------------------------

cdef Member* membership(Session* s, const uint8_t* text, uint32_t n) noexcept nogil:
    cdef Group* g = group_find(s.sessions.groups, text, n)
    cdef Member* m = s.memberships
    while m != NULL and (g == NULL or m.group != g):
        m = m.next_of_session
    return m


cdef int share(Session* s, const uint8_t* text, uint32_t n, uint32_t filter_at, uint8_t options,
               uint32_t id) noexcept nogil:
    cdef Member* m = membership(s, text, n)
    cdef Group* g
    if m == NULL:
        m = <Member*> calloc(1, sizeof(Member))
        g = group_find(s.sessions.groups, text, n)
        if m != NULL and g == NULL:
            g = group_make(s.sessions.groups, text, n, filter_at)
        if m == NULL or g == NULL or not group_join(g, m):
            free(m)
            return QUOTA_EXCEEDED
        m.who = &s.base
        m.take = session_take
        m.next_of_session = s.memberships
        s.memberships = m
        s.n_memberships += 1
        g.online += s.link != NULL
    m.qos = options & OPT_QOS
    m.retain_as_published = (options & OPT_RETAIN_AS_PUBLISHED) != 0
    m.id = id
    return options & OPT_QOS


cdef void add_job(Session* s, const uint8_t* filter, uint32_t n, uint8_t qos, uint32_t id) noexcept nogil:
    cdef RetainJob** at = &s.jobs
    cdef RetainJob* job
    while at[0] != NULL:
        job = at[0]
        if not job.active and job.filter_len == n and memcmp(<uint8_t*> job + sizeof(RetainJob), filter, n) == 0:
            job.qos = qos
            job.id = id
            return
        at = &job.next
    job = <RetainJob*> calloc(1, sizeof(RetainJob) + n)
    if job == NULL:
        drop(s, &s.sessions.router.stats.dropped_memory)
        return
    job.qos = qos
    job.id = id
    job.filter_len = n
    memcpy(<uint8_t*> job + sizeof(RetainJob), filter, n)
    at[0] = job


cdef int session_subscribe(Session* s, const uint8_t* filter, uint32_t n, uint8_t options, uint32_t id) noexcept nogil:
    """Subscribes to a filter that has been checked. Returns the reason code: the granted QoS, or why not.

    Retained messages are not sent here but by the next pump, so that SUBACK leaves before them.
    """
    cdef Sessions* all = s.sessions
    cdef uint32_t shared = share_prefix(filter, n), i
    cdef uint8_t handling = (options & OPT_RETAIN_HANDLING) >> 4
    cdef bint is_new, wildcard = False
    if all.subscriptions_max and s.base.owner.n + s.n_memberships >= all.subscriptions_max:
        if membership(s, filter, n) == NULL if shared else (
            trie_find_owned(all.router.trie, &s.base.owner, filter, n) == NULL
        ):
            return QUOTA_EXCEEDED
    if shared:
        return share(s, filter, n, shared, options, id)
    if trie_add(all.router.trie, &s.base.owner, filter, n, options, id, &is_new) == NULL:
        return QUOTA_EXCEEDED
    if all.router.retained.count and (handling == 0 or (handling == 1 and is_new)):  # [MQTT-3.3.1-9..11]
        for i in range(n):
            wildcard = wildcard or filter[i] == b"+" or filter[i] == b"#"
        if wildcard or retained_get(all.router.retained, filter, n, all.router.now_ms) != NULL:
            add_job(s, filter, n, options & OPT_QOS, id)
    return options & OPT_QOS


cdef void leave(Session* s, Member* m) noexcept nogil:
    cdef Member** at = &s.memberships
    cdef uint32_t i
    for i in range(s.window.cap):  # what is in flight completes here, as a message of no group
        if s.window.slots[i].state != FREE and s.window.slots[i].share == m.group:
            s.window.slots[i].share = NULL
    while at[0] != m:
        at = &at[0].next_of_session
    at[0] = m.next_of_session
    s.n_memberships -= 1
    if s.link != NULL:
        m.group.online -= 1
    group_leave(m.group, m)
    free(m)


cdef void drop_jobs(Session* s, const uint8_t* filter, uint32_t n) noexcept nogil:
    """Sends no more retained messages for a filter that is no longer subscribed."""
    cdef RetainJob** at = &s.jobs
    cdef RetainJob* job
    while at[0] != NULL:
        job = at[0]
        if job.filter_len == n and memcmp(<uint8_t*> job + sizeof(RetainJob), filter, n) == 0:
            at[0] = job.next
            job_free(job)
        else:
            at = &job.next


cdef bint session_unsubscribe(Session* s, const uint8_t* filter, uint32_t n) noexcept nogil:
    """False: there was no such subscription."""
    cdef Subscription* sub
    cdef Member* m
    if share_prefix(filter, n):
        m = membership(s, filter, n)
        if m == NULL:
            return False
        leave(s, m)
        return True
    sub = trie_find_owned(s.sessions.router.trie, &s.base.owner, filter, n)
    if sub == NULL:
        return False
    trie_remove(s.sessions.router.trie, sub)
    drop_jobs(s, filter, n)
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
    table_drop(&all.table, s)
    all.router.stats.sessions -= 1
    all.router.ledger.bytes -= <int64_t> sizeof(Session) + s.id_len


cdef void session_drop_will(Session* s) noexcept nogil:
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
    message_parts(will, s.sessions.router.now_ms, &p)
    p.has_expiry = s.will_has_expiry  # the interval starts when the will is published
    p.expiry_s = s.will_expiry_s
    if p.has_expiry:
        router_publish(s.sessions.router, &p, s.base.serial, NULL)
    else:
        router_publish(s.sessions.router, &p, s.base.serial, will)
    s.sessions.router.congested = NULL  # there is no publisher to wait
    message_unref(will)


cdef void session_attach(Session* s, Link* link) noexcept nogil:
    """The client is connected through `link` now; its delayed will and its expiry are off [MQTT-3.1.3-9]."""
    cdef Member* m = s.memberships
    timer_cancel(&s.timer)
    session_drop_will(s)
    s.expires_at_ms = 0
    s.link = link
    link.session = s
    while m != NULL:
        m.group.online += 1
        m = m.next_of_session


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
        if g != NULL and d.state == AWAIT_PUBACK and (to_all or g.online):
            group_give_back(g, d)
            window_finish(&s.window, d)
    free(flight)


cdef void session_detach(Session* s, bint with_will) noexcept nogil:
    """The connection is over. Ends the session now or starts its timers."""
    cdef Member* m
    cdef RetainJob** at = &s.jobs
    cdef RetainJob* job
    cdef int64_t now = s.sessions.router.now_ms
    cdef uint32_t keep = s.expiry_s
    s.link.session = NULL
    s.link = NULL
    free(s.resend)
    s.resend = NULL
    m = s.memberships
    while m != NULL:
        m.group.online -= 1
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
    arm(s)


cdef void arm(Session* s) noexcept nogil:
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
    cdef Session* s = session_due(<Session*> t.self, now_ms)
    if s != NULL:
        arm(s)


cdef void session_end(Session* s) noexcept nogil:
    """Ends the session: its pending will goes out, unfinished shared messages go to others, all else is freed."""
    cdef Member* m
    cdef RetainJob* job
    cdef Group* g
    timer_cancel(&s.timer)
    publish_will(s)
    give_back(s, True)
    while s.memberships != NULL:
        m = s.memberships
        g = m.group
        if g.n > 1:
            leave(s, m)
            group_drain(g)
        else:
            leave(s, m)
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
    cdef Delivery** flight
    cdef uint16_t* ids
    cdef uint32_t i, n
    if s.window.used:
        flight = <Delivery**> malloc(s.window.used * sizeof(void*))
        s.resend = <Resend*> malloc(sizeof(Resend) + s.window.used * sizeof(uint16_t))
        if flight == NULL or s.resend == NULL:
            free(flight)
            free(s.resend)
            s.resend = NULL
            s.link.broken = 1
            return
        n = window_ordered(&s.window, flight)
        ids = <uint16_t*> (<uint8_t*> s.resend + sizeof(Resend))
        for i in range(n):
            ids[i] = flight[i].packet_id
        s.resend.n = n
        s.resend.at = 0
        free(flight)
    session_pump(s)


cdef void sessions_init(Sessions* all, Router* router, Wheel* wheel, Wire* wire, Groups* groups) noexcept nogil:
    all.router = router
    all.wheel = wheel
    all.wire = wire
    all.groups = groups
    table_init(&all.table, <uint32_t> <size_t> &(<Session*> NULL).hash, &router.ledger.bytes)


cdef void sessions_free(Sessions* all) noexcept nogil:
    """Ends every session without publishing wills: the broker stops."""
    cdef uint32_t i
    cdef Session* s
    for i in range(table_size(&all.table)):
        while True:              # another may have moved into the slot
            s = <Session*> table_at(&all.table, i)
            if s == NULL:
                break
            session_drop_will(s)
            s.link = NULL
            session_end(s)
    table_free(&all.table)
    groups_free(all.groups)
