/*
 * The books of what arrived. A stream (one publisher as one subscriber sees it) must arrive whole, once and in order;
 * a roll (numbers that are spread over many subscribers) must arrive whole and once.
 */
#ifndef LEDGER_H
#define LEDGER_H
#include <stdint.h>

struct gap {
    uint32_t from, to; /* numbers in [from, to) were jumped over */
};

struct stream {
    uint32_t next; /* the number that is due */
    uint32_t gaps, gaps_room;
    struct gap *gap;
    uint64_t received, duplicate, late;
};

void stream_jump(struct stream *s, uint32_t number); /* number != s->next: the rare case */

/* How far the stream moved on: jumped-over numbers count, since they will not come any more in order. */
static inline uint32_t stream_add(struct stream *s, uint32_t number)
{
    if (__builtin_expect(number == s->next, 1)) {
        s->next++;
        s->received++;
        return 1;
    }
    uint32_t before = s->next;
    stream_jump(s, number);
    return s->next - before;
}

struct roll {
    uint64_t *seen; /* a bit for each number */
    uint64_t room;  /* in numbers */
    uint64_t received, duplicate;
};

void roll_add(struct roll *r, uint32_t number);
#endif
