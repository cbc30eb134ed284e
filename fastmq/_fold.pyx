# cython: language_level=3, boundscheck=False, wraparound=False
"""See _fold.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcmp, memset

from fastmq._records cimport (
    K_CLOCK, K_DELIVERY, K_DONE, K_FORGET, K_GROUP, K_GROUP_GONE, K_MESSAGE, K_RECEIVED, K_RELEASED,
    K_RETAINED, K_SESSION, K_STUB, K_SUBSCRIBED, K_UNRETAINED, K_UNSUBSCRIBED, K_WILL, K_WILL_GONE, Record,
    record_next,
)
from fastmq._table cimport Table, table_free, table_init, table_put, table_room, table_seek
from fastmq._wire cimport hash_bytes

cdef enum:
    BLOCK = 65536              # bytes
    SPAN_MAX = 256             # what one span covers at most, so that no step of applying takes long
    WEIGHT_MAX = 2048          # of a chunk: rows, or 256 bytes of messages, or what spans cover
    MALFORMED = 1
    NO_MEMORY = 2

cdef enum Op:                  # what is done to the tables, in this order
    ENDED = 0                  # (serial)
    GROUP_GONE = 1             # (serial)
    FORGET = 2                 # (lo, hi) messages
    MESSAGE = 3                # (id, expires_ms, size, record)
    UNRETAINED = 4             # (message)
    RETAINED = 5               # (message)
    DONE = 6                   # (subscriber, lo, hi)
    STATE = 7                  # (subscriber, position, state << 3, packet id)
    DELIVERY = 8               # (subscriber, position, message, flags, packet id, None or ids)
    RELEASED = 9               # (session, packet id)
    RECEIVED = 10              # (session, packet id)
    SESSION = 11               # (serial, client_id, expiry_s, expires_ms, will_at_ms)
    UNSUBSCRIBED = 12          # (session, filter)
    SUBSCRIBED = 13            # (session, filter, options, id)
    WILL_GONE = 14             # (session)
    WILL = 15                  # (session, message, delay_s, None or expiry_s)
    GROUP = 16                 # (serial, text)
    OPS = 17

OP_NAMES = (
    "ended", "group_gone", "forget", "message", "unretained", "retained", "done", "state", "delivery", "released",
    "received", "session", "unsubscribed", "subscribed", "will_gone", "will", "group",
)
CHUNK_ROWS = (256, 32, 4, 1)

cdef int[OPS] COLUMNS = [1, 1, 2, 4, 1, 1, 3, 4, 6, 2, 2, 5, 2, 4, 1, 4, 2]


cdef inline uint32_t mix(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t h = (a * 0x9E3779B97F4A7C15ULL) ^ (b * 0xD6E8FEB86659FD93ULL)
    h = (h ^ (h >> 32)) * 0xD6E8FEB86659FD93ULL
    return <uint32_t> (h ^ (h >> 32))


cdef int ascending(const void* a, const void* b) noexcept nogil:
    cdef int64_t x = (<const int64_t*> a)[0], y = (<const int64_t*> b)[0]
    return (x > y) - (x < y)


cdef class Fold:
    """The net effect of batches; see _fold.pxd for `top`. Raises ValueError when a batch is malformed.

    `chunk()` gives it piece by piece.
    """

    cdef list _batches
    cdef Block* _blocks
    cdef Table _notes
    cdef Table _orders
    cdef Table _pendings
    cdef Table _interests
    cdef Table _owners
    cdef Note* _first_note
    cdef Note** _last_note
    cdef Owner* _first_owner
    cdef Owner** _last_owner
    cdef Owner* _recent        # records of one owner come in runs
    cdef Items[OPS] _items
    cdef int _op
    cdef size_t _at
    cdef int64_t _top          # of the tables before
    cdef readonly int64_t top
    """The highest message id that the tables know of once this is applied."""
    cdef readonly int64_t records
    """How many records were folded."""
    cdef readonly int64_t clock_ms
    """The last engine time in the batches; -1 = none."""

    def __cinit__(self):
        self._blocks = NULL
        memset(self._items, 0, sizeof(self._items))
        table_init(&self._notes, 0, NULL)
        table_init(&self._orders, 0, NULL)
        table_init(&self._pendings, 0, NULL)
        table_init(&self._interests, 0, NULL)
        table_init(&self._owners, 0, NULL)
        self._first_note = NULL
        self._last_note = &self._first_note
        self._first_owner = NULL
        self._last_owner = &self._first_owner
        self._recent = NULL
        self._op = 0
        self._at = 0

    def __init__(self, list batches not None, int64_t top):
        cdef const uint8_t* start
        cdef const uint8_t* at
        cdef const uint8_t* end
        cdef const char* wrong = NULL
        cdef bytes batch
        cdef int result = 0
        if self._batches is not None:
            raise TypeError("a Fold is made once")
        self._batches = list(batches)
        self._top = self.top = top
        self.records = 0
        self.clock_ms = -1
        for i in range(len(self._batches)):
            batch = self._batches[i]
            start = at = <const uint8_t*> PyBytes_AS_STRING(batch)
            end = start + PyBytes_GET_SIZE(batch)
            with nogil:
                result = self.walk(&at, end, &wrong)
            if result == MALFORMED:
                raise ValueError(f"batch {i}, record at offset {at - start}: {wrong.decode()}")
            if result:
                raise MemoryError
        with nogil:
            result = self.gather()
        if result:
            raise MemoryError

    def __dealloc__(self):
        cdef Block* block
        cdef int op
        table_free(&self._notes)
        table_free(&self._orders)
        table_free(&self._pendings)
        table_free(&self._interests)
        table_free(&self._owners)
        for op in range(OPS):
            free(self._items[op].at)
        while self._blocks != NULL:
            block = self._blocks
            self._blocks = block.next
            free(block)

    # -- memory --

    cdef void* make(self, size_t size) noexcept nogil:
        """Zeroed memory from the arena; NULL when there is none. `size` is far less than a block."""
        cdef Block* block = self._blocks
        cdef void* made
        size = (size + 7) & ~<size_t> 7
        if block == NULL or block.used + size > BLOCK:
            block = <Block*> malloc(BLOCK)
            if block == NULL:
                return NULL
            block.next = self._blocks
            block.used = (sizeof(Block) + 7) & ~<size_t> 7
            self._blocks = block
        made = <uint8_t*> block + block.used
        block.used += size
        memset(made, 0, size)
        return made

    cdef Record* keep(self, const Record* r) noexcept nogil:
        cdef Record* kept = <Record*> self.make(sizeof(Record))
        if kept != NULL:
            kept[0] = r[0]
        return kept

    cdef int item(self, Op op, void* item) noexcept nogil:
        cdef Items* items = &self._items[<int> op]
        cdef size_t room
        cdef void** at
        if items.count == items.room:
            room = items.room * 2 if items.room else 64
            at = <void**> realloc(items.at, room * sizeof(void*))
            if at == NULL:
                return NO_MEMORY
            items.at = at
            items.room = room
        items.at[items.count] = item
        items.count += 1
        return 0

    # -- finding, and making what is not there; NULL = out of memory --

    cdef Owner* owner(self, int64_t serial) noexcept nogil:
        cdef uint32_t hash, at
        cdef Owner* o = self._recent
        if o != NULL and o.serial == serial:
            return o
        hash = at = mix(<uint64_t> serial, 1)
        o = <Owner*> table_seek(&self._owners, hash, &at)
        while o != NULL and o.serial != serial:
            o = <Owner*> table_seek(&self._owners, hash, &at)
        if o == NULL:
            if not table_room(&self._owners):
                return NULL
            o = <Owner*> self.make(sizeof(Owner))
            if o == NULL:
                return NULL
            o.hash = hash
            o.serial = serial
            o.orders_end = &o.orders
            table_put(&self._owners, o)
            self._last_owner[0] = o
            self._last_owner = &o.next
        self._recent = o
        return o

    cdef Note* note(self, int64_t id) noexcept nogil:
        cdef uint32_t hash = mix(<uint64_t> id, 2), at = hash
        cdef Note* n = <Note*> table_seek(&self._notes, hash, &at)
        while n != NULL and n.id != id:
            n = <Note*> table_seek(&self._notes, hash, &at)
        if n == NULL and table_room(&self._notes):
            n = <Note*> self.make(sizeof(Note))
            if n == NULL:
                return NULL
            n.hash = hash
            n.id = id
            n.is_new = id > self._top
            table_put(&self._notes, n)
            self._last_note[0] = n
            self._last_note = &n.next
        return n

    cdef Order* order(self, Owner* o, int64_t position) noexcept nogil:
        """What is NEW is not in its owner's list yet."""
        cdef uint32_t hash = mix(<uint64_t> o.serial, <uint64_t> position), at = hash
        cdef Order* d = <Order*> table_seek(&self._orders, hash, &at)
        while d != NULL and (d.owner != o or d.position != position):
            d = <Order*> table_seek(&self._orders, hash, &at)
        if d == NULL and table_room(&self._orders):
            d = <Order*> self.make(sizeof(Order))
            if d == NULL:
                return NULL
            d.hash = hash
            d.owner = o
            d.position = position
            table_put(&self._orders, d)
        if d != NULL and d.what == NEW:
            d.next = NULL
            o.orders_end[0] = d
            o.orders_end = &d.next
        return d

    cdef Pending* pending(self, Owner* o, uint16_t packet_id) noexcept nogil:
        cdef uint32_t hash = mix(<uint64_t> o.serial, packet_id), at = hash
        cdef Pending* p = <Pending*> table_seek(&self._pendings, hash, &at)
        while p != NULL and (p.owner != o or p.packet_id != packet_id):
            p = <Pending*> table_seek(&self._pendings, hash, &at)
        if p == NULL and table_room(&self._pendings):
            p = <Pending*> self.make(sizeof(Pending))
            if p == NULL:
                return NULL
            p.hash = hash
            p.owner = o
            p.packet_id = packet_id
            table_put(&self._pendings, p)
        if p != NULL and p.what == NEW:
            p.next = o.pendings
            o.pendings = p
        return p

    cdef Interest* interest(self, Owner* o, const Record* r) noexcept nogil:
        cdef uint32_t hash = mix(<uint64_t> o.serial, hash_bytes(r.text, <uint32_t> r.text_len)), at = hash
        cdef Interest* i = <Interest*> table_seek(&self._interests, hash, &at)
        while i != NULL and not (
            i.owner == o and i.record.text_len == r.text_len and memcmp(i.record.text, r.text, r.text_len) == 0
        ):
            i = <Interest*> table_seek(&self._interests, hash, &at)
        if i == NULL and table_room(&self._interests):
            i = <Interest*> self.make(sizeof(Interest))
            if i == NULL:
                return NULL
            i.hash = hash
            i.owner = o
            table_put(&self._interests, i)
        if i != NULL and i.what == NEW:
            i.next = o.interests
            o.interests = i
        return i

    # -- the walk --

    cdef int walk(self, const uint8_t** at, const uint8_t* end, const char** wrong) noexcept nogil:
        cdef Record r
        cdef int result = 0
        while at[0] < end and result == 0:
            wrong[0] = record_next(at, end, &r)
            if wrong[0] == NULL and r.kind == K_STUB:
                wrong[0] = b"is a STUB, which only a store writes"
            if wrong[0] != NULL:
                return MALFORMED
            self.records += 1
            if r.kind <= K_FORGET or r.kind == K_RETAINED or r.kind == K_UNRETAINED:
                result = self.message(&r)
            elif r.kind <= K_DONE:
                result = self.delivery(&r)
            elif r.kind == K_CLOCK:
                self.clock_ms = r.a if r.a > self.clock_ms else self.clock_ms
            else:
                result = self.session(&r)
        return result

    cdef void mention(self, int64_t message) noexcept nogil:
        if message > self.top:
            self.top = message

    cdef int message(self, const Record* r) noexcept nogil:
        cdef Note* n = self.note(r.a)
        if n == NULL:
            return NO_MEMORY
        self.mention(r.a)
        if r.kind == K_MESSAGE:
            n.what = PUT
            n.record = r.start
            n.size = r.size
            n.expires_ms = r.b
            n.body_size = <int64_t> (r.text_len + r.properties_len + r.payload_len)
        elif r.kind == K_FORGET:
            n.what = NOTHING if n.is_new else GONE
        elif r.kind == K_RETAINED:
            n.retained = PUT
        else:
            n.retained = NOTHING if n.is_new else GONE
        return 0

    cdef int delivery(self, const Record* r) noexcept nogil:
        cdef Owner* o = self.owner(r.a)
        cdef Order* d = self.order(o, r.b) if o != NULL else NULL
        if d == NULL:
            return NO_MEMORY
        if r.kind == K_DELIVERY:
            d.is_new = d.is_new or (d.what == NEW and r.c > self._top)
            d.what = PUT
            d.message = r.c
            d.flags = r.flags
            d.packet_id = r.packet_id
            d.ids = r.ids
            d.ids_len = r.ids_len
            self.mention(r.c)
        elif r.kind == K_DONE:
            d.what = NOTHING if d.is_new else GONE
        else:
            if d.what == NEW:
                d.what = CHANGE
            d.flags = (d.flags & 7) | r.flags
            d.packet_id = r.packet_id
        return 0

    cdef int session(self, const Record* r) noexcept nogil:
        cdef Owner* o = self.owner(r.a)
        cdef Pending* p
        cdef Interest* i
        if o == NULL:
            return NO_MEMORY
        if r.kind == K_RECEIVED or r.kind == K_RELEASED:
            p = self.pending(o, r.packet_id)
            if p == NULL:
                return NO_MEMORY
            p.what = PUT if r.kind == K_RECEIVED else GONE
        elif r.kind == K_SUBSCRIBED or r.kind == K_UNSUBSCRIBED:
            i = self.interest(o, r)
            if i == NULL:
                return NO_MEMORY
            i.record = r[0]
            i.what = PUT if r.kind == K_SUBSCRIBED else GONE
        elif r.kind == K_SESSION:
            o.session = self.keep(r)
            o.session_what = PUT
            return NO_MEMORY if o.session == NULL else 0
        elif r.kind == K_WILL:
            o.will = self.keep(r)
            o.will_what = PUT
            self.mention(r.b)
            return NO_MEMORY if o.will == NULL else 0
        elif r.kind == K_WILL_GONE:
            o.will_what = GONE
        elif r.kind == K_GROUP:
            o.group = self.keep(r)
            o.group_what = PUT
            return NO_MEMORY if o.group == NULL else 0
        elif r.kind == K_GROUP_GONE:
            o.group_gone = True
            o.group_what = NOTHING
            self.drop_orders(o)
        else:
            self.end(o)
        return 0

    cdef void drop_orders(self, Owner* o) noexcept nogil:
        cdef Order* d = o.orders
        while d != NULL:
            d.what = NEW
            d.is_new = True  # whatever there was is removed with its owner
            d = d.next
        o.orders = NULL
        o.orders_end = &o.orders

    cdef void end(self, Owner* o) noexcept nogil:
        cdef Pending* p = o.pendings
        cdef Interest* i = o.interests
        o.ended = True
        o.session_what = NOTHING
        o.will_what = NOTHING
        self.drop_orders(o)
        while p != NULL:
            p.what = NEW
            p = p.next
        while i != NULL:
            i.what = NEW
            i = i.next
        o.pendings = NULL
        o.interests = NULL

    # -- what has come out --

    cdef int spans(self, Op op, int64_t of, int64_t* numbers, size_t count) noexcept nogil:
        """Neighbours among numbers as spans. The numbers are sorted in place."""
        cdef size_t i = 0
        cdef Span* span
        qsort(numbers, count, sizeof(int64_t), ascending)
        while i < count:
            span = <Span*> self.make(sizeof(Span))
            if span == NULL:
                return NO_MEMORY
            span.of = of
            span.lo = span.hi = numbers[i]
            i += 1
            while i < count and numbers[i] <= span.hi + 1 and numbers[i] - span.lo < SPAN_MAX:
                span.hi = numbers[i]
                i += 1
            if self.item(op, span):
                return NO_MEMORY
        return 0

    cdef int gather(self) noexcept nogil:
        cdef size_t most = self._notes.used if self._notes.used > self._orders.used else self._orders.used
        cdef int64_t* numbers = <int64_t*> malloc((most + 1) * sizeof(int64_t))
        cdef int result
        if numbers == NULL:
            return NO_MEMORY
        result = self.gather_messages(numbers) or self.gather_owners(numbers)
        free(numbers)
        return result

    cdef int gather_messages(self, int64_t* numbers) noexcept nogil:
        cdef Note* n = self._first_note
        cdef size_t count = 0
        cdef int result = 0
        while n != NULL and result == 0:
            if n.what == PUT:
                result = self.item(MESSAGE, n)
            elif n.what == GONE:
                numbers[count] = n.id
                count += 1
            if n.retained == PUT:
                result = result or self.item(RETAINED, n)
            elif n.retained == GONE:
                result = result or self.item(UNRETAINED, n)
            n = n.next
        return result or self.spans(FORGET, 0, numbers, count)

    cdef int gather_owners(self, int64_t* numbers) noexcept nogil:
        cdef Owner* o = self._first_owner
        cdef Order* d
        cdef Pending* p
        cdef Interest* i
        cdef size_t count
        cdef int result = 0
        while o != NULL and result == 0:
            if o.ended:
                result = self.item(ENDED, o)
            if o.group_gone:
                result = result or self.item(GROUP_GONE, o)
            if o.session_what == PUT:
                result = result or self.item(SESSION, o.session)
            if o.will_what == PUT:
                result = result or self.item(WILL, o.will)
            elif o.will_what == GONE:
                result = result or self.item(WILL_GONE, o)
            if o.group_what == PUT:
                result = result or self.item(GROUP, o.group)
            count = 0
            d = o.orders
            while d != NULL:
                if d.what == PUT:
                    result = result or self.item(DELIVERY, d)
                elif d.what == CHANGE:
                    result = result or self.item(STATE, d)
                elif d.what == GONE:
                    numbers[count] = d.position
                    count += 1
                d = d.next
            result = result or self.spans(DONE, o.serial, numbers, count)
            p = o.pendings
            while p != NULL:
                result = result or self.item(RECEIVED if p.what == PUT else RELEASED, p)
                p = p.next
            i = o.interests
            while i != NULL:
                result = result or self.item(SUBSCRIBED if i.what == PUT else UNSUBSCRIBED, i)
                i = i.next
            o = o.next
        return result

    # -- what Python sees of it --

    cdef size_t weight(self, int op, void* item) noexcept nogil:
        if op == FORGET or op == DONE:
            return <size_t> ((<Span*> item).hi - (<Span*> item).lo + 1)
        if op == MESSAGE:
            return ((<Note*> item).size >> 8) + 1
        return 1

    cdef size_t rows(self) noexcept:
        """How many of the rest of this kind make a chunk: one of CHUNK_ROWS, so that there are few statements."""
        cdef Items* items = &self._items[self._op]
        cdef size_t left = items.count - self._at, n = 0, weight = 0
        left = left if left < 256 else 256
        while n < left:
            weight += self.weight(self._op, items.at[self._at + n])
            if weight > WEIGHT_MAX:
                break
            n += 1
        if n >= 256:
            return 256
        return 32 if n >= 32 else (4 if n >= 4 else 1)

    def chunk(self):
        """The next piece: (index in OP_NAMES, number of rows, values of all the rows one after another), or None.

        Pieces of an earlier kind come first, and must be applied first.
        """
        cdef size_t rows, i
        cdef tuple values
        cdef Py_ssize_t at = 0
        while self._op < OPS and self._at == self._items[self._op].count:
            self._op += 1
            self._at = 0
        if self._op == OPS:
            return None
        rows = self.rows()
        values = PyTuple_New(<Py_ssize_t> rows * COLUMNS[self._op])
        for i in range(rows):
            at = self.row(values, at, self._op, self._items[self._op].at[self._at + i])
        self._at += rows
        return self._op, rows, values

    cdef Py_ssize_t row(self, tuple t, Py_ssize_t at, int op, void* item) except -1:
        cdef Note* n = <Note*> item
        cdef Span* s = <Span*> item
        cdef Order* d = <Order*> item
        cdef Owner* o = <Owner*> item
        cdef Record* r = <Record*> item
        if op == MESSAGE:
            at = put(t, put(t, put(t, at, n.id), n.expires_ms), n.body_size)
            return put_object(t, at, PyBytes_FromStringAndSize(<const char*> n.record, <Py_ssize_t> n.size))
        if op == DELIVERY:
            at = put(t, put(t, put(t, at, d.owner.serial), d.position), d.message)
            at = put(t, put(t, at, d.flags), d.packet_id)
            if d.ids_len == 0:
                return put_object(t, at, None)
            return put_object(t, at, PyBytes_FromStringAndSize(<const char*> d.ids, <Py_ssize_t> d.ids_len))
        if op == STATE:
            return put(t, put(t, put(t, put(t, at, d.owner.serial), d.position), d.flags & 0x18), d.packet_id)
        if op == FORGET:
            return put(t, put(t, at, s.lo), s.hi)
        if op == DONE:
            return put(t, put(t, put(t, at, s.of), s.lo), s.hi)
        if op == RETAINED or op == UNRETAINED:
            return put(t, at, n.id)
        if op == ENDED or op == GROUP_GONE or op == WILL_GONE:
            return put(t, at, o.serial)
        if op == RECEIVED or op == RELEASED:
            return put(t, put(t, at, (<Pending*> item).owner.serial), (<Pending*> item).packet_id)
        if op == SESSION:
            at = put_text(t, put(t, at, r.a), r)
            return put(t, put(t, put(t, at, r.b), r.c), r.d)
        if op == WILL:
            at = put(t, put(t, put(t, at, r.a), r.b), r.c)
            return put_object(t, at, None) if not r.flags else put(t, at, r.d)
        if op == GROUP:
            return put_text(t, put(t, at, r.a), r)
        r = &(<Interest*> item).record
        at = put_text(t, put(t, at, r.a), r)
        return put(t, put(t, at, r.flags), r.b) if op == SUBSCRIBED else at


cdef Py_ssize_t put_object(tuple t, Py_ssize_t at, object value) except -1:
    Py_INCREF(value)  # which the tuple steals
    PyTuple_SET_ITEM(t, at, value)
    return at + 1


cdef Py_ssize_t put(tuple t, Py_ssize_t at, int64_t value) except -1:
    return put_object(t, at, value)


cdef Py_ssize_t put_text(tuple t, Py_ssize_t at, const Record* r) except -1:
    return put_object(t, at, PyUnicode_DecodeUTF8(<const char*> r.text, <Py_ssize_t> r.text_len, NULL))
