# cython: language_level=3
"""The journal: what must survive the process, as records in the order in which it happened. Format: store/records.py.

The engine writes records as it works. At the end of a turn they leave as one batch, if no other is on its way; what a
batch promises to clients waits in their links' output (`Chunk.gate`) until the batch is committed. The journal knows no
store: `Hub` hands batches to whoever keeps them.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._wire cimport Publish

cdef enum Durability:
    KEPT_NOT = 0                 # "none": never recorded
    KEPT_BY_OS = 1               # "os": survives the process, perhaps not a power cut
    KEPT = 2                     # "fsync": survives a power cut

cdef enum RecordKind:
    REC_MESSAGE = 1
    REC_FORGET = 2
    REC_DELIVERY = 3
    REC_STATE = 4
    REC_DONE = 5
    REC_RECEIVED = 6
    REC_RELEASED = 7
    REC_SESSION = 8
    REC_ENDED = 9
    REC_SUBSCRIBED = 10
    REC_UNSUBSCRIBED = 11
    REC_RETAINED = 12
    REC_UNRETAINED = 13
    REC_WILL = 14
    REC_WILL_GONE = 15
    REC_GROUP = 16
    REC_GROUP_GONE = 17
    REC_CLOCK = 18
    REC_STUB = 19

cdef struct Stored:              # a message that has been recorded: what the store knows it by
    Journal* journal
    void* message                # Message*, while it is in memory; borrowed
    int64_t expires_ms           # engine time, 0 = never
    uint64_t id                  # never used again
    uint64_t seq                 # the batch that it was recorded in, 0 = before the start
    uint32_t size                # of the message in memory
    int32_t refs                 # one of the message in memory, one of each delivery whose message is not
    uint32_t hash                # of the id
    uint8_t wanted               # asked back from the store
    uint8_t lost                 # the store does not have it

cdef struct Rule:                # the durability of the topics that a filter matches
    uint8_t* filter              # owned
    uint32_t len
    uint8_t level                # a Durability

cdef struct Journal:
    uint8_t on                   # there is a store
    uint8_t closed               # the broker ends: what is freed now is not forgotten by the store
    uint8_t broken               # a record could not be written: nothing may be promised any more
    uint8_t busy                 # a batch is on its way
    uint8_t sync                 # the batch that is being written has something that must survive a power cut
    uint8_t urgent               # somebody waits for the batch that is being written
    uint8_t trouble              # the reason code for what cannot be kept now, 0 = all is well
    uint8_t level                # a Durability: of topics without a rule
    uint8_t state_level          # of sessions and subscriptions: the highest of all
    uint8_t* data                # the batch that is being written; owned
    size_t len
    size_t cap
    size_t max                   # bytes at which publishers wait
    uint64_t seq                 # of the batch that is being written
    uint64_t committed           # all batches up to this one are
    uint64_t ended               # the last batch in which a session ended
    uint64_t last_message
    int64_t bytes                # of Stored, and of the batch
    Rule* rules                  # first match wins; owned
    uint32_t n_rules
    Stored** wanted              # bodies to ask back, with a reference each
    uint32_t n_wanted
    uint32_t wanted_cap
    const int64_t* now_ms        # engine time; borrowed
    Stored** asked               # those that have been asked for
    uint32_t n_asked
    uint64_t records             # written, since the start

cdef inline uint64_t journal_gate(const Journal* j) noexcept nogil:
    """The batch that must be committed before what has happened until now may be promised; 0 = nothing is open."""
    if j.broken:
        return ~<uint64_t> 0     # it never will be
    cdef uint64_t last = j.seq if j.len else j.seq - 1
    return last if last > j.committed else 0

cdef inline bint journal_settled(const Journal* j) noexcept nogil:
    """Whether nothing is open any more, or nothing will be committed."""
    return j.broken or (journal_gate(j) == 0 and not j.busy)

cdef inline void journal_break(Journal* j) noexcept nogil:
    """Something could not be recorded: whoever looks whether something was finds that it waits for ever."""
    j.broken = 1
    j.records += 1

cdef inline bint journal_full(const Journal* j) noexcept nogil:
    return j.len > j.max

cdef inline Stored* stored_ref(Stored* st) noexcept nogil:
    st.refs += 1
    return st

cdef void journal_init(Journal* j, const int64_t* now_ms) noexcept nogil
cdef void journal_free(Journal* j) noexcept nogil
cdef void journal_take(Journal* j) noexcept nogil
cdef uint32_t journal_ask(Journal* j) noexcept nogil
cdef uint8_t journal_level(Journal* j, const uint8_t* topic, uint32_t n) noexcept nogil
cdef bint journal_rule(Journal* j, const uint8_t* filter, uint32_t n, uint8_t level) noexcept nogil
cdef bint journal_want(Journal* j, Stored* st) noexcept nogil
cdef Stored* stored_new(Journal* j, uint64_t id, uint32_t size, int64_t expires_ms) noexcept nogil
cdef void stored_unref(Stored* st) noexcept nogil

cdef void record_clock(Journal* j) noexcept nogil
cdef void record_message(Journal* j, uint64_t id, const Publish* p, uint64_t origin, int64_t expires_ms,
                         uint8_t level) noexcept nogil
cdef void record_delivery(
    Journal* j, uint64_t subscriber, uint64_t position, uint64_t message, uint8_t qos, bint retain, uint8_t state,
    uint16_t packet_id, const uint32_t* ids, uint32_t n_ids
) noexcept nogil
cdef void record_state(Journal* j, uint64_t subscriber, uint64_t position, uint8_t state,
                       uint16_t packet_id) noexcept nogil
cdef void record_done(Journal* j, uint64_t subscriber, uint64_t position) noexcept nogil
cdef void record_packet_id(Journal* j, uint8_t kind, uint64_t session, uint16_t packet_id) noexcept nogil
cdef void record_session(Journal* j, uint64_t serial, const uint8_t* client_id, uint32_t n, uint32_t expiry_s,
                         int64_t expires_ms, int64_t will_at_ms) noexcept nogil
cdef void record_one(Journal* j, uint8_t kind, uint64_t value) noexcept nogil
cdef void record_subscribed(Journal* j, uint64_t session, const uint8_t* filter, uint32_t n, uint8_t options,
                            uint32_t id) noexcept nogil
cdef void record_text(Journal* j, uint8_t kind, uint64_t serial, const uint8_t* text, uint32_t n) noexcept nogil
cdef void record_will(Journal* j, uint64_t session, uint64_t message, uint32_t delay_s, bint has_expiry,
                      uint32_t expiry_s) noexcept nogil
