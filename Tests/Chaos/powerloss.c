// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a node: notes what each call would change on the disk before it is carried out, so that power.py can take
// back what was not synced when the power fails. The journal survives the process, for the page cache does.
//
//   MDC_POWER_JOURNAL=FILE    where that is noted
//   MDC_POWER_GRAVE=FOLDER    keeps what was unlinked; on the file system of the data
//   MDC_POWER_LIES=TEXT       syncs of files with the text in their path are not noted, as if the disk lied: the checker
//                             must notice
//
// A record: kind (1 byte), inode, a, b (8 bytes each), length of the text (4 bytes), text. Numbers as the machine has them.
#define _GNU_SOURCE
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
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 'w', SIZE = 's', BEGIN = 'b', END = 'e', CREATE = 'c', MAKE = 'm', UNLINK = 'u', RENAME = 'r', REMOVE = 'd' };

#define REAL(result, name, ...)                                  \
    static result (*real_##name)(__VA_ARGS__);                   \
    __attribute__((constructor)) static void find_##name(void) { \
        real_##name = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name); \
    }

REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t)
REAL(int, ftruncate, int, off_t)
REAL(int, fallocate, int, int, off_t, off_t)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(int, open, const char *, int, ...)
REAL(int, rename, const char *, const char *)
REAL(int, unlink, const char *)
REAL(int, mkdir, const char *, mode_t)
REAL(int, rmdir, const char *)

// One call at a time changes the disk, so that the journal has the order of the changes.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static char grave[PATH_MAX];
static long buried;
static const char *lies;

// Behind those above: constructors of a file run in its order.
__attribute__((constructor)) static void start(void) {
    const char *path = getenv("MDC_POWER_JOURNAL"), *folder = getenv("MDC_POWER_GRAVE");
    if (!path || !folder) return;
    snprintf(grave, sizeof grave, "%s", folder);
    lies = getenv("MDC_POWER_LIES");
    journal = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (journal < 0) {
        fprintf(stderr, "powerloss: %s: %s\n", path, strerror(errno));
        abort();
    }
}

static void note(char kind, uint64_t inode, uint64_t a, uint64_t b, const void *text, uint32_t count) {
    unsigned char head[29];
    head[0] = (unsigned char)kind;
    memcpy(head + 1, &inode, 8);
    memcpy(head + 9, &a, 8);
    memcpy(head + 17, &b, 8);
    memcpy(head + 25, &count, 4);
    struct iovec pieces[2] = {{head, sizeof head}, {(void *)text, count}};
    if (real_writev(journal, pieces, count ? 2 : 1) != (ssize_t)(sizeof head + count)) {
        // What cannot be noted cannot be taken back: better no test than a wrong one.
        fprintf(stderr, "powerloss: the journal cannot be written: %s\n", strerror(errno));
        abort();
    }
}

static int is_file(int fd, struct stat *status) {
    return journal >= 0 && fd > 2 && fd != journal && fstat(fd, status) == 0 && S_ISREG(status->st_mode);
}

// What stands now where `count` bytes are going to be written, and the size.
static void note_before(int fd, const struct stat *status, off_t position, size_t count) {
    off_t there = status->st_size > position ? status->st_size - position : 0;
    if ((size_t)there > count) there = (off_t)count;
    char *before = there ? malloc((size_t)there) : NULL;
    // The descriptor may be open for writing alone.
    ssize_t n = there ? pread(fd, before, (size_t)there, position) : 0;
    if (n != there) {
        fprintf(stderr, "powerloss: what is overwritten cannot be read: %s\n", strerror(errno));
        abort();
    }
    note(WRITE, status->st_ino, (uint64_t)position, (uint64_t)status->st_size, before, (uint32_t)there);
    free(before);
}

static size_t total(const struct iovec *pieces, int count) {
    size_t sum = 0;
    for (int i = 0; i < count; i++) sum += pieces[i].iov_len;
    return sum;
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t position) {
    struct stat status;
    pthread_mutex_lock(&lock);
    if (is_file(fd, &status)) note_before(fd, &status, position, total(pieces, count));
    ssize_t n = real_pwritev(fd, pieces, count, position);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return n;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t position) {
    struct iovec piece = {(void *)bytes, count};
    return pwritev(fd, &piece, 1, position);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    struct stat status;
    // Sockets wait for nobody.
    if (!is_file(fd, &status)) return real_writev(fd, pieces, count);
    pthread_mutex_lock(&lock);
    fstat(fd, &status);
    off_t position = fcntl(fd, F_GETFL) & O_APPEND ? status.st_size : lseek(fd, 0, SEEK_CUR);
    note_before(fd, &status, position, total(pieces, count));
    ssize_t n = real_writev(fd, pieces, count);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return n;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    struct stat status;
    if (!is_file(fd, &status)) return real_write(fd, bytes, count);
    struct iovec piece = {(void *)bytes, count};
    return writev(fd, &piece, 1);
}

