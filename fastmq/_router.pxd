# cython: language_level=3
"""Publish: match, fan out, retain. Declares Subscriber, the face of everything that wants messages.

A Subscriber is a session, a shared group, a tap of the embedding program, later a peer worker or a rule: it embeds the
struct as its first member and fills in two functions. The router calls them and knows nothing else of it.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._journal cimport Journal
from fastmq._message cimport Ledger, Message
from fastmq._retain cimport Retained
from fastmq._trie cimport Owner, TrieState
from fastmq._user cimport User
from fastmq._wire cimport Publish

cdef enum:
    IMAGE_MAX = 512              # bytes; packets up to this size are encoded once and copied; larger ones: SHARE_MIN

cdef enum Crossing:
    FROM_WORKER = 1
    FROM_NODE = 2                # from another host

cdef struct Stats:               # counted since the start; metrics and $SYS read them
    uint64_t packets_received
    uint64_t packets_sent
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t publish_received
    uint64_t publish_sent
    uint64_t publish_bytes_received
    uint64_t publish_bytes_sent
    uint64_t publish_dropped     # all the reasons below
    uint64_t dropped_queue_full
    uint64_t dropped_output_full  # QoS 0 to a connection that does not drain
    uint64_t dropped_too_large   # above the client's Maximum Packet Size
    uint64_t dropped_expired
    uint64_t dropped_memory
    uint64_t dropped_offline     # QoS 0 to a session without a connection
    uint64_t dropped_denied
    uint64_t dropped_rate        # QoS 0 to a client that had been sent as much as it may
    uint64_t publish_throttled   # after which their publisher was paused
    uint64_t subscribe_denied
    uint64_t delivery_denied
    uint64_t dropped_lost        # the store no longer had the message
    uint64_t retained_refused
    uint64_t connects
    uint64_t connections_refused
    uint64_t accept_failures     # accept() failed, for want of file descriptors most likely
    uint64_t disconnects
    uint64_t sessions_expired
    uint64_t connections         # now
    uint64_t connections_peak
    uint64_t sessions            # now
    uint64_t shared_subscriptions

cdef struct Image:               # a QoS 0 PUBLISH, encoded once per publish and protocol
    const uint8_t* data          # NULL: not made yet
    uint32_t len
    uint8_t own[IMAGE_MAX]

cdef struct Pub:                 # one publish on its way through the router
    Publish* parts               # borrowed
    Message* message             # made on first need, see pub_message
    Image* v4
    Image* v5
    uint64_t origin              # serial of the publishing session, 0 = the broker
    uint32_t hash                # of the topic

cdef struct Subscriber:
    Owner owner                  # its subscriptions
    uint64_t serial              # never used again for another subscriber
    # Gets one message: `qos` is the subscription's, `retain` whether the flag is kept; ids are its identifiers.
    void (*deliver)(Subscriber* self, Pub* pub, uint8_t qos, bint retain,
                    const uint32_t* ids, uint32_t n_ids) noexcept nogil
    # How many messages are in flight to it, or -1 while it can take none. Asked by shared groups.
    int64_t (*load)(Subscriber* self) noexcept nogil
    uint32_t epoch               # of the publish that last touched it
    uint32_t hit                 # its place among the hits of that publish
    uint8_t durable              # whether the store keeps what it has

cdef struct Hit:
    Subscriber* who
    uint32_t id
    int32_t more                 # index of further ids, -1 = none
    uint8_t qos
    uint8_t retain

cdef struct MoreId:
    uint32_t id
    int32_t next

cdef struct Waits:               # of one connection, oldest first; see _wait.pxd
    void* head                   # Wait*
    void* tail
    void* link                   # Link*, where they leave; NULL: nowhere yet

cdef struct Router:
    TrieState* trie
    Retained* retained
    Ledger ledger
    Journal journal
    Stats stats
    int64_t now_ms               # engine time, set at the start of each turn
    uint64_t last_serial
    int64_t memory_max           # bytes on the ledger at which new work is refused, 0 = none
    uint32_t retained_max        # messages, 0 = no limit
    int64_t retained_bytes_max   # 0 = no limit
    uint32_t retained_payload_max
    User* publisher              # whose session publishes what is to be retained; set only while that is counted
    void* congested              # set by a delivery: the Link that its publisher should wait for
    Image image4
    Image image5
    Hit* hits
    uint32_t hits_cap
    MoreId* more
    uint32_t more_n
    uint32_t more_cap
    uint32_t* ids
    uint32_t ids_cap
    uint32_t epoch
    uint32_t marked              # all other workers know what our clients wanted when this mark was made
    uint8_t crossing             # what is routed comes from another worker: it goes to none, and is not retained
    uint8_t refused              # by a delivery: its receiver cannot keep the message, which must not be acknowledged
    Waits unclaimed              # those whose connections ended before they could leave
    void* wait                   # Wait*: what the publish that is being routed waits for; see _wait.pxd
    # Another worker may have to know what is retained; NULL: there is none
    void (*on_retain)(void* fabric, Pub* pub) noexcept nogil
    void* fabric

cdef Router* router_new() noexcept nogil
cdef void router_free(Router* r) noexcept nogil
cdef int router_publish(Router* r, Publish* parts, uint64_t origin, Message* made) noexcept nogil
cdef void router_offer(Router* r, Subscriber* who, Publish* parts, uint64_t origin) noexcept nogil
cdef void router_retain(Router* r, Publish* parts, uint64_t origin) noexcept nogil
cdef bint router_keeps(Router* r, const Publish* parts) noexcept nogil
cdef Message* pub_message(Router* r, Pub* pub) noexcept nogil
cdef void message_parts(const Message* m, int64_t now_ms, Publish* out) noexcept nogil

cdef inline int64_t router_bytes(const Router* r) noexcept nogil:
    return r.ledger.bytes + r.trie.bytes + r.retained.bytes + r.journal.bytes

cdef inline bint router_full(const Router* r) noexcept nogil:
    return r.memory_max and router_bytes(r) > r.memory_max

cdef inline bint router_strained(const Router* r) noexcept nogil:
    """Whether there is a reason to look at a publish more closely before it is routed."""
    return router_full(r) or r.journal.trouble or r.journal.len > r.journal.max
