/* Tables and charts of chapter 3's demos.

   HOLDS   one function a demo that lays out what the chapter has computed: errors of the rules, the
           region of stability, two resolutions, forecasts at any time, memory lengths, HiPPO's
           memory with its clock and without; the hold's staircase. All on plain arrays
   FOR     the demos of chapter 3 */

#ifndef CH03_STEP_TABLES
#define CH03_STEP_TABLES

#include "../ch01_markov/chain_show.h"
#include "../ch02_ssm_abcd/system_tables.c"

/* The inks of the rules, ordered as --rule, in every figure. */
static const Ink rule_ink[4] = {INK_BLUE, INK_GREEN, INK_VERMILION, INK_PINK};

/* The rules for x' = -x + u by steps of delta (n): A_bar and B_bar (n, 4), ordered as --rule. */
void print_rules(const double *delta, const double *A_bar, const double *B_bar, size_t n)
{
    puts("Four rules for x' = -x + u (zoh: zero-order hold)\n");
    puts(" delta | A_bar: zoh bilinear   euler | B_bar: zoh bilinear euler, mamba |  mamba");
    for (size_t k = 0; k < n; k++) {
        const double *A = A_bar + 4 * k, *B = B_bar + 4 * k;
        printf("%6.2f |%11.5f%9.5f%8.4f |%11.5f%9.5f%13.5f |%7.4f\n", delta[k], A[0], A[1],
               tidy(A[2], 1e-5), B[0], B[1], B[3], B[3] / (1.0 - A[3]));
    }
    prose("Mamba's rule has the A_bar of the hold and the B_bar of Euler. The last column is "
          "where it settles while u = 1, B_bar / (1 - A_bar). By the other rules that is 1, as it "
          "should be, where they settle at all.");
}

/* What is kept after a step of delta (n): kept (3 or more, n), by zoh, bilinear and euler. */
bool chart_rules(const double *delta, const double *kept, size_t n, const Show *show, Error *error)
{
    Chart chart =
        chart_new("What is left of the state after a step: A_bar for x' = -x", "delta", "A_bar");
    static const char *const names[] = {"zoh and mamba: exp(-delta)", "bilinear",
                                        "euler: below -1 it explodes"};
    for (size_t rule = 0; rule < 3; rule++) {
        chart_add(&chart, names[rule], MARK_LINE, delta, kept + rule * n, n);
        chart_ink(&chart, rule_ink[rule]);
    }
    chart_level(&chart, -1.0);
    return chart_show(&chart, show, error);
}

/* How far the hold is off, errors (n), for steps delta (n), where u = sin t and no staircase; and
   the picture of one of them: u_true and x_true at times (fine), the input as it is held, a corner
   at each held_at (2 n_step), and the state x after each step, at moment (n_step + 1). */
bool show_hold(const double *delta, const double *errors, size_t n, const double *times,
               const double *u_true, const double *x_true, size_t fine, const double *held_at,
               const double *held, const double *moment, const double *x, size_t n_step,
               const Show *show, Error *error)
{
    puts("What the hold holds: x' = -x + u, where u = sin t is no staircase\n");
    puts("   delta   largest error of x, 0 < t < 6");
    for (size_t k = 0; k < n; k++)
        printf("  %6.3f%32.4f\n", delta[k], errors[k]);
    prose("Each step is exact for the staircase; the smooth input makes it order 1.");
    Chart chart = chart_new("A smooth input as a staircase, a stair a step", "t", "u and x");
    chart_add(&chart, "u = sin t", MARK_LINE, times, u_true, fine);
    chart_ink(&chart, INK_AMBER);
    chart_add(&chart, "u as it is held", MARK_LINE, held_at, held, 2 * n_step);
    chart_ink(&chart, INK_SKY);
    chart_add(&chart, "x, exactly", MARK_LINE, times, x_true, fine);
    chart_ink(&chart, INK_GREY);
    chart_add(&chart, "x by the hold", MARK_POINTS, moment, x, n_step + 1);
    chart_ink(&chart, INK_BLUE);
    return chart_show(&chart, show, error);
}

