/* Text that people have, made plain, and tables cut from it.

   HOLDS   the one reader of texts: byte order marks, line ends, what is no UTF-8 or no text at all;
           texts as rows of cells, whatever they are cut at; titles, missing values, numbers
   FOR     every program that reads what a person or a spreadsheet wrote: chains, records, signals,
           systems, stories, cues, corpora */

#ifndef COURSE_TEXT_FILES
#define COURSE_TEXT_FILES

#include "text_width.h"

/* ===================================== Plain text ========================================= */

/* Zero bytes are what UTF-16 has between the letters, and what no text has. */
static bool text_has_no_zeros(const char *text, size_t len, const char *path, Error *error)
{
    static const char *const marks[2] = {"\xFF\xFE", "\xFE\xFF"};
    bool marked = len > 1 && (memcmp(text, marks[0], 2) == 0 || memcmp(text, marks[1], 2) == 0);
    const char *zero = (const char *)memchr(text, '\0', len);
    if (!zero && !marked)
        return true;
    size_t zeros[2] = {0, 0}; /* at even and at odd places */
    for (size_t i = 0; i < len && i < 64; i++)
        zeros[i % 2] += text[i] == '\0';
    bool halved = zeros[0] == 0 || zeros[1] == 0; /* every second byte, for letters of ASCII */
    bool wide = marked && len > 3 && text[2] == '\0' && text[3] == '\0';
    if (marked || (halved && 3 * (zeros[0] + zeros[1]) > (len < 64 ? len : 64)))
        return fail(error, "%s: this is UTF-%d, and UTF-8 is wanted: save it as UTF-8", path,
                    wide ? 32 : 16);
    return fail(error, "%s: a zero byte: this is not a text file", path);
}

static bool text_is_utf8(const char *text, size_t len, const char *path, Error *error)
{
    size_t line = 1;
    uint32_t code;
    for (size_t at = 0, step; at < len; at += step) {
        step = utf8_next(&code, text + at, len - at);
        if (step == 0)
            return fail(error,
                        "%s:%zu: byte %zu of the file (0x%02x) is not UTF-8: an older encoding? "
                        "Save it as UTF-8",
                        path, line, at + 1, (unsigned char)text[at]);
        line += text[at] == '\n' || (text[at] == '\r' && text[at + 1] != '\n');
    }
    return true;
}

/* Makes a text plain, in place: UTF-8 without a byte order mark, and a '\n' at the end of each
   line, be it LF, CR LF or CR. `text` (*len bytes and a 0) may shrink. Fails if it is no UTF-8. */
bool text_make_plain(char *text, size_t *len, const char *path, Error *error)
{
    if (!text_has_no_zeros(text, *len, path, error) || !text_is_utf8(text, *len, path, error))
        return false;
    const char *in = strncmp(text, "\xEF\xBB\xBF", 3) == 0 ? text + 3 : text;
    char *out = text;
    for (; *in; in++)
        if (*in != '\r' || in[1] != '\n') /* of CR LF the CR goes, and CR alone is LF */
            *out++ = *in == '\r' ? '\n' : *in;
    *out = '\0';
    *len = (size_t)(out - text);
    return true;
}

/* A file that a person wrote, made plain; "-" is standard input. */
bool text_read_plain(char **text, size_t *len, const char *path, Error *error)
{
    char *got;
    if (!text_read(&got, len, path, error))
        return false;
    if (!text_make_plain(got, len, path_shown(path), error)) {
        free(got);
        return false;
    }
    *text = got;
    return true;
}

/* ======================================= Tables =========================================== */

/* A text file as rows of cells. Lines that start with # are left out, blank lines are rows without
   cells. `line` keeps the line numbers. */
typedef struct {
    const char *path;
    char cut; /* where cells end: ',' ';' or a tab; ' ' stands for blanks, tabs and commas */
    char *text;
    char **cell;  /* (n_cell) into text */
    size_t *row;  /* (n_row + 1) row r owns cells row[r] .. row[r + 1] - 1 */
    size_t *line; /* (n_row) */
    size_t n_row, n_cell;
} Table;

static bool is_cut(char c, char cut)
{
    return c == cut || (cut == ' ' && (c == '\t' || c == ','));
}

/* Whether a cut stands in the line that ends at `end`, outside of quotes. */
static bool line_has_cut(const char *line, const char *end, char cut)
{
    bool quoted = false;
    for (; line < end && (quoted || *line != cut); line++)
        quoted ^= *line == '"';
    return line < end;
}

