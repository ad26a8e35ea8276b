/* Measuring: what the benches of several chapters share.

   HOLDS   the median of measured times; the processor's time that a thread has had
   FOR     the bench.c of chapters 2 to 6 */

#ifndef COURSE_MEASURE
#define COURSE_MEASURE

#include "tools.h"

static int by_size(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;
    return difference < 0.0 ? -1 : difference > 0.0;
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_size);
    return values[count / 2];
}

/* Seconds of the processor that this thread has had: what other programs take meanwhile does not
   count. For work that one thread does. */
static inline double own_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif /* COURSE_MEASURE */
