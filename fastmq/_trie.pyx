# cython: language_level=3, boundscheck=False, wraparound=False
"""See _trie.pxd. Matching rules: MQTT 5, section 4.7; `topics.matches` is the slow readable oracle."""
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from fastmq._table cimport table_drop, table_free, table_init, table_put, table_room, table_seek
from fastmq._wire cimport hash_bytes

cdef enum:
    CACHE_SLOTS = 16384
    CACHE_WAYS = 4
    CACHE_TOPIC_MAX = 256     # longer topics, or topics with more filters, are walked each time
    CACHE_FILTERS_MAX = 64


cdef inline uint32_t edge_hash(const Node* parent, const Level* level) noexcept nogil:
    cdef uint64_t h = (<uint64_t> <size_t> parent >> 4) * 0x9E3779B97F4A7C15ULL
    h ^= (<uint64_t> <size_t> level >> 4) * 0xD6E8FEB86659FD93ULL
    h ^= h >> 29
    h *= 0xBF58476D1CE4E5B9ULL
    return <uint32_t> (h >> 32)


# -- levels and nodes --------------------------------------------------------------------------------------------------

cdef inline uint8_t* level_text(const Level* level) noexcept nogil:
    return <uint8_t*> level + sizeof(Level)


cdef Level* level_find(TrieState* t, const uint8_t* text, uint32_t n, uint32_t hash) noexcept nogil:
    cdef uint32_t at = hash
    cdef Level* level = <Level*> table_seek(&t.levels, hash, &at)
    while level != NULL and not (level.hash == hash and level.len == n and memcmp(level_text(level), text, n) == 0):
        level = <Level*> table_seek(&t.levels, hash, &at)
    return level


cdef Level* level_intern(TrieState* t, const uint8_t* text, uint32_t n) noexcept nogil:
    cdef uint32_t hash = hash_bytes(text, n)
    cdef Level* level = level_find(t, text, n, hash)
    if level == NULL:
        if not table_room(&t.levels):
            return NULL
        level = <Level*> malloc(sizeof(Level) + n)
        if level == NULL:
            return NULL
        level.hash = hash
        level.len = n
        level.refs = 0
        memcpy(level_text(level), text, n)
        table_put(&t.levels, level)
        t.bytes += <int64_t> (sizeof(Level) + n)
    return level


cdef void level_release(TrieState* t, Level* level) noexcept nogil:
    if level.refs == 0:
        table_drop(&t.levels, level)
        t.bytes -= <int64_t> (sizeof(Level) + level.len)
        free(level)


cdef inline Node* edge_find(TrieState* t, Node* parent, Level* level) noexcept nogil:
    cdef uint32_t hash = edge_hash(parent, level)
    cdef uint32_t at = hash
    cdef Node* node = <Node*> table_seek(&t.edges, hash, &at)
    while node != NULL and not (node.parent == parent and node.level == level):
        node = <Node*> table_seek(&t.edges, hash, &at)
    return node


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
        if not table_room(&t.edges):
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
        table_put(&t.edges, node)
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
            table_drop(&t.edges, node)
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
    cdef uint32_t at = hash
    cdef Filter* f = <Filter*> table_seek(&t.filters, hash, &at)
    while f != NULL and not (f.hash == hash and f.len == n and memcmp(filter_text(f), text, n) == 0):
        f = <Filter*> table_seek(&t.filters, hash, &at)
    return f


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
    if not table_room(&t.filters):
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
    table_put(&t.filters, f)
    t.bytes += <int64_t> (sizeof(Filter) + n)
    return f


cdef void filter_drop(TrieState* t, Filter* f) noexcept nogil:
    if f.node != NULL:
        trie_unhang(t, f)
    table_drop(&t.filters, f)
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
    f.remotes += (options & OPT_REMOTE) != 0
    s.at_owner = owner.n
    owner.subs[owner.n] = s
    owner.n += 1
    t.subscriptions += 1
    t.bytes += <int64_t> sizeof(Subscription)
    f.groups += (options & OPT_GROUP) != 0
    if t.changed != NULL and not options & OPT_REMOTE:
        if f.n - f.remotes == 1:
            t.changed(t.watcher, f, True, NEAR)
        if not options & OPT_GROUP and f.n - f.remotes - f.groups == 1:
            t.changed(t.watcher, f, True, FAR)
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
    if s.options & OPT_REMOTE:
        f.remotes -= 1
    elif s.options & OPT_GROUP:
        f.groups -= 1
    if t.changed != NULL and not s.options & OPT_REMOTE:
        if f.n == f.remotes:
            t.changed(t.watcher, f, False, NEAR)
        if not s.options & OPT_GROUP and f.n == f.remotes + f.groups:
            t.changed(t.watcher, f, False, FAR)
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
    table_init(&t.filters, <uint32_t> <size_t> &(<Filter*> NULL).hash, &t.bytes)
    table_init(&t.levels, <uint32_t> <size_t> &(<Level*> NULL).hash, &t.bytes)
    table_init(&t.edges, <uint32_t> <size_t> &(<Node*> NULL).hash, &t.bytes)
    return t


cdef void trie_free(TrieState* t) noexcept nogil:
    """Frees the trie. Its owners must have removed their subscriptions first."""
    cdef uint32_t i
    for i in range(CACHE_SLOTS):
        free(t.cache[i])
    free(t.cache)
    free(t.missed)
    table_free(&t.filters)
    table_free(&t.levels)
    table_free(&t.edges)
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
