// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "CMDCSystem.h"
#include <dirent.h>
#include <errno.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(struct mdc_piece) == sizeof(struct iovec), "mdc_piece must be an iovec");
_Static_assert(offsetof(struct mdc_piece, count) == offsetof(struct iovec, iov_len), "mdc_piece must be an iovec");

#define RETRY(result, call)                 \
    do {                                    \
        (result) = (call);                  \
    } while ((result) < 0 && errno == EINTR)

static inline int check(int result) { return result < 0 ? -errno : result; }

int mdc_open(const char *path, int flags) {
    int mode = O_CLOEXEC;
    mode |= (flags & MDC_OPEN_WRITE) ? O_RDWR : O_RDONLY;
    if (flags & MDC_OPEN_CREATE) mode |= O_CREAT;
    if (flags & MDC_OPEN_EXCLUSIVE) mode |= O_EXCL;
    int fd;
    RETRY(fd, open(path, mode, 0644));
    return check(fd);
}

int mdc_close(int fd) { return check(close(fd)); }

int mdc_duplicate(int fd) { return check(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

void mdc_tune_allocator(void) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 16 << 20);
#endif
}

int64_t mdc_resident_bytes(void) {
#ifdef __linux__
    char text[64];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return -EIO;
    text[n] = 0;
    long total = 0, resident = 0;
    if (sscanf(text, "%ld %ld", &total, &resident) != 2) return -EIO;
    return (int64_t)resident * sysconf(_SC_PAGESIZE);
#else
    return -ENOSYS;
#endif
}

ssize_t mdc_pread(int fd, void *bytes, size_t count, int64_t position) {
    ssize_t n;
    RETRY(n, pread(fd, bytes, count, position));
    return n < 0 ? -errno : n;
}

ssize_t mdc_pwritev(int fd, const struct mdc_piece *pieces, int count, int64_t position) {
    ssize_t n;
    RETRY(n, pwritev(fd, (const struct iovec *)pieces, count, position));
    return n < 0 ? -errno : n;
}

// A sync is never repeated: after a failure the kernel may have dropped the dirty pages.
int mdc_fdatasync(int fd) {
#ifdef __linux__
    return check(fdatasync(fd));
#else
    return check(fsync(fd));
#endif
}

int mdc_fsync(int fd) { return check(fsync(fd)); }

int mdc_ftruncate(int fd, int64_t size) {
    int result;
    RETRY(result, ftruncate(fd, size));
    return check(result);
}

int mdc_fallocate(int fd, int64_t position, int64_t count) {
#ifdef __linux__
    int result;
    RETRY(result, fallocate(fd, 0, position, count));
    return check(result);
#else
    (void)fd, (void)position, (void)count;
    return -EOPNOTSUPP;
#endif
}

int mdc_is_resident(int fd, int64_t position) {
#if defined(__linux__) && defined(RWF_NOWAIT)
    char byte;
    struct iovec piece = {&byte, 1};
    ssize_t n = preadv2(fd, &piece, 1, position, RWF_NOWAIT);
    return n < 0 && errno == EAGAIN ? 0 : 1;
#else
    (void)fd, (void)position;
    return 1;
#endif
}

int mdc_read_ahead(int fd, int64_t position, int64_t count) {
#ifdef __linux__
    return -posix_fadvise(fd, position, count, POSIX_FADV_WILLNEED);
#else
    (void)fd, (void)position, (void)count;
    return 0;
#endif
}

