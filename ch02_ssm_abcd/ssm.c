/* Chapter 2. The four matrices A, B, C, D

   QUESTION   How does one describe anything that has a state, is driven by an input, and shows
              an output? What do the letters A, B, C, D in every paper on Mamba stand for?
   NEW        The chain's rule becomes A; an input drives the state through B; C chooses what is
              seen of the state; D lets the input through at once. One system, computed as a
              recurrence, as a convolution, and by FFT.
   NOT        The matrices never change: the system is linear and time-invariant. Selection
              (chapter 4) is what breaks that, and with it the convolution.
   EQUATION   x_{t+1} = A x_t + B u_t        y_t = C x_t + D u_t
   LETTERS    maths   C       shape                in papers
              u_t     u       (len, d_in)          u in control and S4, x in the Mamba paper
              x_t     x       (d_state)            x in control and S4, h in the Mamba paper
              y_t     y       (len, d_out)         y
              A       A       (d_state, d_state)   A; for a chain it is P transposed
              B       B       (d_state, d_in)      B
              C       C       (d_out, d_state)     C
              D       D       (d_out, d_in)        D, often drawn as a skip connection
              K_k     K       (len, d_out, d_in)   the kernel, C A^k B
   BUILD      cc -O2 ch02_ssm_abcd/ssm.c -o ssm -lm && ./ssm
   TIME       40 minutes to read, 90 to do the exercises
   SOURCES    R. E. Kalman, Mathematical description of linear dynamical systems, J. SIAM Control 1
              (1963); T. Kailath, Linear Systems (Prentice-Hall 1980), chapter 2
              A. Gu, K. Goel, C. Re, Efficiently modeling long sequences with structured state
              spaces, ICLR 2022 (arXiv 2111.00396), sections 2.3 and 2.4
              J. Cooley, J. Tukey, Math. Comp. 19 (1965): the fast Fourier transform */

#ifndef CH02_SSM
#define CH02_SSM

#include "../ch01_markov/markov.c"

/* ================================== The system ============================================ */
/* Four matrices and three sizes say everything about it.                                      */

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
    Ssm system = {d_state,
                  d_in,
                  d_out,
                  matrix_new(d_state, d_state),
                  matrix_new(d_state, d_in),
                  matrix_new(d_out, d_state),
                  matrix_new(d_out, d_in),
                  NEW(double, d_state)};
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

Ssm ssm_copy(const Ssm *system)
{
    size_t n = system->d_state, m = system->d_in, p = system->d_out;
    Ssm copy = ssm_new(n, m, p);
    memcpy(copy.A, system->A, n * n * sizeof(double));
    memcpy(copy.B, system->B, n * m * sizeof(double));
    memcpy(copy.C, system->C, p * n * sizeof(double));
    memcpy(copy.D, system->D, p * m * sizeof(double));
    memcpy(copy.x0, system->x0, n * sizeof(double));
    return copy;
}

/* Exercise 2.1. A chain as a system: its state is the forecast, it has one input that does
   nothing (B = 0, D = 0), and everything is seen (C = I). Chapter 1 multiplies a row from the left,
   pi P; here states are columns, A x. Texts that write A = P have rows in mind. */
Ssm ssm_from_chain(const Chain *chain, const double *start)
{
    size_t n = chain->n_state;
    Ssm system = ssm_new(n, 1, n);
    memcpy(system.x0, start, n * sizeof *start);
    //> EX 2.1 [2 pts] [10 min] a chain as a system
    //? (pi P)[j] = sum over i of pi[i] P[i][j]. And (A x)[j] = sum over i of which A times x[i]?
    //? So A[j][i] is P[i][j]. chapter 1 has matrix_transpose and matrix_identity.
    matrix_transpose(system.A, chain->P, n, n);
    matrix_identity(system.C, n);
    //< EX 2.1
    return system;
}

/* ================================== The recurrence ======================================== */
/* One step costs the same however long the past was: the state is all that is kept of it.     */

/* out (rows) += M (rows, cols) times v (cols), a column at a time: column i is what v[i] does.
   For A = P transposed these are chapter 1's additions in chapter 1's order. */
static void add_matrix_times(double *out, const double *M, const double *v, size_t rows,
                             size_t cols)
{
    for (size_t i = 0; i < cols; i++)
        for (size_t j = 0; j < rows; j++)
            out[j] += v[i] * M[j * cols + i];
}

/* Exercise 2.2. The state one step on: x_next (d_state) = A x + B u, with x (d_state), u (d_in).
   NumPy: x_next = A @ x + B @ u. */
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

/* What is seen: y (d_out) = C x + D u. */
void ssm_output(double *y, const double *x, const double *u, const Ssm *system)
{
    memset(y, 0, system->d_out * sizeof *y);
    add_matrix_times(y, system->C, x, system->d_out, system->d_state);
    add_matrix_times(y, system->D, u, system->d_out, system->d_in);
}

/* When the output is read. Control theory reads before the update, y_t = C x_t + D u_t with the
   x_t that u_t has not touched; S4 and Mamba read after it: x_t = A x_{t-1} + B u_t, then y_t. */
typedef enum { READ_AFTER, READ_BEFORE } Reading;

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
    size_t n = system->d_state, t = 0;
    double *x_next = NEW(double, n);
    for (; t < len; t++) {
        const double *u_t = u + t * system->d_in;
        double *y_t = y + t * system->d_out;
        ssm_step(x_next, x, u_t, system);
        ssm_output(y_t, reading == READ_AFTER ? x_next : x, u_t, system);
        if (!all_finite(x_next, n) || !all_finite(y_t, system->d_out))
            break;
        memcpy(x, x_next, n * sizeof *x);
    }
    free(x_next);
    return t;
}

/* Exercise 2.3. The index shift that confuses everyone. `out` gives, read before the update, what
   `system` gives read after it:  C (A x + B u) + D u = (C A) x + (C B + D) u. */
Ssm ssm_as_control(const Ssm *system)
{
    size_t n = system->d_state, m = system->d_in, p = system->d_out;
    Ssm out = ssm_copy(system);
    //> EX 2.3 [2 pts] [15 min] the same outputs in the other convention
    //? The state moves alike in both: A and B stay. Only what is read of it changes.
    //? Put x_t = A x_{t-1} + B u_t into y_t = C x_t + D u_t and sort by x_{t-1} and u_t.
    //? matrix_multiply(out.C, ...) gives C A. Then add C B onto the D that ssm_copy left in out.D.
    matrix_multiply(out.C, system->C, system->A, p, n, n);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < p; j++)
            for (size_t k = 0; k < n; k++)
                out.D[j * m + i] += system->C[j * n + k] * system->B[k * m + i];
    //< EX 2.3
    return out;
}

/* ================================== The convolution ======================================= */
/* Unrolled, y_t = C A^{t+1} x0 + sum_k C A^k B u_{t-k} + D u_t: the past, weighted by a kernel  */
/* that depends only on how long ago. It can be computed once, and all t at the same time.      */

/* Exercise 2.4. The kernel K (len, d_out, d_in), K[k] = C A^k B, for outputs read after the
   update (S4, equation 5); read before it, everything comes one step later. D is not in it.
   Column i is the answer to one impulse on input i: no power of A is needed, only a state that
   walks on. Returns the number of finite steps: len, or less if the system is unstable and
   overflows. */
