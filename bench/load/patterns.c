/* pairs, fanout, fanin, offline: every subscriber follows the whole stream of one publisher, or of all. */
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
    if (i < options.subs)
        return &subscribers[i].link;
    return i < options.subs + options.pubs ? &traffic.publishers[i - options.subs].link : &traffic.pinger;
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

/* Opens all connections and subscribes; false when that is not possible. */
static bool begin(enum pattern pattern)
{
    static const struct workload workload = {opened, traffic_packet};
    lay_out(pattern);
    traffic.on_message = on_message;
    net.workload = &workload;
    net.client_at = client_at;
    net.clients = options.subs + options.pubs + (options.pings > 0);
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
    return true;
}

static struct account account(void)
{
    struct account sum = {.expected = copies_due()};
    for (uint32_t i = 0; i < options.subs; i++)
        for (uint32_t k = 0; k < subscribers[i].stream_count; k++) {
            sum.received += subscribers[i].streams[k].received;
            sum.duplicate += subscribers[i].streams[k].duplicate;
            sum.late += subscribers[i].streams[k].late;
        }
    return sum;
}

bool run_pattern(enum pattern pattern)
{
    if (!begin(pattern))
        return false;
    traffic_run(copies_due);
    struct account books = account();
    traffic_report(&books);
    return true;
}

/* --- offline --------------------------------------------------------------------------------------------------- */

static bool all_received(void)
{
    return traffic.received >= copies_due();
}

static bool never(void)
{
    return false;
}

/* Publishes all messages and waits until each is acknowledged; false when nothing moves any more. */
static bool publish_all(void)
{
    uint64_t quiet_since = now_ns();
    for (bool left = true; left;) {
        uint64_t now = now_ns(), due = now + 10 * MS;
        bool more = left = false;
        for (uint32_t i = 0; i < options.pubs; i++) {
            struct publisher *p = &traffic.publishers[i];
            more |= p->limit && publisher_turn(p, now, &due);
            left |= p->sent < p->limit || p->in_flight;
        }
        if (traffic_turn(more || !left ? 0 : due - now) || more)
            quiet_since = now;
        else if (now - quiet_since > 10 * SECOND)
            return false;
    }
    return true;
}

bool run_offline(void)
{
    if (!options.qos)
        die("what waits for a session has --qos 1 or 2");
    net.durable = true;
    if (!begin(FANIN))
        return false;
    for (uint32_t i = 0; i < options.pubs; i++)
        traffic.publishers[i].limit = (options.messages + options.pubs - 1 - i) / options.pubs;
    for (uint32_t i = 0; i < options.subs; i++)
        net_leave(&subscribers[i].link);
    wait_until(never, 0.1);

    traffic.before = usage_of(options.pid);
    uint64_t start = now_ns();
    traffic.stalled = !publish_all();
    double in_s = (double)(now_ns() - start) / 1e9;
    struct usage stored = usage_of(options.pid);
    wait_until(never, options.settle_s);
    struct usage settled = usage_of(options.pid);

    start = now_ns();
    for (uint32_t i = 0; i < options.subs; i++)
        if (!net_return(&subscribers[i].link, 30))
            return setup_failed("a subscriber could not come back");
    wait_until(all_received, 3);
    double out_s = (double)(net.read_at - start) / 1e9;
    struct usage fetched = usage_of(options.pid);
    wait_until(never, options.settle_s); /* duplicates, and what the broker tidies up */
    traffic.after = usage_of(options.pid);

    double n = options.messages, copies = copies_due() ? (double)copies_due() : 1;
    struct account books = account();
    report_books(&books);
    report_real("stored_per_s", n / in_s, 0);
    report_real("delivered_per_s", copies / out_s, 0);
    report_real("store_cpu_us", ((double)settled.cpu_ns - (double)traffic.before.cpu_ns) / 1e3 / n, 3);
    report_real("fetch_cpu_us", ((double)fetched.cpu_ns - (double)settled.cpu_ns) / 1e3 / copies, 3);
    report_real("cpu_us", ((double)traffic.after.cpu_ns - (double)traffic.before.cpu_ns) / 1e3 / copies, 3);
    report_real("bytes_per_message", ((double)stored.rss_bytes - (double)traffic.before.rss_bytes) / n, 0);
    report_real("written_bytes", ((double)traffic.after.written_bytes - (double)traffic.before.written_bytes) / n, 1);
    report_real("rss_mb", (double)traffic.after.rss_bytes / 1e6, 2);
    report_pings();
    return true;
}