int ftruncate(int fd, off_t size) {
    struct stat status;
    pthread_mutex_lock(&lock);
    if (is_file(fd, &status)) {
        if (size < status.st_size) {
            note_before(fd, &status, size, (size_t)(status.st_size - size));
        } else {
            note(SIZE, status.st_ino, 0, (uint64_t)status.st_size, NULL, 0);
        }
    }
    int result = real_ftruncate(fd, size);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fallocate(int fd, int mode, off_t position, off_t count) {
    struct stat status;
    pthread_mutex_lock(&lock);
    if (is_file(fd, &status)) note(SIZE, status.st_ino, 0, (uint64_t)status.st_size, NULL, 0);
    int result = real_fallocate(fd, mode, position, count);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

static int is_lie(int fd) {
    char name[64], path[PATH_MAX];
    if (!lies) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strstr(path, lies) != NULL;
}

static int synced(int fd, int (*call)(int)) {
    struct stat status;
    int counts = journal >= 0 && fstat(fd, &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))
        && !is_lie(fd);
    static uint64_t number;
    uint64_t mine = 0;
    if (counts) {
        pthread_mutex_lock(&lock);
        mine = (uint64_t)getpid() << 32 | ++number;
        note(BEGIN, status.st_ino, mine, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    int result = call(fd);
    int error = errno;
    if (counts && result == 0) {
        pthread_mutex_lock(&lock);
        note(END, status.st_ino, mine, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

// The inode of the folder that has the entry.
static uint64_t parent(const char *path) {
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    struct stat status;
    return stat(slash ? folder : ".", &status) == 0 ? status.st_ino : 0;
}

int open(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = (mode_t)va_arg(rest, int);
        va_end(rest);
    }
    if (journal < 0 || !(flags & O_CREAT)) return real_open(path, flags, mode);
    pthread_mutex_lock(&lock);
    int is_new = access(path, F_OK) != 0;
    int fd = real_open(path, flags, mode);
    int error = errno;
    if (fd >= 0 && is_new) note(CREATE, parent(path), 0, 0, path, (uint32_t)strlen(path));
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

// Keeps a name for a file that is about to lose its own; 0 where there is none.
static uint64_t bury(const char *path) {
    char to[PATH_MAX + 64];
    struct stat status;
    if (lstat(path, &status) != 0 || !S_ISREG(status.st_mode)) return 0;
    long number = (long)getpid() << 32 | ++buried;
    snprintf(to, sizeof to, "%s/%ld", grave, number);
    return link(path, to) == 0 ? (uint64_t)number : 0;
}

int unlink(const char *path) {
    if (journal < 0) return real_unlink(path);
    pthread_mutex_lock(&lock);
    uint64_t number = bury(path);
    if (number) note(UNLINK, parent(path), number, 0, path, (uint32_t)strlen(path));
    int result = real_unlink(path);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int rename(const char *from, const char *to) {
    if (journal < 0) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    char both[2 * PATH_MAX];
    int count = snprintf(both, sizeof both, "%s%c%s", from, 0, to);
    if (access(from, F_OK) == 0) note(RENAME, parent(to), bury(to), 0, both, (uint32_t)count);
    int result = real_rename(from, to);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int mkdir(const char *path, mode_t mode) {
    if (journal < 0) return real_mkdir(path, mode);
    pthread_mutex_lock(&lock);
    int result = real_mkdir(path, mode);
    int error = errno;
    if (result == 0) note(MAKE, parent(path), 0, 0, path, (uint32_t)strlen(path));
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int rmdir(const char *path) {
    if (journal < 0) return real_rmdir(path);
    pthread_mutex_lock(&lock);
    if (access(path, F_OK) == 0) note(REMOVE, parent(path), 0, 0, path, (uint32_t)strlen(path));
    int result = real_rmdir(path);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
