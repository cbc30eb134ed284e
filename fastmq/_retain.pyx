# cython: language_level=3, boundscheck=False, wraparound=False
"""See _retain.pxd. Rules: MQTT 5, sections 3.3.1.3 and 4.7."""
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from fastmq._journal cimport REC_UNRETAINED, record_one
from fastmq._message cimport (
    CURRENT, Ledger, RECORDED, message_expired, message_new, message_payload, message_ref, message_topic, message_unref,
)
from fastmq._table cimport (
    table_at, table_drop, table_free, table_init, table_put, table_room, table_seek, table_size,
)
from fastmq._user cimport user_retains, user_retains_no_more
from fastmq._wire cimport Publish, hash_bytes


cdef inline uint8_t* branch_text(const Branch* b) noexcept nogil:
    return <uint8_t*> b + sizeof(Branch)


cdef inline uint32_t branch_hash(const Branch* parent, const uint8_t* text, uint32_t n) noexcept nogil:
    return hash_bytes(text, n) ^ <uint32_t> ((<uint64_t> <size_t> parent >> 4) * 0x9E3779B97F4A7C15ULL >> 32)


cdef Branch* branch_find(Retained* r, Branch* parent, const uint8_t* text, uint32_t n, uint32_t hash) noexcept nogil:
    cdef uint32_t at = hash
    cdef Branch* b = <Branch*> table_seek(&r.branches, hash, &at)
    while b != NULL and not (
        b.hash == hash and b.parent == parent and b.len == n and memcmp(branch_text(b), text, n) == 0
    ):
        b = <Branch*> table_seek(&r.branches, hash, &at)
    return b


cdef Branch* branch_make(Retained* r, Branch* parent, const uint8_t* text, uint32_t n, uint32_t hash) noexcept nogil:
    cdef Branch* b
    if not table_room(&r.branches):
        return NULL
    b = <Branch*> calloc(1, sizeof(Branch) + n)
    if b == NULL:
        return NULL
    b.parent = parent
    b.hash = hash
    b.len = n
    memcpy(branch_text(b), text, n)
    b.next_sibling = parent.first_child
    if parent.first_child != NULL:
        parent.first_child.prev_sibling = b
    parent.first_child = b
    table_put(&r.branches, b)
    r.bytes += <int64_t> (sizeof(Branch) + n)
    return b


cdef void branch_prune(Retained* r, Branch* b) noexcept nogil:
    """Frees the branch and its ancestors as far as they hold neither a message nor children."""
    cdef Branch* parent
    while b.parent != NULL and b.first_child == NULL and b.message == NULL:
        parent = b.parent
        if b.prev_sibling != NULL:
            b.prev_sibling.next_sibling = b.next_sibling
        else:
            parent.first_child = b.next_sibling
        if b.next_sibling != NULL:
            b.next_sibling.prev_sibling = b.prev_sibling
        table_drop(&r.branches, b)
        r.bytes -= <int64_t> (sizeof(Branch) + b.len)
        free(b)
        b = parent


cdef Branch* leaf_find(Retained* r, const uint8_t* topic, uint32_t n, bint make) noexcept nogil:
    """The branch of a topic; NULL when it is not there (or, with `make`, when memory is out)."""
    cdef uint32_t start = 0, end, hash
    cdef Branch* b = &r.root
    cdef Branch* child
    while start <= n:
        end = start
        while end < n and topic[end] != b"/":
            end += 1
        hash = branch_hash(b, topic + start, end - start)
        child = branch_find(r, b, topic + start, end - start, hash)
        if child == NULL:
            if make:
                child = branch_make(r, b, topic + start, end - start, hash)
            if child == NULL:
                if make:
                    branch_prune(r, b)
                return NULL
        b = child
        start = end + 1
    return b


cdef void leaf_clear(Retained* r, Branch* b) noexcept nogil:
    cdef Message* m = b.message
    if b.user != NULL:
        user_retains_no_more(b.user)
        b.user = NULL
    if m.current & RECORDED:
        record_one(m.stored.journal, REC_UNRETAINED, m.stored.id)
    b.message = NULL
    m.current = 0
    r.count -= 1
    r.expiring -= m.expires_ms != 0
    r.payload_bytes -= <int64_t> m.topic_len + m.payload_len
    message_unref(m)


