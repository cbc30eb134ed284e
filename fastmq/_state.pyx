# cython: language_level=3, boundscheck=False, wraparound=False
"""See _state.pxd. What comes is checked like a stranger's bytes."""
from libc.stdint cimport uint16_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastmq._inflight cimport (
    AWAIT_PUBACK, AWAIT_PUBCOMP, FREE, delivery_expired, delivery_ids, is_away, queue_at, queue_clear, queue_push,
    receive_add, receive_free, receive_has, window_clear, window_get, window_ordered, window_restore,
)
from fastmq._message cimport message_new, message_payload, message_props, message_size, message_topic, message_unref
from fastmq._records cimport buffer_room, put_uv
from fastmq._restore cimport Cursor, Text, number, octet, packet_id, text
from fastmq._retain cimport jobs_have
from fastmq._session cimport EXPIRY_NEVER, RETAINED_DUE
from fastmq._share cimport Member, group_text, share_prefix
from fastmq._trie cimport OPT_RETAIN_AS_PUBLISHED, Subscription, filter_text
from fastmq._wire cimport (
    PROP_CONTENT_TYPE, PROP_CORRELATION_DATA, PROP_PAYLOAD_FORMAT, PROP_RESPONSE_TOPIC, PROP_USER_PROPERTY, Publish,
    check_filter, check_topic_name, hash_bytes, skip_property, utf8_valid,
)

cdef enum:
    FORMAT = 1
    WHOLE = 1                    # with messages, received packet ids and the will
    OF_GROUP = 1 << 5
    SUBSCRIPTION_ID_MAX = 268435455
    IDS_MAX = 4096               # subscription identifiers of one delivery
    BODY_MAX = 268435455         # topic, properties and payload of a message

cdef int64_t LEFT_MAX = <int64_t> 1 << 43  # ms; more than an interval of 32 bits of seconds


# -- out ---------------------------------------------------------------------------------------------------------------

cdef void put_number(Buffer* b, uint64_t v) noexcept nogil:
    """Like the next two: out of memory, `b.data` is freed and NULL, `b.room` 1 from then on."""
    if has_room(b, 10):
        b.size += put_uv(b.data + b.size, v)


cdef void put_octet(Buffer* b, uint8_t v) noexcept nogil:
    if has_room(b, 1):
        b.data[b.size] = v
        b.size += 1


cdef void put_text(Buffer* b, const uint8_t* p, uint32_t n) noexcept nogil:
    put_number(b, n)
    if has_room(b, n):
        memcpy(b.data + b.size, p, n)
        b.size += n


cdef bint has_room(Buffer* b, size_t n) noexcept nogil:
    if b.data == NULL and b.room:
        return False
    if buffer_room(b, n):
        return True
    free(b.data)
    b.data = NULL
    b.room = 1
    return False


cdef void put_packet_id(Buffer* b, uint16_t id) noexcept nogil:
    put_octet(b, <uint8_t> id)
    put_octet(b, <uint8_t> (id >> 8))


cdef inline int64_t left(int64_t at_ms, int64_t now_ms) noexcept nogil:
    return 0 if at_ms <= now_ms else (at_ms - now_ms if at_ms - now_ms < LEFT_MAX else LEFT_MAX)


cdef void put_message(Buffer* b, const Message* m, int64_t now_ms) noexcept nogil:
    put_octet(b, m.qos | (m.retain << 2) | ((m.expires_ms != 0) << 3))
    if m.expires_ms:
        put_number(b, <uint64_t> left(m.expires_ms, now_ms))
    put_text(b, message_topic(m), m.topic_len)
    put_text(b, message_props(m), m.props_len)
    put_text(b, message_payload(m), m.payload_len)


cdef void put_subscriptions(Buffer* b, Session* s) noexcept nogil:
    cdef Member* m = s.memberships
    cdef Subscription* sub
    cdef uint32_t i
    put_number(b, <uint64_t> s.n_memberships + s.base.owner.n)
    while m != NULL:             # first, so that deliveries can name them by their number
        put_octet(b, m.qos | (<uint8_t> OPT_RETAIN_AS_PUBLISHED if m.retain_as_published else 0))
        put_number(b, m.id)
        put_text(b, group_text(m.group), m.group.name_len)
        m = m.next_of_session
    for i in range(s.base.owner.n):
        sub = <Subscription*> s.base.owner.subs[i]
        put_octet(b, sub.options | (
            <uint8_t> RETAINED_DUE if jobs_have(s.jobs, filter_text(sub.filter), sub.filter.len) else 0))
        put_number(b, sub.id)
        put_text(b, filter_text(sub.filter), sub.filter.len)