/* What the cells of a text are cut at: the one of ; , tab and | that the most lines have, or a
   comma if it is none of half of them. Of two that are in equally many a semicolon comes first:
   where it cuts, commas are in the numbers. */
static char table_cut(const char *text)
{
    static const char cuts[] = {';', ',', '\t', '|'};
    size_t lines = 0, has[4] = {0, 0, 0, 0}, best = 0;
    for (const char *line = text; *line;) {
        const char *end = line + strcspn(line, "\n");
        if (*line != '#' && line + strspn(line, " \t") < end) {
            lines++;
            for (int k = 0; k < 4; k++)
                has[k] += line_has_cut(line, end, cuts[k]);
        }
        line = *end ? end + 1 : end;
    }
    for (size_t k = 1; k < 4; k++)
        best = has[k] > has[best] ? k : best;
    return 2 * has[best] >= lines && has[best] > 0 ? cuts[best] : ',';
}

/* The bytes of a blank at `at`: a space, a tab where it cuts nothing, or one that is not seen and
   comes along when a cell is copied out of a page or a spreadsheet; 0: it is none. */
static size_t blank_bytes(const char *at, char cut)
{
    static const char *const unseen[] = {
        "\xC2\xA0",     /* U+00A0, no break */
        "\xE2\x80\x8B", /* U+200B, of no width */
        "\xE2\x80\xAF", /* U+202F, narrow */
        "\xE3\x80\x80", /* U+3000, as wide as a Chinese character */
        "\xEF\xBB\xBF"  /* U+FEFF, a byte order mark in the midst of a text */
    };
    if (*at == ' ' || (*at == '\t' && cut != '\t'))
        return 1;
    for (size_t k = 0; k < sizeof unseen / sizeof *unseen; k++)
        if (strncmp(at, unseen[k], strlen(unseen[k])) == 0)
            return strlen(unseen[k]);
    return 0;
}

/* The end of a cell (begin .. end) without the blanks there. */
static char *cell_trimmed(const char *begin, char *end, char cut)
{
    for (size_t bytes = 1; bytes <= 3 && bytes <= (size_t)(end - begin);)
        if (blank_bytes(end - bytes, cut) == bytes) {
            end -= bytes;
            bytes = 1;
        } else
            bytes++;
    return end;
}

/* Ends the cell that starts at `line` and returns what follows its separator, NULL at the end of
   the line. Quotes protect separators; a doubled quote inside them stands for one. *cell is NULL if
   a quote is not closed. */
static char *cell_end(char **cell, char *line, char cut)
{
    for (size_t blank; (blank = blank_bytes(line, cut)) > 0;)
        line += blank;
    char *out = line, *rest = NULL;
    *cell = line;
    if (*line == '"') {
        for (line++; *line && (*line != '"' || line[1] == '"'); *out++ = *line++)
            line += *line == '"';
        if (*line == '\0')
            *cell = NULL;
        line += *line == '"';
    }
    for (; *line; *out++ = *line++) {
        if (is_cut(*line, cut)) {
            rest = line + 1;
            break;
        }
    }
    if (*cell)
        *cell_trimmed(*cell, out, cut) = '\0';
    return rest;
}

/* Appends the cells of one line, already cut off from the text. False: a quote is left open. */
static bool table_add_line(Table *table, char *line)
{
    while (line) {
        char *cell;
        line = cell_end(&cell, line, table->cut);
        if (!cell)
            return false;
        if (table->cut == ' ' && *cell == '\0') /* between two spaces there is nothing */
            continue;
        table->cell[table->n_cell++] = cell;
    }
    return true;
}

/* Tabs and line ends are what a table is made of. Any other control character would reach the
   terminal with the name that it stands in. */
static bool table_is_printable(const char *text, const char *path, Error *error)
{
    size_t line = 1;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if ((c < ' ' && c != '\t' && c != '\n') || c == 127)
            return fail(error, "%s:%zu: a control character, 0x%02x: this is no table", path, line,
                        c);
        line += c == '\n';
    }
    return true;
}

/* One pass over the text that counts what the tables need: never fewer than there will be. */
static void table_reserve(Table *table, const char *text)
{
    size_t cells = 2, rows = 2;
    for (; *text; text++) {
        rows += *text == '\n';
        cells += *text == '\n' || is_cut(*text, table->cut);
    }
    table->cell = NEW(char *, cells);
    table->row = NEW(size_t, rows);
    table->line = NEW(size_t, rows);
}

