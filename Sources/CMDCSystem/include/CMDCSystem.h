// SPDX-License-Identifier: Apache-2.0
//
// Thin shims over the system calls of the storage engine. Each returns the call's result, or -errno: Swift never
// reads errno, which another call of the same thread may have overwritten by then.
#ifndef CMDC_SYSTEM_H
#define CMDC_SYSTEM_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MDC_OPEN_READ 0
#define MDC_OPEN_WRITE 1
#define MDC_OPEN_CREATE 2
#define MDC_OPEN_EXCLUSIVE 4

/// One piece of a gathered write; the layout of `struct iovec`.
struct mdc_piece {
    const void *_Nullable base;
    size_t count;
};

int mdc_open(const char *_Nonnull path, int flags);
int mdc_close(int fd);
/// A second descriptor of the same open file, closed on exec.
int mdc_duplicate(int fd);
/// Bytes of memory that the process has resident, -errno where that is not known.
int64_t mdc_resident_bytes(void);
ssize_t mdc_pread(int fd, void *_Nonnull bytes, size_t count, int64_t position);
ssize_t mdc_pwritev(int fd, const struct mdc_piece *_Nonnull pieces, int count, int64_t position);
int mdc_fdatasync(int fd);
int mdc_fsync(int fd);
int mdc_ftruncate(int fd, int64_t size);
/// Reserves space and extends the file's size to `position + count`; the new bytes read as zeros.
int mdc_fallocate(int fd, int64_t position, int64_t count);
/// 1 where the byte at `position` can be read without waiting for the disk, 0 where not.
int mdc_is_resident(int fd, int64_t position);
/// Asks the kernel to read ahead.
int mdc_read_ahead(int fd, int64_t position, int64_t count);
/// Writes a range back without the file system's journal and the disk's cache, and waits. No replacement for a sync.
int mdc_write_back(int fd, int64_t position, int64_t count);
/// Size in bytes of an open file.
int64_t mdc_file_size(int fd);
/// Fills in what is known of a path; kind: 0 nothing there, 1 file, 2 folder, 3 other.
int mdc_stat(
    const char *_Nonnull path, int *_Nonnull kind, int64_t *_Nonnull size, int64_t *_Nonnull modified_ms,
    int64_t *_Nonnull allocated);
int mdc_space(const char *_Nonnull path, uint64_t *_Nonnull available, uint64_t *_Nonnull total);
int mdc_mkdir(const char *_Nonnull path);
int mdc_rmdir(const char *_Nonnull path);
int mdc_unlink(const char *_Nonnull path);
int mdc_rename(const char *_Nonnull from, const char *_Nonnull to);
int mdc_sync_directory(const char *_Nonnull path);
/// Calls `each` with the name of each entry but "." and ".."; kind as in `mdc_stat`.
int mdc_list(
    const char *_Nonnull path, void *_Nullable context,
    void (*_Nonnull each)(void *_Nullable context, const char *_Nonnull name, int kind));
/// Takes an exclusive lock on a whole file, without waiting. The lock ends with the descriptor.
int mdc_lock(int fd);
/// Gives up that lock, also for copies of the descriptor in other processes.
int mdc_unlock(int fd);
int64_t mdc_wall_clock_ms(void);
uint64_t mdc_monotonic_ns(void);
/// The text of an error number, into `text`.
void mdc_error_text(int number, char *_Nonnull text, size_t size);
/// Starts a detached thread. `name` has at most 15 characters.
/// Tells the allocator to keep buffers of a request's size for the next request rather than give them back to the
/// system, which would fault and clear their pages anew each time. At most 16 MiB are kept. Does nothing but with glibc.
void mdc_tune_allocator(void);
int mdc_start_thread(
    const char *_Nonnull name, void *_Nullable context, void (*_Nonnull body)(void *_Nullable context));
/// Raises the number of files that the process may open as far as it may without asking; returns it.
int64_t mdc_raise_file_limit(void);
/// Puts the calling thread behind the others for processor and disk. What the system does not grant is not missed.
void mdc_lower_thread_priority(void);
/// Writes a line to standard error and ends the process by abort.
void mdc_die(const char *_Nonnull message) __attribute__((noreturn));
#endif
