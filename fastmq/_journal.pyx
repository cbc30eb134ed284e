# cython: language_level=3, boundscheck=False, wraparound=False
"""See _journal.pxd."""
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from fastmq._wire cimport filter_matches

cdef enum:
    BATCH_MIN = 65536
    BATCH_KEPT = 4194304         # bytes of room that an emptied batch keeps
    ASK_MAX = 4096               # messages asked back at a time
    ASK_BYTES = 4194304
    FIXED_MAX = 64               # of a record besides its texts: kind, flags, packet id and up to five numbers


# -- the batch ---------------------------------------------------------------------------------------------------------

cdef void journal_init(Journal* j, const int64_t* now_ms) noexcept nogil:
    memset(j, 0, sizeof(Journal))
    j.seq = 1
    j.now_ms = now_ms
    j.max = 16 << 20


cdef void journal_free(Journal* j) noexcept nogil:
    """Frees what the journal holds; its stored messages must have been let go."""
    cdef uint32_t i
    for i in range(j.n_rules):
        free(j.rules[i].filter)
    free(j.rules)
    free(j.wanted)
    free(j.asked)
    free(j.data)
    memset(j, 0, sizeof(Journal))
    j.closed = 1


cdef bint grow(Journal* j, size_t need) noexcept nogil:
    cdef size_t cap = j.cap * 2 if j.cap else BATCH_MIN
    cdef uint8_t* data
    while cap < need:
        cap *= 2
    data = <uint8_t*> realloc(j.data, cap)
    if data == NULL:
        return False
    j.bytes += <int64_t> (cap - j.cap)
    j.data = data
    j.cap = cap
    return True


cdef inline uint8_t* room(Journal* j, size_t n) noexcept nogil:
    """Room for a record of at most n bytes at the end of the batch, or NULL when nothing is to be written.

    Without memory the journal is broken: a gap in the records would be worse than none at all. No batch leaves any
    more, so that whatever was promised stays true, and the program is to start anew from what is stored.
    """
    if not j.on or j.closed:
        return NULL
    if j.broken or (j.len + n + FIXED_MAX > j.cap and not grow(j, j.len + n + FIXED_MAX)):
        journal_break(j)
        return NULL
    if j.len == 0:               # a batch begins with the time
        j.data[0] = REC_CLOCK
        j.len = put_number(j.data + 1, <uint64_t> j.now_ms[0]) - j.data
    j.records += 1
    return j.data + j.len


cdef inline void written(Journal* j, const uint8_t* end, uint8_t level) noexcept nogil:
    j.len = end - j.data
    if level == KEPT:
        j.sync = 1


cdef void journal_take(Journal* j) noexcept nogil:
    """Begins a new batch, once the bytes of the old one have been copied away."""
    j.len = 0
    j.sync = 0
    j.urgent = 0
    j.seq += 1
    j.busy = 1
    if j.cap > BATCH_KEPT:
        j.bytes -= <int64_t> j.cap
        free(j.data)
        j.data = NULL
        j.cap = 0


cdef uint32_t journal_ask(Journal* j) noexcept nogil:
    """Moves what is wanted and committed, and so in the store for sure, to `asked`; returns how many that are.

    What comes back is in memory at once, and the store's thread commits nothing meanwhile: so it comes in slices.
    """
    cdef uint32_t i, kept = 0
    cdef int64_t bytes = 0
    if j.n_asked or j.n_wanted == 0:
        return 0                 # one question at a time
    if j.asked == NULL:
        j.asked = <Stored**> malloc(ASK_MAX * sizeof(void*))
        if j.asked == NULL:
            return 0
        j.bytes += ASK_MAX * sizeof(void*)
    for i in range(j.n_wanted):
        if j.n_asked < ASK_MAX and bytes < ASK_BYTES and j.wanted[i].seq <= j.committed:
            bytes += j.wanted[i].size
            j.asked[j.n_asked] = j.wanted[i]
            j.n_asked += 1
        else:
            j.wanted[kept] = j.wanted[i]
            kept += 1
    j.n_wanted = kept
    return j.n_asked


# -- levels ------------------------------------------------------------------------------------------------------------

cdef uint8_t journal_level(Journal* j, const uint8_t* topic, uint32_t n) noexcept nogil:
    """How messages of a topic are kept: a Durability."""
    cdef uint32_t i
    if not j.on or (n >= 5 and memcmp(topic, b"$SYS/", 5) == 0):
        return KEPT_NOT          # what the broker says of itself is said anew
    for i in range(j.n_rules):
        if filter_matches(j.rules[i].filter, j.rules[i].len, topic, n):
            return j.rules[i].level
    return j.level


