# cython: language_level=3, boundscheck=False, wraparound=False
"""See _inflight.pxd. Rules: MQTT 5, sections 2.2.1, 4.3, 4.4 and 4.9."""
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy, memset

from fastmq._journal cimport stored_ref, stored_unref
from fastmq._message cimport charge, message_ref, message_unref


cdef bint delivery_ids(Delivery* d, const uint32_t* ids, uint32_t n) noexcept nogil:
    """Keeps the subscription identifiers of a delivery. False: out of memory."""
    d.ids = NULL
    d.id = ids[0] if n else 0
    if n > 1:
        d.ids = <uint32_t*> malloc((n + 1) * sizeof(uint32_t))
        if d.ids == NULL:
            return False
        d.ids[0] = n
        memcpy(d.ids + 1, ids, n * sizeof(uint32_t))
    return True


cdef void delivery_release(Delivery* d) noexcept nogil:
    """Gives back what a delivery holds; the record itself belongs to its ring."""
    if d.message != NULL:
        message_unref(d.message)
        d.message = NULL
    if d.stored != NULL:
        stored_unref(d.stored)
        d.stored = NULL
    free(d.ids)
    d.ids = NULL


cdef bint delivery_fetch(Delivery* d) noexcept nogil:
    """Takes the message of a delivery that is away, if it has come back into memory."""
    cdef Stored* st = d.stored
    if st == NULL or st.message == NULL:
        return False
    d.message = message_ref(<Message*> st.message)
    d.stored = NULL
    stored_unref(st)
    return True


cdef void delivery_store_only(Delivery* d) noexcept nogil:
    """Lets go of a message that has been recorded: its body comes back from the store when it is its turn."""
    cdef Message* m = d.message
    d.stored = stored_ref(m.stored)
    d.message = NULL
    message_unref(m)


# -- window ------------------------------------------------------------------------------------------------------------

cdef bint window_grow(Window* w) noexcept nogil:
    cdef uint32_t cap = w.cap * 2 if w.cap else 4, i
    cdef Delivery* slots = <Delivery*> calloc(cap, sizeof(Delivery))
    if slots == NULL:
        return False
    for i in range(w.cap):
        if w.slots[i].state != FREE:
            slots[w.slots[i].packet_id & (cap - 1)] = w.slots[i]
    charge(w.ledger, <int64_t> (cap - w.cap) * sizeof(Delivery))
    free(w.slots)
    w.slots = slots
    w.cap = cap
    return True


cdef Delivery* window_take(Window* w, uint32_t limit, uint64_t position) noexcept nogil:
    """A slot with a fresh packet id; NULL when `limit` are in use or memory is out. Position 0: behind all others."""
    cdef Delivery* d
    if w.used >= limit:
        return NULL
    if w.used * 2 >= w.cap and (w.cap < limit or w.used == w.cap) and w.cap < 65536:
        if not window_grow(w) and w.used == w.cap:
            return NULL
    while True:
        w.last_id += 1
        if w.last_id == 0:
            w.last_id = 1
        d = w.slots + (w.last_id & (w.cap - 1))
        if d.state == FREE:
            break
    w.used += 1
    if position == 0:
        w.last_position += 1
        position = w.last_position
    memset(d, 0, sizeof(Delivery))
    d.packet_id = w.last_id
    d.position = position
    return d


cdef Delivery* window_restore(Window* w, uint16_t packet_id, uint64_t position) noexcept nogil:
    """The slot of a packet id that was in flight before the broker started; NULL: it is taken, or memory is out."""
    cdef Delivery* d
    if packet_id == 0 or window_get(w, packet_id) != NULL:
        return NULL
    while w.cap == 0 or w.slots[packet_id & (w.cap - 1)].state != FREE:
        if w.cap >= 65536 or not window_grow(w):
            return NULL
    d = w.slots + (packet_id & (w.cap - 1))
    memset(d, 0, sizeof(Delivery))
    d.packet_id = packet_id
    d.position = position
    d.state = AWAIT_PUBACK       # the caller knows better; taken in any case
    w.used += 1
    w.last_id = packet_id
    if position > w.last_position:
        w.last_position = position
    return d


