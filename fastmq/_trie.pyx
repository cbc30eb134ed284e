# cython: language_level=3, boundscheck=False, wraparound=False
"""See _trie.pxd. Matching rules: MQTT 5, section 4.7; `topics.matches` is the slow readable oracle."""
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from fastmq._wire cimport hash_bytes

cdef enum:
    CACHE_SLOTS = 16384
    CACHE_WAYS = 4
    CACHE_TOPIC_MAX = 256     # longer topics, or topics with more filters, are walked each time
    CACHE_FILTERS_MAX = 64


# -- tables ------------------------------------------------------------------------------------------------------------

cdef uint64_t ADDRESS = (<uint64_t> 1 << 48) - 1   # user space ends below on every 64-bit system we run on


cdef inline uint64_t pack(void* entry, uint32_t hash) noexcept nogil:
    return <uint64_t> <size_t> entry | (<uint64_t> (hash >> 16) << 48)


cdef inline void* unpack(uint64_t slot) noexcept nogil:
    return <void*> <size_t> (slot & ADDRESS)


cdef inline bint may_be(uint64_t slot, uint32_t hash) noexcept nogil:
    return slot >> 48 == hash >> 16


cdef inline uint32_t slot_hash(uint64_t slot, int kind) noexcept nogil:
    if kind == 0:
        return (<Filter*> unpack(slot)).hash
    if kind == 1:
        return (<Level*> unpack(slot)).hash
    return (<Node*> unpack(slot)).hash


cdef inline uint32_t edge_hash(const Node* parent, const Level* level) noexcept nogil:
    cdef uint64_t h = (<uint64_t> <size_t> parent >> 4) * 0x9E3779B97F4A7C15ULL
    h ^= (<uint64_t> <size_t> level >> 4) * 0xD6E8FEB86659FD93ULL
    h ^= h >> 29
    h *= 0xBF58476D1CE4E5B9ULL
    return <uint32_t> (h >> 32)


cdef bint table_grow(TrieState* t, Table* table, int kind) noexcept nogil:
    """Room for one more entry (at most 2/3 full). False: out of memory, nothing changed."""
    cdef uint32_t cap, i, at
    cdef uint64_t* slots
    if table.slots != NULL and table.used * 3 < table.mask * 2:
        return True
    cap = (table.mask + 1) * 2 if table.slots != NULL else 16
    slots = <uint64_t*> calloc(cap, sizeof(uint64_t))
    if slots == NULL:
        return False
    if table.slots != NULL:
        for i in range(table.mask + 1):
            if table.slots[i]:
                at = slot_hash(table.slots[i], kind) & (cap - 1)
                while slots[at]:
                    at = (at + 1) & (cap - 1)
                slots[at] = table.slots[i]
        t.bytes -= <int64_t> (table.mask + 1) * sizeof(uint64_t)
        free(table.slots)
    t.bytes += <int64_t> cap * sizeof(uint64_t)
    table.slots = slots
    table.mask = cap - 1
    return True


cdef void table_put(Table* table, void* entry, uint32_t hash) noexcept nogil:
    cdef uint32_t at = hash & table.mask
    while table.slots[at]:
        at = (at + 1) & table.mask
    table.slots[at] = pack(entry, hash)
    table.used += 1


cdef void table_drop(Table* table, void* entry, uint32_t hash, int kind) noexcept nogil:
    """Removes the entry and shifts back those that probed past it, so that no tombstones are needed."""
    cdef uint32_t at = hash & table.mask, hole, home
    while unpack(table.slots[at]) != entry:
        at = (at + 1) & table.mask
    hole = at
    while True:
        at = (at + 1) & table.mask
        if not table.slots[at]:
            break
        home = slot_hash(table.slots[at], kind) & table.mask
        if ((at - home) & table.mask) >= ((at - hole) & table.mask):
            table.slots[hole] = table.slots[at]
            hole = at
    table.slots[hole] = 0
    table.used -= 1


# -- levels and nodes --------------------------------------------------------------------------------------------------

cdef inline uint8_t* level_text(const Level* level) noexcept nogil:
    return <uint8_t*> level + sizeof(Level)


