/* retained: many retained messages on topics of their own, then one subscription that wants them all. */
#include <stdio.h>

#include "ledger.h"
#include "options.h"
#include "traffic.h"
#include "workloads.h"

static struct client reader;
static struct roll roll; /* by topic */
static uint64_t first_ns, last_ns;

static struct client *client_at(uint32_t i)
{
    return i < options.pubs ? &traffic.publishers[i].link : &reader;
}

static void opened(struct client *c)
{
    (void)c;
}

/* Publisher i stores every topic n with n % pubs == i. */
static uint32_t topic_of(struct publisher *p, char *out)
{
    uint32_t n = p->sent * options.pubs + p->index;
    return (uint32_t)sprintf(out, "depot/%u/shelf/%u/stock", n / 1000, n % 1000);
}

static bool on_message(struct client *c, const struct stamp *stamp)
{
    uint64_t topic = (uint64_t)stamp->number * options.pubs + stamp->publisher;
    if (c != &reader || topic >= options.messages)
        return false;
    roll_add(&roll, (uint32_t)topic);
    first_ns = first_ns ? first_ns : net.read_at;
    last_ns = net.read_at;
    return true;
}

static bool stored(void)
{
    return traffic.pongs >= options.pubs;
}

static bool fetched(void)
{
    return roll.received >= options.messages;
}

static bool never(void)
{
    return false;
}

/* A broker that answers the PING has read, and so stored, what came before it. */
static void ping(struct client *c)
{
    uint8_t *p = net_room(c, 2);
    *p++ = PINGREQ << 4;
    *p++ = 0;
    net_wrote(c, p);
    if (!c->wants_write)
        net_flush(c);
}

static bool store_all(void)
{
    for (bool left = true; left;) {
        uint64_t now = now_ns(), due = now + 10 * MS;
        bool more = left = false;
        for (uint32_t i = 0; i < options.pubs; i++) {
            struct publisher *p = &traffic.publishers[i];
            more |= p->limit && publisher_turn(p, now, &due);
            left |= p->sent < p->limit || p->in_flight;
        }
        if (!net_turn(more || !left ? 0 : due - now) && net.lost)
            return false;
    }
    for (uint32_t i = 0; i < options.pubs; i++)
        ping(&traffic.publishers[i].link);
    return wait_until(stored, 30);
}

bool run_retained(void)
{
    static const struct workload workload = {opened, traffic_packet};
    traffic.publishers = must_calloc(options.pubs, sizeof *traffic.publishers);
    for (uint32_t i = 0; i < options.pubs; i++) {
        struct publisher *p = &traffic.publishers[i];
        publisher_init(p, i, NULL, 1);
        p->retain = true;
        p->topic_of = topic_of;
        p->limit = (options.messages + options.pubs - 1 - i) / options.pubs;
    }
    traffic.on_message = on_message;
    net.workload = &workload;
    net.client_at = client_at;
    net.clients = options.pubs + 1;
    net_start(options.host, options.port);
    if (!net_connect_all(30))
        return setup_failed("not all clients could connect");

    struct usage before = usage_of(options.pid);
    uint64_t start = now_ns();
    if (!store_all())
        return setup_failed("not all messages could be stored");
    double seconds = (double)(now_ns() - start) / 1e9;
    struct usage after = usage_of(options.pid);
    wait_until(never, options.settle_s);
    struct usage settled = usage_of(options.pid);

    uint64_t asked = now_ns();
    subscribe_to(&reader, 1, "depot/#");
    wait_until(fetched, 10);
    struct usage done = usage_of(options.pid);

    double n = options.messages;
    report_int("delivered", traffic.received);
    report_int("lost", options.messages - roll.received);
    report_int("duplicate", roll.duplicate);
    report_int("bad", traffic.bad);
    report_int("disconnects", net.lost);
    report_real("stores_per_s", n / seconds, 0);
    report_real("store_cpu_us", ((double)after.cpu_ns - (double)before.cpu_ns) / 1e3 / n, 3);
    report_real("bytes_per_message", ((double)settled.rss_bytes - (double)before.rss_bytes) / n, 0);
    report_real("first_ms", first_ns ? (double)(first_ns - asked) / 1e6 : 0, 2);
    report_real("all_ms", first_ns ? (double)(last_ns - asked) / 1e6 : 0, 2);
    report_real("cpu_us", ((double)done.cpu_ns - (double)settled.cpu_ns) / 1e3 / n, 3);
    report_real("rss_mb", (double)done.rss_bytes / 1e6, 2);
    return true;
}