/* x (n, steps + 1): x' = -x from x = 1 by Euler's rule, for the steps delta (n). */
bool show_stability(const double *delta, const double *x, size_t n, size_t steps, const Show *show,
                    Error *error)
{
    static const Ink inks[] = {INK_GREY, INK_AMBER, INK_SKY, INK_VERMILION};
    char names[CHART_MAX_SERIES][16];
    double *step = NEW(double, steps + 1);
    Chart chart = chart_new("Euler's rule for x' = -x", "step", "x");
    puts("Euler's rule for x' = -x, which only ever fades, from x = 1");
    printf("   delta   1 - delta   after 4 steps   after %zu   the hold after %zu\n", steps, steps);
    for (size_t t = 0; t <= steps; t++)
        step[t] = (double)t;
    for (size_t k = 0; k < n; k++) {
        const double *x_k = x + k * (steps + 1);
        printf("  %6.2f%12.2f%16.4f%11.4f%20.2e\n", delta[k], 1.0 - delta[k], x_k[4], x_k[steps],
               exp(-delta[k] * (double)steps));
        snprintf(names[k], sizeof names[k], "delta = %.1f", delta[k]);
        chart_add(&chart, names[k], MARK_LINE, step, x_k, steps + 1);
        chart_ink(&chart, inks[k % 4]);
    }
    prose("Where lambda is real, a fading state explodes beyond delta |lambda| = 2. By the hold "
          "and by Mamba's rule it cannot: exp(lambda delta) < 1.");
    bool ok = chart_show(&chart, show, error);
    free(step);
    return ok;
}

/* errors (4, n): of zoh, bilinear, euler and mamba, with steps of 1/4, 1/8, 1/16 ... */
bool show_errors(const double *errors, size_t n, const Show *show, Error *error)
{
    static const char *const names[] = {"zoh", "bilinear", "euler", "mamba"};
    static const int drawn[] = {2, 3, 1}; /* the hold is exact: nothing to see */
    double *delta = NEW(double, n);
    puts("How wrong each rule is: a spring under a force held for a whole unit of time\n");
    puts("      delta          zoh     bilinear        euler        mamba");
    for (size_t k = 0; k < n; k++) {
        delta[k] = 1.0 / (double)((size_t)4 << k);
        printf("  1 / %-5zu", (size_t)4 << k);
        for (size_t rule = 0; rule < 4; rule++) {
            if (errors[rule * n + k] < 1e-11)
                printf("   below 1e-11");
            else
                printf("%13.2e", errors[rule * n + k]);
        }
        putchar('\n');
    }
    printf("order:   %14s", "exact");
    for (size_t rule = 1; rule < 4; rule++)
        printf("%13.2f", log2(errors[rule * n + n - 2] / errors[rule * n + n - 1]));
    putchar('\n');
    prose("Halving the step halves the error of Euler's and Mamba's rules, and quarters that of "
          "the bilinear one.");
    Chart chart = chart_new("The error of a step rule against the step", "delta", "largest error");
    chart.log_x = chart.log_y = true;
    for (int k = 0; k < 3; k++) {
        chart_add(&chart, names[drawn[k]], MARK_LINE, delta, errors + (size_t)drawn[k] * n, n);
        chart_ink(&chart, rule_ink[drawn[k]]);
    }
    bool ok = chart_show(&chart, show, error);
    free(delta);
    return ok;
}

/* radius (n, 3): the spring's largest |eigenvalue| by zoh, bilinear and euler, for delta (n), and
   `longest`, Euler's longest step. The figure shows the disc |1 + z| < 1, and the spring's z =
   delta lambda wandering out of it. */
bool show_region(const double *delta, const double *radius, double longest, size_t n,
                 const Show *show, Error *error)
{
    enum { POINTS = 121 };
    static const double left[4] = {-2.5, 0, 0, -2.5}, corner[4] = {-1.5, -1.5, 1.5, 1.5};
    double re[POINTS], im[POINTS];
    double *z_re = NEW(double, n), *z_im = NEW(double, n);
    puts("Where a rule keeps what fades fading: the spring, lambda = -0.1 +- 0.995 i\n");
    puts("   delta   largest |eigenvalue|: zoh    bilinear       euler");
    for (size_t k = 0; k < n; k++) {
        z_re[k] = -0.1 * delta[k];
        z_im[k] = sqrt(0.99) * delta[k];
        if (k < 4)
            printf("  %6.2f%28.4f%12.4f%12.4f\n", delta[k], radius[3 * k], radius[3 * k + 1],
                   radius[3 * k + 2]);
    }
    prose("Euler's rule needs |1 + delta lambda| < 1, here a step below %.4g; the others fade at "
          "any step.",
          longest);
    for (size_t k = 0; k < POINTS; k++) {
        re[k] = -1.0 + cos(2.0 * PI * (double)k / (POINTS - 1));
        im[k] = sin(2.0 * PI * (double)k / (POINTS - 1));
    }
    Chart chart = chart_new("Regions of stability in the plane of delta lambda", "real part",
                            "imaginary part");
    chart.square = true;
    chart.x_low = -2.5;
    chart.x_high = 0.5;
    chart_add(&chart, NULL, MARK_AREA, left, corner, 4);
    chart_ink(&chart, INK_BLUE);
    chart_add(&chart, NULL, MARK_AREA, re, im, POINTS);
    chart_ink(&chart, INK_VERMILION);
    chart_add(&chart, "Euler: inside", MARK_LINE, re, im, POINTS);
    chart_ink(&chart, INK_VERMILION);
    chart_add(&chart, "the other rules: left of this", MARK_LINE, left + 1, corner + 1, 2);
    chart_ink(&chart, INK_BLUE);
    chart_add(&chart, "the spring at longer and longer steps", MARK_POINTS, z_re, z_im, n);
    chart_ink(&chart, INK_GREY);
    bool ok = chart_show(&chart, show, error);
    free(z_re);
    free(z_im);
    return ok;
}

