/*
 * Reference FOTA server: one thread, epoll, stop-and-wait, handshake `immediate` (the first record leaves with `@4#`).
 * It does what the protocol needs and nothing else: no registry, no log, no deadline per frame. That makes it the
 * yardstick for the real one.
 *
 *   server FILE.S19 DEADLINE_S      prints the port it listens on (127.0.0.1); serves the S1 to S3 records of the file
 *
 * It ends at SIGTERM (its default action), when standard input reaches its end, or when the deadline passes.
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

enum { MAX_EVENTS = 1024, MAX_LINE = 514, MAX_RECORDS = 1 << 20, MAX_IDENTIFICATION = 1024, MCUID_DIGITS = 25 };
enum state { IDENTIFYING, SENDING, ENDING };

static const char ALLOW[] = "@4#";
static const char END_FRAME[] = "@16##";

struct record {
    char text[MAX_LINE + 1];
    int size;
};

struct connection {
    enum state state;
    int next;     /* record that the next ack asks for */
    int received; /* characters of the identification so far */
};

static struct record *records;
static int record_count;
static struct connection *connections; /* by descriptor */

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

static void load(const char *path)
{
    char line[MAX_LINE + 3];
    FILE *file = fopen(path, "r");
    if (!file)
        die(path);
    records = calloc(MAX_RECORDS, sizeof *records); /* untouched pages cost nothing */
    if (!records)
        die("calloc");
    while (fgets(line, sizeof line, file) && record_count < MAX_RECORDS) {
        line[strcspn(line, "\r\n")] = 0;
        if (line[0] == 'S' && line[1] >= '1' && line[1] <= '3') {
            struct record *record = &records[record_count++];
            record->size = (int)strlen(line);
            memcpy(record->text, line, record->size + 1);
        }
    }
    fclose(file);
    if (!record_count) {
        fprintf(stderr, "%s: no data records\n", path);
        exit(3);
    }
}

/* A frame is far smaller than a fresh send buffer: one that does not fit means that the peer does not read. */
static int put(int fd, const char *data, int size)
{
    return send(fd, data, size, MSG_NOSIGNAL) == size;
}

static int send_next(int fd, struct connection *c)
{
    struct record *record = &records[c->next++];
    return put(fd, record->text, record->size);
}

/* Take more of `@`, 25 or more digits, `#`; returns 0 when the connection is to be closed. */
static int identify(int fd, struct connection *c, const char *data, ssize_t size)
{
    for (ssize_t i = 0; i < size; i++, c->received++) {
        int is_end = data[i] == '#' && c->received > MCUID_DIGITS;
        int is_good = c->received ? data[i] >= '0' && data[i] <= '9' : data[i] == '@';
        if (is_end && i == size - 1) {
            c->state = SENDING;
            return put(fd, ALLOW, sizeof ALLOW - 1) && send_next(fd, c);
        }
        if (!is_good || c->received >= MAX_IDENTIFICATION)
            return 0;
    }
    return 1;
}

/* Returns 0 when the connection is to be closed. */
static int receive(int fd, struct connection *c)
{
    char data[MAX_IDENTIFICATION];
    ssize_t size = recv(fd, data, sizeof data, 0);
    if (size <= 0)
        return size < 0 && errno == EAGAIN;
    if (c->state == IDENTIFYING)
        return identify(fd, c, data, size);
    if (size != 1 || data[0] != '@' || c->state == ENDING)
        return 0;
    if (c->next < record_count)
        return send_next(fd, c);
    c->state = ENDING;
    return put(fd, END_FRAME, sizeof END_FRAME - 1);
}

static void accept_all(int epoll, int listener, rlim_t limit)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if ((rlim_t)fd >= limit) {
            close(fd);
            return;
        }
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connections[fd] = (struct connection){.state = IDENTIFYING};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
            die("epoll_ctl");
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: server FILE.S19 DEADLINE_S\n");
        return 2;
    }
    load(argv[1]);
    double deadline = now() + atof(argv[2]), left;

    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) || !(connections = calloc(limit.rlim_cur, sizeof *connections)))
        die("descriptors");

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 65535) ||
        getsockname(listener, (struct sockaddr *)&address, &address_size))
        die("listen");

    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[MAX_EVENTS];
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
        die("epoll_ctl");
    event.data.fd = STDIN_FILENO;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) && errno != EPERM) /* EPERM: a file, which never ends */
        die("epoll_ctl");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    while ((left = deadline - now()) > 0) {
        int count = epoll_wait(epoll, events, MAX_EVENTS, (int)(left * 1000) + 1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all(epoll, listener, limit.rlim_cur);
            else if (fd == STDIN_FILENO) {
                char ignored[64];
                if (read(fd, ignored, sizeof ignored) <= 0)
                    return 0;
            } else if (!receive(fd, &connections[fd]))
                close(fd);
        }
    }
    fprintf(stderr, "server: deadline passed\n");
    return 1;
}