void table_free(Table *table)
{
    free(table->text);
    free(table->cell);
    free(table->row);
    free(table->line);
    memset(table, 0, sizeof *table);
}

/* Cut at commas, semicolons or tabs, as the text has them, or, if `spaces`, at blanks, tabs and
   commas. `text` (len bytes and a 0) was malloc'ed and belongs to the table from now on. */
bool table_parse(Table *table, char *text, size_t len, bool spaces, const char *path, Error *error)
{
    bool ok = text_make_plain(text, &len, path, error);
    char cut = !ok ? '\0' : spaces ? ' ' : table_cut(text);
    if (cut == '|')
        ok = fail(error, "%s: the cells are cut at '|': commas, semicolons or tabs are wanted",
                  path);
    ok = ok && table_is_printable(text, path, error);
    if (!ok) {
        free(text);
        return false;
    }
    memset(table, 0, sizeof *table);
    table->text = text;
    table->path = path;
    table->cut = cut;
    table_reserve(table, text);
    char *line = text;
    for (size_t number = 1; line && *line; number++) {
        char *end = line + strcspn(line, "\n"), *next = *end ? end + 1 : NULL;
        *end = '\0';
        if (*line != '#') {
            table->line[table->n_row] = number;
            if (line[strspn(line, " \t")] != '\0' && !table_add_line(table, line)) {
                table_free(table);
                return fail(error, "%s:%zu: a quote is opened, and not closed on its line", path,
                            number);
            }
            table->row[++table->n_row] = table->n_cell;
        }
        line = next;
    }
    return true;
}

bool table_read(Table *table, const char *path, bool spaces, Error *error)
{
    char *text;
    size_t len;
    return text_read(&text, &len, path, error) &&
           table_parse(table, text, len, spaces, path_shown(path), error);
}

size_t table_width(const Table *table, size_t row)
{
    return table->row[row + 1] - table->row[row];
}

char *table_cell(const Table *table, size_t row, size_t column)
{
    return table->cell[table->row[row] + column];
}

/* The first row that has cells, or n_row. */
size_t table_first_row(const Table *table)
{
    size_t row = 0;
    while (row < table->n_row && table_width(table, row) == 0)
        row++;
    return row;
}

/* ======================================== Cells =========================================== */

/* What stands for a value that is not there: an empty cell, what pandas takes for one by default
   (pandas.read_csv, na_values), and the marks of other people's tables. */
bool cell_is_missing(const char *cell)
{
    static const char *const marks[] = {
        "",       "#N/A",    "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan",
        "1.#IND", "1.#QNAN", "<NA>",     "N/A", "NA",      "NULL",     "NaN",  "None",
        "n/a",    "nan",     "null",     "?",   "-",       "."};
    for (size_t k = 0; k < sizeof marks / sizeof *marks; k++)
        if (strcmp(cell, marks[k]) == 0)
            return true;
    return false;
}

/* Whether a cell begins like a number, and so is one, or a mistake in one, but never a title. */
bool cell_is_like_number(const char *cell)
{
    cell += *cell == '-' || *cell == '+';
    cell += *cell == '.' || *cell == ',';
    return isdigit((unsigned char)*cell) || strcasecmp(cell, "nan") == 0 ||
           strcasecmp(cell, "inf") == 0 || strcasecmp(cell, "infinity") == 0;
}

/* A row that has cells, and none that begins like a number, is a line of titles where numbers are
   wanted. */
bool table_is_title(const Table *table, size_t row)
{
    size_t width = table_width(table, row);
    bool title = width > 0;
    for (size_t i = 0; i < width; i++)
        title = title && !cell_is_like_number(table_cell(table, row, i));
    return title;
}

/* The number in a cell. Where cells are cut at semicolons a comma in a number is a decimal comma,
   as many spreadsheets write it. */
bool table_number(double *value, const Table *table, size_t row, size_t column, Error *error)
{
    char *cell = table_cell(table, row, column), *comma = strchr(cell, ',');
    if (comma && table->cut == ';' && !strpbrk(comma + 1, ",.") &&
        !memchr(cell, '.', (size_t)(comma - cell)))
        *comma = '.';
    return number_parse(value, cell, error);
}

#endif /* COURSE_TEXT_FILES */
