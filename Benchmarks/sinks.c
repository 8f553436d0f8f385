// SPDX-License-Identifier: Apache-2.0
// Providers that take everything at once, so that what is measured is who sends: an SMSC (SMPP 3.4) that reports delivery
// right after its answer, a mail server, and an HTTP server that answers every POST as FCM does. One thread, epoll.
//
//   sinks smpp|smtp|http        prints the port it listens on (loopback), and runs until its standard input ends

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { buffer_size = 1 << 20, receipts_at_once = 500, waiting_max = 1 << 20 };

struct connection {
    int socket;
    int in_mail;
    // Receipts: how many are not answered, and those that wait, in a ring.
    uint32_t unanswered, first, last;
    uint32_t *waiting;
    size_t in_used, out_used;
    char in[buffer_size], out[buffer_size];
};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void put(struct connection *c, const void *bytes, size_t count) {
    if (c->out_used + count > buffer_size) {
        fprintf(stderr, "sinks: the other side does not read its answers\n");
        exit(1);
    }
    memcpy(c->out + c->out_used, bytes, count);
    c->out_used += count;
}

static void put_text(struct connection *c, const char *text) { put(c, text, strlen(text)); }

// SMPP 3.4, 3.2: length, command, status and sequence before each body.
static void put_pdu(struct connection *c, uint32_t command, uint32_t sequence, const void *body, size_t count) {
    uint32_t head[4] = {htonl(16 + count), htonl(command), 0, htonl(sequence)};
    put(c, head, sizeof head);
    put(c, body, count);
}

static uint32_t word(const char *bytes) {
    uint32_t value;
    memcpy(&value, bytes, 4);
    return ntohl(value);
}

static void put_receipt(struct connection *c, uint32_t number) {
    char id[24];
    snprintf(id, sizeof id, "%u", number);
    char text[200], body[300];
    int length = snprintf(text, sizeof text,
                          "id:%s sub:001 dlvrd:001 submit date:2601010000 done date:2601010000 stat:DELIVRD err:000 text:",
                          id);
    // Addresses 1 1 "1"; esm_class 4: a receipt; no times; the text is short.
    static const char before[] = "\0\1\1" "1\0" "\1\1" "2\0" "\4\0\0\0\0\0\0\0\0";
    size_t used = sizeof before - 1;
    memcpy(body, before, used);
    body[used++] = (char)length;
    memcpy(body + used, text, length);
    put_pdu(c, 5, number, body, used + length);
}

// As an SMSC does: so many at once, and what was not taken comes again.
static void queue_receipt(struct connection *c, uint32_t number) {
    if (!c->waiting && !(c->waiting = calloc(waiting_max, sizeof *c->waiting))) fail("sinks: memory");
    if (c->last - c->first == waiting_max) {
        fprintf(stderr, "sinks: the receipts are not taken\n");
        exit(1);
    }
    c->waiting[c->last++ % waiting_max] = number;
}

static void put_receipts(struct connection *c) {
    while (c->first != c->last && c->unanswered < receipts_at_once && c->out_used < buffer_size / 2) {
        put_receipt(c, c->waiting[c->first++ % waiting_max]);
        c->unanswered++;
    }
}

static size_t smpp(struct connection *c) {
    static uint32_t last = 0;
    size_t taken = 0;
    while (c->in_used - taken >= 16) {
        const char *unit = c->in + taken;
        uint32_t length = word(unit), command = word(unit + 4), sequence = word(unit + 12);
        if (length < 16 || length > buffer_size) exit(1);
        if (c->in_used - taken < length) break;
        taken += length;
        if (command == 4) {
            char id[24];
            snprintf(id, sizeof id, "%u", ++last);
            put_pdu(c, 0x80000004, sequence, id, strlen(id) + 1);
            queue_receipt(c, last);
        } else if (command == 0x80000005) {
            c->unanswered--;
            if (word(unit + 8)) queue_receipt(c, sequence);
        } else if (command == 1 || command == 2 || command == 9) {
            put_pdu(c, command | 0x80000000, sequence, "sink", 5);
        } else if (!(command & 0x80000000)) {
            put_pdu(c, command | 0x80000000, sequence, "", 0);
        }
    }
    put_receipts(c);
    return taken;
}