cdef Level* level_find(TrieState* t, const uint8_t* text, uint32_t n, uint32_t hash) noexcept nogil:
    cdef uint32_t at
    cdef Level* level
    if t.levels.slots == NULL:
        return NULL
    at = hash & t.levels.mask
    while t.levels.slots[at]:
        level = <Level*> unpack(t.levels.slots[at])
        if (may_be(t.levels.slots[at], hash) and level.hash == hash and level.len == n
                and memcmp(level_text(level), text, n) == 0):
            return level
        at = (at + 1) & t.levels.mask
    return NULL


cdef Level* level_intern(TrieState* t, const uint8_t* text, uint32_t n) noexcept nogil:
    cdef uint32_t hash = hash_bytes(text, n)
    cdef Level* level = level_find(t, text, n, hash)
    if level == NULL:
        if not table_grow(t, &t.levels, 1):
            return NULL
        level = <Level*> malloc(sizeof(Level) + n)
        if level == NULL:
            return NULL
        level.hash = hash
        level.len = n
        level.refs = 0
        memcpy(level_text(level), text, n)
        table_put(&t.levels, level, hash)
        t.bytes += <int64_t> (sizeof(Level) + n)
    return level


cdef void level_release(TrieState* t, Level* level) noexcept nogil:
    if level.refs == 0:
        table_drop(&t.levels, level, level.hash, 1)
        t.bytes -= <int64_t> (sizeof(Level) + level.len)
        free(level)


cdef inline Node* edge_find(TrieState* t, Node* parent, Level* level) noexcept nogil:
    cdef uint32_t hash, at
    cdef Node* node
    if t.edges.slots == NULL:
        return NULL
    hash = edge_hash(parent, level)
    at = hash & t.edges.mask
    while t.edges.slots[at]:
        node = <Node*> unpack(t.edges.slots[at])
        if may_be(t.edges.slots[at], hash) and node.hash == hash and node.parent == parent and node.level == level:
            return node
        at = (at + 1) & t.edges.mask
    return NULL


cdef Node* node_child(TrieState* t, Node* parent, const uint8_t* text, uint32_t n) noexcept nogil:
    """The child of `parent` for one level of a filter, made if missing. NULL: out of memory."""
    cdef Node* node
    cdef Level* level = NULL
    cdef bint plus = n == 1 and text[0] == b"+"
    if plus:
        if parent.plus != NULL:
            return parent.plus
    else:
        level = level_intern(t, text, n)
        if level == NULL:
            return NULL
        node = edge_find(t, parent, level)
        if node != NULL:
            return node
        if not table_grow(t, &t.edges, 2):
            level_release(t, level)
            return NULL
    node = <Node*> calloc(1, sizeof(Node))
    if node == NULL:
        if level != NULL:
            level_release(t, level)
        return NULL
    node.parent = parent
    node.level = level
    if plus:
        parent.plus = node
    else:
        level.refs += 1
        node.hash = edge_hash(parent, level)
        table_put(&t.edges, node, node.hash)
    parent.children += 1
    t.bytes += <int64_t> sizeof(Node)
    return node


cdef void node_prune(TrieState* t, Node* node) noexcept nogil:
    """Frees the node and its ancestors as far as nothing hangs on them."""
    cdef Node* parent
    while node.parent != NULL and node.children == 0:
        parent = node.parent
        if node.level == NULL:
            parent.plus = NULL
        else:
            table_drop(&t.edges, node, node.hash, 2)
            node.level.refs -= 1
            level_release(t, node.level)
        parent.children -= 1
        t.bytes -= <int64_t> sizeof(Node)
        free(node)
        node = parent


