/* Measuring: what the benches of several chapters share.

   HOLDS   the median of measured times
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

#endif /* COURSE_MEASURE */
