# cython: language_level=3, boundscheck=False, wraparound=False
"""See _router.pxd."""
from libc.stdlib cimport calloc, free, realloc

from fastmq._journal cimport KEPT_NOT, REC_RETAINED, journal_free, journal_init, journal_level, record_one
from fastmq._message cimport (
    RECORDED, message_new, message_payload, message_props, message_store, message_topic, message_unref,
)
from fastmq._retain cimport (
    retained_drop, retained_free, retained_get, retained_new, retained_put, retained_user,
)
from fastmq._trie cimport (
    Filter, Matches, OPT_NO_LOCAL, OPT_QOS, OPT_RETAIN_AS_PUBLISHED, Subscription, filter_subs, trie_free, trie_match,
    trie_new,
)
from fastmq._user cimport User
from fastmq._wire cimport hash_bytes


cdef Message* pub_message(Router* r, Pub* pub) noexcept nogil:
    """The publish as a message that outlives the read buffer, borrowed from `pub`. NULL: out of memory."""
    if pub.message == NULL:
        pub.message = message_new(&r.ledger, pub.parts, pub.hash, pub.origin, r.now_ms)
    return pub.message


cdef void message_parts(const Message* m, int64_t now_ms, Publish* out) noexcept nogil:
    """A kept message as the parts of a PUBLISH, its expiry counted down [MQTT-3.3.2-6]."""
    cdef int64_t left
    out.topic = message_topic(m)
    out.topic_len = m.topic_len
    out.props = message_props(m)
    out.props_len = m.props_len
    out.payload = message_payload(m)
    out.payload_len = m.payload_len
    out.qos = m.qos
    out.retain = m.retain
    out.dup = 0
    out.packet_id = 0
    out.alias = 0
    out.utf8_payload = 0
    out.has_expiry = m.expires_ms != 0
    out.expiry_s = 0
    if out.has_expiry:
        left = (m.expires_ms - now_ms + 999) // 1000
        out.expiry_s = <uint32_t> left if left > 0 else 0


cdef bint is_over_quota(Router* r, const Publish* p) noexcept nogil:
    """Whether the publisher's user has as many retained messages as it may, and this would be one more."""
    cdef User* u = r.publisher
    return u.all.retained_max and u.retained >= u.all.retained_max and (
        retained_user(r.retained, p.topic, p.topic_len) != u
    )


cdef void retain(Router* r, Pub* pub) noexcept nogil:
    """Keeps or deletes the topic's retained message [MQTT-3.3.1-5] [MQTT-3.3.1-6]."""
    cdef Publish* p = pub.parts
    cdef Message* m
    cdef int64_t count = r.retained.count
    cdef int64_t size = r.retained.payload_bytes + p.topic_len + p.payload_len
    if p.payload_len == 0:
        retained_drop(r.retained, p.topic, p.topic_len)
        return
    m = retained_get(r.retained, p.topic, p.topic_len, 0)  # the one that would be replaced
    if m != NULL:
        count -= 1
        size -= m.topic_len + m.payload_len
    if (
        (r.retained_max and count >= r.retained_max)
        or (r.retained_bytes_max and size > r.retained_bytes_max)
        or (r.retained_payload_max and p.payload_len > r.retained_payload_max)
        or (r.publisher != NULL and is_over_quota(r, p))
    ):
        # The old message goes: one that is known to be out of date is worse than none.
        r.stats.retained_refused += 1
        retained_drop(r.retained, p.topic, p.topic_len)
        return
    m = pub_message(r, pub)
    if m == NULL or not retained_put(r.retained, m, NULL if r.crossing else r.publisher):
        r.stats.retained_refused += 1
    else:
        router_record_retained(r, m)


cdef void router_record_retained(Router* r, Message* m) noexcept nogil:
    """Writes down that m is retained now."""
    if r.journal.on and message_store(&r.journal, m) != NULL:
        m.current |= RECORDED
        record_one(&r.journal, REC_RETAINED, m.stored.id)


cdef bint keeps(Filter* f) noexcept nogil:
    cdef uint32_t i
    for i in range(f.n):
        if (<Subscriber*> filter_subs(f)[i].owner.self).durable:
            return True
    return False