size_t ssm_kernel(double *K, const Ssm *system, size_t len, Reading reading)
{
    size_t n = system->d_state, m = system->d_in, p = system->d_out, finite = len;
    double *x = NEW(double, n), *x_next = NEW(double, n), *y = NEW(double, p);
    memset(K, 0, len * p * m * sizeof *K);
    for (size_t i = 0; i < m; i++) {
        for (size_t s = 0; s < n; s++)
            x[s] = system->B[s * m + i]; /* where an impulse leaves the state: B's column i */
        for (size_t k = reading == READ_BEFORE; k < finite; k++) {
            memset(y, 0, p * sizeof *y);
            memset(x_next, 0, n * sizeof *x_next);
            //> EX 2.4 [2 pts] [15 min] the kernel
            //? K[0] = C B, K[1] = C A B, K[2] = C A A B: what changes from one to the next?
            //? x holds column i of A^k B. C times it belongs in y, A times it in x_next.
            //? Two calls of add_matrix_times(out, M, v, rows, cols): C is (p, n), A is (n, n).
            add_matrix_times(y, system->C, x, p, n);
            add_matrix_times(x_next, system->A, x, n, n);
            //< EX 2.4
            for (size_t j = 0; j < p; j++)
                K[(k * p + j) * m + i] = y[j];
            memcpy(x, x_next, n * sizeof *x);
            if (!all_finite(y, p) || !all_finite(x, n))
                finite = k;
        }
    }
    free(x);
    free(x_next);
    free(y);
    return finite;
}

/* Exercise 2.5. y_t = sum_{k=0..t} K[k] u_{t-k} + D u_t, straight from the formula:
   y (len, d_out), K (len, d_out, d_in), u (len, d_in). len (len + 1) / 2 products for each pair of
   an output j and an input i. */
void ssm_convolve(double *y, const double *K, const double *u, const Ssm *system, size_t len)
{
    size_t m = system->d_in, p = system->d_out;
    memset(y, 0, len * p * sizeof *y);
    for (size_t t = 0; t < len; t++)
        add_matrix_times(y + t * p, system->D, u + t * m, p, m);
    for (size_t j = 0; j < p; j++) {
        for (size_t i = 0; i < m; i++) {
            //> EX 2.5 [2 pts] [15 min] the convolution
            //? Write out y_2 for one input and one output: three products. Which K meets which u?
            //? What came in k steps ago reaches every later output: t goes from k to len - 1.
            //? Two loops and one line: y[t * p + j] += K[(k * p + j) * m + i] * u[...].
            for (size_t k = 0; k < len; k++)
                for (size_t t = k; t < len; t++)
                    y[t * p + j] += K[(k * p + j) * m + i] * u[(t - k) * m + i];
            //< EX 2.5
        }
    }
}

/* y (len, d_out) += what the start state alone would show, C A^{t+1} x0 (C A^t x0 if read before
   the update): no kernel knows of it. */
void ssm_add_free_response(double *y, const double *x0, const Ssm *system, size_t len,
                           Reading reading)
{
    size_t n = system->d_state, p = system->d_out;
    double *now = NEW(double, 2 * n), *next = now + n;
    memcpy(now, x0, n * sizeof *now);
    for (size_t t = 0; t < len; t++) {
        memset(next, 0, n * sizeof *next);
        add_matrix_times(next, system->A, now, n, n);
        add_matrix_times(y + t * p, system->C, reading == READ_AFTER ? next : now, p, n);
        memcpy(now, next, n * sizeof *now);
    }
    free(now);
}

/* ---- the same sum by the fast Fourier transform ------------------------------------------ */

typedef struct {
    double re, im;
} Complex;

static Complex complex_multiply(Complex a, Complex b)
{
    Complex product = {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
    return product;
}

/* roots (n / 2): exp(-2 pi i k / n), each from its own sine and cosine: no error adds up. */
void fft_roots(Complex *roots, size_t n)
{
    for (size_t k = 0; k < n / 2; k++) {
        double angle = -2.0 * PI * (double)k / (double)n;
        roots[k].re = cos(angle);
        roots[k].im = sin(angle);
    }
}

/* Puts z (n) into the order in which its even and odd halves, their halves, and so on, lie side by
   side: the index with its bits reversed. */
static void fft_reorder(Complex *z, size_t n)
{
    for (size_t i = 0, reversed = 0; i < n; i++) {
        if (i < reversed) {
            Complex held = z[i];
            z[i] = z[reversed];
            z[reversed] = held;
        }
        size_t bit = n >> 1;
        for (; bit && (reversed & bit); bit >>= 1)
            reversed ^= bit;
        reversed |= bit;
    }
}

/* z[f] = sum_t z[t] exp(-2 pi i f t / n) in place, n a power of two, roots from fft_roots.
   A transform of size 2s is two of size s, of the even and of the odd places, put together with one
   product for each pair: n log2(n) / 2 products in all (Cooley & Tukey 1965). */
void fft(Complex *z, const Complex *roots, size_t n)
{
    fft_reorder(z, n);
    for (size_t half = 1; half < n; half *= 2) {
        for (size_t start = 0; start < n; start += 2 * half) {
            for (size_t k = 0; k < half; k++) {
                Complex *even = z + start + k, *odd = even + half;
                Complex turned = complex_multiply(*odd, roots[k * (n / 2 / half)]);
                odd->re = even->re - turned.re;
                odd->im = even->im - turned.im;
                even->re += turned.re;
                even->im += turned.im;
            }
        }
    }
}

/* The transform of every `stride`-th of `len` numbers, padded with zeros to n. */
static void fft_real(Complex *z, const double *v, size_t stride, size_t len, const Complex *roots,
                     size_t n)
{
    memset(z, 0, n * sizeof *z);
    for (size_t t = 0; t < len; t++)
        z[t].re = v[t * stride];
    fft(z, roots, n);
}

/* ssm_convolve by FFT: the transform of a convolution is the product of the transforms. Padding to
   n >= 2 len keeps its end from wrapping round to its beginning. */
void ssm_convolve_fft(double *y, const double *K, const double *u, const Ssm *system, size_t len)
{
    size_t m = system->d_in, p = system->d_out, n = 2;
    while (n < 2 * len)
        n *= 2;
    Complex *roots = NEW(Complex, n / 2), *U = NEW(Complex, n * m);
    Complex *kernel = NEW(Complex, n), *sum = NEW(Complex, n);
    fft_roots(roots, n);
    for (size_t i = 0; i < m; i++)
        fft_real(U + i * n, u + i, m, len, roots, n);
    for (size_t j = 0; j < p; j++) {
        memset(sum, 0, n * sizeof *sum);
        for (size_t i = 0; i < m; i++) {
            fft_real(kernel, K + j * m + i, p * m, len, roots, n);
            for (size_t f = 0; f < n; f++) {
                Complex product = complex_multiply(kernel[f], U[i * n + f]);
                sum[f].re += product.re; /* conjugated below: the way back is */
                sum[f].im -= product.im; /* the way there with every turn reversed */
            }
        }
        fft(sum, roots, n);
        for (size_t t = 0; t < len; t++)
            y[t * p + j] = sum[t].re / (double)n;
    }
    for (size_t t = 0; t < len; t++)
        add_matrix_times(y + t * p, system->D, u + t * m, p, m);
    free(roots);
    free(U);
    free(kernel);
    free(sum);
}

/* ================================== Change of basis ======================================= */
/* The numbers in x are coordinates. Other coordinates, x = T x', give other matrices and the   */
/* same outputs. In the right ones A is diagonal: nothing mixes, and a step costs n, not n^2.   */

/* Exercise 2.6. The same system for x' = T^-1 x:  A' = T^-1 A T,  B' = T^-1 B,  C' = C T,  D' = D,
   x0' = T^-1 x0. T (d_state, d_state). Fails if T has no inverse. */
bool ssm_change_basis(Ssm *out, const Ssm *system, const double *T, Error *error)
{
    size_t n = system->d_state, m = system->d_in, p = system->d_out;
    double *inverse = matrix_new(n, n), *copy = matrix_new(n, n);
    matrix_identity(inverse, n);
    memcpy(copy, T, n * n * sizeof *copy);
    bool ok = matrix_solve(inverse, copy, n, n) && all_finite(inverse, n * n);
    if (ok) {
        Ssm changed = ssm_copy(system);
        double *AT = copy; /* used up by matrix_solve: room for A T */
        //> EX 2.6 [3 pts] [20 min] other coordinates, the same system
        //? Put x = T x' into x_next = A x + B u and solve for x'_next.
        //? A T first, into AT; then `inverse` from the left. Four products and one for x0.
        //? matrix_multiply(out, left, right, rows, inner, cols); a vector is a matrix of 1 column.
        matrix_multiply(AT, system->A, T, n, n, n);
        matrix_multiply(changed.A, inverse, AT, n, n, n);
        matrix_multiply(changed.B, inverse, system->B, n, n, m);
        matrix_multiply(changed.C, system->C, T, p, n, n);
        matrix_multiply(changed.x0, inverse, system->x0, n, n, 1);
        //< EX 2.6
        *out = changed;
    }
    free(inverse);
    free(copy);
    return ok || fail(error, "the basis T is singular: its columns do not span all %zu states", n);
}

/* The eigenvalues of A (2, 2), larger first, and a basis T (2, 2) of eigenvectors in its columns,
   by the formula for a quadratic equation. A column is scaled to sum to 1, as chances do, or, if it
   sums to 0, to start with 1. False if they are complex, or A has no basis of eigenvectors. For
   larger systems the basis must be given: this course needs no general eigenvalue solver. */
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
        double over = lambda[k] - A[0], under = lambda[k] - A[3];
        bool first = fabs(over) > fabs(under); /* the equation that loses no digits */
        double top = first ? A[1] : under, bottom = first ? over : A[2];
        double sum = top + bottom, scale = fabs(top) + fabs(bottom);
        double unit = fabs(sum) > 1e-9 * scale ? sum : top;
        T[k] = top / unit;
        T[2 + k] = bottom / unit;
    }
    return true;
}