cdef bint journal_rule(Journal* j, const uint8_t* filter, uint32_t n, uint8_t level) noexcept nogil:
    """Adds a rule behind those that are there. False: out of memory."""
    cdef Rule* rules = <Rule*> realloc(j.rules, (j.n_rules + 1) * sizeof(Rule))
    if rules == NULL:
        return False
    j.rules = rules
    rules[j.n_rules].filter = <uint8_t*> malloc(n + 1)
    if rules[j.n_rules].filter == NULL:
        return False
    memcpy(rules[j.n_rules].filter, filter, n)
    rules[j.n_rules].len = n
    rules[j.n_rules].level = level
    j.n_rules += 1
    if level > j.state_level:
        j.state_level = level
    return True


# -- stored messages ---------------------------------------------------------------------------------------------------

cdef Stored* stored_new(Journal* j, uint64_t id, uint32_t size, int64_t expires_ms) noexcept nogil:
    """What a message is known by, with one reference for the caller. NULL: out of memory."""
    cdef Stored* st = <Stored*> malloc(sizeof(Stored))
    if st == NULL:
        return NULL
    st.journal = j
    st.message = NULL
    st.expires_ms = expires_ms
    st.id = id
    st.seq = j.seq
    st.size = size
    st.refs = 1
    st.hash = <uint32_t> ((id * 0x9E3779B97F4A7C15ULL) >> 32)
    st.wanted = 0
    st.lost = 0
    j.bytes += sizeof(Stored)
    return st


cdef void stored_unref(Stored* st) noexcept nogil:
    """The last one to let go makes the store forget the message."""
    st.refs -= 1
    if st.refs:
        return
    record_one(st.journal, REC_FORGET, st.id)
    st.journal.bytes -= sizeof(Stored)
    free(st)


cdef bint journal_want(Journal* j, Stored* st) noexcept nogil:
    """Asks for the body of a message. False: out of memory."""
    cdef Stored** grown
    cdef uint32_t cap
    if st.wanted or st.lost:
        return True
    if j.n_wanted == j.wanted_cap:
        cap = j.wanted_cap * 2 + 64
        grown = <Stored**> realloc(j.wanted, cap * sizeof(void*))
        if grown == NULL:
            return False
        j.bytes += <int64_t> (cap - j.wanted_cap) * sizeof(void*)
        j.wanted = grown
        j.wanted_cap = cap
    j.wanted[j.n_wanted] = stored_ref(st)
    j.n_wanted += 1
    st.wanted = 1
    if st.seq == j.seq:
        j.urgent = 1             # it can be asked for when it is committed
    return True


# -- records -----------------------------------------------------------------------------------------------------------

cdef inline uint8_t* put_number(uint8_t* p, uint64_t v) noexcept nogil:
    while v >= 128:
        p[0] = <uint8_t> (v | 128)
        v >>= 7
        p += 1
    p[0] = <uint8_t> v
    return p + 1


cdef inline uint8_t* put_id(uint8_t* p, uint16_t packet_id) noexcept nogil:
    p[0] = <uint8_t> packet_id
    p[1] = <uint8_t> (packet_id >> 8)
    return p + 2


cdef inline uint8_t* put_text(uint8_t* p, const uint8_t* text, uint32_t n) noexcept nogil:
    p = put_number(p, n)
    memcpy(p, text, n)
    return p + n


cdef void record_clock(Journal* j) noexcept nogil:
    """Nothing but the time, for a batch that is waited for."""
    record_one(j, REC_CLOCK, <uint64_t> j.now_ms[0])


cdef void record_one(Journal* j, uint8_t kind, uint64_t value) noexcept nogil:
    """A record of one number: FORGET, ENDED, RETAINED, UNRETAINED, WILL_GONE, GROUP_GONE, CLOCK."""
    cdef uint8_t* p = room(j, FIXED_MAX)
    if p == NULL:
        return
    p[0] = kind
    if kind == REC_ENDED:
        j.ended = j.seq
    written(j, put_number(p + 1, value), j.state_level if kind in (REC_ENDED, REC_RETAINED, REC_UNRETAINED) else 0)


