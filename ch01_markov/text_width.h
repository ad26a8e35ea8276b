/* How wide a text is: columns of a terminal, not bytes.

   HOLDS   the characters of UTF-8 and their widths; texts padded to a width, and cut at one;
           paragraphs wrapped at the page; numbers for tables
   FOR     the tables and pictures of every chapter, in the terminal and as SVG */

#ifndef COURSE_TEXT_WIDTH
#define COURSE_TEXT_WIDTH

#include "tools.h"
#include "width_tables.h"

/* How many bytes the UTF-8 character at text (of `left` bytes) has, and which it is; 0 if it is
   none. RFC 3629, section 4: no form longer than needed, no surrogates, nothing above 10FFFF. */
size_t utf8_next(uint32_t *code, const char *text, size_t left)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *byte = (const unsigned char *)text;
    size_t len = byte[0] < 0x80   ? 1
                 : byte[0] < 0xC2 ? 0
                 : byte[0] < 0xE0 ? 2
                 : byte[0] < 0xF0 ? 3
                 : byte[0] < 0xF5 ? 4
                                  : 0;
    *code = byte[0];
    if (len < 2)
        return len;
    if (len > left)
        return 0;
    *code &= 0xFFu >> (len + 1);
    for (size_t i = 1; i < len; i++) {
        if ((byte[i] & 0xC0) != 0x80)
            return 0;
        *code = *code << 6 | (byte[i] & 0x3F);
    }
    return *code < least[len] || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000) ? 0 : len;
}

/* And back: the bytes of a character, at most 4; how many. */
size_t utf8_put(unsigned char *out, uint32_t code)
{
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    size_t len = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = len; i-- > 1; code >>= 6)
        out[i] = (unsigned char)(0x80 | (code & 0x3F));
    out[0] = (unsigned char)(lead[len] | code);
    return len;
}

static bool width_is_in(uint32_t code, const WidthRange *range, size_t n_range)
{
    size_t low = 0,
           high = n_range; /* range[0 .. low - 1] end before code, range[high] begin after */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (range[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n_range && range[low].first <= code;
}

/* Columns of one character: 0 for a mark on the one before it, 2 for most of East Asia's. */
size_t character_width(uint32_t code)
{
    if (code < 0x300)
        return 1;
    if (width_is_in(code, width_none, sizeof width_none / sizeof *width_none))
        return 0;
    return width_is_in(code, width_two, sizeof width_two / sizeof *width_two) ? 2 : 1;
}

/* How many bytes of the text go into so many columns, and *width, how many columns these are. What
   is no UTF-8 counts as a column a byte. */
size_t text_fit(size_t *width, const char *text, size_t columns)
{
    size_t at = 0, left = strlen(text);
    *width = 0;
    while (at < left) {
        uint32_t code;
        size_t len = utf8_next(&code, text + at, left - at);
        size_t wide = len > 0 ? character_width(code) : 1;
        if (*width + wide > columns)
            break;
        *width += wide;
        at += len > 0 ? len : 1;
    }
    return at;
}

/* Columns of a UTF-8 text. */
size_t text_width(const char *text)
{
    size_t width;
    text_fit(&width, text, SIZE_MAX / 2);
    return width;
}

/* Like %*s, but counts columns. */
void text_pad(FILE *out, const char *text, int width)
{
    int blank = abs(width) - (int)text_width(text);
    fprintf(out, "%*s%s%*s", width > 0 && blank > 0 ? blank : 0, "", text,
            width < 0 && blank > 0 ? blank : 0, "");
}

/* The same, but never wider: what does not fit is cut, with a dot or … at the cut. */
void text_pad_cut(FILE *out, const char *text, int width, bool ascii)
{
    size_t room = (size_t)abs(width), wide, bytes = text_fit(&wide, text, room);
    if (text[bytes] == '\0') {
        text_pad(out, text, width);
        return;
    }
    bytes = text_fit(&wide, text, room - 1);
    int blank = (int)(room - 1 - wide);
    fprintf(out, "%*s%.*s%s%*s", width > 0 ? blank : 0, "", (int)bytes, text, ascii ? "." : "…",
            width < 0 ? blank : 0, "");
}

#define UNBROKEN "\x1f" /* a blank at which no line of a paragraph is broken */

/* One line of a paragraph (len bytes): wrapped at blanks, each line as far in as the first. */
static void print_wrapped(FILE *out, const char *line, size_t len)
{
    size_t indent = 0, at, column, page = page_columns();
    while (indent < len && line[indent] == ' ')
        indent++;
    fprintf(out, "%*s", (int)indent, "");
    at = column = indent;
    while (at < len) {
        char word[1024];
        size_t blank = 0, used = 0;
        for (; at < len && line[at] == ' '; at++)
            blank++;
        for (; at < len && line[at] != ' ' && used + 1 < sizeof word; at++)
            word[used++] = line[at] == *UNBROKEN ? ' ' : line[at];
        word[used] = '\0';
        size_t wide = text_width(word);
        if (column > indent && column + blank + wide > page) {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
            blank = 0;
        }
        fprintf(out, "%*s%s", (int)blank, "", word);
        column += blank + wide;
    }
    fputc('\n', out);
}

/* A paragraph on stdout, wrapped at the page, with a new line after it. What begins with blanks
   goes on under its first word. */
__attribute__((format(printf, 1, 2))) void prose(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    int len = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = NEW(char, (size_t)(len > 0 ? len : 0) + 1);
    vsnprintf(text, (size_t)(len > 0 ? len : 0) + 1, format, again);
    va_end(again);
    for (const char *line = text; line;) {
        const char *end = strchr(line, '\n');
        print_wrapped(stdout, line, end ? (size_t)(end - line) : strlen(line));
        line = end ? end + 1 : NULL;
    }
    free(text);
}

/* ================================== Numbers of a table ==================================== */

typedef struct {
    char text[32];
} Cell;

/* A number with so many decimals; with more, so that four of its digits are there, where it is
   small; and as 1.234e-08 below 0.001 or from 100,000 on. */
Cell number_cell(double v, int decimals)
{
    Cell cell;
    double size = fabs(v);
    if (size > 0.0 && (size < 1e-3 || size >= 1e5)) {
        snprintf(cell.text, sizeof cell.text, "%.3e", v);
        return cell;
    }
    int least = size >= 0.1 || size == 0.0 ? 0 : size >= 0.01 ? 5 : 6; /* 0.01235 has four digits */
    snprintf(cell.text, sizeof cell.text, "%.*f", decimals > least ? decimals : least, v + 0.0);
    return cell;
}

/* The same in a column, which it never fills to its left edge: two numbers do not touch. */
void print_number(double v, int decimals, int width)
{
    printf(" %*s", width - 1, number_cell(v, decimals).text);
}

#endif /* COURSE_TEXT_WIDTH */
