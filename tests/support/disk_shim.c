/* Stands between a process and its disk (LD_PRELOAD); tests/support/disk.py compiles and steers it.
 *
 * It sees every call that changes a file or folder below one folder: writes, truncations, syncs, creations,
 * renames, removals. Armed, it counts them, and at the n-th kills the process or has the call fail. Tracing,
 * it lets all of them through and writes down what they did, in order, with the bytes.
 *
 * A record of a trace: kind (1 byte), number (8 bytes, an offset or size), length of path, length of data
 * (4 bytes each), path, data. The data of a rename is the new path. Everything in the order of this machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, KILL, TEAR, FAIL_ONCE, FAIL_FROM, TRACE };

static char folder[PATH_MAX];
static int mode = OFF, fail_with, trace = -1;
static long fire_at, calls;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* ---- what the test calls ------------------------------------------------------------------------- */

void disk_arm(const char *below, int new_mode, long at, int error) {
    snprintf(folder, sizeof folder, "%s", below);
    calls = 0, fire_at = at, fail_with = error, mode = new_mode;
}

void disk_disarm(void) { mode = OFF; }

long disk_calls(void) { return calls; }

static void record(char kind, int64_t number, const char *path, const void *data, size_t length) {
    uint32_t lengths[2] = {(uint32_t)strlen(path), (uint32_t)length};
    char head[17] = {kind};
    memcpy(head + 1, &number, 8);
    memcpy(head + 9, lengths, 8);
    struct iovec parts[3] = {{head, 17}, {(void *)path, lengths[0]}, {(void *)data, length}};
    if (syscall(SYS_writev, trace, parts, 3) != (long)(17 + lengths[0] + length)) abort();
}

void disk_note(const char *text) {
    pthread_mutex_lock(&one_at_a_time);
    if (mode == TRACE) record('n', 0, text, "", 0);
    pthread_mutex_unlock(&one_at_a_time);
}