cdef inline Message* body(const Delivery* d) noexcept nogil:
    return <Message*> d.stored.message if is_away(d) else d.message


cdef bint is_over(const Delivery* d, int64_t now_ms) noexcept nogil:
    """Whether there is nothing to deliver any more: it has expired, or is lost. What was sent does not expire."""
    if d.state == AWAIT_PUBCOMP:
        return False
    if body(d) == NULL and (d.stored == NULL or d.stored.lost):
        return True
    return d.state == FREE and delivery_expired(d, now_ms)


cdef int put_delivery(Buffer* b, Session* s, Delivery* d, int64_t now_ms) noexcept nogil:
    cdef uint32_t n = d.ids[0] if d.ids != NULL else d.id != 0, i, at = 1
    cdef const uint32_t* ids = d.ids + 1 if d.ids != NULL else &d.id
    cdef Member* m = s.memberships
    while d.share != NULL and m != NULL and m.group != d.share:
        m = m.next_of_session
        at += 1
    put_octet(b, d.qos | (d.retain << 2) | (d.state << 3) | (
        <uint8_t> OF_GROUP if d.share != NULL and m != NULL else 0))
    if d.state:
        put_packet_id(b, d.packet_id)
    if d.share != NULL and m != NULL:
        put_number(b, at)
    put_number(b, n)
    for i in range(n):
        put_number(b, ids[i])
    if d.state != AWAIT_PUBCOMP:
        if body(d) == NULL:
            return AWAY
        put_message(b, body(d), now_ms)
    return 0


cdef int put_deliveries(Buffer* b, Session* s, int64_t now_ms) noexcept nogil:
    cdef Delivery** flight = <Delivery**> malloc((s.window.used + 1) * sizeof(void*))
    cdef uint32_t n, i, count = 0
    cdef int failed = 0
    if flight == NULL:
        return NO_MEMORY
    n = window_ordered(&s.window, flight)
    for i in range(n):
        count += not is_over(flight[i], now_ms)
    for i in range(s.queue.n):
        count += not is_over(queue_at(&s.queue, i), now_ms)
    put_number(b, count)
    for i in range(n):
        if not failed and not is_over(flight[i], now_ms):
            failed = put_delivery(b, s, flight[i], now_ms)
    free(flight)
    for i in range(s.queue.n):
        if not failed and not is_over(queue_at(&s.queue, i), now_ms):
            failed = put_delivery(b, s, queue_at(&s.queue, i), now_ms)
    return failed


cdef int put_groups(Buffer* b, Session* s, int64_t now_ms) noexcept nogil:
    """What waits for the groups that the session takes along."""
    cdef Member* m = s.memberships
    cdef Delivery* d
    cdef uint32_t i, at = 0, count = 0
    while m != NULL:
        for i in range(m.group.queue.n if is_alone(m.group) else 0):
            count += not is_over(queue_at(&m.group.queue, i), now_ms)
        m = m.next_of_session
    put_number(b, count)
    m = s.memberships
    while m != NULL:
        at += 1
        for i in range(m.group.queue.n if is_alone(m.group) else 0):
            d = queue_at(&m.group.queue, i)
            if is_over(d, now_ms):
                continue
            if body(d) == NULL:
                return AWAY
            put_number(b, at)
            put_message(b, body(d), now_ms)
        m = m.next_of_session
    return 0


cdef int state_write(Buffer* b, Session* s, int64_t now_ms, bint whole) noexcept nogil:
    """Writes the state of a session, or its subscriptions alone; `b.data` is the caller's to free, whatever happens."""
    cdef uint32_t i
    cdef int failed = 0
    put_octet(b, FORMAT)
    put_octet(b, WHOLE if whole else 0)
    put_number(b, s.expiry_s)
    put_number(b, <uint64_t> left(s.expires_at_ms, now_ms) + 1 if s.expires_at_ms else 0)
    put_subscriptions(b, s)
    if whole:
        # The will of a connected client is its connection's, and stays with it.
        put_octet(b, s.will != NULL and s.link == NULL)
        if s.will != NULL and s.link == NULL:
            put_number(b, <uint64_t> left(s.will_at_ms, now_ms))
            put_number(b, s.will_delay_s)
            put_octet(b, s.will_has_expiry != 0)
            put_number(b, s.will_expiry_s)
            put_message(b, s.will, now_ms)
        put_number(b, s.received.used if s.received != NULL else 0)
        for i in range(1, 65536):
            if receive_has(s.received, <uint16_t> i):
                put_packet_id(b, <uint16_t> i)
        failed = put_deliveries(b, s, now_ms) or put_groups(b, s, now_ms)
    return <int> NO_MEMORY if b.data == NULL else failed


