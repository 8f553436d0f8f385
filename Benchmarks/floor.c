// SPDX-License-Identifier: Apache-2.0
// What the kernel alone takes for durable bytes: a server that reads 1 MB requests from a socket, writes them to a file with
// reserved space and syncs it in rounds, as the node does, and does nothing else. No design that copies through the page cache
// can cost less on the same machine.
//   floor FOLDER MESSAGES SIZE
// Prints the server's processor seconds, those of its sync thread within them, and the syncs.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { request = 1000000, in_flight = 5, reserve = 64 << 20 };

static int file, peer;
static sem_t dirty;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long written;
static int ended;
static double sync_seconds;
static long syncs;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double processor(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void *sync_in_rounds(void *unused) {
    (void)unused;
    long acknowledged = 0;
    while (1) {
        sem_wait(&dirty);
        pthread_mutex_lock(&lock);
        long requests = written;
        int is_last = ended;
        pthread_mutex_unlock(&lock);
        if (requests > acknowledged) {
            if (fdatasync(file) < 0) die("fdatasync");
            syncs++;
            char answers[64] = {0};
            while (acknowledged < requests) {
                long count = requests - acknowledged < 64 ? requests - acknowledged : 64;
                if (write(peer, answers, (size_t)count) != count) die("answer");
                acknowledged += count;
            }
        }
        if (is_last) break;
    }
    sync_seconds = processor(CLOCK_THREAD_CPUTIME_ID);
    return NULL;
}

static void serve(int listener, const char *path, long bytes) {
    file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0) die(path);
    peer = accept(listener, NULL, NULL);
    if (peer < 0) die("accept");
    double began = processor(CLOCK_PROCESS_CPUTIME_ID);
    sem_init(&dirty, 0, 0);
    pthread_t thread;
    pthread_create(&thread, NULL, sync_in_rounds, NULL);
    char *buffer = malloc(request);
    memset(buffer, 0, request);
    long position = 0, reserved = 0;
    while (position < bytes) {
        long wanted = bytes - position < request ? bytes - position : request, have = 0;
        while (have < wanted) {
            ssize_t got = read(peer, buffer + have, (size_t)(wanted - have));
            if (got <= 0) die("read");
            have += got;
        }
        if (position + wanted > reserved) {
            if (fallocate(file, 0, reserved, reserve) < 0) die("fallocate");
            reserved += reserve;
        }
        if (pwrite(file, buffer, (size_t)wanted, position) != wanted) die("pwrite");
        position += wanted;
        pthread_mutex_lock(&lock);
        written++;
        ended = position == bytes;
        pthread_mutex_unlock(&lock);
        sem_post(&dirty);
    }
    pthread_join(thread, NULL);
    printf("%.6f %.6f %ld\n", processor(CLOCK_PROCESS_CPUTIME_ID) - began, sync_seconds, syncs);
}

int main(int count, char **arguments) {
    if (count != 4) {
        fprintf(stderr, "usage: floor FOLDER MESSAGES SIZE\n");
        return 2;
    }
    // A record of the wire is ten bytes longer than its value.
    long bytes = atol(arguments[2]) * (atol(arguments[3]) + 10);
    char path[4096];
    snprintf(path, sizeof path, "%s/mdc-floor-%d", arguments[1], (int)getpid());
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 1) < 0) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    pid_t child = fork();
    if (child == 0) {
        serve(listener, path, bytes);
        return 0;
    }
    int client = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(client, (struct sockaddr *)&address, size) < 0) die("connect");
    char *buffer = malloc(request);
    memset(buffer, 'x', request);
    long sent = 0, unanswered = 0;
    while (sent < bytes || unanswered > 0) {
        if (sent < bytes && unanswered < in_flight) {
            long wanted = bytes - sent < request ? bytes - sent : request;
            for (long have = 0; have < wanted;) {
                ssize_t put = write(client, buffer + have, (size_t)(wanted - have));
                if (put <= 0) die("write");
                have += put;
            }
            sent += wanted;
            unanswered++;
        } else {
            char answers[64];
            ssize_t got = read(client, answers, sizeof answers);
            if (got <= 0) die("answer");
            unanswered -= got;
        }
    }
    int status = 0;
    waitpid(child, &status, 0);
    unlink(path);
    return status == 0 ? 0 : 1;
}
