/* Chapter 2. The four matrices A, B, C, D

   QUESTION   How does one describe anything that has a state, is driven by an input, and shows
              an output? What do the letters A, B, C, D in every paper on Mamba stand for?
   NEW        The chain's rule becomes A; an input drives the state through B; C chooses what is
              seen of the state; D lets the input through at once. One system, computed as a
              recurrence, as a convolution, and by FFT.
   NOT        The matrices never change: the system is linear and time-invariant. Selection
              (chapter 4) is what breaks that, and with it the convolution.
   EQUATION   x_t = A x_{t-1} + B u_t        y_t = C x_t + D u_t
              (as S4 and Mamba have it; control theory reads y before the update: see Reading)
   LETTERS    maths   C       shape                in papers
              u_t     u       (len, d_in)          u in control and S4, x in the Mamba paper
              x_t     x       (d_state)            x in control and S4, h in the Mamba paper
              y_t     y       (len, d_out)         y
              A       A       (d_state, d_state)   A; for a chain it is P transposed
              B       B       (d_state, d_in)      B
              C       C       (d_out, d_state)     C
              D       D       (d_out, d_in)        D, often drawn as a skip connection
              K_k     K       (len, d_out, d_in)   the kernel, C A^k B
              L       len     a number             L, the length of the sequence
              x_{-1}  x0      (d_state)            the state at the start, before the first input
              T       T       (d_state, d_state)   a basis: other coordinates, x = T x'
              lambda  lambda  (d_state)            eigenvalues of A
   BUILD      cc -O2 ch02_ssm_abcd/ssm.c -o ssm -lm && ./ssm
   TIME       60 minutes to read with the lesson, 75 to do the exercises
   SOURCES    R. E. Kalman, Mathematical description of linear dynamical systems, J. SIAM Control 1
              (1963); T. Kailath, Linear Systems (Prentice-Hall 1980), chapter 2
              A. Gu, K. Goel, C. Re, Efficiently modeling long sequences with structured state
              spaces, ICLR 2022 (arXiv 2111.00396), sections 2.3 and 2.4
              J. Cooley, J. Tukey, Math. Comp. 19 (1965): the fast Fourier transform */

#ifndef CH02_SSM
#define CH02_SSM

#include "../ch01_markov/markov.c" /* a chapter is a library when it is included: see there */
#include "system_pictures.c"       /* pictures, tables, charts; systems and signals in files */

/* ================================== The system ============================================ */
/* Four matrices and three sizes say everything about it. A decides what is remembered, B what is */
/* written into the state, C what is read from it; D is the way past it. One number shows all     */
/* four: a water tank keeps half of its water every hour (A = 0.5), what is poured in is added    */
/* (B = 1), a gauge shows the level (C = 1), and while water is being poured the gauge jumps by a */
/* quarter of it (D = 0.25). The level is the state, what the gauge shows is the output.          */

typedef struct {
    size_t d_state, d_in, d_out;
    double *A;  /* (d_state, d_state) how the state moves by itself: column i is where x[i] goes */
    double *B;  /* (d_state, d_in)    how the input pushes the state */
    double *C;  /* (d_out, d_state)   what is seen of the state */
    double *D;  /* (d_out, d_in)      what is seen of the input at once */
    double *x0; /* (d_state)          where the state starts */
} Ssm;

/* A system of these sizes with every number 0. */
Ssm ssm_new(size_t d_state, size_t d_in, size_t d_out)
{
    Ssm system = {d_state, d_in, d_out, NULL, NULL, NULL, NULL, NULL};
    system.A = matrix_new(d_state, d_state);
    system.B = matrix_new(d_state, d_in);
    system.C = matrix_new(d_out, d_state);
    system.D = matrix_new(d_out, d_in);
    system.x0 = NEW(double, d_state);
    return system;
}

/* A system from its numbers: A, B, C and D row by row, one after the other; x0 is 0. The tank is
   ssm_of(1, 1, 1, {0.5, 1, 1, 0.25}). */
Ssm ssm_of(size_t d_state, size_t d_in, size_t d_out, const double *numbers)
{
    Ssm system = ssm_new(d_state, d_in, d_out);
    double *matrix[] = {system.A, system.B, system.C, system.D};
    size_t count[] = {d_state * d_state, d_state * d_in, d_out * d_state, d_out * d_in};
    for (int k = 0; k < 4; k++) {
        memcpy(matrix[k], numbers, count[k] * sizeof *numbers);
        numbers += count[k];
    }
    return system;
}

void ssm_free(Ssm *system)
{
    free(system->A);
    free(system->B);
    free(system->C);
    free(system->D);
    free(system->x0);
    memset(system, 0, sizeof *system);
}

static Ssm ssm_copy(const Ssm *system)
{
    size_t d_state = system->d_state, d_in = system->d_in, d_out = system->d_out;
    Ssm copy = ssm_new(d_state, d_in, d_out);
    memcpy(copy.A, system->A, d_state * d_state * sizeof(double));
    memcpy(copy.B, system->B, d_state * d_in * sizeof(double));
    memcpy(copy.C, system->C, d_out * d_state * sizeof(double));
    memcpy(copy.D, system->D, d_out * d_in * sizeof(double));
    memcpy(copy.x0, system->x0, d_state * sizeof(double));
    return copy;
}

/* Exercise 2.1. A chain as a system. Its state is the forecast, x = pi (n_state); nothing comes in,
   so B = 0 and D = 0 for one idle input, as ssm_new leaves them; and all of the state is to be
   seen. Chapter 1 multiplies a row from the left, pi P; here states are columns, A x. chain->P is
   (n_state, n_state); tools.h has what a matrix needs. */
