# cython: language_level=3
"""The net effect of a group of batches: what of them a table must know once all of them have been applied.

A record only sets, replaces or removes what has a key, so of a key's records the last one counts, and the whole group
may be applied again to tables that have seen a part of it. What a group both makes and removes leaves no trace at all
where nothing older can exist: `top` is the highest message id that the tables were ever told of, and ids are never
used again, so a message above it is new, and so is a delivery of it.

Batches are borrowed: a Fold keeps them alive. Everything else is in its arena, which is freed as a whole.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastmq._records cimport Record
from fastmq._table cimport Table

cdef enum What:
    NEW = 0                    # just made
    NOTHING = 1                # not in the tables, and shall not be
    PUT = 2
    CHANGE = 3                 # of a delivery: its state
    GONE = 4                   # perhaps in the tables, and shall not be

cdef struct Note:              # of a message
    uint32_t hash              # first, for _table
    uint8_t what
    uint8_t retained           # a What
    uint8_t is_new             # above top
    int64_t id
    int64_t expires_ms         # 0 = never
    int64_t body_size          # bytes of topic, properties and payload
    const uint8_t* record      # borrowed
    size_t size                # bytes of the record
    Note* next                 # in order of appearance

cdef struct Order:             # of a delivery
    uint32_t hash
    uint8_t what
    uint8_t is_new
    uint8_t flags              # as in the record
    uint16_t packet_id
    int64_t position
    int64_t message
    const uint8_t* ids         # borrowed
    size_t ids_len
    Owner* owner
    Order* next                # of the owner, in order of appearance

cdef struct Pending:           # an inbound packet id
    uint32_t hash
    uint8_t what
    uint16_t packet_id
    Owner* owner
    Pending* next

cdef struct Interest:          # a subscription
    uint32_t hash
    uint8_t what
    Record record
    Owner* owner
    Interest* next

cdef struct Owner:             # a session or a shared group, which have their serials from one sequence
    uint32_t hash
    uint8_t ended              # the session was, whatever it has now came afterwards
    uint8_t group_gone
    uint8_t session_what
    uint8_t will_what
    uint8_t group_what
    int64_t serial
    Record* session
    Record* will
    Record* group
    Order* orders
    Order** orders_end
    Pending* pendings
    Interest* interests
    Owner* next

cdef struct Span:              # lo to hi, both included
    int64_t of                 # subscriber
    int64_t lo
    int64_t hi

cdef struct Block:             # of the arena
    Block* next
    size_t used

cdef struct Items:
    void** at
    size_t count
    size_t room
