/* Chains and records in files.

   HOLDS   a table of chances or of counts with a name for every state; a record, a day a line;
           what a user may mean by a start
   FOR     chapter 1's --chain, --fit and --start. It knows names and numbers, and no chain

   A table has a first line `from,sunny,rainy` and a line `sunny,0.8,0.2` for each state: chances,
   or counts if they are whole numbers. Anything else is a record. Where text_files.h finds other
   separators than commas, these will do. */

#ifndef CH01_CHAIN_FILES
#define CH01_CHAIN_FILES

#include "text_files.h"

enum { CHAIN_MAX_STATES = 2000 };

/* A number for every pair of states: the chance, or the count, of `to` after `from`. */
typedef struct {
    size_t n_state;
    char **name;   /* (n_state) owned */
    double *value; /* (n_state, n_state) */
} StateTable;

/* How often each state followed each: all that a record says about a chain. */
typedef struct {
    size_t n_state;
    char **name;   /* (n_state) owned */
    double *count; /* (n_state, n_state) count[i][j] = days in i followed by j; whole numbers */
    double days;   /* days with a state; 0 if only counts were given */
    double gaps;   /* gaps between days with a state */
    size_t title;  /* the line that is taken for a title, though it does not say `state`; or 0 */
} Counts;

void names_free(char **name, size_t n_state)
{
    for (size_t i = 0; i < n_state; i++)
        free(name[i]);
    free(name);
}

void counts_free(Counts *counts)
{
    names_free(counts->name, counts->n_state);
    free(counts->count);
    memset(counts, 0, sizeof *counts);
}

/* The number of the state called `name`, or n_state if there is none. */
size_t name_find(char *const *names, size_t n_state, const char *name)
{
    size_t i = 0;
    while (i < n_state && strcmp(names[i], name) != 0)
        i++;
    return i;
}

/* ================================ Tables of states ======================================== */

static bool is_table(const Table *table, size_t *header)
{
    size_t row = *header = table_first_row(table);
    return row < table->n_row && strcasecmp(table_cell(table, row, 0), "from") == 0;
}

/* Checks the names in the table's first line: none empty, none twice, not too many. */
static bool table_names_check(const Table *table, size_t header, Error *error)
{
    size_t n = table_width(table, header) - 1, line = table->line[header];
    if (n < 1)
        return fail(error, "%s:%zu: no state is named after 'from'", table->path, line);
    if (n > CHAIN_MAX_STATES)
        return fail(error, "%s:%zu: %zu states, more than the limit of %d", table->path, line, n,
                    CHAIN_MAX_STATES);
    for (size_t i = 0; i < n; i++) {
        const char *name = table_cell(table, header, i + 1);
        if (*name == '\0')
            return fail(error, "%s:%zu: state %zu has no name", table->path, line, i + 1);
        for (size_t j = 0; j < i; j++)
            if (strcmp(name, table_cell(table, header, j + 1)) == 0)
                return fail(error, "%s:%zu: state '%.40s' is named twice", table->path, line, name);
    }
    return true;
}

/* What the numbers of a table are, and so what a row of them must fulfil. */
typedef enum { ROWS_OF_CHANCES, ROWS_OF_COUNTS } RowKind;

/* Reads one row's numbers into `value` (n_state); chances are made to sum to 1 exactly, because
   what is off by 1e-10 would grow day by day. */
static bool table_row_values(double *value, const Table *table, size_t row,
                             const StateTable *states, RowKind kind, Error *error)
{
    const char *name = table_cell(table, row, 0);
    size_t line = table->line[row], width = table_width(table, row) - 1;
    double sum = 0.0;
    bool whole = true;
    if (width != states->n_state)
        return fail(error, "%s:%zu: row '%.40s' has %zu number%s, but there are %zu states",
                    table->path, line, name, width, width == 1 ? "" : "s", states->n_state);
    for (size_t j = 0; j < width; j++) {
        Error why;
        bool ok = table_number(&value[j], table, row, j + 1, &why);
        if (ok && value[j] < 0.0)
            ok = fail(&why, "%g is negative", value[j]);
        if (ok && kind == ROWS_OF_COUNTS && (value[j] != floor(value[j]) || value[j] > 1e15))
            ok = fail(&why, "%g is not a count%s", value[j],
                      value[j] < 1.0 ? ": chances are for --chain" : "");
        if (!ok)
            return fail(error, "%s:%zu: row '%.40s', column '%.40s': %s", table->path, line, name,
                        states->name[j], why.text);
        sum += value[j];
        whole = whole && value[j] == floor(value[j]);
    }
    if (kind == ROWS_OF_CHANCES && !(fabs(sum - 1.0) <= 1e-9))
        return fail(error, "%s:%zu: row '%.40s' sums to %.10g, not 1%s", table->path, line, name,
                    sum, whole && sum > 1.0 ? ": counts are for ch01_markov --fit" : "");
    for (size_t j = 0; kind == ROWS_OF_CHANCES && j < width; j++)
        value[j] /= sum;
    return true;
}

