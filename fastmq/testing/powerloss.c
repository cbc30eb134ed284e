/* Preloaded into a broker under test (LD_PRELOAD): loses what was not synced, makes a disk fail, steps the clock.
 *
 * Law: the image holds what a disk must hold after a power cut, and never more. A file's bytes reach it at fsync or
 * fdatasync, or at a write through O_SYNC or O_DSYNC; a name (created, renamed, removed) when its directory is synced.
 * Everything else only promises to begin (sync_file_range, msync(MS_ASYNC)) or is not followed (sync, mapped pages):
 * it never reaches the image, which is stricter than any disk.
 *
 *   CRASH_FOLDER    what is watched: this folder and all below it
 *   CRASH_IMAGE     where the image is kept, outside of the folder; unset: no power is going to fail
 *   CRASH_CONTROL   a file of `struct control`, changed by the test while the broker runs
 *   CRASH_BOOT_ID   a file that is read in place of the kernel's boot id
 *
 * The image: `names/PATH` has a line for each entry of the directory PATH (with % for /, @ at its end): a letter,
 * the key of the file, its name. `files/KEY` are the bytes. `complete` exists once the image has been begun.
 * fastmq/testing/powerloss.py reads it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t error;   /* errno of everything that writes below the folder; 0 = the disk works */
    int64_t wall_ns; /* added to the wall clock */
    int64_t boot_ns; /* added to CLOCK_BOOTTIME */
};

static const struct control quiet;
static const volatile struct control *control = &quiet;
static char folder[PATH_MAX];
static const char *image;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) abort();
    return found;
}

/* -- what is dirty: one range for each file, the hull of its unsynced writes ------------------------------------- */

struct dirty {
    uint64_t ino;
    uint64_t birth_ns;
    int64_t from, to; /* from >= to: clean */
};