/* One system with steps of a half, coarse (len), and of a quarter: fine (2 len) with every sample
   twice, wrong (len) with each sample once. at_once (2) and in_two (2): a step of a half and two of
   a quarter for x' = -x + 1, by the hold and by Mamba's rule. */
bool show_resolutions(const double *coarse, const double *fine, const double *wrong, size_t len,
                      const double *at_once, const double *in_two, const Show *show, Error *error)
{
    double *time = NEW(double, 2 * len);
    for (size_t t = 0; t < 2 * len; t++)
        time[t] = 0.25 * (double)(t + 1);
    double *common = column_of(fine, 1, 2, len), *moment = column_of(time, 1, 2, len);
    prose("Delta is a resolution: a spring pushed at random, sampled twice as finely with half "
          "the step\n");
    puts("  time  delta = 0.5   delta = 0.25, each sample twice   half the time a sample");
    for (size_t t = 0; t < 6; t++)
        printf("%6.2f%13.6f%34.6f%25.6f\n", moment[t], coarse[t], common[t], wrong[t]);
    prose("The first two agree to 1e-12: %s. The third has delta = 0.25 and each sample once: "
          "after the same samples only half the time has passed.",
          max_difference(coarse, common, len) <= 1e-12 ? "yes" : "no");
    prose("x' = -x + u from 0 with u = 1, one step of 0.5 and two of 0.25: %.3f and %.3f by the "
          "hold, %.3f and %.3f by Mamba's rule, to which two half steps are not one.",
          at_once[0], in_two[0], at_once[1], in_two[1]);
    Chart chart = chart_new("One spring at two resolutions", "time", "place");
    chart_add(&chart, "delta = 0.25", MARK_LINE, time, fine, 2 * len);
    chart_add(&chart, "delta = 0.5", MARK_POINTS, moment, coarse, len);
    chart_ink(&chart, INK_AMBER);
    bool ok = chart_show(&chart, show, error);
    free(time);
    free(common);
    free(moment);
    return ok;
}

/* Forecasts pi (n_time, n_state) for some times, from equal chances. */
void print_forecasts(const double *pi, const double *times, size_t n_time, char *const *name,
                     size_t n_state)
{
    puts("\nForecasts from equal chances on day 0:");
    print_names("  days after  ", name, n_state);
    for (size_t k = 0; k < n_time; k++) {
        printf("  %10.4f  ", times[k]);
        print_chances(pi + k * n_state, name, n_state);
        putchar('\n');
    }
}

/* The weather hour by hour, pi (n_hour, 2), with a point at each whole day. */
bool chart_hours(const double *pi, const double *day, size_t n_hour, const Show *show, Error *error)
{
    double *sunny = column_of(pi, 0, 2, n_hour), *rainy = column_of(pi, 1, 2, n_hour);
    size_t n_day = (n_hour + 23) / 24;
    double *days = column_of(day, 0, 24, n_day), *sunny_days = column_of(sunny, 0, 24, n_day);
    double *rainy_days = column_of(rainy, 0, 24, n_day);
    Chart chart =
        chart_new("The forecast hour by hour, and the days of chapter 1 on it", "day", "chance");
    chart_add(&chart, "sunny", MARK_LINE, day, sunny, n_hour);
    chart_ink(&chart, INK_AMBER);
    chart_add(&chart, "rainy", MARK_LINE, day, rainy, n_hour);
    chart_ink(&chart, INK_BLUE);
    chart_add(&chart, "the days of chapter 1", MARK_POINTS, days, sunny_days, n_day);
    chart_ink(&chart, INK_GREY);
    chart_add(&chart, NULL, MARK_POINTS, days, rainy_days, n_day);
    chart_ink(&chart, INK_GREY);
    chart_level(&chart, 2.0 / 3.0);
    chart_level(&chart, 1.0 / 3.0);
    bool ok = chart_show(&chart, show, error);
    free(sunny);
    free(rainy);
    free(days);
    free(sunny_days);
    free(rainy_days);
    return ok;
}

