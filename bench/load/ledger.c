#include "ledger.h"

#include <stdlib.h>
#include <string.h>

#include "net.h"

void stream_jump(struct stream *s, uint32_t number)
{
    if (number > s->next) {
        if (s->gaps == s->gaps_room)
            s->gap = must_realloc(s->gap, (s->gaps_room = s->gaps_room * 2 + 8) * sizeof *s->gap);
        s->gap[s->gaps++] = (struct gap){s->next, number};
        s->next = number + 1;
        s->received++;
        return;
    }
    for (uint32_t i = 0; i < s->gaps; i++) {
        struct gap g = s->gap[i];
        if (number < g.from || number >= g.to)
            continue;
        s->late++;
        s->received++;
        s->gap[i].to = number; /* the gap falls into the part before and the part after */
        if (number + 1 < g.to) {
            if (s->gaps == s->gaps_room)
                s->gap = must_realloc(s->gap, (s->gaps_room = s->gaps_room * 2 + 8) * sizeof *s->gap);
            s->gap[s->gaps++] = (struct gap){number + 1, g.to};
        }
        return;
    }
    s->duplicate++;
}

void roll_add(struct roll *r, uint32_t number)
{
    if (number >= r->room) {
        uint64_t room = (number * 2ull + 4096) & ~63ull;
        r->seen = must_realloc(r->seen, room / 8);
        memset(r->seen + r->room / 64, 0, (room - r->room) / 8);
        r->room = room;
    }
    uint64_t bit = 1ull << (number & 63);
    if (r->seen[number / 64] & bit) {
        r->duplicate++;
        return;
    }
    r->seen[number / 64] |= bit;
    r->received++;
}
