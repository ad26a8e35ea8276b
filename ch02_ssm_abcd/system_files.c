/* Systems and their inputs in files.

   HOLDS   signals, built in and read from CSV files; systems read from text files of blocks;
           inputs and outputs written as CSV. All on plain data: sizes and arrays
   FOR     the programs of chapters 2 and 3 */

#ifndef CH02_SYSTEM_FILES
#define CH02_SYSTEM_FILES

#include "../ch01_markov/text_files.h"

/* ================================== Signals =============================================== */

/* A series of samples and when they were taken. */
typedef struct {
    size_t len, width;
    double *time;  /* (len) */
    double *value; /* (len, width) */
} Signal;

#define NO_SEED   UINT64_MAX /* none was given */
#define SEED_MOST 1e18
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

/* One sample of a built-in input. */
static double signal_sample(size_t kind, size_t t, size_t len, Random *random)
{
    double part = (double)t / (double)len;
    switch (kind) {
    case 0: return t == 0 ? 1.0 : 0.0;
    case 1: return 1.0;
    case 2: return sin(2.0 * PI * (double)t / 20.0);
    case 3: return sin(2.0 * PI * 3.0 * part) + 0.5 * sin(2.0 * PI * 7.0 * part + 1.0) + part;
    case 4: return random_normal(random);
    default: return 0.0;
    }
}

#define SIGNALS_BUILT_IN "impulse, step, sine, waves, noise or none"

/* The built-in inputs, alike on every channel: impulse (1, 0, 0, ...), step (1, 1, 1, ...), sine (a
   period of 20 samples), waves (two, and a slow rise), noise (normal, from the seed, each channel
   its own), none (0). False if `name` is none of them. */
bool signal_built_in(Signal *signal, const char *name, size_t len, size_t width, uint64_t seed)
{
    static const char *const names[] = {"impulse", "step", "sine", "waves", "noise", "none"};
    size_t kind = 0;
    while (kind < 6 && strcmp(name, names[kind]) != 0)
        kind++;
    if (kind == 6)
        return false;
    Random random = random_from_seed(seed);
    *signal = signal_new(len, width);
    for (size_t t = 0; t < len; t++)
        for (size_t i = 0; i < width; i++)
            signal->value[t * width + i] = signal_sample(kind, t, len, &random);
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
        if (!table_number(to, table, row, i, &why))
            return fail(error, "%s:%zu: column %zu: %s", table->path, line, i + 1, why.text);
    }
    return true;
}

/* A signal of `width` columns from a table of one line a sample, with one more column in front if
   it gives the time; a line of titles on top is skipped. */
bool signal_from_table(Signal *signal, const Table *table, size_t width, Error *error)
{
    size_t first = table_first_row(table), len = 0;
    first += first < table->n_row && table_is_title(table, first);
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

/* A seed that is given must do something: only noise is random. */
bool seed_is_used(uint64_t seed, const char *input, Error *error)
{
    return seed == NO_SEED || strcmp(input, "noise") == 0 ||
           fail(error, "--seed needs --input noise");
}

/* How much there is to hold: `len` samples of `columns` inputs and outputs together. */
static bool signal_fits(size_t len, size_t columns, Error *error)
{
    return columns <= SIGNAL_MAX_NUMBERS / len ||
           fail(error, "%zu steps of %zu inputs and outputs are more than %d numbers", len, columns,
                SIGNAL_MAX_NUMBERS);
}

/* The input `what` of a program: built in, with `length` samples, or `otherwise` if length is 0; or
   a file, or its first `length` samples. d_in is its width, d_out that of what it will drive. */
bool signal_open(Signal *signal, const char *what, size_t length, size_t otherwise, size_t d_in,
                 size_t d_out, uint64_t seed, Error *error)
{
    size_t len = length ? length : otherwise;
    if (!signal_fits(len, d_in + d_out, error))
        return false;
    if (signal_built_in(signal, what, len, d_in, seed == NO_SEED ? 1 : seed))
        return true;
    if (!strpbrk(what, "-./") && access(what, F_OK) != 0) /* a word that was misspelt */
        return fail(error, "--input: '%.40s' is neither a file nor " SIGNALS_BUILT_IN, what);
    if (!signal_read(signal, what, d_in, error))
        return false;
    if (length && length < signal->len)
        signal->len = length;
    if (signal_fits(signal->len, d_in + d_out, error))
        return true;
    signal_free(signal);
    return false;
}

/* Times, inputs and outputs y (len, d_out), with all their digits. */
bool signal_write(const char *path, const Signal *u, const double *y, size_t d_out, Error *error)
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

/* ================================== Systems =============================================== */
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
        return fail(error, "%s:%zu: row %zu of %s has %zu number%s, its first has %zu", table->path,
                    line, block->rows + 1, name, cols, cols == 1 ? "" : "s", block->cols);
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
        if (!table_number(to, table, row, i, &why))
            return fail(error, "%s:%zu: row %zu of %s: %s", table->path, line, block->rows + 1,
                        name, why.text);
    }
    block->rows++;
    return true;
}

