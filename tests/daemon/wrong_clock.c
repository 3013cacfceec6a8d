/* Preloaded into a daemon: its wall clock is wrong by $WRONG_BY seconds; every other clock is as it was.

   No lock, no shared memory, no helper of its own: it can hang nothing. Times since the boot are left
   alone, so waiting is as long as ever. It needs no header (linux/time.h, syscalls of x86-64). */

struct timespec { long sec, nsec; };
struct timeval { long sec, usec; };

extern long syscall(long number, ...);
extern char *getenv(const char *name);
extern long atol(const char *text);

enum { SYS_gettimeofday = 96, SYS_clock_gettime = 228 };
enum { REALTIME = 0, REALTIME_COARSE = 5 };

static long wrong_by(void)
{
    const char *text = getenv("WRONG_BY");
    return text ? atol(text) : 0;
}

int clock_gettime(int clock, struct timespec *now)
{
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == REALTIME || clock == REALTIME_COARSE))
        now->sec += wrong_by();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    int failed = syscall(SYS_gettimeofday, now, zone);
    if (!failed && now)
        now->sec += wrong_by();
    return failed;
}

long time(long *kept)
{
    struct timespec now;
    clock_gettime(REALTIME, &now);
    if (kept)
        *kept = now.sec;
    return now.sec;
}
