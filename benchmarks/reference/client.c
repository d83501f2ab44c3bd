/*
 * Reference fleet: one thread, epoll, COUNT devices that ack every record and the end frame, and never `@4#`. It looks
 * no further into a record than its length: no checksum, no flash. That makes it the yardstick for the real one.
 *
 *   client PORT COUNT FIRST_ID DEADLINE_S      connects to 127.0.0.1; device i has the MCUID FIRST_ID + i, 25 digits
 *
 * It prints one JSON line. `seconds` runs from the first identification, when all are connected, to the ack of the last
 * end frame: how long the server takes to close behind it does not count, but it is waited for. Making the connections
 * is `connect_seconds`. The exit code is 0 when every device was updated.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_EVENTS = 1024, MAX_FRAME = 514, BUFFER = 2 * MAX_FRAME };

struct device {
    int fd;
    int received;
    int is_allowed;
    int is_updated;
    char buffer[BUFFER];
};

static long records, updated;
static double finished_at;

static void die(const char *what)
{
    perror(what);
    exit(3);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static int digit(int character)
{
    return character <= '9' ? character - '0' : (character | 0x20) - 'a' + 10;
}

/* Characters of the end frame at `data`, `@V##` or `@VV##`; 0 for not yet, -1 for something else. */
static int end_frame(const char *data, int size)
{
    for (int length = 4; length <= 5; length++)
        if (size >= length && !memcmp(data + length - 2, "##", 2))
            return length;
    return data[0] == '@' && size < 5 ? 0 : -1;
}

/* Take one frame from `data`; returns its characters, 0 when it is not whole, -1 when the device gives up. */
static int take(struct device *d, const char *data, int size)
{
    if (!d->is_allowed) {
        if (size < 3)
            return 0;
        d->is_allowed = !memcmp(data, "@4#", 3);
        return d->is_allowed ? 3 : -1;
    }
    if (data[0] == 'S') {
        if (size < 4)
            return 0;
        int length = 4 + 2 * (16 * digit(data[2]) + digit(data[3]));
        if (size < length)
            return 0;
        records++;
        return send(d->fd, "@", 1, MSG_NOSIGNAL) == 1 ? length : -1;
    }
    int length = end_frame(data, size);
    if (length > 0) {
        if (send(d->fd, "@", 1, MSG_NOSIGNAL) != 1)
            return -1;
        d->is_updated = 1;
        updated++;
        finished_at = now();
    }
    return length;
}

/* Returns 0 when the connection is over. */
static int receive(struct device *d)
{
    ssize_t size = recv(d->fd, d->buffer + d->received, BUFFER - d->received, MSG_DONTWAIT);
    if (size <= 0)
        return size < 0 && errno == EAGAIN;
    d->received += size;
    int used = 0, length = 0;
    while (used < d->received && !d->is_updated && (length = take(d, d->buffer + used, d->received - used)) > 0)
        used += length;
    memmove(d->buffer, d->buffer + used, d->received - used);
    d->received -= used;
    return length >= 0 && d->received < BUFFER;
}

static double seconds(struct timeval start, struct timeval end)
{
    return end.tv_sec - start.tv_sec + (end.tv_usec - start.tv_usec) * 1e-6;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: client PORT COUNT FIRST_ID DEADLINE_S\n");
        return 2;
    }
    int count = atoi(argv[2]), live = count, one = 1;
    long first_id = atol(argv[3]);
    double deadline = now() + atof(argv[4]), left;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    struct device *devices = calloc(count, sizeof *devices);
    int epoll = epoll_create1(0);
    if (setrlimit(RLIMIT_NOFILE, &limit) || !devices || epoll < 0)
        die("descriptors");
    double connecting_at = now();
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &devices[i]};
        int fd = devices[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) ||
            connect(fd, (struct sockaddr *)&address, sizeof address) || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
            die("connect");
    }
    double connect_seconds = now() - connecting_at;
    usleep(200000 + 50 * count); /* let the server accept them all: that is not what is measured */

    struct rusage before, after;
    struct epoll_event events[MAX_EVENTS];
    getrusage(RUSAGE_SELF, &before);
    double started_at = finished_at = now();
    for (int i = 0; i < count; i++) {
        char identification[32];
        int size = snprintf(identification, sizeof identification, "@%025ld#", first_id + i);
        if (send(devices[i].fd, identification, size, MSG_NOSIGNAL) != size)
            die("send");
    }
    while (live && (left = deadline - now()) > 0) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, (int)(left * 1000) + 1);
        for (int i = 0; i < ready; i++) {
            struct device *d = events[i].data.ptr;
            if (!receive(d)) {
                close(d->fd);
                live--;
            }
        }
    }
    getrusage(RUSAGE_SELF, &after);
    printf("{\"devices\": %d, \"updated\": %ld, \"not_closed\": %d, \"records\": %ld, \"seconds\": %.6f, "
           "\"connect_seconds\": %.6f, \"user_seconds\": %.3f, \"system_seconds\": %.3f, \"rss_bytes\": %ld}\n",
           count, updated, live, records, finished_at - started_at, connect_seconds,
           seconds(before.ru_utime, after.ru_utime), seconds(before.ru_stime, after.ru_stime), after.ru_maxrss * 1024);
    return updated == count && !live ? 0 : 1;
}