/* NOLINTBEGIN(clang-analyzer-unix.Malloc): the analyser loses sight of what the caller frees */
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
/* NOLINTEND(clang-analyzer-unix.Malloc) */

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

/* Without B, D says how many inputs there are; without both it is one. */
static size_t blocks_d_in(const Block *blocks)
{
    return blocks[BLOCK_B].line   ? blocks[BLOCK_B].cols
           : blocks[BLOCK_D].line ? blocks[BLOCK_D].cols
                                  : 1;
}

static size_t blocks_d_out(const Block *blocks)
{
    return blocks[BLOCK_C].line ? blocks[BLOCK_C].rows : blocks[BLOCK_A].rows;
}

/* Do the blocks fit together? Says which does not, and what it must fit. */
static bool blocks_check(Block *blocks, const char *path, Error *error)
{
    size_t d_state = blocks[BLOCK_A].rows, d_out = blocks_d_out(blocks), d_in = blocks_d_in(blocks);
    if (blocks[BLOCK_X0].cols == 1 && blocks[BLOCK_X0].rows == d_state) { /* a column will do */
        blocks[BLOCK_X0].cols = d_state;
        blocks[BLOCK_X0].rows = 1;
    }
    return block_check(blocks, BLOCK_A, d_state, d_state, "A is square", path, error) &&
           block_check(blocks, BLOCK_B, d_state, d_in, "one row for each state of A", path,
                       error) &&
           block_check(blocks, BLOCK_C, d_out, d_state, "one column for each state of A", path,
                       error) &&
           block_check(blocks, BLOCK_D, d_out, d_in,
                       "a row for each of C's, a column for each of B's", path, error) &&
           block_check(blocks, BLOCK_X0, 1, d_state, "one number for each state of A", path,
                       error) &&
           block_check(blocks, BLOCK_T, d_state, d_state, "as large as A", path, error);
}

/* What a system's file says, as plain arrays; T is NULL if it gives no basis. */
typedef struct {
    size_t d_state, d_in, d_out;
    double *A, *B, *C, *D, *x0, *T;
} SystemFile;

/* The block's numbers, to be freed; zeros if the file has none. */
static double *block_take(Block *block, size_t rows, size_t cols)
{
    double *value = block->line ? block->value : matrix_new(rows, cols);
    block->value = NULL;
    return value;
}

/* All arrays of `file` are the caller's afterwards. */
bool system_file_parse(SystemFile *file, const Table *table, Error *error)
{
    Block blocks[N_BLOCK];
    memset(blocks, 0, sizeof blocks);
    bool ok = blocks_parse(blocks, table, error) && blocks_check(blocks, table->path, error);
    if (ok) {
        size_t d_state = file->d_state = blocks[BLOCK_A].rows;
        file->d_in = blocks_d_in(blocks);
        file->d_out = blocks_d_out(blocks);
        bool all_seen = blocks[BLOCK_C].line == 0;
        file->A = block_take(&blocks[BLOCK_A], d_state, d_state);
        file->B = block_take(&blocks[BLOCK_B], d_state, file->d_in);
        file->C = block_take(&blocks[BLOCK_C], file->d_out, d_state);
        file->D = block_take(&blocks[BLOCK_D], file->d_out, file->d_in);
        file->x0 = block_take(&blocks[BLOCK_X0], 1, d_state);
        file->T = blocks[BLOCK_T].value;
        blocks[BLOCK_T].value = NULL;
        if (all_seen)
            matrix_identity(file->C, d_state);
    }
    for (size_t k = 0; k < N_BLOCK; k++)
        free(blocks[k].value);
    return ok;
}

#endif /* CH02_SYSTEM_FILES */