Ssm ssm_from_chain(const Chain *chain, const double *start)
{
    size_t n_state = chain->n_state;
    Ssm system = ssm_new(n_state, 1, n_state);
    memcpy(system.x0, start, n_state * sizeof *start);
    //> EX 2.1 [2 pts] [10 min] a chain as a system
    //? (pi P)[j] = sum over i of pi[i] P[i][j]. And (A x)[j] = sum over i of which A times x[i]?
    //? y = C x is to be all of x. tools.h has matrix_transpose and matrix_identity.
    /* texts that write A = P have rows in mind */
    matrix_transpose(system.A, chain->P, n_state, n_state);
    matrix_identity(system.C, n_state);
    //< EX 2.1
    return system;
}

/* ================================== The recurrence ======================================== */
/* The state is all that is kept of the past. However long the past was, one step costs the same: */
/* d_state^2 products for A and d_state d_in for B. It is why Mamba writes its thousandth word as */
/* fast as its first.                                                                             */

/* out (rows) += M (rows, cols) times v (cols). It goes a column at a time, for column i is what
   v[i] does; for A = P transposed these are chapter 1's additions in chapter 1's order. */
static void add_matrix_times(double *out, const double *M, const double *v, size_t rows,
                             size_t cols)
{
    for (size_t i = 0; i < cols; i++)
        for (size_t j = 0; j < rows; j++)
            out[j] += v[i] * M[j * cols + i];
}

/* Exercise 2.2. The state one step on: x_next (d_state), from x (d_state), u (d_in) and the two
   matrices that move a state. What is seen of it is the business of the function below. */
void ssm_step(double *x_next, const double *x, const double *u, const Ssm *system)
{
    memset(x_next, 0, system->d_state * sizeof *x_next);
    //> EX 2.2 [2 pts] [10 min] one step of the state
    //? Two things move the state: where it is, and what comes in. Each is a matrix times a vector.
    //? add_matrix_times adds to what is there already, and x_next starts at 0.
    add_matrix_times(x_next, system->A, x, system->d_state, system->d_state);
    add_matrix_times(x_next, system->B, u, system->d_state, system->d_in);
    //< EX 2.2
}

/* What is seen: y (d_out) = C x + D u. State and output are not the same thing: the state is what
   the system knows of the past, the output what we know of the system. */
void ssm_output(double *y, const double *x, const double *u, const Ssm *system)
{
    memset(y, 0, system->d_out * sizeof *y);
    add_matrix_times(y, system->C, x, system->d_out, system->d_state);
    add_matrix_times(y, system->D, u, system->d_out, system->d_in);
}

/* When the output is read. S4 and Mamba read after the update: x_t = A x_{t-1} + B u_t, then y_t =
   C x_t + D u_t. Control theory reads before it, from the state that u_t has not touched: y_t = C
   x_t + D u_t, then x_{t+1} = A x_t + B u_t. Both are right; mixing them shifts what comes through
   the state by one step. */
typedef enum { READ_AFTER, READ_BEFORE } Reading;

/* An unstable system grows until the numbers overflow: then there is nothing left to compute. */
static bool all_finite(const double *v, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(v[i]))
            return false;
    return true;
}

/* Runs the recurrence: y (len, d_out) from u (len, d_in). x (d_state) is the start state before
   and the last state after; nothing else needs to be kept to go on later. Returns the number of
   steps done: len, or less if the next one gave numbers that are not finite. */
size_t ssm_run(double *y, double *x, const double *u, const Ssm *system, size_t len,
               Reading reading)
{
    size_t d_state = system->d_state, t = 0;
    double *x_next = NEW(double, d_state);
    for (; t < len; t++) {
        const double *u_t = u + t * system->d_in; /* u[t, :] */
        double *y_t = y + t * system->d_out;      /* y[t, :] */
        ssm_step(x_next, x, u_t, system);
        ssm_output(y_t, reading == READ_AFTER ? x_next : x, u_t, system);
        if (!all_finite(x_next, d_state) || !all_finite(y_t, system->d_out))
            break; /* x keeps the last finite state */
        memcpy(x, x_next, d_state * sizeof *x);
    }
    free(x_next);
    return t;
}

/* The same from the system's own start, x0: y (len, d_out). Returns the steps done. */
static size_t run_from_start(double *y, const double *u, const Ssm *system, size_t len,
                             Reading reading)
{
    double *x = NEW(double, system->d_state);
    memcpy(x, system->x0, system->d_state * sizeof *x);
    size_t done = ssm_run(y, x, u, system, len, reading);
    free(x);
    return done;
}

/* Exercise 2.3. The index shift that confuses everyone. `out` gives, read before the update, what
   `system` gives read after it. The state moves alike in both; only what is read of it changes. */
Ssm ssm_as_control(const Ssm *system)
{
    size_t d_state = system->d_state, d_in = system->d_in, d_out = system->d_out;
    Ssm out = ssm_copy(system);
    //> EX 2.3 [2 pts] [15 min] the same outputs in the other convention
    //? A and B stay as they are. What must be read of x_{t-1}, what of u_t, to give y_t?
    //? Put x_t = A x_{t-1} + B u_t into y_t = C x_t + D u_t and sort by x_{t-1} and u_t.
    //? One matrix is a product, and no output of matrix_multiply may be an input of it: read from
    //?   `system`. To the other matrix, which ssm_copy has left in `out`, a product is added.
    /* C (A x + B u) + D u = (C A) x + (C B + D) u */
    matrix_multiply(out.C, system->C, system->A, d_out, d_state, d_state);
    for (size_t i = 0; i < d_in; i++)
        for (size_t j = 0; j < d_out; j++)
            for (size_t k = 0; k < d_state; k++)
                out.D[j * d_in + i] += system->C[j * d_state + k] * system->B[k * d_in + i];
    //< EX 2.3
    return out;
}