cdef bint router_keeps(Router* r, const Publish* parts) noexcept nogil:
    """Whether the store would have to keep a publish. Asked while it cannot, so that nothing is promised in vain."""
    cdef Matches m
    cdef uint32_t i
    if journal_level(&r.journal, parts.topic, parts.topic_len) == KEPT_NOT:
        return False
    if parts.retain:
        return True
    if parts.qos == 0:
        return False
    trie_match(r.trie, parts.topic, parts.topic_len, hash_bytes(parts.topic, parts.topic_len), &m)
    for i in range(m.n_wild):
        if keeps(m.wild[i]):
            return True
    return m.exact != NULL and keeps(m.exact)


cdef inline bint hears(Subscription* s, Subscriber* who, uint64_t origin) noexcept nogil:
    return not (s.options & OPT_NO_LOCAL and who.serial == origin)  # [MQTT-3.8.3-3]


cdef int fan_out(Router* r, Pub* pub, Filter* f) noexcept nogil:
    """To the subscribers of the only filter that matched: no subscriber can appear twice."""
    cdef Subscription** subs = filter_subs(f)
    cdef Subscription* s
    cdef Subscriber* who
    cdef uint32_t i
    cdef int n = 0
    for i in range(f.n):
        s = subs[i]
        who = <Subscriber*> s.owner.self
        if hears(s, who, pub.origin):
            who.deliver(who, pub, s.options & OPT_QOS, pub.parts.retain and s.options & OPT_RETAIN_AS_PUBLISHED,
                        &s.id, s.id != 0)
            n += 1
    return n


cdef bint more_id(Router* r, Hit* hit, uint32_t id) noexcept nogil:
    cdef MoreId* grown
    if hit.id == 0:
        hit.id = id
        return True
    if r.more_n == r.more_cap:
        grown = <MoreId*> realloc(r.more, (r.more_cap * 2 + 16) * sizeof(MoreId))
        if grown == NULL:
            return False
        r.more = grown
        r.more_cap = r.more_cap * 2 + 16
    r.more[r.more_n].id = id
    r.more[r.more_n].next = hit.more
    hit.more = <int32_t> r.more_n
    r.more_n += 1
    return True


cdef bint gather(Router* r, Filter* f, uint64_t origin, uint32_t* n) noexcept nogil:
    """Adds a filter's subscribers to the hits: each once, at its highest QoS, with all identifiers [MQTT-3.3.4-2]."""
    cdef Subscription** subs = filter_subs(f)
    cdef Subscription* s
    cdef Subscriber* who
    cdef Hit* hit
    cdef Hit* grown
    cdef uint32_t i, cap
    for i in range(f.n):
        s = subs[i]
        who = <Subscriber*> s.owner.self
        if not hears(s, who, origin):
            continue
        if who.epoch != r.epoch:
            if n[0] == r.hits_cap:
                cap = r.hits_cap * 2 + 64
                grown = <Hit*> realloc(r.hits, cap * sizeof(Hit))
                if grown == NULL:
                    return False
                r.hits = grown
                r.hits_cap = cap
            who.epoch = r.epoch
            who.hit = n[0]
            hit = r.hits + n[0]
            n[0] += 1
            hit.who = who
            hit.id = 0
            hit.more = -1
            hit.qos = 0
            hit.retain = 0
        hit = r.hits + who.hit
        if s.options & OPT_QOS > hit.qos:
            hit.qos = s.options & OPT_QOS
        if s.options & OPT_RETAIN_AS_PUBLISHED:
            hit.retain = 1
        if s.id and not more_id(r, hit, s.id):
            return False
    return True


cdef uint32_t hit_ids(Router* r, Hit* hit) noexcept nogil:
    """Spreads a hit's identifiers out in r.ids; returns how many."""
    cdef uint32_t n = 1
    cdef int32_t at = hit.more
    cdef uint32_t* grown
    while at >= 0:
        n += 1
        at = r.more[at].next
    if n > r.ids_cap:
        grown = <uint32_t*> realloc(r.ids, n * 2 * sizeof(uint32_t))
        if grown == NULL:
            return 0
        r.ids = grown
        r.ids_cap = n * 2
    r.ids[0] = hit.id
    n = 1
    at = hit.more
    while at >= 0:
        r.ids[n] = r.more[at].id
        n += 1
        at = r.more[at].next
    return n