static size_t smtp(struct connection *c) {
    size_t taken = 0;
    while (taken < c->in_used) {
        char *start = c->in + taken;
        size_t left = c->in_used - taken;
        if (c->in_mail) {
            char *end = memmem(start, left, "\r\n.\r\n", 5);
            if (!end) break;
            taken += (size_t)(end - start) + 5;
            c->in_mail = 0;
            put_text(c, "250 2.0.0 queued as 1\r\n");
            continue;
        }
        char *end = memmem(start, left, "\r\n", 2);
        if (!end) break;
        size_t length = (size_t)(end - start) + 2;
        taken += length;
        if (length >= 4 && !strncasecmp(start, "EHLO", 4)) {
            put_text(c, "250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n");
        } else if (length >= 4 && !strncasecmp(start, "DATA", 4)) {
            // The end mark may follow at once when the text is empty; it is not here.
            c->in_mail = 1;
            put_text(c, "354 go on\r\n");
        } else {
            put_text(c, "250 2.0.0 ok\r\n");
        }
    }
    return taken;
}

static size_t http(struct connection *c) {
    static uint64_t last = 0;
    size_t taken = 0;
    while (taken < c->in_used) {
        char *start = c->in + taken;
        size_t left = c->in_used - taken;
        char *end = memmem(start, left, "\r\n\r\n", 4);
        if (!end) break;
        size_t head = (size_t)(end - start) + 4, body = 0;
        for (char *line = start; line < end;) {
            if (!strncasecmp(line, "content-length:", 15)) body = strtoul(line + 15, NULL, 10);
            char *next = memmem(line, (size_t)(end - line), "\r\n", 2);
            if (!next) break;
            line = next + 2;
        }
        if (left < head + body) break;
        taken += head + body;
        char answer[200], text[100];
        int length = snprintf(text, sizeof text, "{\"name\":\"projects/sim/messages/%llu\"}", (unsigned long long)++last);
        snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s",
                 length, text);
        put_text(c, answer);
    }
    return taken;
}

static void flush_out(struct connection *c) {
    size_t sent = 0;
    while (sent < c->out_used) {
        ssize_t count = send(c->socket, c->out + sent, c->out_used - sent, MSG_NOSIGNAL);
        if (count <= 0) break;
        sent += (size_t)count;
    }
    memmove(c->out, c->out + sent, c->out_used - sent);
    c->out_used -= sent;
}

int main(int argc, char **argv) {
    size_t (*take)(struct connection *) = NULL;
    if (argc == 2 && !strcmp(argv[1], "smpp")) take = smpp;
    if (argc == 2 && !strcmp(argv[1], "smtp")) take = smtp;
    if (argc == 2 && !strcmp(argv[1], "http")) take = http;
    if (!take) {
        fprintf(stderr, "usage: sinks smpp|smtp|http\n");
        return 2;
    }
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 128)) fail("sinks: listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int poll = epoll_create1(0);
    struct connection listening = {.socket = listener}, input = {.socket = 0};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listening};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &input;
    epoll_ctl(poll, EPOLL_CTL_ADD, 0, &event);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(poll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == &input) {
                char ignored[64];
                if (read(0, ignored, sizeof ignored) <= 0) return 0;
                continue;
            }
            if (c == &listening) {
                c = calloc(1, sizeof *c);
                if (!c || (c->socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) < 0) fail("sinks: accept");
                int one = 1;
                setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.events = EPOLLIN;
                event.data.ptr = c;
                epoll_ctl(poll, EPOLL_CTL_ADD, c->socket, &event);
                if (take == smtp) put_text(c, "220 sink ESMTP\r\n");
                flush_out(c);
                continue;
            }
            if (events[i].events & EPOLLIN) {
                ssize_t got = read(c->socket, c->in + c->in_used, buffer_size - c->in_used);
                if (got <= 0) {
                    if (got < 0 && errno == EAGAIN) continue;
                    close(c->socket);
                    free(c->waiting);
                    free(c);
                    continue;
                }
                c->in_used += (size_t)got;
                size_t taken = take(c);
                memmove(c->in, c->in + taken, c->in_used - taken);
                c->in_used -= taken;
            }
            flush_out(c);
            event.events = c->out_used ? EPOLLIN | EPOLLOUT : EPOLLIN;
            event.data.ptr = c;
            epoll_ctl(poll, EPOLL_CTL_MOD, c->socket, &event);
        }
    }
}