/* ================================== The convolution ======================================= */
/* Put each step into the next: y_t = C A^{t+1} x0 + sum_k C A^k B u_{t-k} + D u_t. The output is */
/* the past, weighted by a kernel that depends only on how long ago something came in. It can be  */
/* computed once, and then all y_t at the same time: a recurrence has to wait, a sum need not.    */

/* Exercise 2.4. The kernel K (len, d_out, d_in), K[k] = C A^k B, for outputs read after the
   update (S4, equation 5); read before it, everything comes one step later. D is not in it.
   K[:, :, i] is what one impulse on input i causes. That takes no power of A, only about d_state^2
   products a step.
   Returns the number of finite steps: len, or less if the system is unstable and overflows. */
size_t ssm_kernel(double *K, const Ssm *system, size_t len, Reading reading)
{
    size_t d_state = system->d_state, d_in = system->d_in, d_out = system->d_out, finite = len;
    double *x = NEW(double, d_state), *x_next = NEW(double, d_state), *y = NEW(double, d_out);
    memset(K, 0, len * d_out * d_in * sizeof *K);
    size_t first = reading == READ_BEFORE ? 1 : 0; /* read before: one step later */
    for (size_t i = 0; i < d_in; i++) {
        for (size_t s = 0; s < d_state; s++)
            x[s] = system->B[s * d_in + i]; /* where an impulse leaves the state: B[:, i] */
        for (size_t k = first; k < finite; k++) {
            memset(y, 0, d_out * sizeof *y);
            memset(x_next, 0, d_state * sizeof *x_next);
            //> EX 2.4 [2 pts] [10 min] the kernel
            //? K[0] = C B, K[1] = C A B, K[2] = C A A B: what changes from one to the next?
            //? The impulse has left B[:, i] in x, and nothing comes in after it. What is seen of x?
            //? What belongs in y, what in x_next? struct Ssm has the rows and columns of C and A.
            /* x is A^(k - first) B[:, i] */
            add_matrix_times(y, system->C, x, d_out, d_state);
            add_matrix_times(x_next, system->A, x, d_state, d_state);
            //< EX 2.4
            for (size_t j = 0; j < d_out; j++)
                K[(k * d_out + j) * d_in + i] = y[j];
            memcpy(x, x_next, d_state * sizeof *x);
            if (!all_finite(y, d_out) || !all_finite(x, d_state))
                finite = k;
        }
    }
    free(x);
    free(x_next);
    free(y);
    return finite;
}

/* Exercise 2.5. y_t = sum_{k=0..t} K[k] u_{t-k} + D u_t, straight from the formula:
   y (len, d_out), K (len, d_out, d_in), u (len, d_in). What came in k steps ago reaches every later
   output, which makes len (len + 1) / 2 products for each pair of an output j and an input i. */
void ssm_convolve(double *y, const double *K, const double *u, const Ssm *system, size_t len)
{
    size_t d_in = system->d_in, d_out = system->d_out;
    memset(y, 0, len * d_out * sizeof *y);
    for (size_t t = 0; t < len; t++) /* y[t, :] = D u[t, :] */
        add_matrix_times(y + t * d_out, system->D, u + t * d_in, d_out, d_in);
    for (size_t j = 0; j < d_out; j++) {
        for (size_t i = 0; i < d_in; i++) { /* y[:, j] += K[:, j, i] * u[:, i] */
            //> EX 2.5 [2 pts] [10 min] the convolution
            //? Write out y_2 for one input and one output: three products. Which K meets which u?
            //? What came in k steps ago reaches every later output: t goes from k to len - 1.
            //? Two loops, one line: y[t * d_out + j] += K[(k * d_out + j) * d_in + i] * u[...].
            for (size_t k = 0; k < len; k++)
                for (size_t t = k; t < len; t++)
                    y[t * d_out + j] += K[(k * d_out + j) * d_in + i] * u[(t - k) * d_in + i];
            //< EX 2.5
        }
    }
}

/* The kernel knows only what came in, nothing of the start state. y (len, d_out) += what x0 alone
   would show: C A^{t+1} x0, or C A^t x0 if read before the update. */
void ssm_add_free_response(double *y, const double *x0, const Ssm *system, size_t len,
                           Reading reading)
{
    size_t d_state = system->d_state, d_out = system->d_out;
    double *now = NEW(double, 2 * d_state), *next = now + d_state;
    memcpy(now, x0, d_state * sizeof *now);
    for (size_t t = 0; t < len; t++) {
        memset(next, 0, d_state * sizeof *next);
        add_matrix_times(next, system->A, now, d_state, d_state);
        add_matrix_times(y + t * d_out, system->C, reading == READ_AFTER ? next : now, d_out,
                         d_state);
        memcpy(now, next, d_state * sizeof *now);
    }
    free(now);
}