void disk_trace(const char *below, const char *into) {
    trace = syscall(SYS_openat, AT_FDCWD, into, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    disk_arm(below, TRACE, 0, 0);
}

/* ---- where a call goes to --------------------------------------------------------------------------- */

static int is_below(const char *path) {
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int path_of(int file, char *path) {
    char link[64];
    if (mode == OFF) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static int path_at(int at, const char *name, char *path) {
    char base[PATH_MAX] = "";
    if (mode == OFF) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        if (at == AT_FDCWD || !path_of(at, base)) return 0;
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return is_below(path);
}

static int is_there(const char *path) { return syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0; }

/* ---- what is done to it -------------------------------------------------------------------------- */

/* One more call: dies, or returns 1 if it is to fail, or 2 if it is to be done half and then die. */
static int next_call(void) {
    if (mode == OFF || mode == TRACE) return 0;
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (mode == KILL && number == fire_at) kill(getpid(), SIGKILL);
    if (mode == TEAR && number == fire_at) return 2;
    if ((mode == FAIL_ONCE && number == fire_at) || (mode == FAIL_FROM && number >= fire_at)) {
        errno = fail_with;
        return 1;
    }
    return 0;
}

static int fails(char kind) {
    int next = next_call();
    if (next == 2) kill(getpid(), SIGKILL);
    if (fail_with == ENOSPC && strchr("ut", kind)) return 0; /* what gives room back is never refused */
    return next == 1;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))
typedef ssize_t (*pwrite_type)(int, const void *, size_t, off_t);

/* Every write ends here. `at` < 0 means: where the file stands. */
static ssize_t write_one(int file, const char *path, const void *bytes, size_t length, off_t at) {
    int next = next_call(), flags = fcntl(file, F_GETFL);
    if (next == 1) return -1;
    if (next == 2) length /= 2;
    pthread_mutex_lock(&one_at_a_time);
    off_t from = at >= 0 ? at : flags & O_APPEND ? lseek(file, 0, SEEK_END) : lseek(file, 0, SEEK_CUR);
    ssize_t done = syscall(SYS_pwrite64, file, bytes, length, from);
    if (done > 0 && at < 0) lseek(file, from + done, SEEK_SET);
    if (next == 2) kill(getpid(), SIGKILL);
    if (done > 0 && mode == TRACE) record(flags & O_DSYNC ? 'W' : 'w', from, path, bytes, (size_t)done);
    pthread_mutex_unlock(&one_at_a_time);
    return done;
}

static ssize_t write_parts(int file, const char *path, const struct iovec *parts, int count, off_t at) {
    size_t length = 0;
    for (int part = 0; part < count; part++) length += parts[part].iov_len;
    char *bytes = malloc(length + 1), *end = bytes;
    for (int part = 0; part < count; part++) end = mempcpy(end, parts[part].iov_base, parts[part].iov_len);
    ssize_t done = write_one(file, path, bytes, length, at);
    free(bytes);
    return done;
}

ssize_t write(int file, const void *bytes, size_t length) {
    char path[PATH_MAX];
    return path_of(file, path) ? write_one(file, path, bytes, length, -1) : syscall(SYS_write, file, bytes, length);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t at) {
    char path[PATH_MAX];
    return path_of(file, path) ? write_one(file, path, bytes, length, at)
                               : syscall(SYS_pwrite64, file, bytes, length, at);
}
ssize_t pwrite64(int file, const void *bytes, size_t length, off_t at) { return pwrite(file, bytes, length, at); }

ssize_t writev(int file, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    return path_of(file, path) ? write_parts(file, path, parts, count, -1) : syscall(SYS_writev, file, parts, count);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) {
    char path[PATH_MAX];
    return path_of(file, path) ? write_parts(file, path, parts, count, at)
                               : syscall(SYS_pwritev, file, parts, count, at, 0);
}
ssize_t pwritev64(int file, const struct iovec *parts, int count, off_t at) {
    return pwritev(file, parts, count, at);
}

/* A call that is one step: counted, done, written down. */
#define STEP(watched, kind, number, path, data, length, call) \
    do {                                                          \
        if (!(watched)) return call;                              \
        if (fails(kind)) return -1;                               \
        pthread_mutex_lock(&one_at_a_time);                       \
        int done = call;                                          \
        if (done == 0 && mode == TRACE) record(kind, number, path, data, length); \
        pthread_mutex_unlock(&one_at_a_time);                     \
        return done;                                              \
    } while (0)

/* Where nothing loses power a sync does nothing, and need not be waited for. */
static int sync_one(int file, const char *name) {
    return mode == OFF ? REAL(name, int (*)(int))(file) : 0;
}

int fsync(int file) {
    char path[PATH_MAX];
    STEP(path_of(file, path), 's', 0, path, "", 0, sync_one(file, "fsync"));
}

int fdatasync(int file) {
    char path[PATH_MAX];
    STEP(path_of(file, path), 's', 0, path, "", 0, sync_one(file, "fdatasync"));
}

int ftruncate(int file, off_t size) {
    char path[PATH_MAX];
    STEP(path_of(file, path), 't', size, path, "", 0, (int)syscall(SYS_ftruncate, file, size));
}
int ftruncate64(int file, off_t size) { return ftruncate(file, size); }

int truncate(const char *name, off_t size) {
    char path[PATH_MAX];
    STEP(path_at(AT_FDCWD, name, path), 't', size, path, "", 0, (int)syscall(SYS_truncate, name, size));
}
int truncate64(const char *name, off_t size) { return truncate(name, size); }

int renameat(int from_at, const char *from, int to_at, const char *to) {
    char old[PATH_MAX], new[PATH_MAX] = "";
    STEP(path_at(from_at, from, old) && path_at(to_at, to, new), 'r', 0, old, new, strlen(new),
         (int)syscall(SYS_renameat, from_at, from, to_at, to));
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int at, const char *name, int flags) {
    char path[PATH_MAX];
    STEP(path_at(at, name, path), 'u', 0, path, "", 0, (int)syscall(SYS_unlinkat, at, name, flags));
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int at, const char *name, mode_t permissions) {
    char path[PATH_MAX];
    int creates = path_at(at, name, path) && !is_there(path);
    STEP(creates, 'm', 0, path, "", 0, (int)syscall(SYS_mkdirat, at, name, permissions));
}
int mkdir(const char *name, mode_t permissions) { return mkdirat(AT_FDCWD, name, permissions); }

int openat(int at, const char *name, int flags, ...) {
    char path[PATH_MAX];
    va_list rest;
    va_start(rest, flags);
    mode_t permissions = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int changes = (flags & (O_CREAT | O_TRUNC)) && path_at(at, name, path);
    int creates = changes && !is_there(path);
    if (!creates && !(changes && flags & O_TRUNC)) return (int)syscall(SYS_openat, at, name, flags, permissions);
    if (fails(creates ? 'c' : 't')) return -1;
    pthread_mutex_lock(&one_at_a_time);
    int file = (int)syscall(SYS_openat, at, name, flags, permissions);
    if (file >= 0 && mode == TRACE) record(creates ? 'c' : 't', 0, path, "", 0);
    pthread_mutex_unlock(&one_at_a_time);
    return file;
}

#define OPEN(name)                                                     \
    int name(const char *path, int flags, ...) {                       \
        va_list rest;                                                  \
        va_start(rest, flags);                                         \
        mode_t permissions = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                  \
        return openat(AT_FDCWD, path, flags, permissions);             \
    }
OPEN(open)
OPEN(open64)

int openat64(int at, const char *name, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t permissions = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return openat(at, name, flags, permissions);
}
