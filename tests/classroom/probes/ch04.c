/* Probes of chapter 4: random scans. They are sums of float in an order that may differ:
   tolerance 2e-4 */
#include "../ch04_selective/selective.c"
#include "probe.h"

enum { LEN = 13, D_INNER = 5, D_STATE = 4, WIDE = 2 * LEN * D_INNER, NARROW = 2 * LEN * D_STATE };

static struct {
    float u[WIDE], delta[WIDE], z[WIDE], A[D_INNER * D_STATE], B[NARROW], C[NARROW], D[D_INNER],
        bias[D_INNER], x[2 * D_INNER * D_STATE];
} given;

static Scan scan_at_random(void)
{
    Scan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = probe_whole(1, 2), scan.len = probe_whole(1, LEN);
    scan.d_inner = probe_whole(1, D_INNER), scan.d_state = probe_whole(1, D_STATE);
    PROBE_FILL(given.u, WIDE, -1, 1);
    PROBE_FILL(given.delta, WIDE, -3, 1);
    PROBE_FILL(given.z, WIDE, -2, 2);
    PROBE_FILL(given.A, D_INNER * D_STATE, -2, -0.1);
    PROBE_FILL(given.B, NARROW, -1, 1);
    PROBE_FILL(given.C, NARROW, -1, 1);
    PROBE_FILL(given.D, D_INNER, -1, 1);
    PROBE_FILL(given.bias, D_INNER, -1, 1);
    PROBE_FILL(given.x, 2 * D_INNER * D_STATE, -1, 1);
    scan.u = given.u, scan.delta = given.delta, scan.A = given.A, scan.B = given.B;
    scan.C = given.C, scan.delta_softplus = true;
    if (probe_whole(0, 1))
        scan.D = given.D, scan.delta_bias = given.bias;
    if (probe_whole(0, 1))
        scan.z = given.z, scan.x_start = given.x;
    return scan;
}

/* Far left its logarithm is said, which is about v: a small number must not become 0. */
static void softplus_say(double least, double most)
{
    for (int k = 0; k < 100; k++) {
        double v = k < 50       ? probe_between(-10, 10)
                   : k % 2 == 0 ? probe_between(least, -10)
                                : probe_between(10, most);
        double positive = (double)softplus((float)v);
        probe_say(v < -10.0 ? log(positive) : positive);
    }
}

static void ex4_1_softplus_near_zero(void)
{
    softplus_say(-10, 10);
}

static void ex4_1_softplus_far_right(void)
{
    softplus_say(-10, 3000);
}

static void ex4_1_softplus_anywhere(void)
{
    softplus_say(-80, 3000);
}

static void scans(bool y_too)
{
    for (int k = 0; k < 12; k++) {
        float y[WIDE], x[2 * D_INNER * D_STATE];
        Scan scan = scan_at_random();
        selective_scan(y, x, &scan);
        if (y_too)
            PROBE_SAY_ALL(y, scan.batch * scan.len * scan.d_inner);
        PROBE_SAY_ALL(x, scan.batch * scan.d_inner * scan.d_state);
    }
}

static void ex4_2_any_state(void)
{
    scans(false);
}

static void ex4_2_any_scan(void)
{
    scans(true);
}

static void gradients(char of)
{
    for (int k = 0; k < 12; k++) {
        static float u[WIDE], delta[WIDE], A[D_INNER * D_STATE], B[NARROW], C[NARROW], x[WIDE];
        float y_grad[WIDE];
        Scan scan = scan_at_random();
        ScanGrad grad;
        memset(&grad, 0, sizeof grad);
        grad.u = u, grad.delta = delta, grad.B = B, grad.C = C;
        grad.A = k % 3 ? A : NULL;
        grad.x_start = scan.x_start != NULL ? x : NULL;
        PROBE_FILL(y_grad, WIDE, -1, 1);
        selective_scan_backward(&grad, y_grad, NULL, &scan, NULL);
        size_t tokens = scan.batch * scan.len;
        if (of == 'u') {
            PROBE_SAY_ALL(u, tokens * scan.d_inner);
            PROBE_SAY_ALL(B, tokens * scan.d_state);
            if (grad.x_start != NULL)
                PROBE_SAY_ALL(x, scan.batch * scan.d_inner * scan.d_state);
        } else if (of == 'd') {
            PROBE_SAY_ALL(delta, tokens * scan.d_inner);
        } else if (grad.A != NULL) {
            PROBE_SAY_ALL(A, scan.d_inner * scan.d_state);
        }
    }
}

