/* Loaded before libc: at the n-th operation that changes a file below a folder, the disk is full or the search killed.

   Counts what the processes of one search do together: the counter lies in memory that they share by fork. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, FULL };

static struct { volatile long done; long at; int mode; char below[512]; } *plan;
static unsigned char ours[4096]; /* by file descriptor: whether it is a file below the folder, open for writing */

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

void arm(long at, int mode, const char *below) {
    plan = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    plan->at = at;
    plan->mode = mode;
    strncpy(plan->below, below, sizeof plan->below - 1);
}

long counted(void) { return plan ? plan->done : 0; }

static int below(const char *path) {
    char whole[4096];
    if (!plan || !path) return 0;
    if (path[0] != '/') {
        if (!getcwd(whole, sizeof whole - 2048)) return 0;
        strcat(whole, "/");
        strncat(whole, path, 2000);
        path = whole;
    }
    return !strncmp(path, plan->below, strlen(plan->below));
}

/* The next operation: 0 to do it, 1 where the disk is full, and 2 to do half of it and then die. */
static int next(int grows) {
    long number = __sync_add_and_fetch(&plan->done, 1);
    if (plan->mode == KILL && number >= plan->at) return 2;
    return plan->mode == FULL && grows && number >= plan->at;
}

static void die(void) { for (;;) { kill(0, SIGKILL); pause(); } }

static int opened(int fd, const char *path, int flags) {
    if (fd >= 0 && fd < (int)sizeof ours) ours[fd] = (flags & O_ACCMODE) != O_RDONLY && below(path);
    return fd;
}

static int refused(const char *path, int flags) {
    if ((flags & O_ACCMODE) == O_RDONLY || !below(path)) return 0;
    switch (next((flags & O_CREAT) && access(path, F_OK))) {
    case 2: die();
    case 1: errno = ENOSPC; return 1;
    }
    return 0;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return refused(path, flags) ? -1 : opened(real(path, flags, mode), path, flags); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(name); va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return refused(path, flags) ? -1 : opened(real(at, path, flags, mode), path, flags); }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    REAL(close);
    if (fd >= 0 && fd < (int)sizeof ours) ours[fd] = 0;
    return real(fd);
}

static int mine(int fd) { return plan && fd >= 0 && fd < (int)sizeof ours && ours[fd]; }

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (mine(fd)) switch (next(1)) {
        case 2: (void)!real(fd, data, size / 2); die();
        case 1: errno = ENOSPC; return -1;
    }
    return real(fd, data, size);
}

#define PWRITE(name, offset_t) \
    ssize_t name(int fd, const void *data, size_t size, offset_t place) { \
        REAL(name); \
        if (mine(fd)) switch (next(1)) { \
            case 2: (void)!real(fd, data, size / 2, place); die(); \
            case 1: errno = ENOSPC; return -1; } \
        return real(fd, data, size, place); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

/* What has no half and needs no room is done, or the search dies before it. */
#define WHOLE(signature, name, asks, room, arguments) \
    int signature { \
        REAL(name); \
        if (asks) switch (next(room)) { \
            case 2: die(); \
            case 1: errno = ENOSPC; return -1; } \
        return real arguments; }
WHOLE(fsync(int fd), fsync, mine(fd), 0, (fd))
WHOLE(fdatasync(int fd), fdatasync, mine(fd), 0, (fd))
WHOLE(ftruncate(int fd, off_t size), ftruncate, mine(fd), 0, (fd, size))
WHOLE(ftruncate64(int fd, off64_t size), ftruncate64, mine(fd), 0, (fd, size))
WHOLE(rename(const char *from, const char *to), rename, below(to), 0, (from, to))
WHOLE(unlink(const char *path), unlink, below(path), 0, (path))
WHOLE(mkdir(const char *path, mode_t mode), mkdir, below(path), 1, (path, mode))
