#include <string.h>

#include "gauge.h"
#include "net.h"
#include "options.h"
#include "workloads.h"

static bool run_pairs(void) { return run_pattern(PAIRS); }
static bool run_fanout(void) { return run_pattern(FANOUT); }
static bool run_fanin(void) { return run_pattern(FANIN); }

static const struct {
    const char *name;
    bool (*run)(void);
} workloads[] = {
    {"pairs", run_pairs},     {"fanout", run_fanout},           {"fanin", run_fanin},
    {"filters", run_filters}, {"connections", run_connections}, {"retained", run_retained},
    {"offline", run_offline},
};

int main(int argc, char **argv)
{
    read_options(argc, argv);
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++) {
        if (strcmp(workloads[i].name, options.workload))
            continue;
        report_open();
        report_text("workload", options.workload);
        report_int("mqtt", (uint64_t)options.version);
        report_int("qos", (uint64_t)options.qos);
        report_int("size", options.size);
        bool complete = workloads[i].run();
        report_bool("complete", complete);
        report_close();
        return complete ? 0 : 1;
    }
    die("no such workload: %s (see --help)", options.workload);
}
