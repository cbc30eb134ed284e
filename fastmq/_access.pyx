# cython: language_level=3, boundscheck=False, wraparound=False
"""See _access.pxd."""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from fastmq._wire cimport check_filter, filter_matches, hash_bytes

cdef uint32_t last_serial = 0


cdef inline Rule* rules_of(const AccessList* l) noexcept nogil:
    return <Rule*> (<uint8_t*> l + sizeof(AccessList))


cdef inline const uint8_t* text_of(const AccessList* l, const Rule* r) noexcept nogil:
    return <const uint8_t*> (rules_of(l) + l.n) + r.at


cdef inline uint32_t level_end(const uint8_t* p, uint32_t n, uint32_t at) noexcept nogil:
    while at < n and p[at] != b"/":
        at += 1
    return at


cdef bint covers(const uint8_t* r, uint32_t n, const uint8_t* q, uint32_t m) noexcept nogil:
    """Whether filter r matches every topic that filter q matches."""
    cdef uint32_t i = 0, k = 0, i_end, k_end
    if q[0] == b"$" and (r[0] == b"#" or r[0] == b"+"):
        return False             # [MQTT-4.7.2-1]
    while True:
        i_end = level_end(r, n, i)
        k_end = level_end(q, m, k)
        if i < n and r[i] == b"#":
            return True
        if k < m and q[k] == b"#":
            return k == 0 and n == 3 and memcmp(r, b"+/#", 3) == 0  # the one other way to write all topics
        if not (i < n and r[i] == b"+") and (i_end - i != k_end - k or memcmp(r + i, q + k, i_end - i) != 0):
            return False
        if i_end == n or k_end == m:
            # "a/#" covers "a", too
            return i_end == n and k_end == m or k_end == m and n - i_end == 2 and r[i_end + 1] == b"#"
        i = i_end + 1
        k = k_end + 1


cdef bint overlaps(const uint8_t* r, uint32_t n, const uint8_t* q, uint32_t m) noexcept nogil:
    """Whether there is a topic that both filters match."""
    cdef uint32_t i = 0, k = 0, i_end, k_end
    cdef bint any_r, any_q
    if (q[0] == b"$" and (r[0] == b"#" or r[0] == b"+")) or (r[0] == b"$" and (q[0] == b"#" or q[0] == b"+")):
        return False             # [MQTT-4.7.2-1]
    while True:
        i_end = level_end(r, n, i)
        k_end = level_end(q, m, k)
        if (i < n and r[i] == b"#") or (k < m and q[k] == b"#"):
            return True
        any_r = i < n and r[i] == b"+"
        any_q = k < m and q[k] == b"+"
        if not any_r and not any_q and (i_end - i != k_end - k or memcmp(r + i, q + k, i_end - i) != 0):
            return False
        if i_end == n and k_end == m:
            return True
        if i_end == n:
            return m - k_end == 2 and q[k_end + 1] == b"#"
        if k_end == m:
            return n - i_end == 2 and r[i_end + 1] == b"#"
        i = i_end + 1
        k = k_end + 1


cdef uint32_t list_topic(
    const AccessList* l, uint8_t action, const uint8_t* topic, uint32_t n, uint8_t qos, bint retain
) noexcept nogil:
    """Twice the number of the rule that decides (from 1; 0: none does), plus one if it is allowed.

    To publish, or (MAY_SUBSCRIBE) to read what was published, whatever its QoS.
    """
    cdef Rule* r
    cdef uint32_t i
    for i in range(l.n):
        r = rules_of(l) + i
        if not r.actions & action:
            continue
        if action == MAY_PUBLISH and (not r.qos & (1 << qos) or not r.retain & (2 if retain else 1)):
            continue
        if r.len == n and memcmp(text_of(l, r), topic, n) == 0 if r.literal else (
            filter_matches(text_of(l, r), r.len, topic, n)
        ):
            return (i + 1) * 2 + r.allow
    return l.otherwise


