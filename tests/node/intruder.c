/* Preloaded into a program: once that is confined, it does as somebody would who has broken out of a guest.

   $INTRUDER_IN names the program, $INTRUDER_AFTER the seccomp mode to wait for, $INTRUDER_ORDERS what to try, a
   line each; what came of it is appended to $INTRUDER_SAYS. It needs no header (linux, x86-64). */

typedef unsigned long size_t;
struct sockaddr { unsigned short family; char data[126]; };
struct timeval { long sec, usec; };

extern long syscall(long number, ...);
extern int *__errno_location(void);
extern char *getenv(const char *name), *strstr(const char *in, const char *what), *strtok_r(char *, const char *, char **);
extern char *strdup(const char *text), *strcpy(char *, const char *);
extern int strcmp(const char *, const char *), atoi(const char *text), snprintf(char *, size_t, const char *, ...);
extern size_t strlen(const char *text);
extern int open(const char *path, int flags, ...), close(int), write(int, const void *, size_t), usleep(unsigned);
extern int socket(int, int, int), connect(int, const struct sockaddr *, unsigned), kill(int, int), prctl(int, ...);
extern int setsockopt(int, int, int, const void *, unsigned), recv(int, void *, size_t, int), inet_aton(const char *, void *);
extern unsigned if_nametoindex(const char *name);
extern int pthread_create(unsigned long *, void *, void *(*)(void *), void *), setuid(unsigned), unshare(int);
extern int execve(const char *, char *const *, char *const *), mount(const char *, const char *, const char *, size_t, void *);
extern char **environ;
extern void *dlsym(void *, const char *);

enum { READ = 0, WRITE = 1, CREATE = 0x40, APPEND = 0x400, DIRECTORY = 0x10000, UNIX = 1, INET = 2, PACKET = 17 };
enum { STREAM = 1, DATAGRAM = 2, RAW = 3, GET_SECCOMP = 21, SET_NAME = 15, SEIZE = 0x4206, PTRACE = 101 };

static int opened(const char *path, int flags)
{
    int file = open(path, flags, 0600);
    if (file >= 0)
        close(file);
    return file;
}

static int connected(const char *path, int abstract)
{
    struct sockaddr to = { UNIX };
    int end = socket(UNIX, STREAM, 0);
    if (end < 0 || strlen(path) > 100)
        return -1;
    strcpy(to.data + abstract, path);
    int failed = connect(end, &to, 2 + abstract + strlen(path) + !abstract);
    int why = *__errno_location();
    close(end);
    *__errno_location() = why;
    return failed;
}

/* Whether somebody answers there. */
static int answers(const char *address, int port, int kind)
{
    struct sockaddr to = { INET };
    struct timeval bound = { 3, 0 };
    char said[1];
    int end = socket(INET, kind, 0);
    if (end < 0)
        return -1;
    to.data[0] = port >> 8, to.data[1] = port;
    inet_aton(address, to.data + 2);
    setsockopt(end, 1, 20, &bound, sizeof bound);
    int failed = connect(end, &to, 16) || write(end, "?", 1) != 1 || recv(end, said, 1, 0) != 1;
    int why = *__errno_location();
    close(end);
    *__errno_location() = why;
    return failed ? -1 : 0;
}

static int attempt(const char *verb, const char *what, const char *more)
{
    char *const told[] = { "sh", "-c", "echo done >>$INTRUDER_SAYS", 0 };
    if (!strcmp(verb, "read")) return opened(what, READ);
    if (!strcmp(verb, "write")) return opened(what, WRITE);
    if (!strcmp(verb, "create")) return opened(what, CREATE | WRITE);
    if (!strcmp(verb, "list")) return opened(what, DIRECTORY);
    if (!strcmp(verb, "connect")) return connected(what, 0);
    if (!strcmp(verb, "abstract")) return connected(what, 1);
    if (!strcmp(verb, "tcp")) return answers(what, atoi(more), STREAM);
    if (!strcmp(verb, "udp")) return answers(what, atoi(more), DATAGRAM);
    if (!strcmp(verb, "interface")) return if_nametoindex(what) ? 0 : -1;
    if (!strcmp(verb, "raw")) return socket(INET, RAW, 1);
    if (!strcmp(verb, "packet")) return socket(PACKET, RAW, 0x0300);
    if (!strcmp(verb, "signal")) return kill(atoi(what), 0);
    if (!strcmp(verb, "trace")) return syscall(PTRACE, SEIZE, (long)atoi(what), 0L, 0L);
    if (!strcmp(verb, "mount")) return mount("none", what, "tmpfs", 0, 0);
    if (!strcmp(verb, "setuid")) return setuid(atoi(what));
    if (!strcmp(verb, "unshare")) return unshare(0x20000);
    if (!strcmp(verb, "exec")) return execve(what, told, environ);
    return -2;
}

static void *intrude(void *unused)
{
    char *orders = strdup(getenv("INTRUDER_ORDERS")), *place = 0, line[512];
    int mode = atoi(getenv("INTRUDER_AFTER"));
    prctl(SET_NAME, "intruder", 0, 0, 0);
    int said = open(getenv("INTRUDER_SAYS"), CREATE | APPEND | WRITE, 0600);
    while (prctl(GET_SECCOMP, 0, 0, 0, 0) != mode)
        usleep(10000);
    for (char *order = strtok_r(orders, "\n", &place); order; order = strtok_r(0, "\n", &place)) {
        char *within = 0, *words = strdup(order);
        char *verb = strtok_r(words, " ", &within), *what = strtok_r(0, " ", &within), *more = strtok_r(0, " ", &within);
        int why = attempt(verb, what, more) < 0 ? *__errno_location() : 0;
        write(said, line, snprintf(line, sizeof line, why ? "\n%s: refused (%d)\n" : "\n%s: done\n", order, why));
    }
    write(said, "\nthat was all\n", 14);
    return 0;
}

int __libc_start_main(void *main, int argc, char **argv, void *init, void *fini, void *linker, void *stack)
{
    int (*real)(void *, int, char **, void *, void *, void *, void *) = dlsym((void *)-1L, "__libc_start_main");
    unsigned long thread;
    const char *in = getenv("INTRUDER_IN");
    if (in && strstr(argv[0], in))
        pthread_create(&thread, 0, intrude, 0);
    return real(main, argc, argv, init, fini, linker, stack);
}
