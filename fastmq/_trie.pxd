# cython: language_level=3
"""Topic filters and who subscribed to them. Knows neither clients nor messages: an owner is a pointer.

Two indexes over the same `Filter` records:
  * one hash of all filters by their text. A topic without wildcards is looked up here: that is the whole exact match.
  * a trie of the levels of wildcard filters only, its edges in one open-addressing table keyed by (parent, level).
    In front of it a cache, topic -> wildcard filters; its generation moves only when a wildcard filter comes or goes.
A Subscription knows its place in its filter and in its owner, so both lists forget it in constant time.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._table cimport Table

cdef enum SubscriptionOptions:   # the byte of SUBSCRIBE (MQTT 5, section 3.8.3.1)
    OPT_QOS = 0x03
    OPT_NO_LOCAL = 0x04
    OPT_RETAIN_AS_PUBLISHED = 0x08
    OPT_RETAIN_HANDLING = 0x30
    OPT_REMOTE = 0x40            # not of SUBSCRIBE: another worker's, which passes it on to those of its own
    OPT_GROUP = 0x80             # not of SUBSCRIBE: a shared group's

cdef enum:
    NEAR = 1                     # of this worker's subscriptions: any
    FAR = 2                      # those that are not groups'; these get what is published at their own node

cdef struct Owner:               # the owner's side of its subscriptions; embedded in every subscriber
    void* self                   # the subscriber
    void** subs                  # Subscription*, in any order; owned
    uint32_t n
    uint32_t cap

cdef struct Subscription:
    Owner* owner
    Filter* filter
    uint32_t at_filter           # index in filter.subs
    uint32_t at_owner            # index in owner.subs
    uint32_t id                  # Subscription Identifier, 0 = none
    uint8_t options

cdef struct Filter:
    Subscription** subs          # owned; while n <= 1 and cap == 0 the one entry is `single`
    Subscription* single
    Node* node                   # NULL for an exact filter
    uint32_t n
    uint32_t cap
    uint32_t hash
    uint16_t len
    uint8_t is_hash              # ends with '#': hangs on its parent's node
    uint8_t remotes              # subscriptions of other workers
    uint32_t groups              # subscriptions of shared groups
    # text follows

cdef struct Level:               # an interned level name
    uint32_t hash
    uint32_t refs
    uint32_t len
    # text follows

cdef struct Node:
    Node* parent
    Level* level                 # NULL: the root, or a '+' node
    Node* plus
    Filter* here                 # the filter that ends here
    Filter* below                # the filter that ends here with '/#'
    uint32_t hash                # of the edge (parent, level)
    uint32_t children            # exact children, plus and filters: a node without any goes

cdef struct Cached:
    uint64_t generation
    uint32_t hash
    uint32_t len
    uint32_t n
    # n Filter*, then the topic

cdef struct TrieState:
    Table filters                # Filter* by text
    Table levels                 # Level* by text
    Table edges                  # Node* by (parent, level)
    Node root
    Cached** cache               # CACHE_SLOTS entries
    uint32_t* missed             # hashes of topics that missed lately: only a repeated one is worth caching
    uint64_t generation
    uint32_t wildcards           # wildcard filters alive
    uint32_t subscriptions
    int64_t bytes                # what the structures above hold
    Filter** found               # scratch of the last walk
    uint32_t found_n
    uint32_t found_cap
    Node** frontier
    Node** next_frontier
    uint32_t frontier_cap
    # A filter has its first subscription of this worker, or has lost the last one; NULL: nobody wants to know.
    # `which` are NEAR or FAR.
    void (*changed)(void* watcher, Filter* f, bint wanted, int which) noexcept nogil
    void* watcher

cdef struct Matches:             # valid until the trie changes or is asked again
    Filter* exact
    Filter** wild
    uint32_t n_wild

cdef inline uint8_t* filter_text(const Filter* f) noexcept nogil:
    return <uint8_t*> f + sizeof(Filter)

cdef inline Subscription** filter_subs(Filter* f) noexcept nogil:
    return f.subs if f.cap else &f.single

cdef TrieState* trie_new() noexcept nogil
cdef void trie_free(TrieState* t) noexcept nogil
cdef Subscription* trie_add(
    TrieState* t, Owner* owner, const uint8_t* text, uint32_t n, uint8_t options, uint32_t id, bint* is_new
) noexcept nogil
cdef Filter* trie_find(TrieState* t, const uint8_t* text, uint32_t n) noexcept nogil
cdef Subscription* trie_find_owned(TrieState* t, Owner* owner, const uint8_t* text, uint32_t n) noexcept nogil
cdef void trie_remove(TrieState* t, Subscription* s) noexcept nogil
cdef void trie_remove_all(TrieState* t, Owner* owner) noexcept nogil
cdef bint trie_match(TrieState* t, const uint8_t* topic, uint32_t n, uint32_t hash, Matches* out) noexcept nogil
