# cython: language_level=3
"""What workers send each other: items, over one connection for each direction.

An item is framed as an MQTT packet: a first byte (its kind, and for messages their QoS and retain flag), a variable
byte integer, a body. Those with a number are kept until they are acknowledged, one by one, and sent again over the next
connection: the other worker takes responsibility for a message when it has committed what it must, or passed it on.

Messages, and SYNC:  number (8), origin (8), [flags (1), name length (2), name], the body of an MQTT 5 PUBLISH; SYNC
                     ends after the origin
KEPT:                as RETAIN, its origin being a stamp, see _stamps.pxd
ADD, REMOVE:         a filter             STATE: see _branch.pyx
READY:               nothing              ACKNOWLEDGED: a number (8)          TOLD: bytes of the program's
MARK, MARKED:        a number (4)
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._link cimport Link, Wire
from fastmq._message cimport Message
from fastmq._router cimport Router, Subscriber
from fastmq._share cimport Groups
from fastmq._stamps cimport Stamps
from fastmq._wait cimport Wait
from fastmq._wire cimport Publish

cdef enum ItemKind:              # the upper half of the first byte
    ITEM_PUBLISH = 3             # to whom it matches
    ITEM_SHARED = 4              # from a group's home: to our members of the group `name`
    ITEM_BACK = 5                # to a group's home: our members could not take it
    ITEM_RETAIN = 6              # from a topic's home: is retained from now on
    ITEM_RETAINED = 7            # to a topic's home: a client wants it retained
    ITEM_ADD = 8                 # from now on we want what matches the filter
    ITEM_REMOVE = 9
    ITEM_STATE = 10              # how a group stands with us
    ITEM_READY = 11              # all that we want has been said
    ITEM_ACKNOWLEDGED = 12
    ITEM_TOLD = 13
    ITEM_MARK = 1                # answered at once with MARKED: what came before it is known
    ITEM_MARKED = 2
    ITEM_SYNC = 14               # in the place of a message that is no longer sent: numbers have no gap
    ITEM_KEPT = 15               # from a topic's home at another node: is retained there from a time on

cdef enum:
    WORKERS_MAX = 64             # of one node, this one: the first remotes
    REMOTES_MAX = 250            # workers of all nodes
    ITEM_HEAD = 16               # bytes of number and origin

cdef struct Item:
    Message* message             # one reference; NULL: a SYNC, or acknowledged
    Wait* wait                   # who waits for its acknowledgement; or NULL
    uint8_t* name                # owned; of the group
    uint64_t origin
    uint64_t serial              # of the group whose delivery is over with the acknowledgement, 0 = none
    uint64_t position
    void* group                  # of BACK: our Group*, which stays until then
    uint16_t name_len
    uint8_t kind
    uint8_t retain
    uint8_t flags                # of SHARED: whether the group is durable
    uint8_t over                 # acknowledged

cdef struct Told:
    Told* next
    uint32_t index
    uint32_t len
    # bytes follow

cdef struct Remote:              # another worker
    Subscriber base              # first: a Remote* is a Subscriber*; subscribed to what the other wants
    Fabric* fabric
    Link* out                    # where items leave; NULL: there is no connection
    Link* into                   # where its items come from: the newest connection, whatever still comes over others
    Item* ring                   # what has not been acknowledged, by number; owned
    uint32_t head
    uint32_t n
    uint32_t cap                 # a power of two, 0 = none yet
    uint32_t index
    uint64_t last                # number of the newest item
    uint64_t taken               # number of the last one that came from it
    uint64_t instance            # the process that it is, as far as we hear it
    uint64_t told_instance       # the process that it is, as far as we speak to it
    int64_t bytes                # of the ring's messages
    uint32_t marked              # the last mark that it has answered
    int64_t asked_ms             # since when it has not answered the last one, 0 = it has
    uint32_t epoch               # of what it wants: what was not repeated over the newest connection goes
    uint32_t worker              # of another node: its number there
    uint32_t workers             # and how many there are; 0: it is of this node
    uint8_t exists
    uint8_t ready                # it has said all that it wants
    uint8_t news                 # 1: the way out is lost, 2: it has become ready
    void* proxies                # Proxy*

cdef struct Fabric:
    Router* router
    Groups* groups
    uint32_t index               # of this worker
    uint32_t count
    int64_t backlog_max          # bytes that wait for one other worker
    uint32_t top                 # remotes above do not exist
    uint8_t clustered            # there may be other nodes
    uint8_t from_node            # what is being retained comes from another node
    Stamps stamps
    Remote remotes[REMOTES_MAX]
    Wire* wire                   # of the links of our clients
    uint32_t mark                # the last one that was sent
    uint8_t wants_mark           # the next one is awaited
    Told* told                   # oldest first, for Python
    Told* last_told
    uint8_t news
    # Another node has taken a message of a group
    void (*taken)(Remote* x, const uint8_t* name, uint32_t n) noexcept nogil
    uint8_t stuck                # a branch could not give its queue back
    uint8_t serving              # this worker's clients are here: who comes after it is behind

cdef inline bint is_there(const Remote* x, uint32_t hash) noexcept nogil:
    """Whether a worker of another node is the one there that has what is hashed so."""
    return x.exists and x.workers and hash % x.workers == x.worker

cdef bint is_tight(const Remote* x) noexcept nogil
cdef bint item_send(
    Remote* x, uint8_t kind, const Publish* p, Message* m, uint64_t origin, Wait* wait, const uint8_t* name,
    uint32_t name_len, uint8_t flags, uint64_t serial, uint64_t position
) noexcept nogil
cdef void item_of_group(Remote* x, void* group) noexcept nogil
cdef bint item_pass(Remote* x, uint8_t kind, const Publish* p, Message* m, uint64_t origin) noexcept nogil
cdef bint item_text(Remote* x, uint8_t kind, const uint8_t* text, uint32_t n) noexcept nogil
cdef void items_acknowledged(Remote* x, uint64_t number) noexcept nogil
cdef void items_again(Remote* x) noexcept nogil
cdef void items_free(Remote* x) noexcept nogil
cdef Item* item_at(Remote* x, uint32_t i) noexcept nogil
cdef void item_void(Remote* x, Item* item) noexcept nogil