cdef void record_message(Journal* j, uint64_t id, const Publish* p, uint64_t origin, int64_t expires_ms,
                         uint8_t level) noexcept nogil:
    cdef uint8_t* out = room(j, FIXED_MAX + <size_t> p.topic_len + p.props_len + p.payload_len)
    if out == NULL:
        return
    out[0] = REC_MESSAGE
    out = put_number(out + 1, id)
    out[0] = <uint8_t> (p.qos | (p.retain << 2) | ((expires_ms != 0) << 3))
    out = put_number(out + 1, origin)
    if expires_ms:
        out = put_number(out, <uint64_t> expires_ms)
    out = put_text(out, p.topic, p.topic_len)
    out = put_text(out, p.props, p.props_len)
    written(j, put_text(out, p.payload, p.payload_len), level)


cdef void record_delivery(
    Journal* j, uint64_t subscriber, uint64_t position, uint64_t message, uint8_t qos, bint retain, uint8_t state,
    uint16_t packet_id, const uint32_t* ids, uint32_t n_ids
) noexcept nogil:
    cdef uint8_t* out = room(j, FIXED_MAX + <size_t> n_ids * 5)
    cdef uint32_t i
    if out == NULL:
        return
    out[0] = REC_DELIVERY
    out = put_number(out + 1, subscriber)
    out = put_number(out, position)
    out = put_number(out, message)
    out[0] = <uint8_t> (qos | (retain << 2) | (state << 3))
    out = put_id(out + 1, packet_id)
    out = put_number(out, n_ids)
    for i in range(n_ids):
        out = put_number(out, ids[i])
    written(j, out, j.state_level if state > 1 else 0)  # exactly once takes a packet id that is never forgotten


cdef void record_state(Journal* j, uint64_t subscriber, uint64_t position, uint8_t state,
                       uint16_t packet_id) noexcept nogil:
    cdef uint8_t* out = room(j, FIXED_MAX)
    if out == NULL:
        return
    out[0] = REC_STATE
    out = put_number(out + 1, subscriber)
    out = put_number(out, position)
    out[0] = state
    written(j, put_id(out + 1, packet_id), j.state_level if state > 1 else 0)


cdef void record_done(Journal* j, uint64_t subscriber, uint64_t position) noexcept nogil:
    cdef uint8_t* out = room(j, FIXED_MAX)
    if out == NULL:
        return
    out[0] = REC_DONE
    out = put_number(out + 1, subscriber)
    written(j, put_number(out, position), 0)


cdef void record_packet_id(Journal* j, uint8_t kind, uint64_t session, uint16_t packet_id) noexcept nogil:
    """RECEIVED or RELEASED."""
    cdef uint8_t* out = room(j, FIXED_MAX)
    if out == NULL:
        return
    out[0] = kind
    out = put_number(out + 1, session)
    written(j, put_id(out, packet_id), j.state_level)


cdef void record_session(Journal* j, uint64_t serial, const uint8_t* client_id, uint32_t n, uint32_t expiry_s,
                         int64_t expires_ms, int64_t will_at_ms) noexcept nogil:
    cdef uint8_t* out = room(j, FIXED_MAX + n)
    if out == NULL:
        return
    out[0] = REC_SESSION
    out = put_number(out + 1, serial)
    out = put_text(out, client_id, n)
    out = put_number(out, expiry_s)
    out = put_number(out, <uint64_t> expires_ms)
    written(j, put_number(out, <uint64_t> will_at_ms), j.state_level)


cdef void record_subscribed(Journal* j, uint64_t session, const uint8_t* filter, uint32_t n, uint8_t options,
                            uint32_t id) noexcept nogil:
    cdef uint8_t* out = room(j, FIXED_MAX + n)
    if out == NULL:
        return
    out[0] = REC_SUBSCRIBED
    out = put_number(out + 1, session)
    out[0] = options
    out = put_number(out + 1, id)
    written(j, put_text(out, filter, n), j.state_level)


cdef void record_text(Journal* j, uint8_t kind, uint64_t serial, const uint8_t* text, uint32_t n) noexcept nogil:
    """UNSUBSCRIBED or GROUP."""
    cdef uint8_t* out = room(j, FIXED_MAX + n)
    if out == NULL:
        return
    out[0] = kind
    out = put_number(out + 1, serial)
    written(j, put_text(out, text, n), j.state_level)


cdef void record_will(Journal* j, uint64_t session, uint64_t message, uint32_t delay_s, bint has_expiry,
                      uint32_t expiry_s) noexcept nogil:
    cdef uint8_t* out = room(j, FIXED_MAX)
    if out == NULL:
        return
    out[0] = REC_WILL
    out = put_number(out + 1, session)
    out = put_number(out, message)
    out = put_number(out, delay_s)
    out[0] = has_expiry
    written(j, put_number(out + 1, expiry_s), j.state_level)