cdef uint32_t list_subscribe(
    const AccessList* l, const uint8_t* filter, uint32_t n, uint8_t qos, bint shared
) noexcept nogil:
    cdef Rule* r
    cdef uint32_t i
    cdef bint speaks, strict = shared or not l.on_delivery
    for i in range(l.n):
        r = rules_of(l) + i
        if not r.actions & MAY_SUBSCRIBE or not r.qos & (1 << qos):
            continue
        if r.literal:
            speaks = r.len == n and memcmp(text_of(l, r), filter, n) == 0
        elif (r.allow != 0) == strict:
            speaks = covers(text_of(l, r), r.len, filter, n)
        else:
            speaks = overlaps(text_of(l, r), r.len, filter, n)
        if speaks:
            return (i + 1) * 2 + r.allow
    return l.otherwise


cdef void list_unref(AccessList* l) noexcept nogil:
    l.refs -= 1
    if l.refs == 0:
        free(l)


cdef uint32_t remembered(
    Guard* g, uint8_t action, const uint8_t* topic, uint32_t n, uint8_t qos, bint retain
) noexcept nogil:
    """list_topic, from memory if the same was asked lately."""
    cdef uint8_t flags = qos | (retain << 2) | (action << 3)
    cdef uint32_t hash
    cdef Verdict* v
    if n > VERDICT_TOPIC or g.list.n < 2:
        return list_topic(g.list, action, topic, n, qos, retain)
    if g.verdicts == NULL:
        g.verdicts = <Verdict*> calloc(VERDICTS, sizeof(Verdict))
        if g.verdicts == NULL:
            return list_topic(g.list, action, topic, n, qos, retain)
    hash = hash_bytes(topic, n) ^ flags
    v = g.verdicts + (hash & (VERDICTS - 1))
    if v.hash == hash and v.len == n and v.flags == flags and memcmp(v.topic, topic, n) == 0:
        return v.result
    v.result = list_topic(g.list, action, topic, n, qos, retain)
    v.hash = hash
    v.len = <uint8_t> n
    v.flags = flags
    memcpy(v.topic, topic, n)
    return v.result


cdef uint32_t guard_publish(Guard* g, const uint8_t* topic, uint32_t n, uint8_t qos, bint retain) noexcept nogil:
    """Whether a client with a list may publish this: see list_topic."""
    return remembered(g, MAY_PUBLISH, topic, n, qos, retain)


cdef bint guard_reads(Guard* g, const uint8_t* topic, uint32_t n) noexcept nogil:
    """Whether a client with a list may be sent what was published to this topic."""
    return not g.list.on_delivery or is_allowed(remembered(g, MAY_SUBSCRIBE, topic, n, 0, False))


cdef uint32_t guard_subscribe(
    const Guard* g, const uint8_t* filter, uint32_t n, uint8_t qos, bint shared
) noexcept nogil:
    """Whether a client with a list may subscribe to a valid filter, without its `$share/group/`."""
    return list_subscribe(g.list, filter, n, qos, shared)


cdef void guard_set(Guard* g, AccessList* list) noexcept nogil:
    """Gives a connection its list (NULL: takes it away), and forgets what the old one said."""
    if list != NULL:
        list.refs += 1
    if g.list != NULL:
        list_unref(g.list)
    g.list = list
    free(g.verdicts)
    g.verdicts = NULL


cdef void denials_add(
    Denials* all, uint8_t action, const Guard* g, uint32_t result, const uint8_t* client_id, uint32_t id_len,
    const uint8_t* topic, uint32_t n
) noexcept nogil:
    cdef Denied* d
    if all.n == DENIED_MAX:
        return
    d = &all.at[all.n]
    all.n += 1
    d.action = action
    d.serial = g.list.serial
    d.rule = result >> 1
    d.id_len = <uint8_t> min(id_len, DENIED_TEXT)
    d.topic_len = <uint8_t> min(n, DENIED_TEXT)
    memcpy(d.client_id, client_id, d.id_len)
    memcpy(d.topic, topic, d.topic_len)


