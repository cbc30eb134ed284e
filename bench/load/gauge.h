/* What is measured: the clock, latencies, the broker's CPU time and memory, one line of JSON. */
#ifndef GAUGE_H
#define GAUGE_H
#include <stdbool.h>
#include <stdint.h>

#define MS 1000000ull
#define SECOND 1000000000ull

uint64_t now_ns(void);

/* A histogram of nanoseconds, 32 steps to each power of two: at most 3 % off. */
struct histogram {
    uint64_t count, max;
    uint32_t step[60 * 32];
};

void histogram_add(struct histogram *h, uint64_t ns);
double histogram_us(const struct histogram *h, double quantile);

struct usage {
    uint64_t cpu_ns;    /* of all threads */
    uint64_t rss_bytes; /* resident memory */
    uint64_t written_bytes; /* given to block devices, or about to be */
};

/* Of a process and its descendants; all zero when pid is 0. */
struct usage usage_of(int pid);
uint64_t own_cpu_ns(void);

void report_open(void);
void report_text(const char *name, const char *value);
void report_int(const char *name, uint64_t value);
void report_bool(const char *name, bool value);
void report_real(const char *name, double value, int digits);
void report_close(void);
#endif