/* Fills `states`, its names and its numbers, from the rows below the header. */
static bool table_fill(StateTable *states, const Table *table, size_t header, RowKind kind,
                       Error *error)
{
    size_t n = states->n_state;
    bool *seen = NEW(bool, n), ok = true;
    for (size_t j = 0; j < n; j++)
        states->name[j] = strdup(table_cell(table, header, j + 1));
    for (size_t row = header + 1; ok && row < table->n_row; row++) {
        if (table_width(table, row) == 0)
            continue;
        const char *name = table_cell(table, row, 0);
        size_t i = name_find(states->name, n, name);
        if (i == n)
            ok = fail(error, "%s:%zu: unknown state '%.40s': the first line does not name it",
                      table->path, table->line[row], name);
        else if (seen[i])
            ok = fail(error, "%s:%zu: a second row for state '%.40s'", table->path,
                      table->line[row], name);
        else
            ok = table_row_values(states->value + i * n, table, row, states, kind, error);
        if (ok)
            seen[i] = true;
    }
    for (size_t i = 0; ok && i < n; i++)
        if (!seen[i])
            ok = fail(error, "%s: no row for state '%.40s'", table->path, states->name[i]);
    free(seen);
    return ok;
}

/* Names and numbers of a table of either kind. */
static bool table_to_states(StateTable *states, const Table *table, RowKind kind, Error *error)
{
    size_t header;
    if (!is_table(table, &header)) {
        if (header == table->n_row)
            return fail(error, "%s: empty: there is nothing in this file", table->path);
        return fail(error, "%s:%zu: a table starts with 'from' and the names of its states",
                    table->path, table->line[header]);
    }
    if (!table_names_check(table, header, error))
        return false;
    size_t n = table_width(table, header) - 1;
    StateTable read = {n, NEW(char *, n), matrix_new(n, n)};
    if (!table_fill(&read, table, header, kind, error)) {
        names_free(read.name, n);
        free(read.value);
        return false;
    }
    *states = read;
    return true;
}

/* The chances in a table; fails unless every row sums to 1 within 1e-9. */
bool chances_from_table(StateTable *chances, const Table *table, Error *error)
{
    return table_to_states(chances, table, ROWS_OF_CHANCES, error);
}

bool chances_read(StateTable *chances, const char *path, Error *error)
{
    Table table;
    if (!table_read(&table, path, false, error))
        return false;
    bool ok = chances_from_table(chances, &table, error);
    table_free(&table);
    return ok;
}

static bool counts_from_counts(Counts *counts, const Table *table, Error *error)
{
    StateTable read;
    if (!table_to_states(&read, table, ROWS_OF_COUNTS, error))
        return false;
    Counts taken = {read.n_state, read.name, read.value, 0.0, 0.0, 0};
    *counts = taken;
    return true;
}

/* ====================================== Records =========================================== */

/* Days since 1 March of year 0 in the Gregorian calendar, for a date like 1987-01-31; -1 if it is
   none. Years start in March so that a leap day is a year's last. */
static long date_number(const char *text)
{
    static const int month_days[12] = {31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 29};
    int year, month, day, used = 0;
    if (strlen(text) != 10 || sscanf(text, "%4d-%2d-%2d%n", &year, &month, &day, &used) != 3 ||
        used != 10 || year < 1 || month < 1 || month > 12 || day < 1)
        return -1;
    int from_march = (month + 9) % 12;
    long march_year = year - (month < 3);
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (day > month_days[from_march] - (month == 2 && !leap))
        return -1;
    long days = day - 1;
    for (int m = 0; m < from_march; m++)
        days += month_days[m];
    return days + march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400;
}

/* A record being read: the states met so far, in the order in which they turned up. */
typedef struct {
    size_t n_state, room;
    const char **name; /* (room) borrowed from the table */
    double *count;     /* (room, room) */
} Tally;

