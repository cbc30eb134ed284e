# cython: language_level=3, boundscheck=False, wraparound=False
"""See _tap.pxd."""
cimport cython
from libc.stdlib cimport calloc, free

from fastmq._inflight cimport Delivery, delivery_release, queue_at, queue_clear, queue_pop, queue_push
from fastmq._message cimport Message, message_expired, message_ref, message_size, message_unref
from fastmq._retain cimport Found, retained_find
from fastmq._router cimport Pub, message_parts, pub_message
from fastmq._share cimport share_prefix
from fastmq._trie cimport trie_add, trie_find_owned, trie_remove, trie_remove_all
from fastmq._wire cimport PROP_MESSAGE_EXPIRY, Publish, check_filter, put32


cdef void tap_queue(TapState* t, Message* m, uint8_t qos, bint retain) noexcept nogil:
    cdef Delivery* d = NULL
    if m != NULL and t.queue.n < t.messages_max and t.queue.bytes + message_size(m) <= t.bytes_max:
        d = queue_push(&t.queue)
    if d == NULL:
        t.dropped += 1
        t.taps.router.stats.dropped_queue_full += 1
        t.taps.router.stats.publish_dropped += 1
        return
    d.message = message_ref(m)
    d.qos = qos
    d.retain = retain
    t.queue.bytes += message_size(m)
    if not t.ready:
        t.ready = 1
        t.next_ready = t.taps.ready
        t.taps.ready = t


cdef void tap_deliver(
    Subscriber* self, Pub* pub, uint8_t qos, bint retain, const uint32_t* ids, uint32_t n_ids
) noexcept nogil:
    cdef TapState* t = <TapState*> self
    tap_queue(t, pub_message(t.taps.router, pub), pub.parts.qos if pub.parts.qos < qos else qos, retain)


cdef int taps_notify(Taps* taps) except -1:
    """Calls on_ready of the taps that got something since the last call."""
    cdef TapState* t
    cdef Tap tap
    while taps.ready != NULL:
        t = taps.ready
        taps.ready = t.next_ready
        t.ready = 0
        tap = <Tap> t.owner
        if tap.on_ready is not None:
            tap.on_ready()
    return 0


cdef Tap tap_make(object hub, Taps* taps, uint32_t messages_max, int64_t bytes_max):
    cdef Tap tap = Tap.__new__(Tap)
    cdef TapState* t = <TapState*> calloc(1, sizeof(TapState))
    if t == NULL:
        raise MemoryError("no memory for a tap")
    taps.router.last_serial += 1
    t.base.serial = taps.router.last_serial
    t.base.owner.self = t
    t.base.deliver = tap_deliver
    t.taps = taps
    t.queue.ledger = &taps.router.ledger
    t.messages_max = messages_max
    t.bytes_max = bytes_max
    t.owner = <void*> tap
    t.next = taps.all
    taps.all = t
    tap._state = t
    tap._hub = hub
    return tap


cdef void tap_forget(TapState* t) noexcept nogil:
    """Takes a tap off its router, whose structures are still there."""
    cdef TapState** at = &t.taps.all
    while at[0] != t:
        at = &at[0].next
    at[0] = t.next
    if t.ready:
        at = &t.taps.ready
        while at[0] != t:
            at = &at[0].next_ready
        at[0] = t.next_ready
        t.ready = 0
    trie_remove_all(t.taps.router.trie, &t.base.owner)
    queue_clear(&t.queue)
    t.taps = NULL


cdef void taps_detach(Taps* taps) noexcept nogil:
    """The router goes: taps that are left become closed ones."""
    while taps.all != NULL:
        tap_forget(taps.all)


@cython.no_gc_clear
cdef class Tap:
    """Messages for the program itself; made by `Hub.tap`. Use it on the hub's thread only."""

    def __dealloc__(self) -> None:
        if self._state != NULL:
            if self._state.taps != NULL:
                tap_forget(self._state)
            free(self._state)

    def subscribe(self, bytes topic_filter not None, int qos=0, bint retained=True) -> None:
        """Subscribes to a filter; with `retained`, what it has retained is queued now. ValueError: not a filter."""
        cdef const uint8_t* p = <const uint8_t*> <const char*> topic_filter
        cdef uint32_t n = <uint32_t> len(topic_filter), i
        cdef bint is_new, wildcard
        cdef Found found
        if n > 65535 or share_prefix(p, n) or check_filter(p, n, 65535, &wildcard):
            raise ValueError(f"{topic_filter!r} is not a topic filter that a tap can subscribe to")
        if self._state == NULL or self._state.taps == NULL:
            raise ValueError("the tap is closed")
        if trie_add(self._state.taps.router.trie, &self._state.base.owner, p, n, <uint8_t> (qos | 8), 0,
                    &is_new) == NULL:
            raise MemoryError("no memory for a subscription")
        if not retained:
            return
        found.messages = NULL
        found.n = found.cap = 0
        retained_find(self._state.taps.router.retained, p, n, self._state.taps.router.now_ms, &found)
        for i in range(found.n):
            tap_queue(self._state, found.messages[i], min(qos, found.messages[i].qos), True)
            message_unref(found.messages[i])
        free(found.messages)

    def unsubscribe(self, bytes topic_filter not None) -> bool:
        """Ends a subscription; False if there was none."""
        if self._state == NULL or self._state.taps == NULL:
            return False
        s = trie_find_owned(self._state.taps.router.trie, &self._state.base.owner,
                            <const uint8_t*> <const char*> topic_filter, <uint32_t> len(topic_filter))
        if s == NULL:
            return False
        trie_remove(self._state.taps.router.trie, s)
        return True

    def take(self, int most=64) -> list:
        """Up to `most` messages, oldest first: (topic, payload, qos, retain, properties as they are on the wire)."""
        cdef list out = []
        cdef Delivery d
        cdef Publish p
        cdef uint8_t head[5]
        if self._state == NULL or self._state.taps == NULL:
            return out
        while self._state.queue.n and most > 0:
            d = queue_at(&self._state.queue, 0)[0]
            self._state.queue.bytes -= message_size(d.message)
            queue_pop(&self._state.queue)
            if not message_expired(d.message, self._state.taps.router.now_ms):
                message_parts(d.message, self._state.taps.router.now_ms, &p)
                head[0] = PROP_MESSAGE_EXPIRY
                put32(head + 1, p.expiry_s)
                out.append((
                    (<const char*> p.topic)[:p.topic_len],
                    (<const char*> p.payload)[:p.payload_len],
                    d.qos,
                    bool(d.retain),
                    (<char*> head)[:5 if p.has_expiry else 0] + (<const char*> p.props)[:p.props_len],
                ))
                most -= 1
            delivery_release(&d)
        return out

    @property
    def dropped(self) -> int:
        """Messages that were dropped because the queue was full."""
        return self._state.dropped if self._state != NULL else 0

    def __len__(self) -> int:
        return self._state.queue.n if self._state != NULL else 0

    def close(self) -> None:
        """Ends all subscriptions and drops what is queued."""
        if self._state == NULL:
            return
        if self._state.taps != NULL:
            tap_forget(self._state)
        free(self._state)
        self._state = NULL
        self._hub = None
