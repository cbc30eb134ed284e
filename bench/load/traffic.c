#include "traffic.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "options.h"

#define PATIENCE_S 2.0

struct traffic traffic;

#define PINGS_ON_THEIR_WAY 65536 /* at most; a power of two */

static uint64_t sent_in_measure, received_in_measure, own_cpu_spent;
static uint64_t answers; /* to pings */

/* --- packets --------------------------------------------------------------------------------------------------- */

static bool is_publisher(const struct client *c)
{
    const struct publisher *p = (const struct publisher *)c;
    return traffic.publishers && p >= traffic.publishers && p < traffic.publishers + options.pubs;
}

static bool on_publish(struct client *c, uint8_t head, const uint8_t *body, uint32_t length)
{
    struct publish m;
    if (get_publish(net.version, head, body, length, &m) || m.payload_length != options.size)
        return false;
    if (m.qos)
        net_wrote(c, put_ack(net_room(c, 4), m.qos == 1 ? PUBACK : PUBREC, m.packet_id));
    struct stamp stamp;
    memcpy(&stamp, m.payload, sizeof stamp);
    if (stamp.publisher >= options.pubs || !traffic.on_message(c, &stamp))
        return false;
    traffic.received++;
    if (stamp.sent_ns >= traffic.measured_from && stamp.sent_ns < traffic.measured_to)
        histogram_add(&traffic.latency, net.read_at - stamp.sent_ns);
    return true;
}

static bool on_suback(struct client *c, const uint8_t *body, uint32_t length)
{
    uint32_t properties = 0, at = 2;
    if (net.version == MQTT_5 && length > 2)
        at += (uint32_t)get_varint(body + 2, length - 2, &properties) + properties;
    for (; at < length; at++)
        traffic.refused += body[at] >= 0x80;
    traffic.subacks++;
    if (traffic.on_suback)
        traffic.on_suback(c);
    return true;
}

static uint64_t ping_sent_ns[PINGS_ON_THEIR_WAY], pings_sent, next_ping_ns;

static bool on_answer(void)
{
    if (answers == pings_sent)
        return false;
    histogram_add(&traffic.pings, net.read_at - ping_sent_ns[answers++ % PINGS_ON_THEIR_WAY]);
    return true;
}

/* Lowers *due to the time of the next ping. */
static void ping_turn(uint64_t now, uint64_t *due)
{
    struct client *c = &traffic.pinger;
    if (options.pings <= 0 || c->phase != OPEN)
        return;
    if (now >= next_ping_ns && pings_sent - answers < PINGS_ON_THEIR_WAY && !c->out_length) {
        uint8_t *p = net_room(c, 2);
        *p++ = PINGREQ << 4;
        *p++ = 0;
        net_wrote(c, p);
        ping_sent_ns[pings_sent++ % PINGS_ON_THEIR_WAY] = now_ns();
        net_flush(c);
        next_ping_ns = now + (uint64_t)(1e9 / options.pings);
    }
    *due = next_ping_ns < *due ? next_ping_ns : *due;
}

static bool on_packet(struct client *c, uint8_t head, const uint8_t *body, uint32_t length)
{
    enum packet_type type = (enum packet_type)(head >> 4);
    switch (type) {
    case PUBLISH: return on_publish(c, head, body, length);
    case SUBACK: return on_suback(c, body, length);
    case PINGRESP: return c == &traffic.pinger ? on_answer() : (traffic.pongs++, true);
    case DISCONNECT: return true; /* the broker closes next: counted there */
    default: break;
    }
    if (length < 2)
        return false;
    if (type == PUBREL) {
        net_wrote(c, put_ack(net_room(c, 4), PUBCOMP, get_u16(body)));
        return true;
    }
    return is_publisher(c) && publisher_acknowledged((struct publisher *)c, type, get_u16(body));
}

void traffic_packet(struct client *c, uint8_t head, const uint8_t *body, uint32_t length)
{
    traffic.bad += !on_packet(c, head, body, length);
}

void subscribe_to(struct client *c, uint16_t packet_id, const char *filter)
{
    uint8_t body[256], *end = put_text(body, filter, strlen(filter));
    *end++ = (uint8_t)options.sub_qos;
    net_wrote(c, put_subscribe(net_room(c, 300), net.version, packet_id, body, (size_t)(end - body)));
    net_flush(c);
}

bool setup_failed(const char *why)
{
    fprintf(stderr, "mqtt-load: %s: %u of %u clients open, %" PRIu64 " SUBACKs, %" PRIu64 " refused filters\n", why,
            net.open, net.clients, traffic.subacks, traffic.refused);
    return false;
}