cdef bint trie_hang(TrieState* t, Filter* f) noexcept nogil:
    """Hangs a wildcard filter into the trie. False: out of memory, and nothing is left behind."""
    cdef uint8_t* text = filter_text(f)
    cdef uint32_t start = 0, end
    cdef Node* node = &t.root
    cdef Node* child
    while start <= f.len:
        end = start
        while end < f.len and text[end] != b"/":
            end += 1
        if end - start == 1 and text[start] == b"#":
            f.is_hash = 1
            break
        child = node_child(t, node, text + start, end - start)
        if child == NULL:
            node_prune(t, node)
            return False
        node = child
        start = end + 1
    f.node = node
    node.children += 1
    if f.is_hash:
        node.below = f
    else:
        node.here = f
    t.wildcards += 1
    t.generation += 1
    return True


cdef void trie_unhang(TrieState* t, Filter* f) noexcept nogil:
    if f.is_hash:
        f.node.below = NULL
    else:
        f.node.here = NULL
    f.node.children -= 1
    node_prune(t, f.node)
    t.wildcards -= 1
    t.generation += 1


# -- filters and subscriptions -----------------------------------------------------------------------------------------

cdef Filter* filter_lookup(TrieState* t, const uint8_t* text, uint32_t n, uint32_t hash) noexcept nogil:
    cdef uint32_t at
    cdef Filter* f
    if t.filters.slots == NULL:
        return NULL
    at = hash & t.filters.mask
    while t.filters.slots[at]:
        f = <Filter*> unpack(t.filters.slots[at])
        if may_be(t.filters.slots[at], hash) and f.hash == hash and f.len == n and memcmp(filter_text(f), text, n) == 0:
            return f
        at = (at + 1) & t.filters.mask
    return NULL


cdef Filter* trie_find(TrieState* t, const uint8_t* text, uint32_t n) noexcept nogil:
    return filter_lookup(t, text, n, hash_bytes(text, n))