/* The number of `name`; a new one makes room, doubling it when it runs out. */
static size_t tally_state(Tally *tally, const char *name)
{
    for (size_t i = 0; i < tally->n_state; i++)
        if (strcmp(tally->name[i], name) == 0)
            return i;
    if (tally->n_state == tally->room) {
        size_t room = 2 * tally->room;
        const char **names = NEW(const char *, room);
        double *count = matrix_new(room, room);
        for (size_t i = 0; i < tally->n_state; i++) {
            names[i] = tally->name[i];
            memcpy(count + i * room, tally->count + i * tally->room,
                   tally->n_state * sizeof *count);
        }
        free(tally->name);
        free(tally->count);
        tally->name = names;
        tally->count = count;
        tally->room = room;
    }
    tally->name[tally->n_state] = name;
    return tally->n_state++;
}

/* The state of one row of a record, NULL for a missing day. *date is set if the row has one. */
static bool record_day(const char **state, long *date, const Table *table, size_t row, Error *error)
{
    size_t width = table_width(table, row), line = table->line[row];
    *state = NULL;
    *date = -1;
    if (width == 0)
        return true;
    if (width > 2)
        return fail(error, "%s:%zu: %zu cells; a record has a line `state` or `date,state` a day",
                    table->path, line, width);
    if (width == 2) {
        *date = date_number(table_cell(table, row, 0));
        if (*date < 0)
            return fail(error, "%s:%zu: '%.40s' is not a date like 1987-01-31", table->path, line,
                        table_cell(table, row, 0));
    }
    const char *cell = table_cell(table, row, width - 1);
    char begin[11];
    snprintf(begin, sizeof begin, "%.10s", cell);
    if (width == 1 && date_number(begin) >= 0)
        return fail(error, "%s:%zu: a comma is wanted between a date and its state: '%.40s'",
                    table->path, line, cell);
    *state = cell_is_missing(cell) ? NULL : cell;
    return true;
}

/* Goes through the days. A missing day, or a jump in the dates, breaks the record: what comes
   after it does not count as following what came before. */
static bool tally_record(Tally *tally, Counts *counts, const Table *table, size_t first,
                         Error *error)
{
    size_t today = SIZE_MAX;
    long last_date = -1;
    for (size_t row = first; row < table->n_row; row++) {
        const char *state;
        long date;
        if (!record_day(&state, &date, table, row, error))
            return false;
        if (date >= 0 && last_date >= 0 && date <= last_date)
            return fail(error, "%s:%zu: the date %.10s does not come after the one before it",
                        table->path, table->line[row], table_cell(table, row, 0));
        bool jump = date >= 0 && last_date >= 0 && date != last_date + 1;
        last_date = date >= 0 ? date : last_date;
        bool follows = state && today != SIZE_MAX && !jump;
        counts->gaps += state && !follows && counts->days > 0.0;
        size_t tomorrow = state ? tally_state(tally, state) : SIZE_MAX;
        if (tally->n_state > CHAIN_MAX_STATES)
            return fail(error, "%s:%zu: '%.40s' is state number %zu, more than the limit of %d",
                        table->path, table->line[row], state, tally->n_state, CHAIN_MAX_STATES);
        if (follows)
            tally->count[today * tally->room + tomorrow] += 1.0;
        counts->days += state != NULL;
        today = tomorrow;
    }
    if (counts->days == 0.0)
        return fail(error, "%s: empty: there is no day in this record", table->path);
    return true;
}

/* Days with the state `name`, from row `first` on. */
static size_t record_count(const Table *table, size_t first, const char *name)
{
    size_t count = 0;
    for (size_t row = first; row < table->n_row; row++) {
        size_t width = table_width(table, row);
        count += width > 0 && strcmp(table_cell(table, row, width - 1), name) == 0;
    }
    return count;
}

/* Whether the first line is a title: it says `state`; or it has two cells, and neither begins like
   a date or a number; or it has one, whose word never comes again, while that below it does. */
static bool record_is_titled(const Table *table, size_t first)
{
    size_t width = first < table->n_row ? table_width(table, first) : 0, next = first + 1;
    const char *word = width > 0 ? table_cell(table, first, width - 1) : "";
    if (strcasecmp(word, "state") == 0 || width == 2)
        return strcasecmp(word, "state") == 0 || table_is_title(table, first);
    while (next < table->n_row && table_width(table, next) == 0)
        next++;
    return width == 1 && !cell_is_missing(word) && next < table->n_row &&
           record_count(table, first, word) == 1 &&
           record_count(table, next, table_cell(table, next, table_width(table, next) - 1)) > 1;
}

/* States that are numbers may be classes: 0 and 1, or the faces of dice. If there are many, or one
   is no whole number, they are amounts, and what the states shall be only their owner knows. A few
   may be words all the same: T is a trace of rain. */