static void ex4_3_any_gradient_of_what_comes_in(void)
{
    gradients('u');
}

static void ex4_3_any_gradient_of_delta(void)
{
    gradients('d');
}

static void ex4_3_any_gradient_of_A(void)
{
    gradients('A');
}

/* What stands in the state after any task: every bit of every symbol, and no noise. */
static void ex4_4_any_task(void)
{
    Random random = random_from_seed(probe_bits());
    for (int k = 0; k < 10; k++) {
        enum { MOST = 60 };
        size_t noise = probe_whole(0, MOST), len = COPY_SYMBOLS + noise;
        int token[COPY_SYMBOLS + MOST], symbol[COPY_SYMBOLS], got[COPY_SYMBOLS];
        float y[(COPY_SYMBOLS + MOST) * COPY_BITS], x[COPY_BITS];
        copying_task(token, symbol, noise, &random);
        Wiring wiring = copying_wire(token, len, COPY_SELECTIVE);
        selective_scan(y, x, &wiring.scan);
        copying_read(got, x, COPY_SELECTIVE);
        PROBE_SAY_ALL(got, COPY_SYMBOLS);
        wiring_free(&wiring);
    }
}

static void joins(bool input)
{
    for (int k = 0; k < 40; k++) {
        ScanPair first, then;
        first.a = (float)probe_between(-2, 2), first.b = (float)probe_between(-2, 2);
        then.a = (float)probe_between(-2, 2), then.b = (float)probe_between(-2, 2);
        ScanPair both = scan_join(first, then);
        probe_say((double)(input ? both.b : both.a));
    }
}

static void ex4_5_what_two_steps_keep(void)
{
    joins(false);
}

static void ex4_5_what_two_steps_add(void)
{
    joins(true);
}

static void sweeps(bool sums)
{
    for (int k = 0; k < 20; k++) {
        ScanPair in[70], out[70];
        size_t len = probe_whole(1, 70);
        for (size_t t = 0; t < len; t++) {
            in[t].a = sums ? 1.0f : (float)probe_between(-1, 1);
            in[t].b = (float)probe_between(-1, 1);
        }
        scan_pairs_blelloch(out, in, len);
        for (size_t t = 0; t < len; t++) {
            probe_say((double)out[t].a);
            probe_say((double)out[t].b);
        }
    }
}

/* Where nothing is forgotten, all orders are one. */
static void ex4_6_any_sums(void)
{
    sweeps(true);
}

static void ex4_6_any_length(void)
{
    sweeps(false);
}

PROBES = {PROBE(ex4_1_softplus_near_zero),
          PROBE(ex4_1_softplus_far_right),
          PROBE(ex4_1_softplus_anywhere),
          PROBE(ex4_2_any_state),
          PROBE(ex4_2_any_scan),
          PROBE(ex4_3_any_gradient_of_what_comes_in),
          PROBE(ex4_3_any_gradient_of_delta),
          PROBE(ex4_3_any_gradient_of_A),
          PROBE(ex4_4_any_task),
          PROBE(ex4_5_what_two_steps_keep),
          PROBE(ex4_5_what_two_steps_add),
          PROBE(ex4_6_any_sums),
          PROBE(ex4_6_any_length)};
PROBES_MAIN