/* ================================== Inputs ================================================ */

/* A series of samples and when they were taken. */
typedef struct {
    size_t len, width;
    double *time;  /* (len) */
    double *value; /* (len, width) */
} Signal;

enum { SSM_MAX_SIZE = 1000, SIGNAL_MAX_LEN = 10000000, SIGNAL_MAX_NUMBERS = 1 << 27 };

Signal signal_new(size_t len, size_t width)
{
    Signal signal = {len, width, NEW(double, len), matrix_new(len, width)};
    for (size_t t = 0; t < len; t++)
        signal.time[t] = (double)t;
    return signal;
}

void signal_free(Signal *signal)
{
    free(signal->time);
    free(signal->value);
    memset(signal, 0, sizeof *signal);
}

/* The built-in inputs, alike on every channel: impulse (1, 0, 0, ...), step (1, 1, 1, ...), sine (a
   period of 20 samples), noise (normal, from the seed, each channel its own), none (0). */
bool signal_built_in(Signal *signal, const char *kind, size_t len, size_t width, uint64_t seed)
{
    static const char *const kinds[] = {"impulse", "step", "sine", "noise", "none"};
    size_t which = 0;
    while (which < 5 && strcmp(kind, kinds[which]) != 0)
        which++;
    if (which == 5)
        return false;
    Random random = random_from_seed(seed);
    *signal = signal_new(len, width);
    for (size_t t = 0; t < len; t++)
        for (size_t i = 0; i < width; i++)
            signal->value[t * width + i] = which == 0   ? (t == 0 ? 1.0 : 0.0)
                                           : which == 1 ? 1.0
                                           : which == 2 ? sin(2.0 * PI * (double)t / 20.0)
                                           : which == 3 ? random_normal(&random)
                                                        : 0.0;
    return true;
}

/* Reads row `row` of the table as sample t. */
static bool signal_row(Signal *signal, size_t t, bool timed, const Table *table, size_t row,
                       Error *error)
{
    size_t columns = signal->width + timed, line = table->line[row];
    if (table_width(table, row) != columns)
        return fail(error, "%s:%zu: %zu columns, but the lines above have %zu", table->path, line,
                    table_width(table, row), columns);
    for (size_t i = 0; i < columns; i++) {
        Error why;
        double *to =
            timed && i == 0 ? &signal->time[t] : &signal->value[t * signal->width + i - timed];
        if (!number_parse(to, table_cell(table, row, i), &why))
            return fail(error, "%s:%zu: column %zu: %s", table->path, line, i + 1, why.text);
    }
    return true;
}

/* The first row that has cells and is no title (its last cell is a number). */
static size_t signal_first_row(const Table *table)
{
    size_t row = 0;
    while (row < table->n_row && table_width(table, row) == 0)
        row++;
    double value;
    Error ignored;
    if (row < table->n_row &&
        !number_parse(&value, table_cell(table, row, table_width(table, row) - 1), &ignored) &&
        strcasecmp(table_cell(table, row, table_width(table, row) - 1), "nan") != 0)
        row++;
    return row;
}

/* A signal of `width` columns from a table of one line a sample, with one more column in front if
   it gives the time; a line of titles on top is skipped. */
bool signal_from_table(Signal *signal, const Table *table, size_t width, Error *error)
{
    size_t first = signal_first_row(table), len = 0;
    for (size_t row = first; row < table->n_row; row++)
        len += table_width(table, row) > 0;
    if (len == 0)
        return fail(error, "%s: empty: there is no sample in this file", table->path);
    if (len > SIGNAL_MAX_LEN)
        return fail(error, "%s: %zu samples, more than the limit of %d", table->path, len,
                    SIGNAL_MAX_LEN);
    while (table_width(table, first) == 0)
        first++;
    size_t columns = table_width(table, first);
    if (columns != width && columns != width + 1)
        return fail(error,
                    "%s:%zu: %zu columns, but the system has %zu input%s (one more in front may "
                    "give the time)",
                    table->path, table->line[first], columns, width, width == 1 ? "" : "s");
    Signal read = signal_new(len, width);
    size_t t = 0;
    bool ok = true;
    for (size_t row = first; ok && row < table->n_row; row++)
        if (table_width(table, row) > 0)
            ok = signal_row(&read, t++, columns > width, table, row, error);
    if (ok)
        *signal = read;
    else
        signal_free(&read);
    return ok;
}

bool signal_read(Signal *signal, const char *path, size_t width, Error *error)
{
    Table table;
    if (!table_read(&table, path, false, error))
        return false;
    bool ok = signal_from_table(signal, &table, width, error);
    table_free(&table);
    return ok;
}

/* ================================== Reading a system ====================================== */
/* A text file of blocks: a line with a name, then the rows of that matrix. A is needed; without */
/* B there is one input that does nothing, without C all of the state is seen, D and x0 are 0.   */

enum { BLOCK_A, BLOCK_B, BLOCK_C, BLOCK_D, BLOCK_X0, BLOCK_T, N_BLOCK };

typedef struct {
    size_t rows, cols;
    size_t line; /* where its name stands; 0 if the file has no such block */
    double *value;
} Block;

static const char *block_name(size_t block)
{
    static const char *const names[N_BLOCK] = {"A", "B", "C", "D", "x0", "T"};
    return names[block];
}

static size_t block_find(const char *name)
{
    size_t block = 0;
    while (block < N_BLOCK && strcmp(name, block_name(block)) != 0)
        block++;
    return block;
}