cdef Delivery* window_get(Window* w, uint16_t packet_id) noexcept nogil:
    cdef Delivery* d
    if w.cap == 0:
        return NULL
    d = w.slots + (packet_id & (w.cap - 1))
    return d if d.state != FREE and d.packet_id == packet_id else NULL


cdef void window_finish(Window* w, Delivery* d) noexcept nogil:
    if d.message != NULL and d.ids == NULL and d.stored == NULL:  # as nearly always
        message_unref(d.message)
        d.message = NULL
    else:
        delivery_release(d)
    d.state = FREE
    w.used -= 1
    if w.used == 0 and w.cap > 256:
        w.ledger.bytes -= <int64_t> w.cap * sizeof(Delivery)
        free(w.slots)
        w.slots = NULL
        w.cap = 0


cdef int by_order(const void* a, const void* b) noexcept nogil:
    return 1 if (<Delivery**> a)[0].position > (<Delivery**> b)[0].position else -1


cdef uint32_t window_ordered(Window* w, Delivery** out) noexcept nogil:
    """Fills `out` (room for w.used) with what is in flight, first sent first [MQTT-4.6.0-1]."""
    cdef uint32_t i, n = 0
    for i in range(w.cap):
        if w.slots[i].state != FREE:
            out[n] = w.slots + i
            n += 1
    qsort(out, n, sizeof(void*), by_order)
    return n


cdef Resend* resend_new(Window* w) noexcept nogil:
    """What is in flight, to be sent again in its order. NULL: out of memory."""
    cdef Delivery** flight = <Delivery**> malloc(w.used * sizeof(void*))
    cdef Resend* again = <Resend*> malloc(sizeof(Resend) + w.used * sizeof(uint16_t))
    cdef uint32_t i
    if flight == NULL or again == NULL:
        free(flight)
        free(again)
        return NULL
    again.n = window_ordered(w, flight)
    again.at = 0
    for i in range(again.n):
        resend_ids(again)[i] = flight[i].packet_id
    free(flight)
    return again


cdef void records_forget(Window* w, Queue* q) noexcept nogil:
    """What is in flight and queued is not in the store any more."""
    cdef uint32_t i
    for i in range(w.cap):
        w.slots[i].recorded = BY_NONE
    for i in range(q.n):
        queue_at(q, i).recorded = BY_NONE


cdef void window_clear(Window* w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.cap):
        if w.slots[i].state != FREE:
            delivery_release(w.slots + i)
    if w.cap:
        w.ledger.bytes -= <int64_t> w.cap * sizeof(Delivery)
    free(w.slots)
    w.slots = NULL
    w.cap = 0
    w.used = 0


# -- queue -------------------------------------------------------------------------------------------------------------

cdef Delivery* block_new(Queue* q) noexcept nogil:
    cdef Delivery* block = <Delivery*> malloc(BLOCK * sizeof(Delivery))
    if block != NULL:
        charge(q.ledger, BLOCK * sizeof(Delivery))
    return block


cdef void block_free(Queue* q, Delivery* block) noexcept nogil:
    if block != NULL:
        q.ledger.bytes -= <int64_t> BLOCK * sizeof(Delivery)
        free(block)


cdef bint ring_grow(Queue* q) noexcept nogil:
    cdef uint32_t cap = q.cap * 2 if q.cap else 8, i
    cdef Delivery* ring = <Delivery*> malloc(cap * sizeof(Delivery))
    if ring == NULL:
        return False
    for i in range(q.n):
        ring[i] = queue_at(q, i)[0]
    charge(q.ledger, <int64_t> (cap - q.cap) * sizeof(Delivery))
    free(q.ring)
    q.ring = ring
    q.cap = cap
    q.head = 0
    return True


cdef bint blocks_grow(Queue* q) noexcept nogil:
    """Makes room for twice as many blocks. They stay where they are, but for the one in which the ring begins."""
    cdef uint32_t blocks = q.cap >> 10, first = q.head >> 10, before = q.head & (BLOCK - 1), i
    cdef Delivery** grown = <Delivery**> calloc(blocks * 2, sizeof(void*))
    if grown == NULL:
        return False
    if before:                   # ... and ends: that part moves to a block of its own
        grown[blocks] = block_new(q)
        if grown[blocks] == NULL:
            free(grown)
            return False
    if q.cap == BLOCK:           # the ring itself becomes the first block
        grown[0] = <Delivery*> q.ring
        charge(q.ledger, 2 * sizeof(void*))
    else:
        for i in range(blocks):
            grown[i] = (<Delivery**> q.ring)[(first + i) & (blocks - 1)]
        charge(q.ledger, blocks * sizeof(void*))
        free(q.ring)
    if before:
        memcpy(grown[blocks], grown[0], before * sizeof(Delivery))
    q.ring = grown
    q.cap *= 2
    q.head = before
    return True