int mdc_write_back(int fd, int64_t position, int64_t count) {
#ifdef __linux__
    return check(sync_file_range(
        fd, position, count, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
#else
    (void)fd, (void)position, (void)count;
    return 0;
#endif
}

int64_t mdc_file_size(int fd) {
    struct stat status;
    return fstat(fd, &status) < 0 ? -errno : (int64_t)status.st_size;
}

int mdc_stat(const char *path, int *kind, int64_t *size, int64_t *modified_ms, int64_t *allocated) {
    struct stat status;
    if (stat(path, &status) < 0) {
        *kind = 0;
        return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
    }
    *kind = S_ISREG(status.st_mode) ? 1 : S_ISDIR(status.st_mode) ? 2 : 3;
    *size = status.st_size;
#ifdef __linux__
    *modified_ms = (int64_t)status.st_mtim.tv_sec * 1000 + status.st_mtim.tv_nsec / 1000000;
#else
    *modified_ms = (int64_t)status.st_mtimespec.tv_sec * 1000 + status.st_mtimespec.tv_nsec / 1000000;
#endif
    *allocated = (int64_t)status.st_blocks * 512;
    return 0;
}

int mdc_space(const char *path, uint64_t *available, uint64_t *total) {
    struct statvfs status;
    if (statvfs(path, &status) < 0) return -errno;
    *available = (uint64_t)status.f_bavail * status.f_frsize;
    *total = (uint64_t)status.f_blocks * status.f_frsize;
    return 0;
}

int mdc_mkdir(const char *path) { return check(mkdir(path, 0755)); }
int mdc_rmdir(const char *path) { return check(rmdir(path)); }
int mdc_unlink(const char *path) { return check(unlink(path)); }
int mdc_rename(const char *from, const char *to) { return check(rename(from, to)); }

int mdc_sync_directory(const char *path) {
    int fd;
    RETRY(fd, open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0) return -errno;
    int result = check(fsync(fd));
    close(fd);
    return result;
}

int mdc_list(const char *path, void *context, void (*each)(void *context, const char *name, int kind)) {
    DIR *directory = opendir(path);
    if (!directory) return -errno;
    errno = 0;
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        int kind = entry->d_type == DT_REG ? 1 : entry->d_type == DT_DIR ? 2 : 3;
        if (entry->d_type == DT_UNKNOWN) {
            struct stat status;
            if (fstatat(dirfd(directory), entry->d_name, &status, 0) == 0)
                kind = S_ISREG(status.st_mode) ? 1 : S_ISDIR(status.st_mode) ? 2 : 3;
        }
        each(context, entry->d_name, kind);
        errno = 0;
    }
    int result = -errno;
    closedir(directory);
    return result;
}

int mdc_lock(int fd) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
#ifdef F_OFD_SETLK
    return check(fcntl(fd, F_OFD_SETLK, &lock));
#else
    return check(fcntl(fd, F_SETLK, &lock));
#endif
}

int mdc_unlock(int fd) {
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
#ifdef F_OFD_SETLK
    return check(fcntl(fd, F_OFD_SETLK, &lock));
#else
    return check(fcntl(fd, F_SETLK, &lock));
#endif
}

int64_t mdc_wall_clock_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint64_t mdc_monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void mdc_error_text(int number, char *text, size_t size) {
    if (size == 0) return;
    snprintf(text, size, "%s", strerror(number));
}

struct start {
    void *context;
    void (*body)(void *context);
    char name[16];
};

static void *run(void *argument) {
    struct start start = *(struct start *)argument;
    free(argument);
#ifdef __linux__
    pthread_setname_np(pthread_self(), start.name);
#else
    pthread_setname_np(start.name);
#endif
    // Signals belong to the main thread.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    start.body(start.context);
    return NULL;
}

int mdc_start_thread(const char *name, void *context, void (*body)(void *context)) {
    struct start *start = malloc(sizeof *start);
    if (!start) return -ENOMEM;
    start->context = context;
    start->body = body;
    snprintf(start->name, sizeof start->name, "%s", name);
    pthread_t thread;
    int result = pthread_create(&thread, NULL, run, start);
    if (result != 0) {
        free(start);
        return -result;
    }
    pthread_detach(thread);
    return 0;
}

int64_t mdc_raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
    // More than this is for nobody's good: some libraries walk over all numbers.
    rlim_t wanted = limit.rlim_max < (1 << 20) ? limit.rlim_max : (1 << 20);
    if (limit.rlim_cur < wanted) {
        struct rlimit raised = {.rlim_cur = wanted, .rlim_max = limit.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
    }
    return limit.rlim_cur > (1 << 20) ? 1 << 20 : (int64_t)limit.rlim_cur;
}

void mdc_lower_thread_priority(void) {
#ifdef __linux__
    // Niceness belongs to a thread here, unlike elsewhere. 10 of 19: a ninth of the processor against a busy thread.
    pid_t thread = (pid_t)syscall(SYS_gettid);
    (void)setpriority(PRIO_PROCESS, (id_t)thread, 10);
    // IOPRIO_WHO_PROCESS, best effort (class 2), lowest level (7); glibc has no name for it.
    (void)syscall(SYS_ioprio_set, 1, thread, 2 << 13 | 7);
#endif
}

void mdc_die(const char *message) {
    fprintf(stderr, "%s\n", message);
    fflush(stderr);
    abort();
}
