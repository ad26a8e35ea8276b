/* What a step of one token does besides its matrices, as vectors want it; and how threads share it.

   HOLDS   the norm, the convolution and the scans of one token, a thread's channels at a time; the
           states of neighbouring channels side by side, and back; shares of rows, and the place
           where threads wait for each other
   FOR     pretrained.c
   The mathematics are those of chapters 4 and 5, whose block the tests hold these against. */

#ifndef CH05_TOKEN_STEP
#define CH05_TOKEN_STEP

#include "products.c"
#include <limits.h>
#include <sched.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

/* ==================================== Threads of a step ===================================== */

/* Where the threads of a step wait for each other. Zeroed: nobody waits. */
typedef struct {
    uint32_t round, waiting, asleep;
} Meeting;

/* Sleeps while the meeting is in this round, or wakes who sleeps. Where the system knows no such
   call, who waits gives the processor away and asks again. */
static void meeting_sleep(Meeting *meeting, uint32_t round)
{
    __atomic_add_fetch(&meeting->asleep, 1, __ATOMIC_SEQ_CST);
#ifdef SYS_futex
    syscall(SYS_futex, &meeting->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
#else
    (void)round;
    sched_yield();
#endif
    __atomic_sub_fetch(&meeting->asleep, 1, __ATOMIC_SEQ_CST);
}

static void meeting_wake(Meeting *meeting)
{
#ifdef SYS_futex
    if (__atomic_load_n(&meeting->asleep, __ATOMIC_SEQ_CST) > 0)
        syscall(SYS_futex, &meeting->round, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
    (void)meeting;
}

/* Waits until all threads are here. They wait awake as long as it would take to wake them, for as a
   rule it is less; then they sleep: where another program has taken a thread's processor, it can go
   on with theirs. */
void threads_meet(Meeting *meeting, size_t threads)
{
    enum { AWAKE = 1000 };
    uint32_t round = __atomic_load_n(&meeting->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&meeting->waiting, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&meeting->waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&meeting->round, round + 1, __ATOMIC_SEQ_CST);
        meeting_wake(meeting);
        return;
    }
    for (size_t turn = 0; __atomic_load_n(&meeting->round, __ATOMIC_ACQUIRE) == round; turn++) {
        if (turn >= AWAKE)
            meeting_sleep(meeting, round);
#if defined(__x86_64__) || defined(__i386__)
        else
            __builtin_ia32_pause();
#endif
    }
}

/* Whether steps pay for all threads. Where other programs want the processors, threads that must
   meet a hundred times in a step may be slower than one alone. The numbers are the same either way,
   so it can be tried. Zeroed: nothing is known, and all go. */
typedef struct {
    double all, one;    /* seconds of a step by all threads and by one, lately; 0: not known */
    double best;        /* the least that all have ever taken, undisturbed; 0: not known */
    size_t alone, next; /* steps that one thread still makes; and will make the next time */
} Pace;

/* How many threads the next step should have. */
size_t pace_threads(const Pace *pace, size_t threads)
{
    return pace->alone > 0 ? 1 : threads;
}

/* What the step has taken that pace_threads was asked about. One thread goes on alone when all
   together take half as long again as they can, and longer than one; then all try once more, and if
   that fails, twice as much later than before. */
void pace_took(Pace *pace, double seconds)
{
    enum { FIRST = 8, MOST = 256 };
    bool by_one = pace->alone > 0;
    double *lately = by_one ? &pace->one : &pace->all;
    bool quicker = *lately <= 0.0 || seconds < *lately;
    *lately = quicker ? seconds : 0.75 * *lately + 0.25 * seconds;
    if (by_one) {
        pace->alone--;
        return;
    }
    pace->best = pace->best > 0.0 ? fmin(pace->best, seconds) : seconds;
    if (pace->all <= 1.5 * pace->best)
        pace->next = 0;
    else if (pace->all > pace->one) {
        pace->next = pace->next > 0 ? smaller(2 * pace->next, MOST) : (size_t)FIRST;
        pace->alone = pace->next;
        pace->all = 0.0;
    }
}

/* The first of the rows that a thread works on: even shares, on borders of 16. */
size_t share_start(size_t rows, size_t thread, size_t threads)
{
    return smaller(rows, (rows + 15) / 16 * thread / threads * 16);
}

/* ==================================== States in lanes ====================================== */

/* Floats of one layer's states (d_inner, d_state), filled up to whole vectors of channels. */
size_t states_floats(size_t d_inner, size_t d_state)
{
    return (d_inner + LANES - 1) / LANES * LANES * d_state;
}

/* Where state n of channel d lies for a step: the states of LANES channels side by side. */
static size_t lane_of_state(size_t d, size_t n, size_t d_state)
{
    return (d / LANES * d_state + n) * LANES + d % LANES;
}

/* out (states_floats) from in (d_inner, d_state), and back. */
void states_in_lanes(float *out, const float *in, size_t d_inner, size_t d_state)
{
    for (size_t d = 0; d < d_inner; d++)
        for (size_t n = 0; n < d_state; n++)
            out[lane_of_state(d, n, d_state)] = in[d * d_state + n];
}

void states_in_rows(float *out, const float *in, size_t d_inner, size_t d_state)
{
    for (size_t d = 0; d < d_inner; d++)
        for (size_t n = 0; n < d_state; n++)
            out[d * d_state + n] = in[lane_of_state(d, n, d_state)];
}

/* ================================= Norm, convolution, scan ================================= */

/* out (count) = in / sqrt(mean(in^2) + epsilon) weight; NULL: no weight. In place, if out is in. */
void norm_token(float *out, const float *in, const float *weight, double epsilon, size_t count)
{
    float scale = (float)(1.0 / sqrt((double)dot(in, in, count) / (double)count + epsilon));
    for (size_t i = 0; i < count; i++)
        out[i] = in[i] * scale * (weight == NULL ? 1.0f : weight[i]);
}

/* Channels first .. end - 1 of u = silu(conv1d(in)). weight (d_conv, d_inner) is transposed, bias
   may be NULL, and `past` (d_conv - 1, d_inner) moves on by this token. */
void step_conv(float *u, float *past, const float *in, const float *weight, const float *bias,
               size_t d_inner, size_t d_conv, size_t first, size_t end)
{
    const ExpTable table = exp_table();
    for (size_t d = first; d < end; d += LANES) {
        size_t some = smaller(end - d, LANES);
        Lanes now = lanes_load_some(in + d, some);
        Lanes sum = now * lanes_load_some(weight + (d_conv - 1) * d_inner + d, some);
        if (bias != NULL)
            sum += lanes_load_some(bias + d, some);
        for (size_t j = 0; j + 1 < d_conv; j++) {
            float *at = past + j * d_inner + d;
            sum = lanes_multiply_add(lanes_load_some(at, some),
                                     lanes_load_some(weight + j * d_inner + d, some), sum);
            lanes_store_some(at, j + 2 < d_conv ? lanes_load_some(at + d_inner, some) : now, some);
        }
        lanes_store_some(u + d, sum * lanes_sigmoid(sum, table), some);
    }
}

/* What the scan of one token reads. */
typedef struct {
    const float *u, *dt, *z;  /* (d_inner) dt is raw: before its bias and softplus */
    const float *B, *C;       /* (d_state) */
    const float *A2;          /* (states_floats) A log2 e, so that exp(delta A) = 2^(delta A2) */
    const float *dt_bias, *D; /* (d_inner) */
    size_t d_state;
} TokenScan;

/* Channels first .. end - 1 of y = scan(u, Delta, A, B, C, D) silu(z) for one token: chapter 4's
   recurrence. x (states_floats) moves on by this token. */
void step_scan(float *y, float *x, const TokenScan *token, size_t first, size_t end)
{
    const ExpTable table = exp_table();
    size_t d_state = token->d_state;
    for (size_t d = first; d < end; d += LANES) {
        size_t some = smaller(end - d, LANES);
        Lanes bias = lanes_load_some(token->dt_bias + d, some);
        Lanes delta = lanes_softplus(lanes_load_some(token->dt + d, some) + bias, table);
        Lanes u = lanes_load_some(token->u + d, some), z = lanes_load_some(token->z + d, some);
        Lanes drive = delta * u;
        Lanes sum = u * lanes_load_some(token->D + d, some);
        float *state = x + d * d_state; /* lane_of_state(d, 0, d_state) */
        const float *A2 = token->A2 + d * d_state;
        for (size_t n = 0; n < d_state; n++, state += LANES, A2 += LANES) {
            Lanes A_bar = exp2_product_any(delta, lanes_load(A2), table);
            Lanes now = lanes_multiply_add(lanes_load(state), A_bar, drive * token->B[n]);
            lanes_store(state, now);
            sum = lanes_scale_add(now, token->C[n], sum);
        }
        lanes_store_some(y + d, sum * z * lanes_sigmoid(z, table), some);
    }
}

/* ================================= Mamba-2's heads ======================================== */

/* What the scan of one token over heads reads. */
typedef struct {
    const float *u, *z;           /* (n_head, d_head) */
    const float *dt;              /* (n_head) raw: before its bias, softplus and clamp */
    const float *B, *C;           /* (n_group, d_state) */
    const float *A, *dt_bias, *D; /* (n_head) */
    const double *limit;          /* least and most Delta */
    size_t n_head, d_head, n_group, d_state;
} TokenHeads;

/* One channel: x (d_state) = a x + v B, and returns x C, a sum over sixteen lanes. */
INLINE float step_channel(float *x, float a, float v, const float *B, const float *C,
                          size_t d_state)
{
    Sixteen sum = sixteen_zero();
    for (size_t n = 0; n < d_state; n += SIXTEEN)
        for (size_t j = 0; j < SIXTEEN_PARTS; j++) {
            size_t some = sixteen_share(d_state - n, j), at = some > 0 ? n + j * LANES : n;
            Lanes now = v * lanes_load_some(B + at, some);
            now = lanes_scale_add(lanes_load_some(x + at, some), a, now);
            lanes_store_some(x + at, now, some);
            sum.part[j] = lanes_multiply_add(now, lanes_load_some(C + at, some), sum.part[j]);
        }
    return sixteen_sum(sum);
}

/* Heads first .. end - 1 of y silu(z), y = scan(u, Delta, A, B, C, D), for one token: mamba2.c's
   recurrence. x (n_head, d_head, d_state) moves on by this token. */
void step_heads(float *gated, float *x, const TokenHeads *token, size_t first, size_t end)
{
    const ExpTable table = exp_table();
    size_t d_head = token->d_head, d_state = token->d_state;
    for (size_t h = first; h < end; h++) {
        size_t group = h * token->n_group / token->n_head * d_state;
        float delta = softplus(token->dt[h] + token->dt_bias[h]);
        float least = (float)token->limit[0], most = (float)token->limit[1];
        delta = delta < least ? least : delta > most ? most : delta;
        float a = expf(delta * token->A[h]);
        for (size_t d = h * d_head; d < (h + 1) * d_head; d++)
            gated[d] = step_channel(x + d * d_state, a, delta * token->u[d], token->B + group,
                                    token->C + group, d_state) +
                       token->D[h] * token->u[d];
    }
    for (size_t d = first * d_head; d < end * d_head; d += LANES) {
        size_t some = smaller(end * d_head - d, LANES);
        Lanes z = lanes_load_some(token->z + d, some);
        lanes_store_some(gated + d, lanes_load_some(gated + d, some) * z * lanes_sigmoid(z, table),
                         some);
    }
}

#endif /* CH05_TOKEN_STEP */