cdef int fan_out_once(Router* r, Pub* pub, Matches* m) noexcept nogil:
    """To the subscribers of several filters, each once however many of its filters matched."""
    cdef uint32_t i, n = 0, n_ids
    cdef bint ok = True
    cdef Hit* hit
    r.epoch += 1
    if r.epoch == 0:
        r.epoch = 1
    r.more_n = 0
    if m.exact != NULL:
        ok = gather(r, m.exact, pub.origin, &n)
    for i in range(m.n_wild):
        ok = gather(r, m.wild[i], pub.origin, &n) and ok
    if not ok:
        r.stats.dropped_memory += 1
        r.stats.publish_dropped += 1
    for i in range(n):
        hit = r.hits + i
        if hit.id == 0:
            hit.who.deliver(hit.who, pub, hit.qos, pub.parts.retain and hit.retain, NULL, 0)
        else:
            n_ids = hit_ids(r, hit)
            hit.who.deliver(hit.who, pub, hit.qos, pub.parts.retain and hit.retain, r.ids, n_ids)
    return <int> n


cdef void pub_begin(Router* r, Pub* pub, Publish* parts, uint64_t origin, Message* made) noexcept nogil:
    pub.parts = parts
    pub.message = made
    pub.origin = origin
    pub.hash = hash_bytes(parts.topic, parts.topic_len)
    pub.v4 = &r.image4
    pub.v5 = &r.image5
    r.image4.data = NULL
    r.image5.data = NULL
    r.wait = NULL
    r.refused = 0


cdef void router_offer(Router* r, Subscriber* who, Publish* parts, uint64_t origin) noexcept nogil:
    """Gives one message to one subscriber, whatever it is subscribed to."""
    cdef Pub pub
    pub_begin(r, &pub, parts, origin, NULL)
    who.deliver(who, &pub, parts.qos, parts.retain, NULL, 0)
    if pub.message != NULL:
        message_unref(pub.message)


cdef void router_retain(Router* r, Publish* parts, uint64_t origin) noexcept nogil:
    """Keeps or deletes a topic's retained message, and delivers it to nobody."""
    cdef Pub pub
    pub_begin(r, &pub, parts, origin, NULL)
    retain(r, &pub)
    if not r.crossing and r.on_retain != NULL:
        r.on_retain(r.fabric, &pub)
    if pub.message != NULL:
        message_unref(pub.message)


cdef int router_publish(Router* r, Publish* parts, uint64_t origin, Message* made) noexcept nogil:
    """Routes one message to all that subscribed and retains it if it says so. Returns how many subscribers it had.

    `made` is the message when it exists already (a will, a redelivery): borrowed, may be NULL. Nothing here closes a
    connection or changes a subscription, so the match stays valid while it is walked.
    """
    cdef Pub pub
    cdef Matches m
    cdef int n = 0
    pub_begin(r, &pub, parts, origin, made)
    if parts.retain and not r.crossing:
        retain(r, &pub)
        if r.on_retain != NULL:
            r.on_retain(r.fabric, &pub)
    if not trie_match(r.trie, parts.topic, parts.topic_len, pub.hash, &m):
        r.stats.dropped_memory += 1
        r.stats.publish_dropped += 1
    if m.n_wild == 0:
        if m.exact != NULL:
            n = fan_out(r, &pub, m.exact)
    elif m.exact == NULL and m.n_wild == 1:
        n = fan_out(r, &pub, m.wild[0])
    else:
        n = fan_out_once(r, &pub, &m)
    if pub.message != NULL and made == NULL:
        message_unref(pub.message)
    return n


cdef Router* router_new() noexcept nogil:
    cdef Router* r = <Router*> calloc(1, sizeof(Router))
    if r == NULL:
        return NULL
    r.trie = trie_new()
    r.retained = retained_new()
    if r.trie == NULL or r.retained == NULL:
        router_free(r)
        return NULL
    r.last_serial = 1
    journal_init(&r.journal, &r.now_ms)
    return r


cdef void router_free(Router* r) noexcept nogil:
    """Frees the router; its subscribers must be gone."""
    if r.trie != NULL:
        trie_free(r.trie)
    if r.retained != NULL:
        retained_free(r.retained)
    journal_free(&r.journal)
    free(r.hits)
    free(r.more)
    free(r.ids)
    free(r)
