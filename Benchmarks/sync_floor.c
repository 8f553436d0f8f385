// SPDX-License-Identifier: Apache-2.0
// What the disk alone takes for durable records at a rate: each is appended to a file with reserved space and synced, by one thread
// that does nothing else. The time of a record counts from when it was due, as that of a client's that does not wait for the last.
//   sync_floor FOLDER SIZE RATE SECONDS
// Prints the median and the 99th percentile, in milliseconds.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

int main(int count, char **arguments) {
    if (count != 5) {
        fprintf(stderr, "usage: sync_floor FOLDER SIZE RATE SECONDS\n");
        return 2;
    }
    long size = atol(arguments[2]);
    double rate = atof(arguments[3]);
    long records = (long)(rate * atof(arguments[4]));
    char path[4096];
    snprintf(path, sizeof path, "%s/mdc-sync-floor-%d", arguments[1], (int)getpid());
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0) die(path);
    if (fallocate(file, 0, 0, 64 << 20) < 0) die("fallocate");
    char *record = malloc((size_t)size);
    memset(record, 'x', (size_t)size);
    double *times = malloc(sizeof(double) * (size_t)records);
    double began = now();
    for (long number = 0; number < records;) {
        double wait = began + (double)number / rate - now();
        if (wait > 0) {
            struct timespec pause = {.tv_sec = (time_t)wait, .tv_nsec = (long)((wait - (double)(time_t)wait) * 1e9)};
            nanosleep(&pause, NULL);
        }
        // All that is due meanwhile goes with one sync, as in the node.
        long due = (long)((now() - began) * rate) + 1;
        if (due > records) due = records;
        long first = number;
        for (; number < due; number++)
            if (pwrite(file, record, (size_t)size, number * size) != size) die("pwrite");
        if (fdatasync(file) < 0) die("fdatasync");
        double done = now();
        for (long each = first; each < number; each++) times[each] = (done - began - (double)each / rate) * 1000;
    }
    unlink(path);
    qsort(times, (size_t)records, sizeof(double), ascending);
    printf("%.3f %.3f\n", times[records / 2], times[records * 99 / 100]);
    return 0;
}