/* Appends one row of numbers to a block. */
static bool block_add_row(Block *block, const char *name, const Table *table, size_t row,
                          Error *error)
{
    size_t cols = table_width(table, row), line = table->line[row];
    if (block->rows == 0)
        block->cols = cols;
    if (cols != block->cols)
        return fail(error, "%s:%zu: row %zu of %s has %zu numbers, its first has %zu", table->path,
                    line, block->rows + 1, name, cols, block->cols);
    if (block->rows == SSM_MAX_SIZE || cols > SSM_MAX_SIZE)
        return fail(error, "%s:%zu: %s is larger than %d by %d", table->path, line, name,
                    SSM_MAX_SIZE, SSM_MAX_SIZE);
    double *larger = NEW(double, (block->rows + 1) * cols);
    if (block->value)
        memcpy(larger, block->value, block->rows * cols * sizeof *larger);
    free(block->value);
    block->value = larger;
    for (size_t i = 0; i < cols; i++) {
        Error why;
        double *to = &block->value[block->rows * cols + i];
        if (!number_parse(to, table_cell(table, row, i), &why))
            return fail(error, "%s:%zu: row %zu of %s: %s", table->path, line, block->rows + 1,
                        name, why.text);
    }
    block->rows++;
    return true;
}

static bool blocks_parse(Block *blocks, const Table *table, Error *error)
{
    size_t current = N_BLOCK;
    for (size_t row = 0; row < table->n_row; row++) {
        size_t width = table_width(table, row), line = table->line[row];
        if (width == 0)
            continue;
        const char *cell = table_cell(table, row, 0);
        size_t named = width == 1 ? block_find(cell) : (size_t)N_BLOCK;
        if (named < N_BLOCK) {
            if (blocks[named].line)
                return fail(error, "%s:%zu: a second block %s; the first is on line %zu",
                            table->path, line, cell, blocks[named].line);
            current = named;
            blocks[named].line = line;
        } else if (current == N_BLOCK) {
            return fail(error, "%s:%zu: '%.40s' before any block: start with a line A", table->path,
                        line, cell);
        } else if (!block_add_row(&blocks[current], block_name(current), table, row, error)) {
            return false;
        }
    }
    for (size_t k = 0; k < N_BLOCK; k++)
        if (blocks[k].line && blocks[k].rows == 0)
            return fail(error, "%s:%zu: block %s has no rows", table->path, blocks[k].line,
                        block_name(k));
    return blocks[BLOCK_A].line > 0 || fail(error, "%s: there is no block A", table->path);
}

/* Checks that one block, if it is there, is rows by cols; `why` explains the numbers. */
static bool block_check(const Block *blocks, size_t k, size_t rows, size_t cols, const char *why,
                        const char *path, Error *error)
{
    const Block *block = &blocks[k];
    if (block->line == 0 || (block->rows == rows && block->cols == cols))
        return true;
    return fail(error, "%s:%zu: %s is %zu by %zu, but must be %zu by %zu: %s", path, block->line,
                block_name(k), block->rows, block->cols, rows, cols, why);
}

/* Do the blocks fit together? Says which does not, and what it must fit. */
static bool blocks_check(Block *blocks, const char *path, Error *error)
{
    size_t n = blocks[BLOCK_A].rows;
    size_t m = blocks[BLOCK_B].line   ? blocks[BLOCK_B].cols
               : blocks[BLOCK_D].line ? blocks[BLOCK_D].cols
                                      : 1;
    size_t p = blocks[BLOCK_C].line ? blocks[BLOCK_C].rows : n;
    if (blocks[BLOCK_X0].cols == 1 && blocks[BLOCK_X0].rows == n) { /* a column is as good */
        blocks[BLOCK_X0].cols = n;
        blocks[BLOCK_X0].rows = 1;
    }
    return block_check(blocks, BLOCK_A, n, n, "A is square", path, error) &&
           block_check(blocks, BLOCK_B, n, m, "one row for each state of A", path, error) &&
           block_check(blocks, BLOCK_C, p, n, "one column for each state of A", path, error) &&
           block_check(blocks, BLOCK_D, p, m, "a row for each of C's, a column for each of B's",
                       path, error) &&
           block_check(blocks, BLOCK_X0, 1, n, "one number for each state of A", path, error) &&
           block_check(blocks, BLOCK_T, n, n, "as large as A", path, error);
}

static void block_copy(double *to, const Block *block)
{
    if (block->line)
        memcpy(to, block->value, block->rows * block->cols * sizeof *to);
}

/* The system in a table of blocks. If the file gives a basis T, *T is it (to be freed), else
   NULL. */