bool traffic_turn(uint64_t timeout_ns)
{
    uint64_t now = now_ns(), due = now + timeout_ns, before = answers;
    ping_turn(now, &due);
    return (uint64_t)net_turn(due > now ? due - now : 0) > answers - before;
}

bool wait_until(bool (*done)(void), double patience_s)
{
    uint64_t quiet_since = now_ns();
    while (!done()) {
        if (traffic_turn(10 * MS))
            quiet_since = now_ns();
        else if (now_ns() - quiet_since > (uint64_t)(patience_s * 1e9))
            return done();
    }
    return true;
}

/* --- the run --------------------------------------------------------------------------------------------------- */

static uint64_t published(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < options.pubs; i++)
        sum += traffic.publishers[i].sent;
    return sum;
}

uint64_t unacknowledged(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; options.qos && i < options.pubs; i++)
        sum += traffic.publishers[i].sent - traffic.publishers[i].acknowledged;
    return sum;
}

static uint64_t (*due_copies)(void);

static bool drained(void)
{
    return traffic.received >= due_copies() && !unacknowledged();
}

/* Publishes until the end; stops early when nothing has moved for a while (messages of a full flight were lost). */
static void publish_until(uint64_t end)
{
    uint64_t quiet_since = now_ns();
    for (uint64_t now; !traffic.stalled && (now = now_ns()) < end;) {
        uint64_t due = now + 10 * MS < end ? now + 10 * MS : end, before = published();
        bool more = false;
        for (uint32_t i = 0; i < options.pubs; i++)
            more |= publisher_turn(&traffic.publishers[i], now, &due);
        if (traffic_turn(more || due < now ? 0 : due - now) || published() != before || options.rate > 0)
            quiet_since = now;
        else if (now - quiet_since > (uint64_t)(PATIENCE_S * 1e9))
            traffic.stalled = true;
    }
}

void traffic_run(uint64_t (*copies_due)(void))
{
    due_copies = copies_due;
    traffic.before = usage_of(options.pid);
    uint64_t own = own_cpu_ns(), start = now_ns();
    traffic.measured_from = start + (uint64_t)(options.warmup_s * 1e9);
    traffic.measured_to = traffic.measured_from + (uint64_t)(options.duration_s * 1e9);
    publish_until(traffic.measured_from);
    sent_in_measure = published();
    received_in_measure = traffic.received;
    publish_until(traffic.measured_to);
    sent_in_measure = published() - sent_in_measure;
    received_in_measure = traffic.received - received_in_measure;
    wait_until(drained, PATIENCE_S);
    own_cpu_spent = own_cpu_ns() - own;
    traffic.after = usage_of(options.pid);
}

void report_books(const struct account *a)
{
    report_int("published", published());
    report_int("delivered", traffic.received);
    report_int("lost", a->expected > a->received ? a->expected - a->received : 0);
    report_int("duplicate", a->duplicate);
    report_int("reordered", a->late);
    report_int("bad", traffic.bad);
    report_int("unacknowledged", unacknowledged());
    report_int("disconnects", net.lost);
    report_bool("stalled", traffic.stalled);
}

void report_pings(void)
{
    if (options.pings <= 0)
        return;
    report_int("pings", answers);
    report_real("ping_p99_us", histogram_us(&traffic.pings, 0.99), 1);
    report_real("ping_max_us", (double)traffic.pings.max / 1e3, 1);
}

void traffic_report(const struct account *a)
{
    double cpu_us = ((double)traffic.after.cpu_ns - (double)traffic.before.cpu_ns) / 1e3;
    double received = traffic.received ? (double)traffic.received : 1, sent = published() ? (double)published() : 1;
    double written = (double)traffic.after.written_bytes - (double)traffic.before.written_bytes;
    report_books(a);
    report_real("published_per_s", (double)sent_in_measure / options.duration_s, 0);
    report_real("delivered_per_s", (double)received_in_measure / options.duration_s, 0);
    report_real("p50_us", histogram_us(&traffic.latency, 0.5), 1);
    report_real("p99_us", histogram_us(&traffic.latency, 0.99), 1);
    report_real("p999_us", histogram_us(&traffic.latency, 0.999), 1);
    report_real("max_us", (double)traffic.latency.max / 1e3, 1);
    report_real("cpu_us", cpu_us / received, 4);
    report_real("generator_cpu_us", (double)own_cpu_spent / 1e3 / received, 4);
    report_real("rss_mb", (double)traffic.after.rss_bytes / 1e6, 2);
    report_real("written_bytes", written / sent, 1);
    report_pings();
}