cdef User* retained_user(Retained* r, const uint8_t* topic, uint32_t n) noexcept nogil:
    """Who has set the topic's message; NULL: nobody in particular, or there is none."""
    cdef Branch* b = leaf_find(r, topic, n, False)
    return b.user if b != NULL else NULL


cdef bint retained_put(Retained* r, Message* m, User* user) noexcept nogil:
    """Retains m (taking a reference of its own) in place of what its topic had. False: out of memory."""
    cdef Branch* b = leaf_find(r, message_topic(m), m.topic_len, True)
    if b == NULL:
        return False
    message_ref(m)
    if user != NULL:
        user_retains(user)       # before it may be the last of its messages that goes
    if b.message != NULL:
        leaf_clear(r, b)
    b.message = m
    b.user = user
    m.current = CURRENT
    r.count += 1
    r.expiring += m.expires_ms != 0
    r.payload_bytes += <int64_t> m.topic_len + m.payload_len
    return True


cdef bint retained_drop(Retained* r, const uint8_t* topic, uint32_t n) noexcept nogil:
    cdef Branch* b = leaf_find(r, topic, n, False)
    if b == NULL or b.message == NULL:
        return False
    leaf_clear(r, b)
    branch_prune(r, b)
    return True


cdef Message* retained_get(Retained* r, const uint8_t* topic, uint32_t n, int64_t now_ms) noexcept nogil:
    """The retained message of a topic, borrowed; NULL if there is none that has not expired."""
    cdef Branch* b = leaf_find(r, topic, n, False)
    if b == NULL or b.message == NULL or message_expired(b.message, now_ms):
        return NULL
    return b.message


cdef bint found_put(Found* out, Branch* b, int64_t now_ms) noexcept nogil:
    cdef Message** grown
    if b.message == NULL or message_expired(b.message, now_ms):
        return True
    if out.n == out.cap:
        grown = <Message**> realloc(out.messages, (out.cap * 2 + 16) * sizeof(void*))
        if grown == NULL:
            return False
        out.messages = grown
        out.cap = out.cap * 2 + 16
    out.messages[out.n] = message_ref(b.message)
    out.n += 1
    return True


cdef bint find_all(Branch* b, int64_t now_ms, Found* out) noexcept nogil:
    """Everything at and below b, depth first without recursion."""
    cdef Branch* at = b
    while True:
        if not found_put(out, at, now_ms):
            return False
        if at.first_child != NULL:
            at = at.first_child
            continue
        while at != b and at.next_sibling == NULL:
            at = at.parent
        if at == b:
            return True
        at = at.next_sibling


cdef bint find_from(
    Retained* r, Branch* b, const uint8_t* filter, uint32_t n, uint32_t start, int64_t now_ms, Found* out
) noexcept nogil:
    """Matches filter[start:] below b; recursion is as deep as the filter has '+' levels."""
    cdef uint32_t end
    cdef Branch* child
    cdef bint top, ok = True
    while start <= n:
        end = start
        while end < n and filter[end] != b"/":
            end += 1
        top = b.parent == NULL
        if end - start == 1 and filter[start] == b"#":
            if not top:
                return find_all(b, now_ms, out)
            child = b.first_child
            while child != NULL and ok:
                if child.len == 0 or branch_text(child)[0] != b"$":  # [MQTT-4.7.2-1]
                    ok = find_all(child, now_ms, out)
                child = child.next_sibling
            return ok
        if end - start == 1 and filter[start] == b"+":
            child = b.first_child
            while child != NULL and ok:
                if not top or child.len == 0 or branch_text(child)[0] != b"$":
                    ok = find_from(r, child, filter, n, end + 1, now_ms, out)
                child = child.next_sibling
            return ok
        b = branch_find(r, b, filter + start, end - start, branch_hash(b, filter + start, end - start))
        if b == NULL:
            return True
        start = end + 1
    return found_put(out, b, now_ms)


cdef bint retained_find(Retained* r, const uint8_t* filter, uint32_t n, int64_t now_ms, Found* out) noexcept nogil:
    """Adds every retained message that the filter matches to `out`, with a reference each. False: out of memory."""
    return find_from(r, &r.root, filter, n, 0, now_ms, out)


cdef bint jobs_have(RetainJob* jobs, const uint8_t* filter, uint32_t n) noexcept nogil:
    """Whether retained messages are still to be sent for this filter."""
    while jobs != NULL:
        if jobs.filter_len == n and memcmp(job_filter(jobs), filter, n) == 0:
            return True
        jobs = jobs.next
    return False