bool ssm_from_table(Ssm *system, double **T, const Table *table, Error *error)
{
    Block blocks[N_BLOCK];
    memset(blocks, 0, sizeof blocks);
    bool ok = blocks_parse(blocks, table, error) && blocks_check(blocks, table->path, error);
    if (ok) {
        size_t n = blocks[BLOCK_A].rows;
        const Block *B = &blocks[BLOCK_B], *C = &blocks[BLOCK_C], *D = &blocks[BLOCK_D];
        *system = ssm_new(n, B->line ? B->cols : D->line ? D->cols : 1, C->line ? C->rows : n);
        matrix_identity(system->C, C->line ? 0 : n);
        block_copy(system->A, &blocks[BLOCK_A]);
        block_copy(system->B, B);
        block_copy(system->C, C);
        block_copy(system->D, D);
        block_copy(system->x0, &blocks[BLOCK_X0]);
        *T = blocks[BLOCK_T].value;
        blocks[BLOCK_T].value = NULL;
    }
    for (size_t k = 0; k < N_BLOCK; k++)
        free(blocks[k].value);
    return ok;
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

/* ================================== What the program prints =============================== */

enum { SHOWN_STEPS = 12, SHOWN_SIZE = 6, SSM_RADIUS_SIZE = 256 };

typedef enum { MODE_RECURRENT, MODE_CONVOLUTION, MODE_FFT } Mode;

/* v, but 0 where rounding left next to nothing: no table shall show -0.0000. */
static double tidy(double v, double unit)
{
    return fabs(v) < 0.5 * unit ? 0.0 : v;
}

static void print_matrix(const char *name, const double *M, size_t rows, size_t cols)
{
    if (rows > SHOWN_SIZE || cols > SHOWN_SIZE) {
        printf("  %s  %zu by %zu\n", name, rows, cols);
        return;
    }
    for (size_t i = 0; i < rows; i++) {
        printf("  %-3s", i == 0 ? name : "");
        for (size_t j = 0; j < cols; j++)
            printf("%10.4f", tidy(M[i * cols + j], 1e-4));
        putchar('\n');
    }
}

static void print_system(const Ssm *system)
{
    size_t n = system->d_state, m = system->d_in, p = system->d_out;
    print_matrix("A", system->A, n, n);
    print_matrix("B", system->B, n, m);
    print_matrix("C", system->C, p, n);
    print_matrix("D", system->D, p, m);
    print_matrix("x0", system->x0, 1, n);
}

/* Spectral radius, and what it means for the memory. */
static void print_stability(const Ssm *system)
{
    if (system->d_state > SSM_RADIUS_SIZE) {
        printf("(The spectral radius is worked out for up to %d states.)\n", SSM_RADIUS_SIZE);
        return;
    }
    double radius = matrix_spectral_radius(system->A, system->d_state);
    printf("Spectral radius of A: %.4f. ", radius);
    if (radius > 1.0 + 1e-9)
        printf("Unstable: what is in the state grows, in the end by this factor a step.\n");
    else if (radius > 1.0 - 1e-9)
        printf("On the edge: something in the state stays for ever.\n");
    else
        printf("Stable: in the end half of the state is gone every %.2f steps.\n",
               half_life(radius));
}

/* One line of a table: the step, the inputs, the outputs. */
static void print_sample(const Signal *u, const double *y, size_t t, size_t d_out)
{
    printf("  %10.6g", u->time[t]);
    for (size_t i = 0; i < u->width && i < SHOWN_SIZE; i++)
        printf("%12.5f", tidy(u->value[t * u->width + i], 1e-5));
    fputs("  |", stdout);
    for (size_t j = 0; j < d_out && j < SHOWN_SIZE; j++)
        printf("%12.5f", tidy(y[t * d_out + j], 1e-5));
    putchar('\n');
}

static void print_samples(const Signal *u, const double *y, size_t d_out)
{
    printf("  %10s", "t");
    for (size_t i = 0; i < u->width && i < SHOWN_SIZE; i++)
        printf("%11s%zu", "u", i + 1);
    fputs("  |", stdout);
    for (size_t j = 0; j < d_out && j < SHOWN_SIZE; j++)
        printf("%11s%zu", "y", j + 1);
    putchar('\n');
    for (size_t t = 0; t < u->len; t++) {
        if (t == SHOWN_STEPS && u->len > SHOWN_STEPS + 2) {
            puts("         ...");
            t = u->len - 2;
        }
        print_sample(u, y, t, d_out);
    }
}

static double *column_of(const double *v, size_t column, size_t width, size_t len)
{
    double *out = NEW(double, len);
    for (size_t t = 0; t < len; t++)
        out[t] = v[t * width + column];
    return out;
}

static bool show_chart(const Chart *chart, const Look *look, const char *svg, Error *error)
{
    putchar('\n');
    chart_print(stdout, chart, look);
    return !svg || chart_write_svg(chart, svg, error);
}

static double max_difference(const double *a, const double *b, size_t count)
{
    double *difference = NEW(double, count);
    for (size_t i = 0; i < count; i++)
        difference[i] = a[i] - b[i];
    double largest = matrix_max_abs(difference, count);
    free(difference);
    return largest;
}

/* ---- the demos: one idea of the lesson each ---------------------------------------------- */

/* A built-in input that is known to be one. */
static Signal input_of(const char *kind, size_t len, uint64_t seed)
{
    Signal u = {0, 0, NULL, NULL};
    bool known = signal_built_in(&u, kind, len, 1, seed);
    assert(known);
    (void)known;
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

/* Runs from the system's own start. */
static void run_from_start(double *y, const double *u, const Ssm *system, size_t len,
                           Reading reading)
{
    double *x = NEW(double, system->d_state);
    memcpy(x, system->x0, system->d_state * sizeof *x);
    ssm_run(y, x, u, system, len, reading);
    free(x);
}

static bool demo_weather(const Look *look, const char *svg, Error *error)
{
    enum { DAYS = 10 };
    double start[2] = {0.5, 0.5}, pi[2 * DAYS], y[2 * DAYS], rain[DAYS], day[DAYS];
    Chain chain = chain_weather();
    Ssm system = weather_system();
    Signal u = signal_new(DAYS, 1);
    chain_forecast(pi, start, &chain, DAYS - 1);
    run_from_start(y, u.value, &system, DAYS, READ_BEFORE);
    puts("The weather as (A, B, C, D)\n");
    print_system(&system);
    puts("\n       day   chapter 1: sunny, rainy   this chapter: sunny, rainy");
    for (size_t t = 0; t < DAYS; t++)
        printf("  %8zu        %10.4f%9.4f          %10.4f%9.4f\n", t, pi[2 * t], pi[2 * t + 1],
               y[2 * t], y[2 * t + 1]);
    bool same = memcmp(pi, y, sizeof y) == 0; /* NOLINT: it is the bits that are compared */
    printf("Every bit the same: %s.\n", same ? "yes" : "no");
    Ssm seen = ssm_new(2, 1, 1); /* C = [0 1]: of the same state, only the rain is seen */
    memcpy(seen.A, system.A, 4 * sizeof(double));
    memcpy(seen.x0, system.x0, 2 * sizeof(double));
    seen.C[1] = 1.0;
    run_from_start(rain, u.value, &seen, DAYS, READ_BEFORE);
    fputs("\nState is not output. With C = [0 1] the same state shows only the chance of rain:\n ",
          stdout);
    for (size_t t = 0; t < DAYS; t++)
        printf(" %.4f", rain[t]);
    puts("");
    count_up(day, DAYS);
    Chart chart = chart_new("What C = [0 1] shows of the weather", "day", "chance of rain");
    chart_add(&chart, "", MARK_STEMS, day, rain, DAYS);
    bool ok = show_chart(&chart, look, svg, error);
    chain_free(&chain);
    ssm_free(&system);
    ssm_free(&seen);
    signal_free(&u);
    return ok;
}

/* B: a front arrives on day 3 and moves a fifth of all chances from sunny to rainy. D: a barometer
   that shows the front itself. */
static bool demo_front(const Look *look, const char *svg, Error *error)
{
    enum { DAYS = 13 };
    double calm[2 * DAYS], y[3 * DAYS], day[DAYS], rain[2][DAYS];
    Ssm system = weather_system(), driven = ssm_new(2, 1, 3);
    Signal u = signal_new(DAYS, 1);
    memcpy(driven.A, system.A, 4 * sizeof(double));
    memcpy(driven.x0, system.x0, 2 * sizeof(double));
    driven.B[0] = -1.0;
    driven.B[1] = 1.0;
    driven.C[0] = driven.C[3] = 1.0;
    driven.D[2] = 1.0;
    run_from_start(calm, u.value, &system, DAYS, READ_BEFORE);
    u.value[3] = 0.2;
    run_from_start(y, u.value, &driven, DAYS, READ_BEFORE);
    puts("A front on day 3: B lets it push the state, D shows it at once\n");
    print_system(&driven);
    puts("\n       day   front |   sunny   rainy  barometer |  rain without front   difference");
    for (size_t t = 0; t < DAYS; t++) {
        rain[0][t] = y[3 * t + 1];
        rain[1][t] = calm[2 * t + 1];
        printf("  %8zu%8.2f |%8.4f%8.4f%11.2f |%20.4f%13.5f\n", t, u.value[t], y[3 * t], rain[0][t],
               y[3 * t + 2], rain[1][t], rain[0][t] - rain[1][t]);
    }
    puts(
        "The barometer (D) answers on day 3, the weather (B) on day 4; then each day leaves 0.4 of "
        "the push.");
    count_up(day, DAYS);
    Chart chart = chart_new("A front arrives on day 3", "day", "chance of rain");
    chart_add(&chart, "with the front", MARK_LINE, day, rain[0], DAYS);
    chart_add(&chart, "without", MARK_LINE, day, rain[1], DAYS);
    bool ok = show_chart(&chart, look, svg, error);
    ssm_free(&system);
    ssm_free(&driven);
    signal_free(&u);
    return ok;
}

/* One state that keeps half of itself, one impulse: the two conventions side by side. */
static bool demo_shift(const Look *look, const char *svg, Error *error)
{
    enum { STEPS = 8 };
    double after[STEPS], before[STEPS], rewritten[STEPS], step[STEPS];
    Ssm system = ssm_new(1, 1, 1);
    Signal u = input_of("impulse", STEPS, 0);
    system.A[0] = 0.5;
    system.B[0] = system.C[0] = 1.0;
    system.D[0] = 0.25;
    Ssm control = ssm_as_control(&system);
    run_from_start(after, u.value, &system, STEPS, READ_AFTER);
    run_from_start(before, u.value, &system, STEPS, READ_BEFORE);
    run_from_start(rewritten, u.value, &control, STEPS, READ_BEFORE);
    puts("Before or after? A = 0.5, B = 1, C = 1, D = 0.25, and one impulse at t = 0\n");
    puts("      t    u_t | read before (control) | read after (S4, Mamba) | C A, C B + D read "
         "before");
    for (size_t t = 0; t < STEPS; t++)
        printf("  %5zu%7.1f |%22.5f |%23.5f |%25.5f\n", t, u.value[t], before[t], after[t],
               rewritten[t]);
    puts(
        "Read after the update, the input counts one step earlier. C' = C A = 0.5 and D' = C B + D "
        "= 1.25\ngive the same outputs in the other convention: the last two columns agree.");
    count_up(step, STEPS);
    Chart chart = chart_new("One impulse, read before and after the update", "t", "y");
    chart_add(&chart, "read after (S4, Mamba)", MARK_POINTS, step, after, STEPS);
    chart_add(&chart, "read before (control)", MARK_POINTS, step, before, STEPS);
    bool ok = show_chart(&chart, look, svg, error);
    ssm_free(&system);
    ssm_free(&control);
    signal_free(&u);
    return ok;
}

/* A damped swing: two states, complex eigenvalues 0.95 exp(+-i pi / 10). */
static Ssm swing_system(void)
{
    Ssm system = ssm_new(2, 1, 1);
    double c = 0.95 * cos(PI / 10.0), s = 0.95 * sin(PI / 10.0);
    system.A[0] = system.A[3] = c;
    system.A[1] = s;
    system.A[2] = -s;
    system.B[1] = 1.0;
    system.C[0] = 1.0;
    return system;
}

/* The same outputs three times: step by step, as a sum over the past, by FFT. */
static bool demo_three(const Look *look, const char *svg, Error *error)
{
    enum { LEN = 1000, SHOWN = 60 };
    Ssm system = swing_system();
    Signal u = input_of("noise", LEN, 2);
    double *y = NEW(double, 4 * LEN), *direct = y + LEN, *fast = direct + LEN, *K = fast + LEN;
    run_from_start(y, u.value, &system, LEN, READ_AFTER);
    ssm_kernel(K, &system, LEN, READ_AFTER);
    ssm_convolve(direct, K, u.value, &system, LEN);
    ssm_convolve_fft(fast, K, u.value, &system, LEN);
    puts("Three computations, one answer: a damped swing driven by noise\n");
    print_system(&system);
    puts("\n      t         u_t         K_t |  recurrence  convolution          FFT");
    for (size_t t = 0; t < 6; t++)
        printf("  %5zu%12.5f%12.5f |%12.5f%13.5f%13.5f\n", t, u.value[t], tidy(K[t], 1e-5),
               tidy(y[t], 1e-5), tidy(direct[t], 1e-5), tidy(fast[t], 1e-5));
    double size = matrix_max_abs(y, LEN);
    double apart = fmax(max_difference(y, direct, LEN), max_difference(y, fast, LEN)) / size;
    printf("Over %d steps they agree to 1e-12 of the largest output: %s.\n", LEN,
           apart <= 1e-12 ? "yes" : "no");
    Chart chart = chart_new("The kernel of a damped swing: how the past is weighted", "steps ago",
                            "K = C A^k B");
    chart_add(&chart, "", MARK_STEMS, u.time, K, SHOWN);
    bool ok = show_chart(&chart, look, svg, error);
    free(y);
    ssm_free(&system);
    signal_free(&u);
    return ok;
}

/* The weather in its eigenbasis: one number stays, the other fades, and they never mix. */
static bool demo_basis(const Look *look, const char *svg, Error *error)
{
    enum { DAYS = 9 };
    double lambda[2], T[4], y[2 * DAYS], again[2 * DAYS], z[2][DAYS], day[DAYS];
    Ssm system = weather_system(), diagonal;
    Signal u = signal_new(DAYS, 1);
    bool ok = eigen_2x2(lambda, T, system.A) && ssm_change_basis(&diagonal, &system, T, error);
    assert(ok); /* the eigenvalues of the weather are 1 and 0.4 */
    run_from_start(y, u.value, &system, DAYS, READ_BEFORE);
    run_from_start(again, u.value, &diagonal, DAYS, READ_BEFORE);
    puts("The weather in its eigenbasis: two numbers that never mix\n");
    printf("eigenvalues %.4f and %.4f, eigenvectors in the columns of\n", lambda[0], lambda[1]);
    print_matrix("T", T, 2, 2);
    puts("and the system with x = T x':");
    print_system(&diagonal);
    puts(
        "\n       day |  x'1 (stays)  x'2 (fades) |     sunny     rainy |  sunny, rainy as before");
    memcpy(z[0], diagonal.x0, sizeof(double));
    for (size_t t = 0; t < DAYS; t++) {
        z[0][t] = t == 0 ? diagonal.x0[0] : diagonal.A[0] * z[0][t - 1];
        z[1][t] = t == 0 ? diagonal.x0[1] : diagonal.A[3] * z[1][t - 1];
        printf("  %8zu |%13.6f%13.6f |%10.4f%10.4f |%13.4f%10.4f\n", t, z[0][t], z[1][t],
               again[2 * t], again[2 * t + 1], y[2 * t], y[2 * t + 1]);
    }
    printf(
        "The outputs agree to 1e-12: %s. A step now costs 2 products instead of 4, for n states n "
        "instead of n^2.\n",
        max_difference(y, again, 2 * DAYS) <= 1e-12 ? "yes" : "no");
    count_up(day, DAYS);
    Chart chart = chart_new("The weather in its eigenbasis", "day", "the two coordinates");
    chart_add(&chart, "x'1, eigenvalue 1: stays", MARK_LINE, day, z[0], DAYS);
    chart_add(&chart, "x'2, eigenvalue 0.4: is forgotten", MARK_LINE, day, z[1], DAYS);
    ok = show_chart(&chart, look, svg, error);
    ssm_free(&system);
    ssm_free(&diagonal);
    signal_free(&u);
    return ok;
}

/* ---- what the three computations cost ---------------------------------------------------- */

enum {
    BENCH_FIRST = 4,
    BENCH_LAST = 18,
    BENCH_DIRECT_LAST = 14,
    BENCH_SIZES = BENCH_LAST - BENCH_FIRST + 1
};

/* Seconds a call for each way and length; NaN where it was not measured. */
typedef struct {
    double len[BENCH_SIZES], recurrent[BENCH_SIZES], direct[BENCH_SIZES], fast[BENCH_SIZES];
    double kernel[BENCH_SIZES];
} Costs;

typedef struct {
    double *y, *x, *K;
    const double *u;
    const Ssm *system;
    size_t len;
} Job;

static void job_recurrent(const Job *job)
{
    memset(job->x, 0, job->system->d_state * sizeof *job->x);
    ssm_run(job->y, job->x, job->u, job->system, job->len, READ_AFTER);
}

static void job_kernel(const Job *job)
{
    ssm_kernel(job->K, job->system, job->len, READ_AFTER);
}

static void job_direct(const Job *job)
{
    ssm_convolve(job->y, job->K, job->u, job->system, job->len);
}

static void job_fft(const Job *job)
{
    ssm_convolve_fft(job->y, job->K, job->u, job->system, job->len);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds for one call: the median of five measurements of at least ten milliseconds each. */
static double time_job(void (*work)(const Job *), const Job *job)
{
    double seconds[5];
    for (size_t k = 0; k < 5; k++) {
        double start = seconds_now();
        size_t calls = 0;
        do {
            work(job);
            calls++;
        } while (seconds_now() - start < 0.01);
        seconds[k] = (seconds_now() - start) / (double)calls;
    }
    qsort(seconds, 5, sizeof *seconds, compare_doubles);
    return seconds[2];
}

static void measure_costs(Costs *costs, const Ssm *system)
{
    size_t most = (size_t)1 << BENCH_LAST;
    Signal u = input_of("noise", most, 3);
    double *room = NEW(double, 2 * most + system->d_state);
    Progress progress = progress_start("measuring");
    for (size_t k = 0; k < BENCH_SIZES; k++) {
        size_t len = (size_t)1 << (BENCH_FIRST + k);
        Job job = {room, room + 2 * most, room + most, u.value, system, len};
        costs->len[k] = (double)len;
        costs->kernel[k] = time_job(job_kernel, &job);
        costs->recurrent[k] = time_job(job_recurrent, &job);
        costs->direct[k] = BENCH_FIRST + k > BENCH_DIRECT_LAST ? NAN : time_job(job_direct, &job);
        costs->fast[k] = time_job(job_fft, &job);
        progress_show(&progress, (double)(k + 1), BENCH_SIZES);
    }
    progress_end(&progress);
    free(room);
    signal_free(&u);
}

/* The first measured length at which `slower` has come to cost more than `faster`; 0 if none. */
static size_t crossover(const Costs *costs, const double *slower, const double *faster)
{
    for (size_t k = 0; k < BENCH_SIZES; k++)
        if (slower[k] > faster[k])
            return (size_t)costs->len[k];
    return 0;
}

/* A system of n states with a full A of spectral radius 0.95, one input and one output. */
static Ssm bench_system(size_t n)
{
    Ssm system = ssm_new(n, 1, 1);
    Random random = random_from_seed(n);
    for (size_t i = 0; i < n * n; i++)
        system.A[i] = random_normal(&random);
    double radius = matrix_spectral_radius(system.A, n);
    for (size_t i = 0; i < n * n; i++)
        system.A[i] *= 0.95 / radius;
    for (size_t i = 0; i < n; i++) {
        system.B[i] = random_normal(&random);
        system.C[i] = random_normal(&random);
    }
    return system;
}

static void print_costs(const Costs *costs, size_t d_state)
{
    printf("\nMicroseconds a call, %zu state%s, one input, one output:\n", d_state,
           d_state == 1 ? "" : "s");
    puts("    length   recurrence   kernel (once)   convolution          FFT   FFT / recurrence");
    for (size_t k = 0; k < BENCH_SIZES; k++) {
        char direct[32] = "-"; /* not measured: too long */
        if (!isnan(costs->direct[k]))
            snprintf(direct, sizeof direct, "%.2f", 1e6 * costs->direct[k]);
        printf("  %8.0f %12.2f %15.2f %13s %12.2f %18.2f\n", costs->len[k],
               1e6 * costs->recurrent[k], 1e6 * costs->kernel[k], direct, 1e6 * costs->fast[k],
               costs->fast[k] / costs->recurrent[k]);
    }
    printf(
        "The direct sum costs more than the FFT from length %zu on, more than the recurrence from "
        "%zu on.\n",
        crossover(costs, costs->direct, costs->fast),
        crossover(costs, costs->direct, costs->recurrent));
    size_t k = BENCH_SIZES - 1;
    printf("At length %.0f: recurrence %.2f ns a step, FFT %.2f ns a step.\n", costs->len[k],
           1e9 * costs->recurrent[k] / costs->len[k], 1e9 * costs->fast[k] / costs->len[k]);
}

static bool demo_bench(const Look *look, const char *svg, Error *error)
{
    static const size_t sizes[] = {4, 64};
    Costs *costs = NEW(Costs, 2);
    puts("What the three computations cost (medians; times depend on the machine)");
    for (size_t k = 0; k < 2; k++) {
        Ssm system = bench_system(sizes[k]);
        measure_costs(&costs[k], &system);
        print_costs(&costs[k], sizes[k]);
        ssm_free(&system);
    }
    Chart chart = chart_new("Three ways to compute the same outputs", "length", "seconds a call");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "convolution", MARK_LINE, costs[0].len, costs[0].direct, BENCH_SIZES);
    chart_add(&chart, "FFT", MARK_LINE, costs[0].len, costs[0].fast, BENCH_SIZES);
    chart_add(&chart, "recurrence, 4 states", MARK_LINE, costs[0].len, costs[0].recurrent,
              BENCH_SIZES);
    chart_add(&chart, "recurrence, 64 states", MARK_LINE, costs[0].len, costs[1].recurrent,
              BENCH_SIZES);
    bool ok = show_chart(&chart, look, svg, error);
    free(costs);
    return ok;
}

/* ---- a system and an input of one's own -------------------------------------------------- */

static bool write_csv(const char *path, const Signal *u, const double *y, size_t d_out,
                      Error *error)
{
    OutFile file;
    if (!out_open(&file, path, error))
        return false;
    fputs("t", file.stream);
    for (size_t i = 0; i < u->width; i++)
        fprintf(file.stream, ",u%zu", i + 1);
    for (size_t j = 0; j < d_out; j++)
        fprintf(file.stream, ",y%zu", j + 1);
    for (size_t t = 0; t < u->len; t++) {
        fprintf(file.stream, "\n%.17g", u->time[t]);
        for (size_t i = 0; i < u->width; i++)
            fprintf(file.stream, ",%.17g", u->value[t * u->width + i]);
        for (size_t j = 0; j < d_out; j++)
            fprintf(file.stream, ",%.17g", y[t * d_out + j]);
    }
    fputc('\n', file.stream);
    return out_close(&file, error);
}

/* y (len, d_out) in the chosen way; fails where the numbers stop being finite. */
static bool compute(double *y, const Signal *u, const Ssm *system, Mode mode, Reading reading,
                    Error *error)
{
    size_t len = u->len, n = system->d_state, pairs = system->d_in * system->d_out, done;
    double products = 0.5 * (double)len * ((double)len + 1.0) * (double)pairs;
    if (mode == MODE_CONVOLUTION && products > 5e9)
        return fail(error,
                    "--mode convolution: %.1e products for %zu steps, more than the limit of 5e9: "
                    "use --mode fft or recurrent",
                    products, len);
    if (mode == MODE_RECURRENT) {
        double *x = NEW(double, n);
        memcpy(x, system->x0, n * sizeof *x);
        done = ssm_run(y, x, u->value, system, len, reading);
        free(x);
    } else {
        double *K = matrix_new(len, pairs);
        done = ssm_kernel(K, system, len, reading);
        if (done == len) {
            (mode == MODE_FFT ? ssm_convolve_fft : ssm_convolve)(y, K, u->value, system, len);
            ssm_add_free_response(y, system->x0, system, len, reading);
            while (done > 0 && !isfinite(y[done * system->d_out - 1]))
                done--;
        }
        free(K);
    }
    if (done == len)
        return true;
    if (n > SSM_RADIUS_SIZE)
        return fail(error, "the numbers overflow at step %zu: the system is unstable", done);
    return fail(error,
                "the numbers overflow at step %zu: the system is unstable (spectral radius %.6g)",
                done, matrix_spectral_radius(system->A, n));
}

/* Shows that the basis T from the file changes the matrices and not the outputs. */
static bool print_other_basis(const double *y, const Signal *u, const Ssm *system, const double *T,
                              Error *error)
{
    Ssm changed;
    if (!ssm_change_basis(&changed, system, T, error))
        return false;
    double *again = NEW(double, u->len * system->d_out);
    run_from_start(again, u->value, &changed, u->len, READ_AFTER);
    puts("\nIn the basis T of the file:");
    print_system(&changed);
    printf("largest difference of the outputs, relative: %.0e\n",
           max_difference(y, again, u->len * system->d_out) /
               matrix_max_abs(y, u->len * system->d_out));
    free(again);
    ssm_free(&changed);
    return true;
}

/* The outputs, and before them the input if it is a single one from a file. */
static bool chart_outputs(const Signal *u, const double *y, const Ssm *system, const char *input,
                          const Look *look, const char *svg, Error *error)
{
    static const char *const names[] = {"y1", "y2", "y3", "y4", "y5", "y6"};
    double *columns[CHART_MAX_SERIES];
    char title[80];
    snprintf(title, sizeof title, "The outputs for input %.40s", input);
    Chart chart = chart_new(title, "t", "y");
    if (system->d_in == 1 && strchr(input, '.'))
        chart_add(&chart, "u1", MARK_LINE, u->time, u->value, u->len);
    size_t shown = 0;
    for (; shown < system->d_out && chart.n_series < CHART_MAX_SERIES; shown++) {
        columns[shown] = column_of(y, shown, system->d_out, u->len);
        chart_add(&chart, names[shown], MARK_LINE, u->time, columns[shown], u->len);
    }
    bool ok = show_chart(&chart, look, svg, error);
    for (size_t j = 0; j < shown; j++)
        free(columns[j]);
    return ok;
}

/* ================================== Options and main ====================================== */

typedef struct {
    const char *system, *input, *csv, *svg, *demo;
    uint64_t length, seed;
    Mode mode;
    Reading reading;
    bool ascii, bench;
} SsmOptions;

static void ssm_usage(FILE *out)
{
    fputs("usage: ch02_ssm [--demo weather|front|shift|three|basis | --bench]\n"
          "       ch02_ssm --system FILE [--input FILE|impulse|step|sine|noise|none] [--length N]\n"
          "                [--mode recurrent|convolution|fft] [--control] [--seed S] [--csv FILE]\n"
          "       either with [--svg FILE] [--ascii] [--help]\n",
          out);
}

static void ssm_help(void)
{
    ssm_usage(stdout);
    fputs("\nThe four matrices A, B, C, D (chapter 2). Without options: the lesson's demos in "
          "order.\n\n"
          "  --demo NAME    one of them; with --svg its chart\n"
          "  --bench        measure recurrence, convolution and FFT against each other\n"
          "  --system FILE  blocks of rows under lines A, B, C, D, x0, T (a basis to change to)\n"
          "  --input WHAT   a CSV file, a line a sample, or a built-in input (default impulse)\n"
          "  --length N     samples of a built-in input, or the first N of a file (default 40)\n"
          "  --mode WAY     recurrent (default), convolution or fft: the same outputs\n"
          "  --control      read y before the update, as control theory does, not after it\n"
          "  --seed S       seed of the noise (default 1)\n"
          "  --csv FILE     write time, inputs and outputs with all digits\n"
          "  --svg FILE     write the chart as SVG\n"
          "  --ascii        draw charts without Unicode\n",
          stdout);
}

static bool mode_parse(Mode *mode, const char *text, Error *error)
{
    static const char *const names[] = {"recurrent", "convolution", "fft"};
    for (int k = 0; k < 3; k++)
        if (strcmp(text, names[k]) == 0) {
            *mode = (Mode)k;
            return true;
        }
    return fail(error, "--mode: '%.40s' is none of recurrent, convolution, fft", text);
}

/* Fills `options`; false with an error, or with an empty one if getopt has said what is wrong. */
static bool ssm_options_parse(SsmOptions *options, int argc, char **argv, Error *error)
{
    static const struct option known[] = {
        {"system", 1, NULL, 's'}, {"input", 1, NULL, 'i'}, {"length", 1, NULL, 'l'},
        {"mode", 1, NULL, 'm'},   {"seed", 1, NULL, 'r'},  {"control", 0, NULL, 'c'},
        {"csv", 1, NULL, 'o'},    {"svg", 1, NULL, 'v'},   {"demo", 1, NULL, 'd'},
        {"bench", 0, NULL, 'b'},  {"ascii", 0, NULL, 'a'}, {"help", 0, NULL, 'h'},
        {NULL, 0, NULL, 0}};
    memset(options, 0, sizeof *options);
    options->seed = 1;
    error->text[0] = '\0';
    bool ok = true;
    for (int code; ok && (code = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (code) {
        case 's': options->system = optarg; break;
        case 'i': options->input = optarg; break;
        case 'o': options->csv = optarg; break;
        case 'v': options->svg = optarg; break;
        case 'd': options->demo = optarg; break;
        case 'b': options->bench = true; break;
        case 'a': options->ascii = true; break;
        case 'c': options->reading = READ_BEFORE; break;
        case 'm': ok = mode_parse(&options->mode, optarg, error); break;
        case 'l':
            ok = option_integer(&options->length, "length", optarg, 1, SIGNAL_MAX_LEN, error);
            break;
        case 'r': ok = option_integer(&options->seed, "seed", optarg, 0, UINT64_MAX, error); break;
        case 'h': ssm_help(); exit(0);
        default: return false;
        }
    }
    if (ok && optind < argc)
        return fail(error, "'%.40s' is not an option", argv[optind]);
    if (ok && !options->system && (options->input || options->csv || options->length))
        return fail(error, "--input, --length and --csv need --system");
    if (ok && !!options->system + !!options->demo + options->bench > 1)
        return fail(error, "--system, --demo and --bench exclude each other");
    if (ok && options->svg && !options->system && !options->demo && !options->bench)
        return fail(error, "--svg needs --system, --demo or --bench");
    return ok;
}

/* All demos in order, or the one that is named. */
static bool ssm_demos(const SsmOptions *options, const Look *look, Error *error)
{
    static const char *const names[] = {"weather", "front", "shift", "three", "basis"};
    bool (*const demos[])(const Look *, const char *,
                          Error *) = {demo_weather, demo_front, demo_shift, demo_three, demo_basis};
    bool ok = true, found = false;
    for (size_t k = 0; ok && k < 5; k++) {
        if (options->demo && strcmp(options->demo, names[k]) != 0)
            continue;
        if (found)
            puts("\n");
        found = true;
        ok = demos[k](look, options->svg, error);
    }
    return found ? ok
                 : fail(error, "--demo: '%.40s' is none of weather, front, shift, three, basis",
                        options->demo);
}

/* The input: built in, or the first `length` samples of a file. */
static bool input_open(Signal *u, const SsmOptions *options, const Ssm *system, Error *error)
{
    const char *kind = options->input ? options->input : "impulse";
    size_t len = options->length ? options->length : 40, width = system->d_in + system->d_out;
    if (width > SIGNAL_MAX_NUMBERS / len)
        return fail(error, "--length: %zu steps of %zu inputs and outputs are more than %d numbers",
                    len, width, SIGNAL_MAX_NUMBERS);
    if (signal_built_in(u, kind, len, system->d_in, options->seed))
        return true;
    if (!signal_read(u, kind, system->d_in, error))
        return false;
    if (options->length && options->length < u->len)
        u->len = options->length;
    return true;
}

static bool run_system(const SsmOptions *options, const Look *look, Error *error)
{
    Ssm system;
    Signal u = {0, 0, NULL, NULL};
    double *T;
    if (!ssm_read(&system, &T, options->system, error))
        return false;
    bool ok = input_open(&u, options, &system, error);
    if (ok) {
        double *y = matrix_new(u.len, system.d_out);
        printf("The system of %s\n\n", options->system);
        print_system(&system);
        print_stability(&system);
        putchar('\n');
        ok = compute(y, &u, &system, options->mode, options->reading, error);
        if (ok) {
            print_samples(&u, y, system.d_out);
            ok = (!T || print_other_basis(y, &u, &system, T, error)) &&
                 chart_outputs(&u, y, &system, options->input ? options->input : "impulse", look,
                               options->svg, error) &&
                 (!options->csv || write_csv(options->csv, &u, y, system.d_out, error));
        }
        free(y);
        signal_free(&u);
    }
    free(T);
    ssm_free(&system);
    return ok;
}

int ssm_main(int argc, char **argv)
{
    SsmOptions options;
    Error error;
    if (!ssm_options_parse(&options, argc, argv, &error)) {
        if (error.text[0])
            fprintf(stderr, "error: %s\n", error.text);
        ssm_usage(stderr);
        return 2;
    }
    Look look = look_at_terminal(options.ascii);
    bool ok = options.system  ? run_system(&options, &look, &error)
              : options.bench ? demo_bench(&look, options.svg, &error)
                              : ssm_demos(&options, &look, &error);
    fflush(stdout); /* what was said before the error comes before it */
    if (!ok)
        fprintf(stderr, "error: %s\n", error.text);
    return ok ? 0 : 1;
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return ssm_main(argc, argv);
}
#endif

#endif /* CH02_SSM */