cdef class Access:
    """An access control list, compiled: (filter, allow, actions, qos, retain) each; see _access.pyi.

    :raises ValueError: a filter is none.
    """

    def __cinit__(self, list rules not None, bint otherwise, bint on_delivery=False):
        global last_serial
        cdef size_t texts = 0, at = 0
        cdef uint32_t n = <uint32_t> len(rules), i
        cdef bint wildcard, literal
        cdef Rule* r
        cdef uint8_t* text
        for filter, _, _, _, _, _ in rules:
            texts += len(<bytes> filter)
        if texts > 0x7FFFFFFF:
            raise ValueError("the filters are too long")
        self._list = <AccessList*> calloc(1, sizeof(AccessList) + n * sizeof(Rule) + texts)
        if self._list == NULL:
            raise MemoryError("no memory for an access control list")
        last_serial += 1
        self._list.refs = 1
        self._list.n = n
        self._list.serial = last_serial
        self._list.otherwise = otherwise
        self._list.on_delivery = on_delivery
        for i in range(n):
            filter, allow, actions, qos, retain, literal = rules[i]
            r = rules_of(self._list) + i
            r.at = <uint32_t> at
            r.len = <uint32_t> len(<bytes> filter)
            r.allow = bool(allow)
            r.actions = actions
            r.qos = qos
            r.retain = retain
            r.literal = literal
            text = <uint8_t*> text_of(self._list, r)
            memcpy(text, <char*> (<bytes> filter), r.len)
            at += r.len
            if r.len == 0 or (not literal and check_filter(text, r.len, 65535, &wildcard)):
                raise ValueError(f"{(<bytes> filter).decode(errors='replace')!r} is no topic filter")

    def __dealloc__(self):
        if self._list != NULL:
            list_unref(self._list)

    @property
    def serial(self) -> int:
        """Its number, never used again in this process."""
        return self._list.serial

    def publish(self, bytes topic not None, uint8_t qos=0, bint retain=False) -> tuple:
        """(allowed, place of the rule that decides or -1)."""
        result = list_topic(self._list, MAY_PUBLISH, <uint8_t*> <char*> topic, <uint32_t> len(topic), qos & 3, retain)
        return bool(result & 1), <int> (result >> 1) - 1

    def read(self, bytes topic not None) -> tuple:
        """(allowed, place of the rule that decides or -1), for a message on its way to the client."""
        result = list_topic(self._list, MAY_SUBSCRIBE, <uint8_t*> <char*> topic, <uint32_t> len(topic), 0, False)
        return bool(result & 1), <int> (result >> 1) - 1

    def subscribe(self, bytes filter not None, uint8_t qos=0, bint shared=False) -> tuple:
        """(allowed, place of the rule that decides or -1), for a valid filter without its `$share/group/`."""
        if not filter:
            raise ValueError("an empty text is no topic filter")
        result = list_subscribe(self._list, <uint8_t*> <char*> filter, <uint32_t> len(filter), qos & 3, shared)
        return bool(result & 1), <int> (result >> 1) - 1


cdef class GuardProbe:
    """A connection's guard of its own, for tests and benches: as `Access`, with the memory of verdicts."""

    cdef Guard _guard

    def __cinit__(self):
        self._guard.list = NULL
        self._guard.verdicts = NULL

    def __dealloc__(self):
        guard_set(&self._guard, NULL)

    def set(self, Access access not None) -> None:
        """Gives it a list."""
        guard_set(&self._guard, access._list)

    def publish(self, bytes topic not None, uint8_t qos=0, bint retain=False) -> bool:
        """Whether it may."""
        return is_allowed(guard_publish(&self._guard, <uint8_t*> <char*> topic, <uint32_t> len(topic), qos & 3, retain))
