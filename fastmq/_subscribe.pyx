# cython: language_level=3, boundscheck=False, wraparound=False
"""See _subscribe.pxd. Rules: MQTT 5, sections 3.8, 3.10 and 4.8.2."""
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from fastmq._access cimport guard_subscribe, is_allowed
from fastmq._inflight cimport Delivery
from fastmq._journal cimport REC_UNSUBSCRIBED, record_subscribed, record_text
from fastmq._link cimport link_publish
from fastmq._message cimport Message, charge
from fastmq._retain cimport RetainJob, job_filter, job_free, jobs_have, retained_get
from fastmq._session cimport RETAINED_DUE, Sessions, session_drop, session_leave, session_send
from fastmq._router cimport Subscriber
from fastmq._share cimport (
    Group, Member, group_find, group_join, group_keep, group_make, group_online, group_text, share_prefix,
)
from fastmq._terms cimport terms_reach
from fastmq._trie cimport (
    OPT_QOS, OPT_RETAIN_AS_PUBLISHED, OPT_RETAIN_HANDLING, Subscription, trie_add, trie_find_owned, trie_remove,
)
from fastmq._wire cimport Publish, QUOTA_EXCEEDED, hash_bytes


# -- subscriptions -----------------------------------------------------------------------------------------------------

cdef Member* membership(Session* s, const uint8_t* text, uint32_t n) noexcept nogil:
    cdef Group* g = group_find(s.sessions.groups, text, n)
    cdef Member* m = s.memberships
    while m != NULL and (g == NULL or m.group != g):
        m = m.next_of_session
    return m


cdef void session_take(
    Subscriber* self, const Publish* p, Message* m, uint8_t qos, Member* by, const Delivery* queued
) noexcept nogil:
    """One message from a shared group; session_load has just said that it fits."""
    cdef Session* s = <Session*> self
    cdef bint retain = p.retain and by.retain_as_published
    if qos == 0:
        link_publish(s.link, p, m, 0, retain, False, 0, &by.id, by.id != 0, hash_bytes(p.topic, p.topic_len), 0)
    elif m == NULL or not session_send(s, p, m, qos, retain, &by.id, by.id != 0, by.group, queued):
        session_drop(s, &s.sessions.router.stats.dropped_memory)


cdef void session_bar(Session* s) noexcept nogil:
    """Memberships that its client's access list or mount point does not allow get nothing as long as that is so."""
    cdef Member* m = s.memberships
    cdef const uint8_t* filter
    cdef uint32_t n
    while m != NULL:
        m.barred = 0
        filter = group_text(m.group) + m.group.filter_at
        n = m.group.name_len - m.group.filter_at
        if s.link != NULL and s.link.terms != NULL:
            m.barred = not terms_reach(s.link.terms, filter, n)
        if s.link != NULL and s.link.guard.list != NULL and not m.barred:
            m.barred = not is_allowed(guard_subscribe(&s.link.guard, filter, n, m.qos, True))
        m = m.next_of_session


cdef Member* session_share(
    Session* s, const uint8_t* text, uint32_t n, uint32_t filter_at, uint8_t options, uint32_t id
) noexcept nogil:
    """Makes the session a member of a shared group, or changes what it asked of it. NULL: out of memory."""
    cdef Member* m = membership(s, text, n)
    cdef Group* g = group_find(s.sessions.groups, text, n)
    if m == NULL:
        m = <Member*> calloc(1, sizeof(Member))
        if m != NULL and g == NULL:
            g = group_make(s.sessions.groups, text, n, filter_at, 0)
        if m == NULL or g == NULL or not group_join(g, m):
            free(m)
            return NULL
        charge(&s.sessions.router.ledger, <int64_t> sizeof(Member))
        m.who = &s.base
        m.take = session_take
        m.next_of_session = s.memberships
        s.memberships = m
        s.n_memberships += 1
        group_online(g, s.link != NULL)
    m.qos = options & OPT_QOS
    m.retain_as_published = (options & OPT_RETAIN_AS_PUBLISHED) != 0
    m.id = id
    if s.base.durable:
        group_keep(g)
    return m