/* A file that is not in the table is dirty as a whole: an earlier process may have left it so. */
enum { FILES_MAX = 4096 };
static struct dirty files[FILES_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct dirty *entry(const struct statx *stat) {
    uint64_t birth_ns = (uint64_t)stat->stx_btime.tv_sec * 1000000000u + stat->stx_btime.tv_nsec;
    for (int i = 0; i < FILES_MAX; i++) {
        struct dirty *each = &files[(stat->stx_ino + i) % FILES_MAX];
        if (each->ino == 0) *each = (struct dirty){stat->stx_ino, birth_ns, 0, INT64_MAX};
        if (each->ino == stat->stx_ino && each->birth_ns == birth_ns) return each;
    }
    abort();
}

static void soil(const struct statx *stat, int64_t from, int64_t to) {
    pthread_mutex_lock(&lock);
    struct dirty *file = entry(stat);
    if (file->from >= file->to) {
        file->from = from;
        file->to = to;
    } else {
        if (from < file->from) file->from = from;
        if (to > file->to) file->to = to;
    }
    pthread_mutex_unlock(&lock);
}

/* -- what is ours ------------------------------------------------------------------------------------------------- */

/* Whether fd is a file or directory of the folder; then also its path and its stat. */
static int is_ours(int fd, char *path, struct statx *stat) {
    char link[64];
    if (folder[0] == 0 || fd < 0) return 0;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, stat) != 0) return 0;
    if (!S_ISREG(stat->stx_mode) && !S_ISDIR(stat->stx_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    size_t ours = strlen(folder);
    return strncmp(path, folder, ours) == 0 && (path[ours] == '/' || path[ours] == 0);
}

/* What a write to fd fails with, 0 if it does not. */
static int write_error(int fd) {
    char path[PATH_MAX];
    struct statx stat;
    int error = (int)control->error;
    return error != 0 && is_ours(fd, path, &stat) ? error : 0;
}

static void key_of(const struct statx *stat, char *key, size_t size) {
    snprintf(key, size, "%llu-%lld%09u", (unsigned long long)stat->stx_ino, (long long)stat->stx_btime.tv_sec,
             stat->stx_btime.tv_nsec);
}

/* -- the image ---------------------------------------------------------------------------------------------------- */

static void keep_bytes(int fd, const struct statx *stat) {
    char key[64], path[PATH_MAX], self[64];
    static __thread char block[65536];
    pthread_mutex_lock(&lock);
    struct dirty *file = entry(stat);
    int64_t from = file->from, to = file->to;
    file->from = file->to = 0;
    pthread_mutex_unlock(&lock);
    key_of(stat, key, sizeof key);
    snprintf(path, sizeof path, "%s/files/%s", image, key);
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    int source = REAL(open)(self, O_RDONLY | O_CLOEXEC); /* fd may be open for writing only */
    int target = REAL(open)(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (source < 0 || target < 0) abort();
    while (from < to) {
        int64_t wanted = to - from < (int64_t)sizeof block ? to - from : (int64_t)sizeof block;
        ssize_t got = pread(source, block, (size_t)wanted, from);
        if (got <= 0) break;
        if (REAL(pwrite)(target, block, (size_t)got, from) != got) abort();
        from += got;
    }
    struct stat now;
    if (fstat(source, &now) != 0 || REAL(ftruncate)(target, now.st_size) != 0) abort();
    close(source);
    close(target);
}

static void keep_names(const char *directory) {
    char path[PATH_MAX + 64], fresh[PATH_MAX + 80], key[64];
    struct statx stat;
    int at = snprintf(path, sizeof path, "%s/names/", image);
    for (const char *c = directory + strlen(folder); *c && at < PATH_MAX; c++) path[at++] = *c == '/' ? '%' : *c;
    path[at++] = '@';
    path[at] = 0;
    snprintf(fresh, sizeof fresh, "%s.%d.%d", path, (int)getpid(), (int)gettid());
    DIR *listed = opendir(directory);
    if (listed == NULL) return;
    FILE *file = fopen(fresh, "w");
    if (file == NULL) abort();
    for (struct dirent *each; (each = readdir(listed)) != NULL;) {
        if (strcmp(each->d_name, ".") == 0 || strcmp(each->d_name, "..") == 0) continue;
        if (statx(dirfd(listed), each->d_name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &stat) != 0) continue;
        key_of(&stat, key, sizeof key);
        fprintf(file, "%c %s %s\n", S_ISDIR(stat.stx_mode) ? 'd' : 'f', key, each->d_name);
    }
    fclose(file);
    closedir(listed);
    if (rename(fresh, path) != 0) abort();
}

static void keep_all(const char *directory) {
    char path[PATH_MAX + 300];
    struct statx stat;
    keep_names(directory);
    DIR *listed = opendir(directory);
    if (listed == NULL) abort();
    for (struct dirent *each; (each = readdir(listed)) != NULL;) {
        if (strcmp(each->d_name, ".") == 0 || strcmp(each->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", directory, each->d_name);
        if (each->d_type == DT_DIR) keep_all(path);
        if (each->d_type != DT_REG) continue;
        int fd = REAL(open)(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &stat) == 0) keep_bytes(fd, &stat);
        if (fd >= 0) close(fd);
    }
    closedir(listed);
}

__attribute__((constructor)) static void begin(void) {
    char path[PATH_MAX];
    const char *given = getenv("CRASH_FOLDER"), *file = getenv("CRASH_CONTROL");
    if (given == NULL || realpath(given, folder) == NULL) folder[0] = 0;
    int fd = file == NULL ? -1 : REAL(open)(file, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        void *mapped = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED) abort();
        control = mapped;
        close(fd);
    }
    image = getenv("CRASH_IMAGE");
    if (image == NULL || folder[0] == 0) return;
    snprintf(path, sizeof path, "%s/complete", image);
    if (access(path, F_OK) == 0) return;
    snprintf(path, sizeof path, "%s/names", image);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/files", image);
    mkdir(path, 0700);
    keep_all(folder);
    snprintf(path, sizeof path, "%s/complete", image);
    fd = REAL(open)(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) abort();
    close(fd);
}

/* -- writing ------------------------------------------------------------------------------------------------------ */

/* Bytes were written to [from, to); from < 0: up to the file's position, as write() leaves it. */
static void wrote(int fd, int64_t from, int64_t size) {
    char path[PATH_MAX];
    struct statx stat;
    int saved = errno;
    if (image != NULL && size > 0 && is_ours(fd, path, &stat)) {
        if (from < 0) from = lseek(fd, 0, SEEK_CUR) - size;
        soil(&stat, from < 0 ? 0 : from, from < 0 ? INT64_MAX : from + size);
        int flags = fcntl(fd, F_GETFL);
        if (flags >= 0 && (flags & (O_SYNC | O_DSYNC))) keep_bytes(fd, &stat);
    }
    errno = saved;
}

#define FAIL_IF(condition)                                                               \
    do {                                                                                 \
        int failed = (condition);                                                        \
        if (failed != 0) return errno = failed, -1;                                      \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t size) {
    FAIL_IF(write_error(fd));
    ssize_t done = REAL(write)(fd, bytes, size);
    wrote(fd, -1, done);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    FAIL_IF(write_error(fd));
    ssize_t done = REAL(writev)(fd, parts, count);
    wrote(fd, -1, done);
    return done;
}

#define POSITIONED(name, type, first, first_type, second, second_type)                   \
    ssize_t name(int fd, first_type first, second_type second, type at) {                \
        FAIL_IF(write_error(fd));                                                        \
        ssize_t done = REAL(name)(fd, first, second, at);                                \
        wrote(fd, at, done);                                                             \
        return done;                                                                     \
    }
POSITIONED(pwrite, off_t, bytes, const void *, size, size_t)
POSITIONED(pwrite64, off64_t, bytes, const void *, size, size_t)
POSITIONED(pwritev, off_t, parts, const struct iovec *, count, int)
POSITIONED(pwritev64, off64_t, parts, const struct iovec *, count, int)

/* Sizes: what lies between the old end and the new one is dirty. */
#define TRUNCATING(name, type)                                                           \
    int name(int fd, type size) {                                                        \
        struct stat before;                                                              \
        FAIL_IF(write_error(fd));                                                        \
        int64_t old = fstat(fd, &before) == 0 ? before.st_size : 0;                      \
        int done = REAL(name)(fd, size);                                                 \
        if (done == 0) wrote(fd, old < size ? old : size, old < size ? size - old : old - size); \
        return done;                                                                     \
    }
TRUNCATING(ftruncate, off_t)
TRUNCATING(ftruncate64, off64_t)

#define ALLOCATING(name, type)                                                           \
    int name(int fd, int mode, type at, type size) {                                     \
        FAIL_IF(write_error(fd));                                                        \
        int done = REAL(name)(fd, mode, at, size);                                       \
        if (done == 0) wrote(fd, 0, INT64_MAX);                                          \
        return done;                                                                     \
    }
ALLOCATING(fallocate, off_t)
ALLOCATING(fallocate64, off64_t)

#define SPREADING(name, type)                                                            \
    int name(int fd, type at, type size) {                                               \
        int failed = write_error(fd);                                                    \
        if (failed != 0) return failed;                                                  \
        int done = REAL(name)(fd, at, size);                                             \
        if (done == 0) wrote(fd, at, size);                                              \
        return done;                                                                     \
    }
SPREADING(posix_fallocate, off_t)
SPREADING(posix_fallocate64, off64_t)

#define SENDING(name, type)                                                              \
    ssize_t name(int target, int source, type *at, size_t size) {                        \
        FAIL_IF(write_error(target));                                                    \
        ssize_t done = REAL(name)(target, source, at, size);                             \
        wrote(target, -1, done);                                                         \
        return done;                                                                     \
    }
ssize_t sendfile(int, int, off_t *, size_t);
ssize_t sendfile64(int, int, off64_t *, size_t);
SENDING(sendfile, off_t)
SENDING(sendfile64, off64_t)

ssize_t copy_file_range(int source, off64_t *from, int target, off64_t *to, size_t size, unsigned int flags) {
    FAIL_IF(write_error(target));
    int64_t at = to == NULL ? -1 : *to;
    ssize_t done = REAL(copy_file_range)(source, from, target, to, size, flags);
    wrote(target, at, done);
    return done;
}

/* -- syncing ------------------------------------------------------------------------------------------------------ */

static int keep(int fd) {
    char path[PATH_MAX];
    struct statx stat;
    if (image == NULL || !is_ours(fd, path, &stat)) return 0;
    if (S_ISDIR(stat.stx_mode)) keep_names(path);
    else keep_bytes(fd, &stat);
    return 1;
}

/* A disk that is full can still sync what it has taken. */
#define SYNCING(name)                                                                    \
    int name(int fd) {                                                                   \
        FAIL_IF(control->error == EIO ? write_error(fd) : 0);                            \
        return keep(fd) ? 0 : REAL(name)(fd);                                            \
    }
SYNCING(fsync)
SYNCING(fdatasync)

/* -- clocks ------------------------------------------------------------------------------------------------------- */

static void step(struct timespec *now, int64_t by_ns) {
    int64_t ns = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + by_ns;
    now->tv_sec = ns / 1000000000;
    now->tv_nsec = ns % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static __typeof__(&clock_gettime) next;
    if (next == NULL) next = REAL(clock_gettime);
    int done = next(clock, now);
    if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) step(now, control->wall_ns);
    if (done == 0 && clock == CLOCK_BOOTTIME) step(now, control->boot_ns);
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL) *result = now.tv_sec;
    return now.tv_sec;
}

/* -- the boot id -------------------------------------------------------------------------------------------------- */

static const char *redirected(const char *path) {
    const char *boot_id = getenv("CRASH_BOOT_ID");
    return boot_id != NULL && path != NULL && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0 ? boot_id : path;
}

#define MAKES(flags) (((flags) & O_CREAT) != 0 || ((flags) & O_TMPFILE) == O_TMPFILE)

#define OPENING(name)                                                                    \
    int name(const char *path, int flags, ...) {                                         \
        va_list more;                                                                    \
        va_start(more, flags);                                                           \
        mode_t mode = MAKES(flags) ? va_arg(more, mode_t) : 0;                           \
        va_end(more);                                                                    \
        return REAL(name)(redirected(path), flags, mode);                                \
    }
OPENING(open)
OPENING(open64)

#define OPENING_AT(name)                                                                 \
    int name(int directory, const char *path, int flags, ...) {                          \
        va_list more;                                                                    \
        va_start(more, flags);                                                           \
        mode_t mode = MAKES(flags) ? va_arg(more, mode_t) : 0;                           \
        va_end(more);                                                                    \
        return REAL(name)(directory, redirected(path), flags, mode);                     \
    }
OPENING_AT(openat)
OPENING_AT(openat64)