/* What a sample has left in HiPPO's memory, after the times ago (n, a quarter apart): law (n) with
   its 1 / t, plain (n) without. */
bool show_past(const double *ago, const double *law, const double *plain, size_t n,
               const Show *show, Error *error)
{
    prose("HiPPO's A with the 1 / t of its law and without: what a sample has left in four "
          "numbers\n");
    puts("  time ago   x' = (A x + B u) / t   x' = A x + B u");
    for (size_t k = 0; k < n; k = k == 0 ? 4 : 2 * k < n ? 2 * k : k < n - 4 ? n - 4 : n)
        printf("  %8.0f%23.2f%17.7f\n", ago[k], law[k], plain[k]);
    prose("At t = 16; the column with 1 / t is shown times t. By the law nothing fades: both ends "
          "of the past have left 4, its middle 1.50, and so it will be at any time. Without the "
          "1 / t the past is lost.");
    Chart chart = chart_new("What a sample has left in the state, at t = 16", "time ago",
                            "size, logarithmic");
    chart.log_y = true;
    chart_add(&chart, "x' = (A x + B u) / t, times t", MARK_LINE, ago, law, n);
    chart_add(&chart, "x' = A x + B u", MARK_LINE, ago, plain, n);
    chart_ink(&chart, INK_AMBER);
    return chart_show(&chart, show, error);
}

/* In how many steps of three lengths a state of rate a[k] < 0 has faded to 1/e: 1 / (|a| delta);
   factor (n) is the hold's B_bar over Mamba's, at the largest delta. */
bool show_memories(const double *a, const double *factor, size_t n, const Show *show, Error *error)
{
    static const double delta[3] = {0.1, 0.01, 0.001};
    double *number = NEW(double, n), *steps = NEW(double, 3 * n); /* (3, n) */
    prose("S4D-Real, a_n = -(n + 1): where Mamba's A starts. How many steps until a state has "
          "faded to 1/e\n");
    puts("    n   a_n  delta = 0.1 delta = 0.01 delta = 0.001 | B_bar at 0.1: hold / mamba");
    for (size_t k = 0; k < n; k++) {
        number[k] = (double)k;
        for (size_t d = 0; d < 3; d++)
            steps[d * n + k] = 1.0 / (-a[k] * delta[d]);
        if (k < 3 || k == 7 || k == 15)
            printf("  %3zu%6.0f%13.2f%13.1f%14.1f |%27.3f\n", k, a[k], steps[k], steps[n + k],
                   steps[2 * n + k], factor[k]);
    }
    prose("A small delta makes every memory slow: it holds more of the past and less of the "
          "present.");
    Chart chart = chart_new("How long Mamba's 16 numbers remember, at the start", "n",
                            "steps, 1 / ((n + 1) delta)");
    chart.log_y = true;
    chart_add(&chart, "delta = 0.001", MARK_POINTS, number, steps + 2 * n, n);
    chart_add(&chart, "delta = 0.01", MARK_POINTS, number, steps + n, n);
    chart_ink(&chart, INK_AMBER);
    chart_add(&chart, "delta = 0.1", MARK_POINTS, number, steps, n);
    chart_ink(&chart, INK_GREY);
    bool ok = chart_show(&chart, show, error);
    free(number);
    free(steps);
    return ok;
}

/* The error against the numbers kept, both (n), and the signal u with what was drawn again from
   the most of them, drawn (u->len). show->svg is a figure of the second. */
bool show_memory(const double *numbers, const double *errors, size_t n, const Signal *u,
                 const double *drawn, const Show *show, Error *error)
{
    char title[80];
    Show in_text = {show->look, NULL, 0};
    Chart falling =
        chart_new("The error against the numbers kept", "numbers kept", "relative error");
    snprintf(title, sizeof title, "The past drawn again from %.0f numbers", numbers[n - 1]);
    Chart chart = chart_new(title, "t", "signal");
    puts("  numbers kept   relative error");
    for (size_t k = 0; k < n; k++) {
        printf("  %12.0f", numbers[k]);
        print_number(errors[k], 4, 17);
        putchar('\n');
    }
    prose("(root mean square error over the signal's standard deviation: 1 is no better than its "
          "mean)");
    falling.log_x = true;
    chart_add(&falling, "", MARK_LINE, numbers, errors, n);
    chart_add(&chart, "the signal", MARK_POINTS, u->time, u->value, u->len);
    chart_ink(&chart, INK_GREY);
    chart_add(&chart, "drawn again", MARK_LINE, u->time, drawn, u->len);
    chart_ink(&chart, INK_BLUE);
    return chart_show(&falling, &in_text, error) && chart_show(&chart, show, error);
}

#endif /* CH03_STEP_TABLES */