cdef bint is_wildcard(const uint8_t* text, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if text[i] == b"+" or text[i] == b"#":
            return True
    return False


cdef Filter* filter_make(TrieState* t, const uint8_t* text, uint32_t n, uint32_t hash) noexcept nogil:
    cdef Filter* f
    if not table_grow(t, &t.filters, 0):
        return NULL
    f = <Filter*> calloc(1, sizeof(Filter) + n)
    if f == NULL:
        return NULL
    f.hash = hash
    f.len = <uint16_t> n
    memcpy(filter_text(f), text, n)
    if is_wildcard(text, n) and not trie_hang(t, f):
        free(f)
        return NULL
    table_put(&t.filters, f, hash)
    t.bytes += <int64_t> (sizeof(Filter) + n)
    return f


cdef void filter_drop(TrieState* t, Filter* f) noexcept nogil:
    if f.node != NULL:
        trie_unhang(t, f)
    table_drop(&t.filters, f, f.hash, 0)
    t.bytes -= <int64_t> (sizeof(Filter) + f.len + f.cap * sizeof(void*))
    free(f.subs)
    free(f)


cdef Subscription* trie_find_owned(TrieState* t, Owner* owner, const uint8_t* text, uint32_t n) noexcept nogil:
    """The owner's subscription to exactly this filter text, or NULL. Looks through the shorter of the two lists."""
    cdef Filter* f = trie_find(t, text, n)
    cdef Subscription** subs
    cdef uint32_t i
    if f == NULL:
        return NULL
    if f.n <= owner.n:
        subs = filter_subs(f)
        for i in range(f.n):
            if subs[i].owner == owner:
                return subs[i]
        return NULL
    for i in range(owner.n):
        if (<Subscription*> owner.subs[i]).filter == f:
            return <Subscription*> owner.subs[i]
    return NULL


cdef Subscription* trie_add(
    TrieState* t, Owner* owner, const uint8_t* text, uint32_t n, uint8_t options, uint32_t id, bint* is_new
) noexcept nogil:
    """Subscribes, or replaces the options of the same one [MQTT-3.8.4-3]. NULL: out of memory, nothing changed."""
    cdef Subscription* s = trie_find_owned(t, owner, text, n)
    cdef uint32_t hash, cap
    cdef Filter* f
    cdef void** grown
    is_new[0] = s == NULL
    if s != NULL:
        s.options = options
        s.id = id
        return s
    hash = hash_bytes(text, n)
    f = filter_lookup(t, text, n, hash)
    if f == NULL:
        f = filter_make(t, text, n, hash)
        if f == NULL:
            return NULL
    s = <Subscription*> malloc(sizeof(Subscription))
    if s != NULL and owner.n == owner.cap:
        cap = owner.cap + (owner.cap >> 1) + 2
        grown = <void**> realloc(owner.subs, cap * sizeof(void*))
        if grown == NULL:
            free(s)
            s = NULL
        else:
            t.bytes += <int64_t> (cap - owner.cap) * sizeof(void*)
            owner.subs = grown
            owner.cap = cap
    if s != NULL and f.n and f.n >= f.cap:
        cap = f.cap * 2 if f.cap else 4
        grown = <void**> realloc(f.subs, cap * sizeof(void*))
        if grown == NULL:
            free(s)
            s = NULL
        else:
            if f.cap == 0:
                grown[0] = f.single
            t.bytes += <int64_t> (cap - f.cap) * sizeof(void*)
            f.subs = <Subscription**> grown
            f.cap = cap
    if s == NULL:
        if f.n == 0:
            filter_drop(t, f)
        return NULL
    s.owner = owner
    s.filter = f
    s.options = options
    s.id = id
    s.at_filter = f.n
    filter_subs(f)[f.n] = s
    f.n += 1
    s.at_owner = owner.n
    owner.subs[owner.n] = s
    owner.n += 1
    t.subscriptions += 1
    t.bytes += <int64_t> sizeof(Subscription)
    return s


cdef void trie_remove(TrieState* t, Subscription* s) noexcept nogil:
    cdef Filter* f = s.filter
    cdef Owner* owner = s.owner
    cdef Subscription** subs = filter_subs(f)
    f.n -= 1
    subs[s.at_filter] = subs[f.n]
    subs[s.at_filter].at_filter = s.at_filter
    owner.n -= 1
    owner.subs[s.at_owner] = owner.subs[owner.n]
    (<Subscription*> owner.subs[s.at_owner]).at_owner = s.at_owner
    t.subscriptions -= 1
    t.bytes -= <int64_t> sizeof(Subscription)
    free(s)
    if f.n == 0:
        filter_drop(t, f)
    if owner.n == 0:
        t.bytes -= <int64_t> owner.cap * sizeof(void*)
        free(owner.subs)
        owner.subs = NULL
        owner.cap = 0


cdef void trie_remove_all(TrieState* t, Owner* owner) noexcept nogil:
    while owner.n:
        trie_remove(t, <Subscription*> owner.subs[owner.n - 1])


# -- matching ----------------------------------------------------------------------------------------------------------

cdef bint found_put(TrieState* t, Filter* f) noexcept nogil:
    cdef Filter** grown
    if t.found_n == t.found_cap:
        grown = <Filter**> realloc(t.found, (t.found_cap * 2 + 16) * sizeof(void*))
        if grown == NULL:
            return False
        t.found = grown
        t.found_cap = t.found_cap * 2 + 16
    t.found[t.found_n] = f
    t.found_n += 1
    return True


cdef bint frontier_room(TrieState* t, uint32_t need) noexcept nogil:
    cdef Node** grown
    if need <= t.frontier_cap:
        return True
    grown = <Node**> realloc(t.frontier, need * 2 * sizeof(void*))
    if grown == NULL:
        return False
    t.frontier = grown
    grown = <Node**> realloc(t.next_frontier, need * 2 * sizeof(void*))
    if grown == NULL:
        return False
    t.next_frontier = grown
    t.frontier_cap = need * 2
    return True


cdef bint trie_walk(TrieState* t, const uint8_t* topic, uint32_t n) noexcept nogil:
    """Fills t.found with the wildcard filters that match. False: out of memory."""
    cdef uint32_t start = 0, end, i, width = 1, next_width
    cdef Node* node
    cdef Node* child
    cdef Level* level
    cdef bint dollar = topic[0] == b"$"  # a leading wildcard does not reach these [MQTT-4.7.2-1]
    cdef bint ok = frontier_room(t, 2)
    cdef Node** swap
    t.found_n = 0
    if not ok:
        return False
    t.frontier[0] = &t.root
    while start <= n and width:
        end = start
        while end < n and topic[end] != b"/":
            end += 1
        level = level_find(t, topic + start, end - start, hash_bytes(topic + start, end - start))
        if not frontier_room(t, width * 2):
            return False
        next_width = 0
        for i in range(width):
            node = t.frontier[i]
            if node.below != NULL and not (dollar and node.parent == NULL):
                ok = found_put(t, node.below) and ok
            if node.plus != NULL and not (dollar and node.parent == NULL):
                t.next_frontier[next_width] = node.plus
                next_width += 1
            if level != NULL:
                child = edge_find(t, node, level)
                if child != NULL:
                    t.next_frontier[next_width] = child
                    next_width += 1
        swap = t.frontier
        t.frontier = t.next_frontier
        t.next_frontier = swap
        width = next_width
        start = end + 1
    for i in range(width):
        node = t.frontier[i]
        if node.here != NULL:
            ok = found_put(t, node.here) and ok
        if node.below != NULL:  # "a/#" also matches "a"
            ok = found_put(t, node.below) and ok
    return ok


cdef inline Filter** cached_filters(Cached* c) noexcept nogil:
    return <Filter**> (<uint8_t*> c + sizeof(Cached))


cdef Cached* cache_store(TrieState* t, Cached** way, const uint8_t* topic, uint32_t n, uint32_t hash) noexcept nogil:
    cdef Cached* c = <Cached*> malloc(sizeof(Cached) + t.found_n * sizeof(void*) + n)
    if c == NULL:
        return NULL
    c.generation = t.generation
    c.hash = hash
    c.len = n
    c.n = t.found_n
    if t.found_n:
        memcpy(cached_filters(c), t.found, t.found_n * sizeof(void*))
    memcpy(<uint8_t*> (cached_filters(c) + c.n), topic, n)
    t.bytes += <int64_t> (sizeof(Cached) + c.n * sizeof(void*) + n)
    if way[0] != NULL:
        t.bytes -= <int64_t> (sizeof(Cached) + way[0].n * sizeof(void*) + way[0].len)
        free(way[0])
    way[0] = c
    return c


cdef bint trie_match(TrieState* t, const uint8_t* topic, uint32_t n, uint32_t hash, Matches* out) noexcept nogil:
    """All filters that match the topic (hash = hash_bytes(topic)). False: out of memory, `out` may lack some."""
    cdef Cached** ways
    cdef Cached** victim
    cdef Cached* c
    cdef uint32_t i
    out.exact = filter_lookup(t, topic, n, hash)
    out.n_wild = 0
    if t.wildcards == 0:
        return True
    ways = t.cache + (((hash >> 7) * CACHE_WAYS) & (CACHE_SLOTS - 1))
    victim = ways + (hash & (CACHE_WAYS - 1))
    for i in range(CACHE_WAYS):
        c = ways[i]
        if c == NULL:
            victim = ways + i
        elif c.generation != t.generation:
            victim = ways + i
        elif c.hash == hash and c.len == n and memcmp(<uint8_t*> (cached_filters(c) + c.n), topic, n) == 0:
            out.wild = cached_filters(c)
            out.n_wild = c.n
            return True
    if not trie_walk(t, topic, n):
        out.wild = t.found
        out.n_wild = t.found_n
        return False
    out.wild = t.found
    out.n_wild = t.found_n
    if t.missed[hash & (CACHE_SLOTS - 1)] != hash:
        t.missed[hash & (CACHE_SLOTS - 1)] = hash
    elif n <= CACHE_TOPIC_MAX and t.found_n <= CACHE_FILTERS_MAX:
        cache_store(t, victim, topic, n, hash)
    return True


cdef TrieState* trie_new() noexcept nogil:
    cdef TrieState* t = <TrieState*> calloc(1, sizeof(TrieState))
    if t == NULL:
        return NULL
    t.cache = <Cached**> calloc(CACHE_SLOTS, sizeof(void*))
    t.missed = <uint32_t*> calloc(CACHE_SLOTS, sizeof(uint32_t))
    if t.cache == NULL or t.missed == NULL:
        free(t.cache)
        free(t.missed)
        free(t)
        return NULL
    t.generation = 1
    return t


cdef void trie_free(TrieState* t) noexcept nogil:
    """Frees the trie. Its owners must have removed their subscriptions first."""
    cdef uint32_t i
    for i in range(CACHE_SLOTS):
        free(t.cache[i])
    free(t.cache)
    free(t.missed)
    free(t.filters.slots)
    free(t.levels.slots)
    free(t.edges.slots)
    free(t.found)
    free(t.frontier)
    free(t.next_frontier)
    free(t)


# -- the trie for tests and benches ------------------------------------------------------------------------------------

cdef class Trie:
    """Subscriptions of integer owners; the same structure that the router uses, without a broker around it."""

    cdef TrieState* _trie
    cdef dict _owners              # int -> address of its Owner

    def __cinit__(self) -> None:
        self._trie = trie_new()
        if self._trie == NULL:
            raise MemoryError("no memory for a trie")
        self._owners = {}

    def __dealloc__(self) -> None:
        cdef Owner* owner
        if self._trie == NULL:
            return
        for address in self._owners.values():
            owner = <Owner*> <size_t> address
            trie_remove_all(self._trie, owner)
            free(owner)
        trie_free(self._trie)

    cdef Owner* _owner(self, object key) except NULL:
        cdef Owner* owner
        if key in self._owners:
            return <Owner*> <size_t> self._owners[key]
        owner = <Owner*> calloc(1, sizeof(Owner))
        if owner == NULL:
            raise MemoryError("no memory for an owner")
        owner.self = <void*> <size_t> key
        self._owners[key] = <size_t> owner
        return owner

    def add(self, key: int, bytes topic_filter not None, int options=0) -> bool:
        """Subscribes owner `key` to a valid filter; True if it was not subscribed before."""
        cdef bint is_new = False
        if trie_add(self._trie, self._owner(key), <uint8_t*> <char*> topic_filter, <uint32_t> len(topic_filter),
                    <uint8_t> options, 0, &is_new) == NULL:
            raise MemoryError("no memory for a subscription")
        return is_new

    def remove(self, key: int, bytes topic_filter not None) -> bool:
        """Ends a subscription; False if there was none."""
        cdef Subscription* s = trie_find_owned(
            self._trie, self._owner(key), <uint8_t*> <char*> topic_filter, <uint32_t> len(topic_filter))
        if s == NULL:
            return False
        trie_remove(self._trie, s)
        return True

    def remove_all(self, key: int) -> None:
        """Ends all subscriptions of an owner."""
        trie_remove_all(self._trie, self._owner(key))

    def match(self, bytes topic not None) -> list:
        """(owner, filter) of every subscription that matches the topic, in no order."""
        cdef Matches m
        cdef uint32_t i, j, n = <uint32_t> len(topic)
        cdef Filter* f
        cdef list out = []
        cdef uint8_t* p = <uint8_t*> <char*> topic
        if n == 0:
            return out
        if not trie_match(self._trie, p, n, hash_bytes(p, n), &m):
            raise MemoryError("no memory to match a topic")
        for i in range(m.n_wild + 1):
            f = m.exact if i == m.n_wild else m.wild[i]
            if f == NULL:
                continue
            for j in range(f.n):
                out.append((<size_t> filter_subs(f)[j].owner.self, (<char*> filter_text(f))[:f.len]))
        return out

    def count(self, bytes topic not None) -> int:
        """How many filters match the topic: the cost of a match alone, for the benches."""
        cdef Matches m
        cdef uint8_t* p = <uint8_t*> <char*> topic
        cdef uint32_t n = <uint32_t> len(topic)
        trie_match(self._trie, p, n, hash_bytes(p, n), &m)
        return <int> (m.n_wild + (m.exact != NULL))

    @property
    def bytes(self) -> int:
        """Bytes in the structures (without the allocator's overhead)."""
        return self._trie.bytes

    def __len__(self) -> int:
        return <Py_ssize_t> self._trie.subscriptions