static bool states_are_no_amounts(const Tally *tally, const char *path, Error *error)
{
    enum { CLASSES_MOST = 12 };
    bool whole = true;
    size_t numbers = 0;
    const char *last = "";
    Error ignored;
    for (size_t i = 0; i < tally->n_state; i++) {
        double value;
        if (!number_parse(&value, tally->name[i], &ignored))
            continue;
        last = tally->name[i];
        whole = whole && value == floor(value);
        numbers++;
    }
    size_t words = tally->n_state - numbers;
    return (whole && numbers <= CLASSES_MOST) || (words > 0 && numbers < 3 * words) ||
           fail(error,
                "%s: are these amounts? The states are %zu different numbers, like %.20s: a chain "
                "needs a few named states, such as dry for 0 and wet for anything above",
                path, numbers, last);
}

static bool counts_from_record(Counts *counts, const Table *table, size_t first, Error *error)
{
    Counts read;
    memset(&read, 0, sizeof read);
    Tally tally = {0, 8, NEW(const char *, 8), NEW(double, 64)};
    bool titled = record_is_titled(table, first);
    bool ok = tally_record(&tally, &read, table, first + titled, error) &&
              states_are_no_amounts(&tally, table->path, error);
    if (ok) {
        const char *title = titled ? table_cell(table, first, table_width(table, first) - 1) : "";
        read.title = titled && strcasecmp(title, "state") != 0 ? table->line[first] : 0;
        size_t n = read.n_state = tally.n_state;
        read.name = NEW(char *, n);
        read.count = matrix_new(n, n);
        for (size_t i = 0; i < n; i++) {
            read.name[i] = strdup(tally.name[i]);
            memcpy(read.count + i * n, tally.count + i * tally.room, n * sizeof *read.count);
        }
        *counts = read;
    }
    free(tally.name);
    free(tally.count);
    return ok;
}

bool counts_from_table(Counts *counts, const Table *table, Error *error)
{
    size_t first;
    return is_table(table, &first) ? counts_from_counts(counts, table, error)
                                   : counts_from_record(counts, table, first, error);
}

bool counts_read(Counts *counts, const char *path, Error *error)
{
    Table table;
    if (!table_read(&table, path, false, error))
        return false;
    bool ok = counts_from_table(counts, &table, error);
    table_free(&table);
    return ok;
}

/* ====================================== A start =========================================== */

/* Reads n numbers between commas that sum to 1. */
static bool chances_parse(double *chance, const char *text, size_t n, Error *error)
{
    char *copy = strdup(text), *rest = copy;
    double sum = 0.0;
    size_t count = 0;
    bool ok = true;
    Error why;
    for (char *cell = strsep(&rest, ","); ok && cell; cell = strsep(&rest, ","), count++) {
        double value = 0.0;
        if (!number_parse(&value, cell, &why))
            ok = fail(error, "--start: %s", why.text);
        else if (value < 0.0)
            ok = fail(error, "--start: %g is negative", value);
        else if (count < n)
            chance[count] = value;
        sum += value;
    }
    free(copy);
    if (ok && count != n)
        ok = fail(error, "--start: %zu number%s, but there are %zu states", count,
                  count == 1 ? "" : "s", n);
    if (ok && !(fabs(sum - 1.0) <= 1e-9))
        ok = fail(error, "--start: the numbers sum to %.10g, not 1", sum);
    return ok;
}

/* No state has this name: which are there? */
static bool start_unknown(const char *text, char *const *names, size_t n_state, Error *error)
{
    char list[120] = "";
    for (size_t i = 0, used = 0; i < n_state; used = strlen(list), i++) {
        if (used + strlen(names[i]) + 8 > sizeof list) {
            snprintf(list + used, sizeof list - used, " ...");
            break;
        }
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    return fail(error, "--start: unknown state '%.40s'; there are %s", text, list);
}

/* The distribution that `text` names, start (n_state): one state, or chances like 0.5,0.5. */
bool start_parse(double *start, const char *text, char *const *names, size_t n_state, Error *error)
{
    size_t n = n_state, found = name_find(names, n, text);
    double *chance = NEW(double, n);
    bool ok = true;
    if (found < n)
        chance[found] = 1.0;
    else if (strcspn(text, ",0123456789") == strlen(text))
        ok = start_unknown(text, names, n, error);
    else
        ok = chances_parse(chance, text, n, error);
    if (ok)
        memcpy(start, chance, n * sizeof *start);
    free(chance);
    return ok;
}

#endif /* CH01_CHAIN_FILES */