cdef void job_free(RetainJob* job) noexcept nogil:
    while job.at < job.found.n:
        message_unref(job.found.messages[job.at])
        job.at += 1
    free(job.found.messages)
    free(job)


cdef uint32_t retained_sweep(Retained* r, uint32_t budget, int64_t now_ms) noexcept nogil:
    """Drops expired messages among the next `budget` slots; going round, it visits all. Returns how many it dropped."""
    cdef uint32_t dropped = 0
    cdef Branch* b
    if r.expiring == 0:
        return 0
    while budget and r.expiring:
        budget -= 1
        r.swept = (r.swept + 1) & r.branches.mask
        b = <Branch*> table_at(&r.branches, r.swept)
        if b != NULL and b.message != NULL and message_expired(b.message, now_ms):
            leaf_clear(r, b)
            branch_prune(r, b)
            dropped += 1
    return dropped


cdef Retained* retained_new() noexcept nogil:
    cdef Retained* r = <Retained*> calloc(1, sizeof(Retained))
    if r != NULL:
        table_init(&r.branches, <uint32_t> <size_t> &(<Branch*> NULL).hash, &r.bytes)
    return r


cdef void retained_free(Retained* r) noexcept nogil:
    cdef uint32_t i
    cdef Branch* b
    for i in range(table_size(&r.branches)):
        b = <Branch*> table_at(&r.branches, i)
        if b != NULL:
            if b.message != NULL:
                message_unref(b.message)
            free(b)
    table_free(&r.branches)
    free(r)


cdef class RetainedTree:
    """Retained messages without a broker around them, for the tests and benches. Times are milliseconds."""

    cdef Retained* _retained
    cdef Ledger _ledger

    def __cinit__(self) -> None:
        memset(&self._ledger, 0, sizeof(Ledger))
        self._retained = retained_new()
        if self._retained == NULL:
            raise MemoryError("no memory for retained messages")

    def __dealloc__(self) -> None:
        if self._retained != NULL:
            retained_free(self._retained)

    def put(self, bytes topic not None, bytes payload not None, expiry_s: int | None = None, int64_t now_ms=0) -> None:
        """Retains a payload; an empty one deletes the topic's message [MQTT-3.3.1-6]."""
        cdef Publish p
        cdef Message* m
        cdef bint ok
        if not payload:
            retained_drop(self._retained, <uint8_t*> <char*> topic, <uint32_t> len(topic))
            return
        memset(&p, 0, sizeof(p))
        p.topic = <uint8_t*> <char*> topic
        p.topic_len = <uint32_t> len(topic)
        p.payload = <uint8_t*> <char*> payload
        p.payload_len = <uint32_t> len(payload)
        p.props = p.topic
        p.retain = 1
        if expiry_s is not None:
            p.has_expiry = 1
            p.expiry_s = expiry_s
        m = message_new(&self._ledger, &p, hash_bytes(p.topic, p.topic_len), 0, now_ms)
        if m == NULL:
            raise MemoryError("no memory for a message")
        ok = retained_put(self._retained, m, NULL)
        message_unref(m)
        if not ok:
            raise MemoryError("no memory for a retained topic")

    def match(self, bytes topic_filter not None, int64_t now_ms=0) -> list:
        """(topic, payload) of every retained message that the filter matches, in no order."""
        cdef Found found
        cdef uint32_t i
        cdef Message* m
        cdef list out = []
        memset(&found, 0, sizeof(found))
        retained_find(self._retained, <uint8_t*> <char*> topic_filter, <uint32_t> len(topic_filter), now_ms, &found)
        for i in range(found.n):
            m = found.messages[i]
            out.append(((<char*> message_topic(m))[:m.topic_len], (<char*> message_payload(m))[:m.payload_len]))
            message_unref(m)
        free(found.messages)
        return out

    def sweep(self, uint32_t budget, int64_t now_ms) -> int:
        """Drops expired messages; see retained_sweep."""
        return retained_sweep(self._retained, budget, now_ms)

    @property
    def bytes(self) -> int:
        """Bytes in the tree and its messages (without the allocator's overhead)."""
        return self._retained.bytes + self._ledger.bytes

    def __len__(self) -> int:
        return <Py_ssize_t> self._retained.count
