# cython: language_level=3
"""What a client may publish and subscribe to: an access control list, compiled; the first rule that speaks decides.

Publishing asks with a topic, which a rule's filter matches or not. Subscribing asks with a filter. When messages are
checked on delivery, a rule that allows speaks as soon as some topic matches both, and one that denies must cover the
filter. When they are not, and for shared subscriptions, it is the other way round: nothing comes in beside the rules.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    VERDICTS = 32                # a power of two
    VERDICT_TOPIC = 56           # longer topics are looked up each time
    DENIED_MAX = 16              # denials a turn that are told in detail
    DENIED_TEXT = 128

cdef enum Action:
    MAY_PUBLISH = 1
    MAY_SUBSCRIBE = 2

cdef struct Rule:
    uint32_t at                  # of the filter, in the texts
    uint32_t len
    uint8_t allow
    uint8_t actions
    uint8_t qos                  # a bit for each
    uint8_t retain               # bit 0: without the retain flag; bit 1: with it
    uint8_t literal              # the filter is a text, not a pattern

cdef struct AccessList:          # shared by all clients that may do the same
    uint32_t refs
    uint32_t n
    uint32_t serial
    uint8_t otherwise            # allowed when no rule speaks
    uint8_t on_delivery          # each message is checked, too: who subscribes to more gets what it may read
    # n Rules follow, then the texts

cdef struct Verdict:
    uint32_t hash
    uint32_t result
    uint8_t len                  # 0: empty
    uint8_t flags                # the action, QoS, retain
    uint8_t topic[VERDICT_TOPIC]

cdef struct Guard:               # of one connection
    AccessList* list             # NULL: it may do everything
    Verdict* verdicts            # of the topics it published to last; NULL: none yet

cdef struct Denied:
    uint8_t action
    uint8_t id_len
    uint8_t topic_len
    uint32_t serial              # of the list
    uint32_t rule                # counted from 1; 0: none spoke
    uint8_t client_id[DENIED_TEXT]
    uint8_t topic[DENIED_TEXT]

cdef struct Denials:             # of a turn, for the log
    uint32_t n
    Denied at[DENIED_MAX]

cdef inline bint is_allowed(uint32_t result) noexcept nogil:
    return result & 1

cdef uint32_t guard_publish(Guard* g, const uint8_t* topic, uint32_t n, uint8_t qos, bint retain) noexcept nogil
cdef uint32_t guard_subscribe(
    const Guard* g, const uint8_t* filter, uint32_t n, uint8_t qos, bint shared
) noexcept nogil
cdef bint guard_reads(Guard* g, const uint8_t* topic, uint32_t n) noexcept nogil
cdef void guard_set(Guard* g, AccessList* list) noexcept nogil
cdef void denials_add(
    Denials* all, uint8_t action, const Guard* g, uint32_t result, const uint8_t* client_id, uint32_t id_len,
    const uint8_t* topic, uint32_t n
) noexcept nogil

cdef class Access:
    cdef AccessList* _list
