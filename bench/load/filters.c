/*
 * filters: a large subscription table, then messages on random topics of it. Filter i matches topic i and no other,
 * so each message has one receiver, and its books are a roll per publisher; a subscriber sees rising numbers.
 */
#include <stdio.h>

#include "ledger.h"
#include "options.h"
#include "traffic.h"
#include "workloads.h"

#define FILTERS_PER_PACKET 100

struct holder {
    struct client link;
    uint32_t index;
    uint32_t next_filter; /* it holds every filter i with i % clients == index */
    uint32_t packets;
    uint32_t *due;        /* by publisher: the lowest number that is in order */
};

static struct holder *holders;
static struct roll *rolls;
static uint64_t *random_state;
static uint64_t late;

static struct client *client_at(uint32_t i)
{
    return i < options.clients ? &holders[i].link : &traffic.publishers[i - options.clients].link;
}

static uint32_t write_topic(uint32_t i, char *out)
{
    return (uint32_t)sprintf(out, "plant/%u/line/%u/speed", i / 1000, i % 1000);
}

static void write_filter(uint32_t i, char *out)
{
    static const char *const shapes[] = {
        [EXACT] = "plant/%u/line/%u/speed", [PLUS] = "plant/%u/+/%u/speed",
        [HASH] = "plant/%u/line/%u/#", [MIX] = "plant/%u/line/%u/+",
    };
    sprintf(out, shapes[options.kind == MIX ? i % 4 : (uint32_t)options.kind], i / 1000, i % 1000);
}

static void subscribe_more(struct client *c)
{
    struct holder *h = (struct holder *)c;
    uint8_t body[FILTERS_PER_PACKET * 64], *end = body;
    for (int n = 0; n < FILTERS_PER_PACKET && h->next_filter < options.filters; n++) {
        char filter[64];
        write_filter(h->next_filter, filter);
        int length = snprintf(NULL, 0, "%s", filter);
        end = put_text(end, filter, (size_t)length);
        *end++ = (uint8_t)options.sub_qos;
        h->next_filter += options.clients;
    }
    if (end == body)
        return;
    h->packets++;
    net_wrote(c, put_subscribe(net_room(c, sizeof body + 16), net.version, 1, body, (size_t)(end - body)));
    if (!c->wants_write)
        net_flush(c);
}

static void opened(struct client *c)
{
    (void)c;
}

static bool all_subscribed(void)
{
    static uint32_t at; /* holders before it are through */
    while (at < options.clients && holders[at].next_filter >= options.filters)
        at++;
    uint64_t packets = 0;
    for (uint32_t i = 0; at == options.clients && i < at; i++)
        packets += holders[i].packets;
    return at == options.clients && traffic.subacks == packets;
}

static uint32_t random_topic(struct publisher *p, char *out)
{
    uint64_t *x = &random_state[p->index];
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return write_topic((uint32_t)((*x >> 32) * options.filters >> 32), out);
}

static bool on_message(struct client *c, const struct stamp *stamp)
{
    struct holder *h = (struct holder *)c;
    if (traffic.publishers <= (struct publisher *)c && (struct publisher *)c < traffic.publishers + options.pubs)
        return false;
    uint64_t before = rolls[stamp->publisher].received;
    roll_add(&rolls[stamp->publisher], stamp->number);
    traffic.publishers[stamp->publisher].delivered += rolls[stamp->publisher].received - before;
    if (stamp->number < h->due[stamp->publisher])
        late++;
    else
        h->due[stamp->publisher] = stamp->number + 1;
    return true;
}

static uint64_t copies_due(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < options.pubs; i++)
        sum += traffic.publishers[i].sent;
    return sum;
}

static void lay_out(void)
{
    if (options.clients > options.filters)
        options.clients = options.filters;
    holders = must_calloc(options.clients, sizeof *holders);
    traffic.publishers = must_calloc(options.pubs, sizeof *traffic.publishers);
    rolls = must_calloc(options.pubs, sizeof *rolls);
    random_state = must_calloc(options.pubs, sizeof *random_state);
    for (uint32_t i = 0; i < options.clients; i++) {
        holders[i].index = holders[i].next_filter = i;
        holders[i].due = must_calloc(options.pubs, sizeof *holders[i].due);
    }
    for (uint32_t i = 0; i < options.pubs; i++) {
        publisher_init(&traffic.publishers[i], i, NULL, 1);
        traffic.publishers[i].topic_of = random_topic;
        random_state[i] = 0x9e3779b97f4a7c15ull * (i + 1);
    }
}

bool run_filters(void)
{
    static const struct workload workload = {opened, traffic_packet};
    lay_out();
    traffic.on_message = on_message;
    traffic.on_suback = subscribe_more;
    net.workload = &workload;
    net.client_at = client_at;
    net.clients = options.clients + options.pubs;
    net_start(options.host, options.port);
    if (!net_connect_all(60))
        return setup_failed("not all clients could connect");

    struct usage before = usage_of(options.pid);
    uint64_t start = now_ns();
    for (uint32_t i = 0; i < options.clients; i++)
        subscribe_more(&holders[i].link);
    if (!wait_until(all_subscribed, 30) || traffic.refused)
        return setup_failed("not all subscriptions were granted");
    double seconds = (double)(now_ns() - start) / 1e9;
    struct usage after = usage_of(options.pid);
    report_int("filters", options.filters);
    report_real("subscribes_per_s", options.filters / seconds, 0);
    report_real("subscribe_cpu_us", ((double)after.cpu_ns - (double)before.cpu_ns) / 1e3 / options.filters, 3);
    report_real("bytes_per_filter", ((double)after.rss_bytes - (double)before.rss_bytes) / options.filters, 0);

    traffic_run(copies_due);
    struct account account = {.expected = copies_due(), .late = late};
    for (uint32_t i = 0; i < options.pubs; i++) {
        account.received += rolls[i].received;
        account.duplicate += rolls[i].duplicate;
    }
    traffic_report(&account);
    return true;
}
