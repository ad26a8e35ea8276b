/* What stands where an exercise is still to be written. When it is reached it says so, and ends the
   program with a status of its own, by which the grader knows it. */

#ifndef EXERCISE_TODO
#define EXERCISE_TODO(exercise) exercise_todo(__FILE__, __LINE__, (exercise))

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* as the chapters do, before the first system header */
#endif
#include <stdio.h>
#include <stdlib.h>

/* What a stub leaves unused is no mistake of the student's. */
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wunused-function"
#ifndef __clang__ /* which does not know this one */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#ifdef __CUDACC__ /* nvcc: kernels stop with a trap */
#define EXERCISE_ANYWHERE __host__ __device__
#else
#define EXERCISE_ANYWHERE
#endif

enum { EXERCISE_TODO_STATUS = 97 };

EXERCISE_ANYWHERE __attribute__((noreturn, unused)) static void exercise_todo(const char *file,
                                                                              int line,
                                                                              const char *exercise)
{
#ifdef __CUDA_ARCH__
    printf("%s:%d: exercise %s is not written yet: make hint EX=%s\n", file, line, exercise,
           exercise);
    __trap();
    for (;;) /* for the compiler, which does not know that a trap never returns */
        ;
#else
    fflush(stdout);
    fprintf(stderr, "%s:%d: exercise %s is not written yet: make hint EX=%s\n", file, line,
            exercise, exercise);
    _Exit(EXERCISE_TODO_STATUS);
#endif
}

#endif
