/* connections: many clients that only are there; what one costs in CPU to connect and in memory to keep. */
#include <stdio.h>

#include "options.h"
#include "traffic.h"
#include "workloads.h"

static struct client *crowd;
static uint32_t subscriptions;

static struct client *client_at(uint32_t i)
{
    return &crowd[i];
}

static void opened(struct client *c)
{
    if (!options.subscribe)
        return;
    char filter[48];
    snprintf(filter, sizeof filter, "crowd/%u/orders", subscriptions++);
    subscribe_to(c, 1, filter);
}

static bool all_subscribed(void)
{
    return traffic.subacks >= subscriptions;
}

static bool all_answered(void)
{
    return traffic.pongs >= net.open;
}

static bool never(void)
{
    return false;
}

bool run_connections(void)
{
    static const struct workload workload = {opened, traffic_packet};
    crowd = must_calloc(options.clients, sizeof *crowd);
    net.workload = &workload;
    net.client_at = client_at;
    net.clients = options.clients;
    net_start(options.host, options.port);

    struct usage before = usage_of(options.pid);
    uint64_t start = now_ns();
    bool complete = net_connect_all(120) && wait_until(all_subscribed, 10);
    double seconds = (double)(now_ns() - start) / 1e9;
    struct usage connected = usage_of(options.pid);
    wait_until(never, options.settle_s);
    struct usage settled = usage_of(options.pid);

    for (uint32_t i = 0; i < options.clients; i++) {
        if (crowd[i].phase != OPEN)
            continue;
        uint8_t *p = net_room(&crowd[i], 2);
        *p++ = PINGREQ << 4;
        *p++ = 0;
        net_wrote(&crowd[i], p);
        net_flush(&crowd[i]);
    }
    wait_until(all_answered, 5);
    uint32_t count = net.open, lost = net.lost;
    net_close_all();
    wait_until(never, options.settle_s);
    struct usage closed = usage_of(options.pid);

    double n = count ? count : 1;
    report_int("connections", count);
    report_int("answered_ping", traffic.pongs);
    report_int("disconnects", lost);
    report_real("connects_per_s", n / seconds, 0);
    report_real("cpu_us", ((double)connected.cpu_ns - (double)before.cpu_ns) / 1e3 / n, 2);
    report_real("bytes_per_connection", ((double)settled.rss_bytes - (double)before.rss_bytes) / n, 0);
    report_real("rss_before_mb", (double)before.rss_bytes / 1e6, 2);
    report_real("rss_mb", (double)settled.rss_bytes / 1e6, 2);
    report_real("rss_closed_mb", (double)closed.rss_bytes / 1e6, 2);
    return complete || setup_failed("not all clients could connect and subscribe");
}
