# cython: language_level=3
"""The way out to one client: chunks of bytes that leave with one writev a turn. Sockets are _conn's business.

Small pieces are copied into pooled chunks; a payload of SHARE_MIN bytes or more is not copied: a chunk refers to its
message and holds a reference. A link with anything to send hangs on its wire's dirty list until it is flushed.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._access cimport Guard, guard_reads
from fastmq._message cimport Message
from fastmq._router cimport Image, Pub, Router
from fastmq._terms cimport Terms, terms_reach, terms_wait
from fastmq._wire cimport Publish

cdef enum:
    SHARE_MIN = 1024             # payloads below are copied: cheaper than a chunk and an iovec of their own
    CHUNK_SMALL = 2048           # bytes with the header; the first chunk of a burst
    CHUNK_LARGE = 16384
    CHUNK_TINY = 256             # not pooled

cdef struct Chunk:
    Chunk* next
    Message* message             # the owner of `data`, or NULL when the bytes are the chunk's own
    uint8_t* data
    uint64_t gate                # the journal's batch that must be committed before these bytes may leave, 0 = none
    uint32_t len                 # bytes that are filled
    uint32_t off                 # of them, bytes that have been sent
    uint32_t cap                 # room for own bytes, 0 for a reference
    uint32_t mark                # other workers must know of it before these bytes may leave, 0 = they need not
    # own bytes follow

cdef struct Alias:
    uint32_t hash
    uint16_t number              # 0 = free slot
    uint16_t len
    uint8_t* topic               # owned

cdef struct AliasTable:          # topic -> alias, both as the receiver knows them
    uint32_t mask
    uint16_t used
    uint16_t limit
    Alias slots[1]

cdef struct Wire:                # what the links of one worker share
    Router* router
    Link* dirty                  # a stack of links with something to send
    Link* gated                  # links with output that waits for a commit
    Chunk* small                 # free chunks
    Chunk* large
    uint32_t n_small
    uint32_t n_large
    uint32_t out_max             # bytes queued on a link at which QoS 0 is dropped and reading from it stops
    uint32_t out_soft            # bytes at which its publishers are asked to wait

cdef struct Link:
    Wire* wire
    void* session                # Session*, once CONNECT was accepted
    Chunk* head
    Chunk* tail
    Link* next_dirty
    Link* next_gated
    Link** prev_gated            # what points at this link in the list of gated ones; NULL while it is not there
    uint64_t gate                # the highest of its chunks' gates
    uint32_t mark                # and marks
    AliasTable* aliases          # ours towards the client; NULL when it allows none
    Guard guard                  # what its client may publish and read
    Terms* terms                 # NULL: nothing is special about it
    uint32_t out_bytes
    uint32_t packet_max          # the client's Maximum Packet Size, 0 = none
    uint8_t version              # 3, 4 or 5; 0 before CONNECT
    uint8_t dirty
    uint8_t slow                 # held publishers back for too long: they wait for it no more until it has drained
    uint8_t broken               # out of memory or a dead socket: nothing more is written, the turn's end closes it
    uint8_t problem_info         # Request Problem Information

cdef uint8_t* link_chunk(Link* l, uint32_t n) noexcept nogil
cdef bint link_refer(Link* l, Message* m, const uint8_t* data, uint32_t n) noexcept nogil
cdef bint link_publish(
    Link* l, const Publish* p, Message* m, uint8_t qos, bint retain, bint dup, uint16_t packet_id,
    const uint32_t* ids, uint32_t n_ids, uint32_t hash, uint64_t gate
) noexcept nogil
cdef bint link_image(Link* l, Pub* pub, bint retain) noexcept nogil
cdef bint link_ack(Link* l, uint8_t first, uint16_t packet_id, uint8_t reason, uint64_t gate) noexcept nogil
cdef uint8_t* link_promise(Link* l, uint32_t n, uint64_t gate, uint32_t mark=*) noexcept nogil
cdef void link_open_gates(Wire* w) noexcept nogil
cdef bint link_fits(Link* l, uint32_t remaining) noexcept nogil
cdef void link_clear(Link* l) noexcept nogil
cdef void link_sent(Link* l, uint32_t n) noexcept nogil
cdef bint link_set_aliases(Link* l, uint16_t limit) noexcept nogil
cdef void wire_clear(Wire* w) noexcept nogil

cdef inline bint chunk_waits(const Chunk* c, const Router* r) noexcept nogil:
    return c.gate > r.journal.committed or c.mark > r.marked

cdef inline bint link_is_gated(const Link* l) noexcept nogil:
    """Whether the first of its output waits for a commit, or for other workers."""
    return l.head != NULL and chunk_waits(l.head, l.wire.router)

cdef inline bint link_reads(Link* l, const uint8_t* topic, uint32_t n) noexcept nogil:
    """Whether a client, if one is there, may be sent what was published to this topic."""
    return l == NULL or (
        (l.guard.list == NULL or guard_reads(&l.guard, topic, n))
        and (l.terms == NULL or terms_reach(l.terms, topic, n))
    )

cdef inline bint link_is_held(const Link* l) noexcept nogil:
    """Whether its client has been sent as much as it may for now."""
    return l.terms != NULL and terms_wait(l.terms, l.wire.router.now_ms) != 0

cdef inline void link_mark(Link* l) noexcept nogil:
    if not l.dirty:
        l.dirty = 1
        l.next_dirty = l.wire.dirty
        l.wire.dirty = l

cdef inline uint8_t* link_reserve(Link* l, uint32_t n) noexcept nogil:
    """Room for exactly n bytes, counted as written; the caller fills all of them. NULL: out of memory, link broken."""
    cdef Chunk* c = l.tail
    cdef uint8_t* p
    if c != NULL and c.cap - c.len >= n and c.cap:
        p = c.data + c.len
        c.len += n
        l.out_bytes += n
        return p
    return link_chunk(l, n)
