#define _GNU_SOURCE
#include "gauge.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t read_clock(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

uint64_t now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t own_cpu_ns(void)
{
    return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

/* --- latencies ------------------------------------------------------------------------------------------------- */

void histogram_add(struct histogram *h, uint64_t ns)
{
    h->count++;
    if (ns > h->max)
        h->max = ns;
    int shift = ns < 32 ? 0 : 63 - __builtin_clzll(ns) - 5;
    h->step[ns < 32 ? ns : (uint64_t)(shift + 1) * 32 + (ns >> shift & 31)]++;
}

double histogram_us(const struct histogram *h, double quantile)
{
    uint64_t want = (uint64_t)(quantile * (double)h->count), seen = 0;
    for (uint32_t i = 0; i < sizeof h->step / sizeof *h->step; i++) {
        seen += h->step[i];
        if (seen <= want)
            continue;
        if (i < 32)
            return i / 1e3;
        int shift = (int)(i / 32) - 1;
        double low = (double)((32ull + i % 32) << shift), middle = low + (double)(1ull << shift) / 2;
        return (middle < (double)h->max ? middle : (double)h->max) / 1e3;
    }
    return 0;
}

/* --- the broker, seen from /proc ------------------------------------------------------------------------------- */

/* Reads one small file; the length, 0 when it is not there (the process may have ended). */
static size_t read_proc(char *out, size_t size, const char *path)
{
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(out, 1, size - 1, f) : 0;
    if (f)
        fclose(f);
    out[n] = 0;
    return n;
}

static void add_process(int pid, struct usage *sum)
{
    char path[96], text[4096];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    if (read_proc(text, sizeof text, path)) {
        const char *rss = strstr(text, "\nRss:");
        sum->rss_bytes += rss ? strtoull(rss + 5, NULL, 10) * 1024 : 0;
    }
    snprintf(path, sizeof path, "/proc/%d/io", pid);
    if (read_proc(text, sizeof text, path)) {
        const char *written = strstr(text, "\nwrite_bytes:");
        sum->written_bytes += written ? strtoull(written + 13, NULL, 10) : 0;
    }
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return;
    for (struct dirent *task; (task = readdir(tasks));) {
        int tid = atoi(task->d_name);
        if (tid <= 0)
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%d/schedstat", pid, tid);
        if (read_proc(text, sizeof text, path))
            sum->cpu_ns += strtoull(text, NULL, 10); /* the first number: nanoseconds on a CPU */
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, tid);
        read_proc(text, sizeof text, path);
        char *at = text, *end;
        for (long child; (child = strtol(at, &end, 10)) > 0; at = end)
            add_process((int)child, sum);
    }
    closedir(tasks);
}

struct usage usage_of(int pid)
{
    struct usage sum = {0};
    if (pid > 0)
        add_process(pid, &sum);
    return sum;
}

/* --- the result ------------------------------------------------------------------------------------------------ */

static bool first;

static void report_name(const char *name)
{
    printf("%s\"%s\":", first ? "" : ",", name);
    first = false;
}

void report_open(void)
{
    first = true;
    putchar('{');
}

void report_text(const char *name, const char *value)
{
    report_name(name);
    printf("\"%s\"", value); /* only our own words: nothing to escape */
}

void report_int(const char *name, uint64_t value)
{
    report_name(name);
    printf("%" PRIu64, value);
}

void report_bool(const char *name, bool value)
{
    report_name(name);
    fputs(value ? "true" : "false", stdout);
}

void report_real(const char *name, double value, int digits)
{
    report_name(name);
    printf("%.*f", digits, value);
}

void report_close(void)
{
    puts("}");
}