# -- in ----------------------------------------------------------------------------------------------------------------

cdef void state_free(State* x) noexcept nogil:
    if x.will != NULL:
        message_unref(x.will)
    if x.queue.n > x.n_own:
        x.queue.n = x.n_own
    queue_clear(&x.queue)
    queue_clear(&x.of_groups)
    window_clear(&x.window)
    receive_free(x.received)
    free(x.interests)
    free(x.flight)


cdef bint are_forwarded(const uint8_t* p, uint32_t n) noexcept nogil:
    """Whether these are properties that a subscriber gets as they are."""
    cdef const uint8_t* end = p + n
    cdef int used
    while p < end:
        used = skip_property(p, end)
        if used < 0 or p[0] not in (
            PROP_PAYLOAD_FORMAT, PROP_CONTENT_TYPE, PROP_RESPONSE_TOPIC, PROP_CORRELATION_DATA, PROP_USER_PROPERTY
        ):
            return False
        p += used
    return True


cdef int read_message(State* x, Cursor* c, Message** out) noexcept nogil:
    cdef Publish p
    cdef uint8_t flags = octet(c)
    cdef uint64_t ms = number(c) if flags & 8 else 0
    cdef Text topic = text(c), props = text(c), payload = text(c)
    if (
        c.bad or flags > 15 or flags & 3 == 3 or ms > <uint64_t> LEFT_MAX or topic.n > 65535
        or <uint64_t> topic.n + props.n + payload.n > BODY_MAX or check_topic_name(topic.p, topic.n, 65535)
        or not are_forwarded(props.p, props.n)
    ):
        return MALFORMED_STATE
    memset(&p, 0, sizeof(Publish))
    p.qos = flags & 3
    p.retain = (flags >> 2) & 1
    p.topic, p.topic_len = topic.p, topic.n
    p.props, p.props_len = props.p, props.n
    p.payload, p.payload_len = payload.p, payload.n
    out[0] = message_new(&x.router.ledger, &p, hash_bytes(p.topic, p.topic_len), 0, 0)
    if out[0] == NULL:
        return NO_MEMORY
    if flags & 8:
        out[0].expires_ms = x.now_ms + <int64_t> ms
        out[0].expires_ms += out[0].expires_ms == 0
    return 0


cdef int read_interests(State* x, Cursor* c) noexcept nogil:
    cdef uint64_t n = number(c), id
    cdef Interest* each
    cdef Text t
    cdef bint ignored
    if c.bad or n > <uint64_t> (c.end - c.p) // 3:
        return MALFORMED_STATE
    x.interests = <Interest*> calloc(n + 1, sizeof(Interest))
    if x.interests == NULL:
        return NO_MEMORY
    while x.n_interests < n:
        each = x.interests + x.n_interests
        each.options = octet(c)
        id = number(c)
        t = text(c)
        if (
            c.bad or id > SUBSCRIPTION_ID_MAX or t.n > 65535
            or each.options & 3 == 3 or each.options & 0x30 == 0x30 or each.options & 0x40
        ):
            return MALFORMED_STATE
        each.id = <uint32_t> id
        each.filter = t.p
        each.n = t.n
        each.filter_at = share_prefix(t.p, t.n)
        if each.filter_at and each.filter_at == t.n or check_filter(
            t.p + each.filter_at, t.n - each.filter_at, 65535, &ignored
        ):
            return MALFORMED_STATE
        if each.filter_at and not utf8_valid(t.p, t.n):
            return MALFORMED_STATE
        x.n_interests += 1
    return 0


cdef int read_will(State* x, Cursor* c) noexcept nogil:
    cdef uint8_t has = octet(c)
    cdef uint64_t ms, delay_s, expiry_s
    if c.bad or has > 1:
        return MALFORMED_STATE
    if not has:
        return 0
    ms = number(c)
    delay_s = number(c)
    x.will_has_expiry = octet(c)
    expiry_s = number(c)
    if c.bad or ms > <uint64_t> LEFT_MAX or delay_s > 0xFFFFFFFFULL or expiry_s > 0xFFFFFFFFULL or (
        x.will_has_expiry > 1
    ):
        return MALFORMED_STATE
    x.will_left_ms = <int64_t> ms
    x.will_delay_s = <uint32_t> delay_s
    x.will_expiry_s = <uint32_t> expiry_s
    return read_message(x, c, &x.will)


cdef int read_received(State* x, Cursor* c) noexcept nogil:
    cdef uint64_t n = number(c)
    cdef uint32_t id
    cdef int added
    if c.bad or n > 65535:
        return MALFORMED_STATE
    while n:
        n -= 1
        id = packet_id(c)
        if c.bad or id == 0:
            return MALFORMED_STATE
        added = receive_add(&x.received, <uint16_t> id)
        if added <= 0:
            return <int> MALFORMED_STATE if added == 0 else <int> NO_MEMORY
    return 0


