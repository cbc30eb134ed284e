#include "publisher.h"

#include <string.h>

#include "gauge.h"
#include "options.h"

#define TOPIC_ROOM 64

void publisher_init(struct publisher *p, uint32_t index, const char *topic, uint32_t copies)
{
    p->index = index;
    p->copies = copies ? copies : 1;
    if (topic) {
        p->topics = (const uint8_t *)strdup(topic);
        p->topic_length = (uint32_t)strlen(topic);
    }
    if (options.qos)
        p->awaits = must_calloc(65536, 1);
}

static uint16_t take_id(struct publisher *p)
{
    do
        p->last_id++;
    while (!p->last_id || p->awaits[p->last_id]);
    p->awaits[p->last_id] = options.qos == 1 ? PUBACK : PUBREC;
    p->in_flight++;
    return p->last_id;
}

static void publish_one(struct publisher *p, uint64_t sent_ns)
{
    char own[TOPIC_ROOM];
    const char *topic = (const char *)p->topics;
    uint32_t length = p->topic_length;
    if (p->topic_of) {
        length = p->topic_of(p, own);
        topic = own;
    }
    uint16_t id = options.qos ? take_id(p) : 0;
    uint8_t *at = net_room(&p->link, PUBLISH_OVERHEAD + TOPIC_ROOM + options.size);
    at = put_publish(at, net.version, options.qos, p->retain, topic, length, id, options.size);
    struct stamp stamp = {p->index, p->sent++, sent_ns};
    memcpy(at, &stamp, sizeof stamp);
    memset(at + sizeof stamp, 'x', options.size - sizeof stamp);
    net_wrote(&p->link, at + options.size);
}

/* When message number n is due; publishers take turns, so that the whole load is evenly spaced. */
static uint64_t due_at(const struct publisher *p, uint32_t n)
{
    double gap = 1e9 * options.pubs / options.rate;
    return p->started_ns + (uint64_t)(gap * n + gap * p->index / options.pubs);
}

/* How many messages the windows leave room for. */
static uint32_t allowed(const struct publisher *p)
{
    uint32_t room = UINT32_MAX;
    if (options.qos) {
        uint32_t window = options.window < p->link.receive_maximum ? options.window : p->link.receive_maximum;
        room = window - p->in_flight;
    }
    if (options.flight) {
        uint64_t travelling = p->sent - p->delivered / p->copies;
        uint32_t left = travelling < options.flight ? options.flight - (uint32_t)travelling : 0;
        room = left < room ? left : room;
    }
    return room;
}

static uint32_t wanted(const struct publisher *p, uint64_t now)
{
    uint32_t n = options.batch;
    if (p->limit && p->limit - p->sent < n)
        n = p->limit - p->sent;
    if (options.rate > 0) {
        uint32_t owed = 0;
        while (owed < n && due_at(p, p->sent + owed) <= now)
            owed++;
        n = owed;
    }
    return n;
}

bool publisher_turn(struct publisher *p, uint64_t now, uint64_t *due)
{
    if (p->link.phase != OPEN || p->link.out_length)
        return false;
    if (!p->started_ns)
        p->started_ns = now;
    uint32_t want = wanted(p, now), may = allowed(p), n = want < may ? want : may;
    p->held = p->held || n < want;
    for (uint32_t i = 0; i < n; i++)
        /* A paced message that the broker held back is late by its fault: its time runs from when it was due. */
        publish_one(p, p->held && options.rate > 0 ? due_at(p, p->sent) : now);
    if (n)
        net_flush(&p->link);
    if (p->link.out_length)
        p->held = true;
    else if (n == want)
        p->held = false;
    if (options.rate > 0 && n == want) {
        uint64_t next = due_at(p, p->sent);
        *due = next < *due ? next : *due;
    }
    return n == options.batch && !p->link.out_length && p->sent != p->limit;
}

bool publisher_acknowledged(struct publisher *p, enum packet_type type, uint16_t packet_id)
{
    if (!p->awaits || p->awaits[packet_id] != type)
        return false;
    if (type == PUBREC) {
        p->awaits[packet_id] = PUBCOMP;
        net_wrote(&p->link, put_ack(net_room(&p->link, 4), PUBREL, packet_id));
        return true;
    }
    p->awaits[packet_id] = 0;
    p->in_flight--;
    p->acknowledged++;
    return true;
}