cdef void session_add_job(Session* s, const uint8_t* filter, uint32_t n, uint8_t qos, uint32_t id) noexcept nogil:
    cdef RetainJob** at = &s.jobs
    cdef RetainJob* job
    while at[0] != NULL:
        job = at[0]
        if not job.active and job.filter_len == n and memcmp(job_filter(job), filter, n) == 0:
            job.qos = qos
            job.id = id
            return
        at = &job.next
    job = <RetainJob*> calloc(1, sizeof(RetainJob) + n)
    if job == NULL:
        s.sessions.router.stats.dropped_memory += 1
        s.sessions.router.stats.publish_dropped += 1
        s.dropped += 1
        return
    job.qos = qos
    job.id = id
    job.filter_len = n
    memcpy(job_filter(job), filter, n)
    at[0] = job


cdef inline void count(Session* s, uint32_t before) noexcept nogil:
    """Its user has as many subscriptions more as it has itself."""
    if s.user != NULL:
        s.user.subscriptions += s.base.owner.n + s.n_memberships - before


cdef int session_subscribe(Session* s, const uint8_t* filter, uint32_t n, uint8_t options, uint32_t id) noexcept nogil:
    """Subscribes to a filter that has been checked. Returns the reason code: the granted QoS, or why not.

    Retained messages are not sent here but by the next pump, so that SUBACK leaves before them.
    """
    cdef Sessions* all = s.sessions
    cdef uint32_t shared = share_prefix(filter, n), i
    cdef uint8_t handling = (options & OPT_RETAIN_HANDLING) >> 4
    cdef bint is_new, wildcard = False, due
    cdef uint32_t before = s.base.owner.n + s.n_memberships
    if (all.subscriptions_max and before >= all.subscriptions_max) or (
        all.users.subscriptions_max and s.user != NULL and s.user.subscriptions >= all.users.subscriptions_max
    ):
        if membership(s, filter, n) == NULL if shared else (
            trie_find_owned(all.router.trie, &s.base.owner, filter, n) == NULL
        ):
            return QUOTA_EXCEEDED
    if shared:
        if session_share(s, filter, n, shared, options, id) == NULL:
            return QUOTA_EXCEEDED
        count(s, before)
        if s.base.durable:
            record_subscribed(&all.router.journal, s.base.serial, filter, n, options, id)
        return options & OPT_QOS
    if trie_add(all.router.trie, &s.base.owner, filter, n, options, id, &is_new) == NULL:
        return QUOTA_EXCEEDED
    count(s, before)
    if all.router.retained.count and (handling == 0 or (handling == 1 and is_new)):  # [MQTT-3.3.1-9..11]
        for i in range(n):
            wildcard = wildcard or filter[i] == b"+" or filter[i] == b"#"
        if wildcard or retained_get(all.router.retained, filter, n, all.router.now_ms) != NULL:
            session_add_job(s, filter, n, options & OPT_QOS, id)
    if s.base.durable:
        due = jobs_have(s.jobs, filter, n)  # of this subscription, or of the one that it replaces
        record_subscribed(&all.router.journal, s.base.serial, filter, n, options | (RETAINED_DUE if due else 0), id)
    return options & OPT_QOS


cdef void drop_jobs(Session* s, const uint8_t* filter, uint32_t n) noexcept nogil:
    """Sends no more retained messages for a filter that is no longer subscribed."""
    cdef RetainJob** at = &s.jobs
    cdef RetainJob* job
    while at[0] != NULL:
        job = at[0]
        if job.filter_len == n and memcmp(job_filter(job), filter, n) == 0:
            at[0] = job.next
            job_free(job)
        else:
            at = &job.next


cdef bint session_unsubscribe(Session* s, const uint8_t* filter, uint32_t n) noexcept nogil:
    """False: there was no such subscription."""
    cdef Subscription* sub
    cdef Member* m
    cdef uint32_t before = s.base.owner.n + s.n_memberships
    if share_prefix(filter, n):
        m = membership(s, filter, n)
        if m == NULL:
            return False
        session_leave(s, m)
        count(s, before)
        if s.base.durable:
            record_text(&s.sessions.router.journal, REC_UNSUBSCRIBED, s.base.serial, filter, n)
        return True
    sub = trie_find_owned(s.sessions.router.trie, &s.base.owner, filter, n)
    if sub == NULL:
        return False
    trie_remove(s.sessions.router.trie, sub)
    count(s, before)
    drop_jobs(s, filter, n)
    if s.base.durable:
        record_text(&s.sessions.router.journal, REC_UNSUBSCRIBED, s.base.serial, filter, n)
    return True