cdef inline bint is_shared(const State* x, uint64_t number_from_1) noexcept nogil:
    return 0 < number_from_1 <= x.n_interests and x.interests[number_from_1 - 1].filter_at != 0


cdef int read_of_group(State* x, Cursor* c) noexcept nogil:
    """A message that waits for a group."""
    cdef uint64_t of_group = number(c)
    cdef Message* m
    cdef Delivery* d
    cdef int failed
    if c.bad or not is_shared(x, of_group):
        return MALFORMED_STATE
    failed = read_message(x, c, &m)
    if failed:
        return failed
    d = queue_push(&x.of_groups)
    if d == NULL:
        message_unref(m)
        return NO_MEMORY
    d.message = m
    d.share = <void*> <size_t> of_group
    return 0


cdef int read_delivery(State* x, Cursor* c) noexcept nogil:
    cdef uint32_t ids[IDS_MAX]
    cdef uint8_t flags = octet(c), state = (flags >> 3) & 3, qos = flags & 3
    cdef uint32_t id = packet_id(c) if state else 0, i
    cdef uint64_t of_group = number(c) if flags & OF_GROUP else 0
    cdef uint64_t n_ids = number(c), each
    cdef Message* m = NULL
    cdef Delivery* d
    cdef int failed
    if (
        c.bad or flags > 63 or qos == 3 or n_ids > IDS_MAX or (state != 0) != (id != 0)
        or (state and (qos != (1 if state == AWAIT_PUBACK else 2) or x.queue.n or window_get(&x.window, id) != NULL))
    ):
        return MALFORMED_STATE
    if flags & OF_GROUP and not (state and is_shared(x, of_group)):
        return MALFORMED_STATE
    for i in range(<uint32_t> n_ids):
        each = number(c)
        if each == 0 or each > SUBSCRIPTION_ID_MAX:
            c.bad = 1
        ids[i] = <uint32_t> each
    if c.bad:
        return MALFORMED_STATE
    if state != AWAIT_PUBCOMP:
        failed = read_message(x, c, &m)
        if failed:
            return failed
    x.position += 1
    d = window_restore(&x.window, <uint16_t> id, x.position) if state else queue_push(&x.queue)
    if d == NULL:
        if m != NULL:
            message_unref(m)
        return NO_MEMORY
    d.message = m
    d.share = <void*> <size_t> of_group
    d.position = x.position
    d.qos = qos
    d.retain = (flags >> 2) & 1
    d.state = state
    if not state:
        x.n_own = x.queue.n
        x.queue.bytes += message_size(m)
    return 0 if delivery_ids(d, ids, <uint32_t> n_ids) else <int> NO_MEMORY


cdef int read_each(State* x, Cursor* c, int (*read)(State*, Cursor*) noexcept nogil) noexcept nogil:
    """A number, and so many of what `read` reads."""
    cdef uint64_t n = number(c)
    cdef int failed = 0
    while n and not failed and not c.bad:
        n -= 1
        failed = read(x, c)
    return <int> MALFORMED_STATE if c.bad and not failed else failed


cdef int state_read(State* x, Router* r, int64_t now_ms, const uint8_t* data, size_t n) noexcept nogil:
    """Reads and checks a state; what `x` holds then is for state_free, whatever the outcome."""
    cdef Cursor c
    cdef uint8_t version, what
    cdef uint64_t expiry_s, left_ms
    cdef int failed
    memset(x, 0, sizeof(State))
    x.router = r
    x.now_ms = now_ms
    x.window.ledger = x.queue.ledger = x.of_groups.ledger = &r.ledger
    c.p = data
    c.end = data + n
    c.bad = 0
    version = octet(&c)
    what = octet(&c)
    expiry_s = number(&c)
    left_ms = number(&c)
    if c.bad or version != FORMAT or what > WHOLE or expiry_s > EXPIRY_NEVER or left_ms > <uint64_t> LEFT_MAX + 1:
        return MALFORMED_STATE
    x.expiry_s = <uint32_t> expiry_s
    x.left_ms = <int64_t> left_ms - 1
    failed = read_interests(x, &c)
    if what & WHOLE:
        failed = failed or read_will(x, &c) or read_received(x, &c)
        failed = failed or read_each(x, &c, read_delivery) or read_each(x, &c, read_of_group)
    if not failed and (c.bad or c.p != c.end):
        failed = MALFORMED_STATE
    return failed