/* ================================== The fast Fourier transform ============================ */
/* The transform of z (size) is Z_f = sum_t z_t w^(f t) with w = exp(-2 pi i / size). Under it a  */
/* convolution becomes a product: Y_f = K_f U_f for each f. With the FFT the sum over the past    */
/* costs about len log(len) products instead of len^2 / 2; S4 was trained that way.               */

typedef struct {
    double re, im;
} Complex;

static Complex complex_multiply(Complex a, Complex b)
{
    Complex product = {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
    return product;
}

/* roots (size / 2): exp(-2 pi i k / size), each from its own sine and cosine, for a product of
   products would gather rounding errors. */
void fft_roots(Complex *roots, size_t size)
{
    for (size_t k = 0; k < size / 2; k++) {
        double angle = -2.0 * PI * (double)k / (double)size;
        roots[k].re = cos(angle);
        roots[k].im = sin(angle);
    }
}

/* Puts z (size) into the order in which its even and odd halves, their halves, and so on, lie side
   by side: the index with its bits reversed. `reversed` counts up from its highest bit. */
static void fft_reorder(Complex *z, size_t size)
{
    for (size_t i = 0, reversed = 0; i < size; i++) {
        if (i < reversed) { /* each pair is swapped once */
            Complex held = z[i];
            z[i] = z[reversed];
            z[reversed] = held;
        }
        size_t bit = size >> 1;
        for (; bit && (reversed & bit); bit >>= 1)
            reversed ^= bit;
        reversed |= bit;
    }
}

/* The transform of z (size) in place, size a power of two, roots from fft_roots. Split the sum into
   even and odd t: Z_f = E_f + w^f O_f, and half the size further, where w^f has become -w^f,
   Z_(f + size/2) = E_f - w^f O_f. E and O are transforms of half the size, and so on down to size
   1: size log2(size) / 2 products in all (Cooley & Tukey). */
void fft(Complex *z, const Complex *roots, size_t size)
{
    fft_reorder(z, size);
    for (size_t half = 1; half < size; half *= 2) {
        for (size_t start = 0; start < size; start += 2 * half) {
            for (size_t k = 0; k < half; k++) {
                Complex *even = z + start + k, *odd = even + half;
                Complex turned = complex_multiply(*odd, roots[k * (size / 2 / half)]);
                odd->re = even->re - turned.re; /* E_f - w^f O_f, and E_f + w^f O_f */
                odd->im = even->im - turned.im;
                even->re += turned.re;
                even->im += turned.im;
            }
        }
    }
}

/* z (size) = the transform of every `stride`-th of `len` numbers, padded with zeros. */
static void fft_real(Complex *z, const double *v, size_t stride, size_t len, const Complex *roots,
                     size_t size)
{
    memset(z, 0, size * sizeof *z);
    for (size_t t = 0; t < len; t++)
        z[t].re = v[t * stride];
    fft(z, roots, size);
}

/* ssm_convolve by FFT, the same arguments. A transform thinks that its sequence goes round; padding
   to size >= 2 len keeps the end from wrapping round into the beginning. The inverse is the same
   transform with the conjugate roots, divided by size: it is the conjugate of the transform of the
   conjugate, and of the real result only the real part is read. */
void ssm_convolve_fft(double *y, const double *K, const double *u, const Ssm *system, size_t len)
{
    size_t d_in = system->d_in, d_out = system->d_out, size = 2;
    while (size < 2 * len)
        size *= 2;
    Complex *roots = NEW(Complex, size / 2), *U = NEW(Complex, size * d_in);
    Complex *kernel = NEW(Complex, size), *sum = NEW(Complex, size);
    fft_roots(roots, size);
    for (size_t i = 0; i < d_in; i++)
        fft_real(U + i * size, u + i, d_in, len, roots, size); /* u[:, i], used for every j */
    for (size_t j = 0; j < d_out; j++) {
        memset(sum, 0, size * sizeof *sum);
        for (size_t i = 0; i < d_in; i++) {
            fft_real(kernel, K + j * d_in + i, d_out * d_in, len, roots, size); /* K[:, j, i] */
            for (size_t f = 0; f < size; f++) {
                Complex product = complex_multiply(kernel[f], U[i * size + f]);
                sum[f].re += product.re;
                sum[f].im -= product.im; /* conjugated: the next transform leads back */
            }
        }
        fft(sum, roots, size);
        for (size_t t = 0; t < len; t++)
            y[t * d_out + j] = sum[t].re / (double)size;
    }
    for (size_t t = 0; t < len; t++)
        add_matrix_times(y + t * d_out, system->D, u + t * d_in, d_out, d_in);
    free(roots);
    free(U);
    free(kernel);
    free(sum);
}

/* ================================== Three ways, one answer ================================ */
/* The recurrence takes d_state^2 + (d_in + d_out) d_state products a step, the sum len / 2, the  */
/* FFT 12 log2(2 len) + 8: which is cheapest depends on the state (measured: bench.c). All of     */
/* it works because the matrices never change. When B, C and the step depend on the input, as in  */
/* Mamba, each t has a kernel of its own and the convolution is gone; chapter 4 finds a way.      */

typedef enum { BY_RECURRENCE, BY_CONVOLUTION, BY_FFT } Way;

/* y (len, d_out) from u (len, d_in), starting at x0, in the chosen way. Fails where the numbers
   stop being finite, and refuses a direct sum that would take minutes. */
bool ssm_compute(double *y, const double *u, const Ssm *system, size_t len, Way way,
                 Reading reading, Error *error)
{
    size_t d_state = system->d_state, pairs = system->d_in * system->d_out, done;
    double products = 0.5 * (double)len * ((double)len + 1.0) * (double)pairs;
    if (way == BY_CONVOLUTION && products > 5e9)
        return fail(error,
                    "--mode convolution: %.1e products for %zu steps, more than the limit of 5e9: "
                    "use --mode fft or recurrent",
                    products, len);
    if (way == BY_RECURRENCE) {
        done = run_from_start(y, u, system, len, reading);
    } else {
        double *K = matrix_new(len, pairs);
        done = ssm_kernel(K, system, len, reading);
        if (done == len) { /* what came in, and on top what was there at the start */
            (way == BY_FFT ? ssm_convolve_fft : ssm_convolve)(y, K, u, system, len);
            ssm_add_free_response(y, system->x0, system, len, reading);
            size_t d_out = system->d_out; /* the sum overflowed? back to the last finite step */
            while (done > 0 && !all_finite(y + (done - 1) * d_out, d_out))
                done--;
        }
        free(K);
    }
    if (done == len)
        return true;
    if (d_state > SSM_RADIUS_SIZE)
        return fail(error, "the numbers overflow at step %zu: the system is unstable", done);
    return fail(error,
                "the numbers overflow at step %zu: the system is unstable (spectral radius %.6g)",
                done, matrix_spectral_radius(system->A, d_state));
}

/* ================================== Change of basis ======================================= */
/* The numbers in x are coordinates. Other coordinates, x = T x', give other matrices and the     */
/* same outputs. In the right ones A is diagonal: nothing mixes, each number of the state is a    */
/* memory with a rate of its own, and a step costs d_state products, not d_state^2. Mamba's A is. */

/* Exercise 2.6. The same system for x' with x = T x': from the same inputs and the same start it
   gives the same outputs. T (d_state, d_state). Fails if T has no inverse. */
bool ssm_change_basis(Ssm *out, const Ssm *system, const double *T, Error *error)
{
    size_t d_state = system->d_state, d_in = system->d_in, d_out = system->d_out;
    double *inverse = matrix_new(d_state, d_state), *copy = matrix_new(d_state, d_state);
    matrix_identity(inverse, d_state); /* T X = I: X is the inverse */
    memcpy(copy, T, d_state * d_state * sizeof *copy);
    bool ok =
        matrix_solve(inverse, copy, d_state, d_state) && all_finite(inverse, d_state * d_state);
    if (ok) {
        Ssm changed = ssm_copy(system);
        double *AT = copy; /* used up by matrix_solve: room for A T */
        //> EX 2.6 [3 pts] [20 min] other coordinates, the same system
        //? Put x = T x' into x_next = A x + B u and y = C x + D u, and solve for x'_next and y.
        //? One of the four stays as it is. A T goes into AT first. Where does the state start?
        //? matrix_multiply(out, left, right, rows, inner, cols); a vector is a matrix of 1 column.
        /* A' = T^-1 A T, B' = T^-1 B, C' = C T, x0' = T^-1 x0 */
        matrix_multiply(AT, system->A, T, d_state, d_state, d_state);
        matrix_multiply(changed.A, inverse, AT, d_state, d_state, d_state);
        matrix_multiply(changed.B, inverse, system->B, d_state, d_state, d_in);
        matrix_multiply(changed.C, system->C, T, d_out, d_state, d_state);
        matrix_multiply(changed.x0, inverse, system->x0, d_state, d_state, 1);
        //< EX 2.6
        *out = changed;
    }
    free(inverse);
    free(copy);
    return ok || fail(error, "the basis T is singular: its columns do not span all %zu dimensions",
                      d_state);
}

/* The eigenvalues of A (2, 2), larger first, and a basis T (2, 2) of eigenvectors in its columns,
   by the formula for a quadratic equation: lambda = middle +- sqrt(apart^2 + A01 A10), A = {A00,
   A01, A10, A11}. (A - lambda) v = 0 has the solutions v = (A01, lambda - A00) and (lambda - A11,
   A10), the same direction twice; the one whose lambda - A_ii is larger loses fewer digits. A
   column is scaled to sum to 1, as chances do, or, if it sums to 0, to start with 1. False if they
   are complex, or A has no basis of eigenvectors. For larger systems the basis must be given: this
   course needs no general eigenvalue solver. */
bool eigen_2x2(double lambda[2], double T[4], const double A[4])
{
    double middle = 0.5 * (A[0] + A[3]), apart = 0.5 * (A[0] - A[3]);
    double square = apart * apart + A[1] * A[2];
    double size = fabs(middle) + fabs(apart) + fabs(A[1]) + fabs(A[2]);
    if (A[1] == 0.0 && A[2] == 0.0) { /* already diagonal */
        bool swapped = A[0] < A[3];
        lambda[0] = swapped ? A[3] : A[0];
        lambda[1] = swapped ? A[0] : A[3];
        T[0] = T[3] = swapped ? 0.0 : 1.0;
        T[1] = T[2] = swapped ? 1.0 : 0.0;
        return true;
    }
    if (!(square > 1e-24 * size * size))
        return false;
    for (int k = 0; k < 2; k++) {
        lambda[k] = k == 0 ? middle + sqrt(square) : middle - sqrt(square);
        double less_00 = lambda[k] - A[0], less_11 = lambda[k] - A[3];
        bool first = fabs(less_00) > fabs(less_11);
        double top = first ? A[1] : less_11, bottom = first ? less_00 : A[2];
        double sum = top + bottom, scale = fabs(top) + fabs(bottom);
        double divisor = fabs(sum) > 1e-9 * scale ? sum : top;
        T[k] = top / divisor;
        T[2 + k] = bottom / divisor;
    }
    return true;
}

/* ================================== The demos: one idea of the lesson each ================ */

static void print_system(const Ssm *system)
{
    print_matrix("A", system->A, system->d_state, system->d_state);
    print_matrix("B", system->B, system->d_state, system->d_in);
    print_matrix("C", system->C, system->d_out, system->d_state);
    print_matrix("D", system->D, system->d_out, system->d_in);
    print_matrix("x0", system->x0, 1, system->d_state);
}

/* Days 1, 2 ... count without an input. Day 0 is where the state starts. */
static Signal quiet_days(size_t count)
{
    Signal u = input_of("none", count, 0);
    for (size_t t = 0; t < count; t++)
        u.time[t] = (double)(t + 1);
    return u;
}

/* The weather as a system, started as in chapter 1. */
static Ssm weather_system(void)
{
    static const double start[2] = {0.5, 0.5};
    Chain chain = chain_weather();
    Ssm system = ssm_from_chain(&chain, start);
    chain_free(&chain);
    return system;
}

/* The tank by hand, step by step: one bucket in hour 0, and what level and gauge are after it. */
static bool demo_tank(const Show *show, Error *error)
{
    static const double numbers[] = {0.5, 1, 1, 0.25};
    double x = 0.0, level, gauge;
    Ssm tank = ssm_of(1, 1, 1, numbers);
    puts("A water tank: A = 0.5, B = 1, C = 1, D = 0.25, and one bucket in hour 0\n");
    for (size_t t = 0; t < 3; t++) {
        double u = t == 0 ? 1.0 : 0.0;
        ssm_step(&level, &x, &u, &tank);
        ssm_output(&gauge, &level, &u, &tank);
        printf("  t = %zu   level 0.5 x %-4g + 1 x %g = %-4g   gauge 1 x %-4g + 0.25 x %g = %g\n",
               t, x, u, level, level, u, gauge);
        x = level;
    }
    ssm_free(&tank);
    return show_system(show, error);
}

/* The sum over the past as a picture: the kernel back to front, its K[0] under the newest input. */
static bool demo_slide(const Show *show, Error *error)
{
    enum { LEN = 6 };
    static const double numbers[] = {0.5, 1, 1, 0}, u[LEN] = {1, 1, 0, 0, 2, 0};
    double K[LEN], y[LEN];
    Ssm tank = ssm_of(1, 1, 1, numbers);
    ssm_kernel(K, &tank, LEN, READ_AFTER);
    ssm_convolve(y, K, u, &tank, LEN);
    ssm_free(&tank);
    return show_slide(K, u, y, LEN, show, error);
}

/* Chapter 1's forecasts, bit for bit; then the same state seen through another C. Changing C
   changes what is seen, never what happens. */
static bool demo_weather(const Show *show, Error *error)
{
    enum { DAYS = 10 };
    static const double rain_only[] = {0.8, 0.4, 0.2, 0.6, /* A */
                                       0,   0,             /* B */
                                       0,   1,             /* C = [0 1] */
                                       0};                 /* D */
    double pi[2 * DAYS + 2], y[2 * DAYS], rain[DAYS];
    Chain chain = chain_weather();
    Ssm system = weather_system(), seen = ssm_of(2, 1, 1, rain_only);
    Signal u = quiet_days(DAYS);
    chain_forecast(pi, system.x0, &chain, DAYS);
    run_from_start(y, u.value, &system, DAYS, READ_AFTER);
    puts("The weather as (A, B, C, D)\n");
    print_system(&system);
    puts("\n       day   chapter 1: sunny, rainy   this chapter: sunny, rainy");
    for (size_t t = 0; t < DAYS; t++)
        printf("  %8zu        %10.4f%9.4f          %10.4f%9.4f\n", t + 1, pi[2 * t + 2],
               pi[2 * t + 3], y[2 * t], y[2 * t + 1]);
    bool same = memcmp(pi + 2, y, sizeof y) == 0; /* NOLINT: it is the bits that are compared */
    printf("Every bit the same: %s.\n", same ? "yes" : "no");
    memcpy(seen.x0, system.x0, 2 * sizeof(double));
    run_from_start(rain, u.value, &seen, DAYS, READ_AFTER);
    puts("\nState is not output. With C = [0 1] the same state shows the chance of rain:");
    for (size_t t = 0; t < DAYS; t++)
        printf(" %.4f%s", rain[t], t + 1 < DAYS ? "" : "\n");
    Chart chart = chart_new("What C = [0 1] shows of the weather", "day", "chance of rain");
    chart_add(&chart, "", MARK_STEMS, u.time, rain, DAYS);
    bool ok = chart_show(&chart, show, error);
    chain_free(&chain);
    ssm_free(&system);
    ssm_free(&seen);
    signal_free(&u);
    return ok;
}

/* B: a front arrives on day 3 and moves a chance of 0.2 from sunny to rainy. D: a barometer,
   the third output, that shows the front itself. */
static bool demo_front(const Show *show, Error *error)
{
    enum { DAYS = 12 };
    static const double numbers[] = {0.8, 0.4, 0.2, 0.6,       /* A */
                                     -1,  1,                   /* B */
                                     1,   0,   0,   1,   0, 0, /* C: sunny, rainy, nothing */
                                     0,   0,   1};             /* D: the third output */
    double calm[2 * DAYS], y[3 * DAYS];
    Ssm system = weather_system(), driven = ssm_of(2, 1, 3, numbers);
    Signal u = quiet_days(DAYS);
    memcpy(driven.x0, system.x0, 2 * sizeof(double));
    run_from_start(calm, u.value, &system, DAYS, READ_AFTER);
    u.value[2] = 0.2; /* day 3 */
    run_from_start(y, u.value, &driven, DAYS, READ_AFTER);
    puts("A front on day 3: B writes it into the state, D shows it past the state\n");
    print_system(&driven);
    bool ok = show_front(&u, y, calm, show, error);
    ssm_free(&system);
    ssm_free(&driven);
    signal_free(&u);
    return ok;
}

/* The tank, one impulse: the two conventions side by side, and the one written as the other. */
static bool demo_shift(const Show *show, Error *error)
{
    enum { STEPS = 8 };
    static const double tank[] = {0.5, 1, 1, 0.25};
    double after[STEPS], before[STEPS], rewritten[STEPS];
    Ssm system = ssm_of(1, 1, 1, tank), control = ssm_as_control(&system);
    Signal u = input_of("impulse", STEPS, 0);
    run_from_start(after, u.value, &system, STEPS, READ_AFTER);
    run_from_start(before, u.value, &system, STEPS, READ_BEFORE);
    run_from_start(rewritten, u.value, &control, STEPS, READ_BEFORE);
    puts("Before or after? A = 0.5, B = 1, C = 1, D = 0.25, and one impulse at t = 0\n");
    bool ok = show_shift(&u, after, before, rewritten, show, error);
    ssm_free(&system);
    ssm_free(&control);
    signal_free(&u);
    return ok;
}

/* A damped swing, two numbers with complex eigenvalues 0.95 exp(+-i pi / 10), driven by noise: the
   same outputs step by step, as a sum over the past, and by FFT. */
static bool demo_three(const Show *show, Error *error)
{
    enum { LEN = 1000, SHOWN = 60 };
    double c = 0.95 * cos(PI / 10.0), s = 0.95 * sin(PI / 10.0);
    double numbers[] = {c, s, -s, c, /* A */
                        0, 1, 1,  0, /* B, C */
                        0};          /* D */
    Ssm system = ssm_of(2, 1, 1, numbers);
    Signal u = input_of("noise", LEN, 2);
    double *y = NEW(double, 4 * LEN), *direct = y + LEN, *fast = direct + LEN, *K = fast + LEN;
    run_from_start(y, u.value, &system, LEN, READ_AFTER);
    ssm_kernel(K, &system, LEN, READ_AFTER);
    ssm_convolve(direct, K, u.value, &system, LEN);
    ssm_convolve_fft(fast, K, u.value, &system, LEN);
    prose("Three computations, one answer: a damped swing, A = 0.95 times a turn by 18 degrees, "
          "driven by noise");
    puts("      t         u_t         K_t |  recurrence  convolution          FFT");
    for (size_t t = 0; t < 5; t++)
        printf("  %5zu%12.5f%12.5f |%12.5f%13.5f%13.5f\n", t, u.value[t], tidy(K[t], 1e-5),
               tidy(y[t], 1e-5), tidy(direct[t], 1e-5), tidy(fast[t], 1e-5));
    double apart = fmax(max_difference(y, direct, LEN), max_difference(y, fast, LEN));
    printf("Over %d steps they agree to 1e-12 of the largest output: %s.\n", LEN,
           apart <= 1e-12 * matrix_max_abs(y, LEN) ? "yes" : "no");
    Chart chart = chart_new("The kernel of a damped swing: how the past is weighted", "steps ago",
                            "K = C A^k B");
    chart_add(&chart, "", MARK_STEMS, u.time, K, SHOWN);
    bool ok = chart_show(&chart, show, error);
    free(y);
    ssm_free(&system);
    signal_free(&u);
    return ok;
}

/* The weather in its eigenbasis: one number stays, for chances sum to 1; the other fades, how far
   the forecast still is from (2/3, 1/3). They never mix, so each walks on by a single product. */
static bool demo_basis(const Show *show, Error *error)
{
    enum { DAYS = 9 };
    double lambda[2], T[4], y[2 * DAYS], again[2 * DAYS], coordinate[2][DAYS];
    Ssm system = weather_system(), diagonal;
    Signal u = quiet_days(DAYS);
    bool ok = eigen_2x2(lambda, T, system.A) && ssm_change_basis(&diagonal, &system, T, error);
    assert(ok); /* the eigenvalues of the weather are 1 and 0.4 */
    run_from_start(y, u.value, &system, DAYS, READ_AFTER);
    run_from_start(again, u.value, &diagonal, DAYS, READ_AFTER);
    puts("The weather in its eigenbasis: two numbers that never mix\n");
    printf("eigenvalues %.4f and %.4f, eigenvectors in the columns of\n", lambda[0], lambda[1]);
    print_matrix("T", T, 2, 2);
    puts("and the system with x = T x':");
    print_system(&diagonal);
    for (size_t t = 0; t < DAYS; t++)
        for (size_t i = 0; i < 2; i++) /* by its own eigenvalue, A[0] or A[3] */
            coordinate[i][t] = diagonal.A[3 * i] * (t == 0 ? diagonal.x0[i] : coordinate[i][t - 1]);
    ok = show_basis(&u, coordinate[0], y, again, show, error);
    ssm_free(&system);
    ssm_free(&diagonal);
    signal_free(&u);
    return ok;
}

/* ================================== Options and main ====================================== */

/* The system in a table of blocks, as system_files.c reads it. If the file gives a basis T, *T is
   it (to be freed), else NULL. */
bool ssm_from_table(Ssm *system, double **T, const Table *table, Error *error)
{
    SystemFile file;
    if (!system_file_parse(&file, table, error))
        return false;
    Ssm read = {file.d_state, file.d_in, file.d_out, file.A, file.B, file.C, file.D, file.x0};
    *system = read;
    *T = file.T;
    return true;
}

bool ssm_read(Ssm *system, double **T, const char *path, Error *error)
{
    Table table;
    if (!table_read(&table, path, true, error))
        return false;
    bool ok = ssm_from_table(system, T, &table, error);
    table_free(&table);
    return ok;
}

/* Shows that the basis T from the file changes the matrices and not the outputs. */
static bool show_other_basis(const double *y, const Signal *u, const Ssm *system, const double *T,
                             Reading reading, Error *error)
{
    Ssm changed;
    if (!ssm_change_basis(&changed, system, T, error))
        return false;
    size_t count = u->len * system->d_out;
    double *again = NEW(double, count);
    run_from_start(again, u->value, &changed, u->len, reading);
    puts("\nIn the basis T of the file:");
    print_system(&changed);
    double apart = max_difference(y, again, count), size = matrix_max_abs(y, count);
    printf("largest difference of the outputs, relative: %.0e\n",
           size > 0.0 ? apart / size : apart);
    free(again);
    ssm_free(&changed);
    return true;
}

/* A system and an input of one's own. */
typedef struct {
    const char *system, *input, *csv;
    uint64_t length, seed;
    Way way;
    Reading reading;
} OwnSystem;

/* Reads both, says what the system is and whether it is stable, and shows what it answers. */
static bool run_system(const OwnSystem *own, const Show *show, Error *error)
{
    Ssm system;
    Signal u = {0, 0, NULL, NULL};
    double *T;
    if (!ssm_read(&system, &T, own->system, error))
        return false;
    bool ok =
        signal_open(&u, own->input, own->length, 40, system.d_in, system.d_out, own->seed, error);
    double *y = ok ? matrix_new(u.len, system.d_out) : NULL;
    if (ok) {
        printf("The system of %s\n\n", path_shown(own->system));
        print_system(&system);
        print_stability("A", system.A, system.d_state);
        putchar('\n');
        ok = ssm_compute(y, u.value, &system, u.len, own->way, own->reading, error);
    }
    if (ok) {
        print_samples(&u, y, system.d_out);
        ok = (!T || show_other_basis(y, &u, &system, T, own->reading, error) ||
              fail_in(own->system, error)) &&
             chart_outputs(&u, y, system.d_out, own->input, show, error) &&
             (!own->csv || signal_write(own->csv, &u, y, system.d_out, error));
    }
    free(y);
    signal_free(&u);
    free(T);
    ssm_free(&system);
    return ok;
}

int ssm_main(int argc, char **argv)
{
    static Demo *const demos[] = {demo_tank,  demo_weather, demo_front, demo_shift,
                                  demo_slide, demo_three,   demo_basis};
    OwnSystem own = {NULL, "impulse", NULL, 0, NO_SEED, BY_RECURRENCE, READ_AFTER};
    Show show = {{false, false}, NULL, 0};
    int demo = -1;
    bool ascii = false, control = false;
    const Option table[] = {
        {"demo", "tank|weather|front|shift|slide|three|basis", OPTION_CHOICE, 0, 0, &demo, "mode",
         "one demo of the lesson"},
        {"system", "FILE", OPTION_TEXT, 0, 0, &own.system, "mode",
         "a system of one's own: blocks of rows under lines A, B, C, D, x0, T (a basis to change "
         "to)"},
        {"input", "WHAT", OPTION_TEXT, 0, 0, &own.input, "system",
         "a CSV file, a line a sample (- is stdin), or impulse (the default), step, sine, waves, "
         "noise, none"},
        {"length", "N", OPTION_WHOLE, 1, SIGNAL_MAX_LEN, &own.length, "system",
         "samples of a built-in input (default 40), or the first N of a file"},
        {"seed", "S", OPTION_WHOLE, 0, SEED_MOST, &own.seed, "system",
         "of --input noise (default 1)"},
        {"mode", "recurrent|convolution|fft", OPTION_CHOICE, 0, 0, &own.way, "system",
         "how to compute: the same outputs (default recurrent)"},
        {"control", NULL, OPTION_SWITCH, 0, 0, &control, "system",
         "read y before the update, as control theory does, not after it"},
        {"csv", "FILE", OPTION_OUT, 0, 0, &own.csv, "system",
         "write time, inputs and outputs with all digits"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &show.svg, "demo system", "write the chart as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "", "draw charts without Unicode"},
    };
    const Program program = {"ch02_ssm",
                             "The four matrices A, B, C, D (chapter 2). Without options: the "
                             "lesson's demos in order.",
                             table, sizeof table / sizeof *table};
    int status;
    Error error;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    if (!seed_is_used(own.seed, own.input, &error)) { /* what no table can say */
        program_end(false, &error);
        return 2;
    }
    own.reading = control ? READ_BEFORE : READ_AFTER;
    show.look = look_at_terminal(ascii);
    return program_end(own.system ? run_system(&own, &show, &error)
                                  : demos_run(demos, 7, demo, &show, &error),
                       &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return ssm_main(argc, argv);
}
#endif

#endif /* CH02_SSM */