cdef bint room_at(Queue* q, uint32_t i) noexcept nogil:
    """Makes sure that there is a place for the i-th, counted from the head; False: out of memory."""
    cdef Delivery** block
    if q.cap <= BLOCK:
        return True
    block = <Delivery**> q.ring + (((q.head + i) & (q.cap - 1)) >> 10)
    if block[0] == NULL:
        block[0] = block_new(q)
    return block[0] != NULL


cdef Delivery* queue_push(Queue* q) noexcept nogil:
    """A zeroed record at the end; the caller fills it and adds the message's size to q.bytes. NULL: out of memory."""
    cdef Delivery* d
    if q.n == q.cap and not (ring_grow(q) if q.cap < BLOCK else blocks_grow(q)):
        return NULL
    if not room_at(q, q.n):
        return NULL
    d = queue_at(q, q.n)
    q.n += 1
    memset(d, 0, sizeof(Delivery))
    return d


cdef Delivery* queue_push_front(Queue* q) noexcept nogil:
    cdef Delivery* d
    if q.n == q.cap and not (ring_grow(q) if q.cap < BLOCK else blocks_grow(q)):
        return NULL
    if not room_at(q, q.cap - 1):
        return NULL
    q.head = (q.head - 1) & (q.cap - 1)
    q.n += 1
    d = queue_at(q, 0)
    memset(d, 0, sizeof(Delivery))
    return d


cdef void ring_free(Queue* q) noexcept nogil:
    cdef uint32_t i
    if q.cap <= BLOCK:
        q.ledger.bytes -= <int64_t> q.cap * sizeof(Delivery)
    else:
        for i in range(q.cap >> 10):
            block_free(q, (<Delivery**> q.ring)[i])
        q.ledger.bytes -= <int64_t> (q.cap >> 10) * sizeof(void*)
    free(q.ring)
    q.ring = NULL
    q.cap = 0
    q.head = 0


cdef void queue_pop(Queue* q) noexcept nogil:
    """Removes the first record; what it held must have been moved or released, its size taken off q.bytes."""
    cdef uint32_t left = q.head >> 10
    q.head = (q.head + 1) & (q.cap - 1)
    q.n -= 1
    if q.n == 0:
        q.bytes = 0
        if q.cap > 64:
            ring_free(q)
    elif q.cap > BLOCK and (q.head & (BLOCK - 1)) == 0 and ((q.head + q.n - 1) & (q.cap - 1)) >> 10 != left:
        block_free(q, (<Delivery**> q.ring)[left])
        (<Delivery**> q.ring)[left] = NULL


cdef void queue_clear(Queue* q) noexcept nogil:
    cdef uint32_t i
    for i in range(q.n):
        delivery_release(queue_at(q, i))
    if q.cap:
        ring_free(q)
    q.n = 0
    q.bytes = 0


# -- receive set -------------------------------------------------------------------------------------------------------

cdef int receive_add(ReceiveSet** set, uint16_t packet_id) noexcept nogil:
    """1: added; 0: it was there (a repeated PUBLISH [MQTT-4.3.3-10]); -1: out of memory."""
    cdef uint32_t page = packet_id >> 12, bit = packet_id & 4095
    cdef ReceiveSet* s = set[0]
    if s == NULL:
        s = <ReceiveSet*> calloc(1, sizeof(ReceiveSet))
        if s == NULL:
            return -1
        set[0] = s
    if s.pages[page] == NULL:
        s.pages[page] = <uint8_t*> calloc(1, 512)
        if s.pages[page] == NULL:
            return -1
    if s.pages[page][bit >> 3] & (1 << (bit & 7)):
        return 0
    s.pages[page][bit >> 3] |= <uint8_t> (1 << (bit & 7))
    s.page_used[page] += 1
    s.used += 1
    return 1


