/* pairs, fanout, fanin: every subscriber follows the whole stream of one publisher, or of all. */
#include <stdio.h>

#include "ledger.h"
#include "options.h"
#include "traffic.h"
#include "workloads.h"

struct subscriber {
    struct client link;
    uint32_t first;        /* the publisher of the first stream */
    uint32_t stream_count;
    struct stream *streams;
};

static struct subscriber *subscribers;

static struct client *client_at(uint32_t i)
{
    return i < options.subs ? &subscribers[i].link : &traffic.publishers[i - options.subs].link;
}

static void opened(struct client *c)
{
    (void)c;
}

static bool on_message(struct client *c, const struct stamp *stamp)
{
    struct subscriber *s = (struct subscriber *)c;
    uint32_t index = stamp->publisher - s->first; /* a foreign one wraps around to a large number */
    if (index >= s->stream_count)
        return false;
    traffic.publishers[stamp->publisher].delivered += stream_add(&s->streams[index], stamp->number);
    return true;
}

static bool all_subscribed(void)
{
    return traffic.subacks >= options.subs;
}

static uint64_t copies_due(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < options.subs; i++)
        for (uint32_t k = 0; k < subscribers[i].stream_count; k++)
            sum += traffic.publishers[subscribers[i].first + k].sent;
    return sum;
}

static void lay_out(enum pattern pattern)
{
    static uint32_t copies[1 << 20];
    if (pattern == FANOUT)
        options.pubs = 1;
    subscribers = must_calloc(options.subs, sizeof *subscribers);
    traffic.publishers = must_calloc(options.pubs, sizeof *traffic.publishers);
    for (uint32_t i = 0; i < options.subs; i++) {
        struct subscriber *s = &subscribers[i];
        s->first = pattern == FANIN ? 0 : i % options.pubs;
        s->stream_count = pattern == FANIN ? options.pubs : 1;
        s->streams = must_calloc(s->stream_count, sizeof *s->streams);
        for (uint32_t k = 0; k < s->stream_count; k++)
            copies[s->first + k]++;
    }
    for (uint32_t i = 0; i < options.pubs; i++) {
        char topic[48];
        snprintf(topic, sizeof topic, "load/%u/reading", i);
        publisher_init(&traffic.publishers[i], i, topic, copies[i]);
    }
}

bool run_pattern(enum pattern pattern)
{
    static const struct workload workload = {opened, traffic_packet};
    lay_out(pattern);
    traffic.on_message = on_message;
    net.workload = &workload;
    net.client_at = client_at;
    net.clients = options.subs + options.pubs;
    net_start(options.host, options.port);
    if (!net_connect_all(30))
        return setup_failed("not all clients could connect");
    for (uint32_t i = 0; i < options.subs; i++) {
        char filter[48];
        snprintf(filter, sizeof filter, "load/%u/reading", subscribers[i].first);
        subscribe_to(&subscribers[i].link, 1, pattern == FANIN ? "load/+/reading" : filter);
    }
    if (!wait_until(all_subscribed, 10) || traffic.refused)
        return setup_failed("not all subscriptions were granted");
    traffic_run(copies_due);
    struct account account = {.expected = copies_due()};
    for (uint32_t i = 0; i < options.subs; i++)
        for (uint32_t k = 0; k < subscribers[i].stream_count; k++) {
            account.received += subscribers[i].streams[k].received;
            account.duplicate += subscribers[i].streams[k].duplicate;
            account.late += subscribers[i].streams[k].late;
        }
    traffic_report(&account);
    return true;
}