cdef bint receive_has(ReceiveSet* set, uint16_t packet_id) noexcept nogil:
    cdef uint32_t page = packet_id >> 12, bit = packet_id & 4095
    if set == NULL or set.pages[page] == NULL:
        return False
    return (set.pages[page][bit >> 3] & (1 << (bit & 7))) != 0


cdef bint receive_drop(ReceiveSet* set, uint16_t packet_id) noexcept nogil:
    """True if the id was there. An emptied page is kept when it is the only one: a steady flow never allocates."""
    cdef uint32_t page = packet_id >> 12, bit = packet_id & 4095
    if not receive_has(set, packet_id):
        return False
    set.pages[page][bit >> 3] &= <uint8_t> ~(1 << (bit & 7))
    set.page_used[page] -= 1
    set.used -= 1
    if set.page_used[page] == 0 and set.used:
        free(set.pages[page])
        set.pages[page] = NULL
    return True


cdef void receive_free(ReceiveSet* set) noexcept nogil:
    cdef uint32_t i
    if set == NULL:
        return
    for i in range(16):
        free(set.pages[i])
    free(set)


cdef class InflightProbe:
    """A window and a receive set of their own, for the tests and benches."""

    cdef Window _window
    cdef ReceiveSet* _received
    cdef Ledger _ledger

    def __cinit__(self) -> None:
        memset(&self._window, 0, sizeof(Window))
        memset(&self._ledger, 0, sizeof(Ledger))
        self._window.ledger = &self._ledger
        self._received = NULL

    def __dealloc__(self) -> None:
        window_clear(&self._window)
        receive_free(self._received)

    def take(self, uint32_t limit) -> int:
        """A packet id in flight from now on, or 0 when `limit` are."""
        cdef Delivery* d = window_take(&self._window, limit, 0)
        if d == NULL:
            return 0
        d.state = AWAIT_PUBACK
        return d.packet_id

    def finish(self, uint16_t packet_id) -> bool:
        """Ends the flight of a packet id; False if it was not in flight."""
        cdef Delivery* d = window_get(&self._window, packet_id)
        if d == NULL:
            return False
        window_finish(&self._window, d)
        return True

    def ordered(self) -> list:
        """The packet ids in flight, first sent first."""
        cdef Delivery** out = <Delivery**> malloc((self._window.used + 1) * sizeof(void*))
        cdef uint32_t i, n
        if out == NULL:
            raise MemoryError("no memory for the window's order")
        n = window_ordered(&self._window, out)
        ids = [out[i].packet_id for i in range(n)]
        free(out)
        return ids

    def receive(self, uint16_t packet_id) -> bool:
        """Notes a QoS 2 packet id; False if it was noted before."""
        return receive_add(&self._received, packet_id) == 1

    def release(self, uint16_t packet_id) -> bool:
        """Forgets a QoS 2 packet id; False if it was not noted."""
        return receive_drop(self._received, packet_id)

    @property
    def bytes(self) -> int:
        """Bytes in the window."""
        return self._ledger.bytes


cdef class QueueProbe:
    """A queue of its own, of numbers, for the tests."""

    cdef Queue _queue
    cdef Ledger _ledger

    def __cinit__(self) -> None:
        memset(&self._queue, 0, sizeof(Queue))
        memset(&self._ledger, 0, sizeof(Ledger))
        self._queue.ledger = &self._ledger

    def __dealloc__(self) -> None:
        queue_clear(&self._queue)

    def push(self, uint64_t number, bint front=False) -> None:
        """Adds a number at the end, or at the front."""
        cdef Delivery* d = queue_push_front(&self._queue) if front else queue_push(&self._queue)
        if d == NULL:
            raise MemoryError("no memory for the queue")
        d.position = number

    def pop(self) -> int:
        """Takes the first number out."""
        if self._queue.n == 0:
            raise IndexError("the queue is empty")
        cdef uint64_t number = queue_at(&self._queue, 0).position
        queue_pop(&self._queue)
        return number

    def clear(self) -> None:
        """Takes all of them out."""
        queue_clear(&self._queue)

    def numbers(self) -> list:
        """All of them, the first one first."""
        return [queue_at(&self._queue, i).position for i in range(self._queue.n)]

    @property
    def bytes(self) -> int:
        """What the ledger says that the queue takes."""
        return self._ledger.bytes
