/* Text that people have: whatever their machine wrote, it is read right, or refused by a sentence. */

#include "../ch01_markov/chain_files.c"
#include "../ch01_markov/chain_show.h"
#include "check.h"

/* ---- plain text ------------------------------------------------------------------------- */

/* The text `want` is what becomes of `bytes`, of which the last 0 byte is left out. */
#define assert_plain(bytes, want) check_plain(bytes, sizeof(bytes) - 1, want)

static void check_plain(const char *bytes, size_t len, const char *want)
{
    char *text = NEW(char, len + 1);
    Error error;
    memcpy(text, bytes, len);
    if (!text_make_plain(text, &len, "x", &error))
        fail_msg("%s", error.text);
    assert_string_equal(text, want);
    assert_int_equal(len, strlen(want));
    free(text);
}

#define assert_no_text(bytes, sentence) check_no_text(bytes, sizeof(bytes) - 1, sentence)

static void check_no_text(const char *bytes, size_t len, const char *sentence)
{
    char *text = NEW(char, len + 1);
    Error error;
    memcpy(text, bytes, len);
    assert_false(text_make_plain(text, &len, "x", &error));
    assert_string_equal(error.text, sentence);
    free(text);
}

static void lines_end_with_LF_with_CR_LF_or_with_CR(void **state)
{
    (void)state;
    assert_plain("a\nb\n", "a\nb\n");
    assert_plain("a\r\nb\r\n", "a\nb\n");
    assert_plain("a\rb\r", "a\nb\n");
    assert_plain("a\r\n\r\nb\n\rc", "a\n\nb\n\nc");
    assert_plain("", "");
}

static void a_byte_order_mark_is_no_part_of_a_text(void **state)
{
    (void)state;
    assert_plain("\xEF\xBB\xBFsunny\n", "sunny\n");
    assert_plain("\xEF\xBB\xBF", "");
    assert_plain("a\xEF\xBB\xBF", "a\xEF\xBB\xBF"); /* only at the beginning */
}

static void UTF_16_is_named(void **state)
{
    (void)state;
    static const char sentence[] = "x: this is UTF-16, and UTF-8 is wanted: save it as UTF-8";
    assert_no_text("\xFF\xFEs\0u\0n\0\n\0", sentence);
    assert_no_text("\xFE\xFF\0s\0u\0n\0\n", sentence);
    assert_no_text("s\0u\0n\0\n\0", sentence);
    assert_no_text("\0s\0u\0n\0\n", sentence);
    assert_no_text("\xFF\xFE\x74\x66\x28\x96", sentence); /* two characters, and no 0 byte */
    assert_no_text("\xFF\xFE\0\0s\0\0\0",
                   "x: this is UTF-32, and UTF-8 is wanted: save it as UTF-8");
}

static void a_zero_byte_is_no_text(void **state)
{
    (void)state;
    Table table;
    Error error;
    assert_no_text("a,b\n1\0,2\n", "x: a zero byte: this is not a text file");
    /* a program's first bytes: many zeros, but not at every second place */
    assert_no_text("\x7f"
                   "ELF\2\1\1\0\0\0\0\0\0\0\0\0\3\0>\0\1\0\0\0",
                   "x: a zero byte: this is not a text file");
    assert_false(table_read(&table, "tests/no_such_file", false, &error));
    assert_string_equal(error.text, "tests/no_such_file: No such file or directory");
    assert_false(table_read(&table, "tests", false, &error));
    assert_string_equal(error.text, "tests: Is a directory");
}

static void what_is_no_UTF_8_is_refused_with_its_line(void **state)
{
    (void)state;
    assert_no_text("a\nb\r\nc\rd\xE9t\xE9\n",
                   "x:4: byte 9 of the file (0xe9) is not UTF-8: an older "
                   "encoding? Save it as UTF-8");
    assert_no_text("\xC3",
                   "x:1: byte 1 of the file (0xc3) is not UTF-8: an older encoding? Save it "
                   "as UTF-8");
    assert_no_text("\xED\xA0\x80",
                   "x:1: byte 1 of the file (0xed) is not UTF-8: an older encoding? "
                   "Save it as UTF-8");
    assert_no_text("\xC0\xAF",
                   "x:1: byte 1 of the file (0xc0) is not UTF-8: an older encoding? Save "
                   "it as UTF-8");
    assert_no_text("\xE0\x80\x80",
                   "x:1: byte 1 of the file (0xe0) is not UTF-8: an older encoding? "
                   "Save it as UTF-8"); /* longer than need be */
    assert_plain("d\xC3\xA9t\xC3\xA9 \xE6\x99\xB4 \xF0\x9F\x8C\x88",
                 "d\xC3\xA9t\xC3\xA9 \xE6\x99\xB4 \xF0\x9F\x8C\x88");
}

/* ---- tables ----------------------------------------------------------------------------- */

static Table table_of(const char *text, bool spaces)
{
    Table table;
    Error error;
    if (!table_parse(&table, strdup(text), strlen(text), spaces, "x.csv", &error))
        fail_msg("%s", error.text);
    return table;
}

static void cells_are_cut_however_they_are_written(void **state)
{
    (void)state;
    static const char text[] =
        "\xEF\xBB\xBF# comment\r\na , \"b, \"\"c\"\"\",d\"\"e\t,\r\n \t\n1,,2";
    static const char *const want[3][4] = {{"a", "b, \"c\"", "d\"\"e", ""}, {NULL}, {"1", "", "2"}};
    static const size_t width[3] = {4, 0, 3}, line[3] = {2, 3, 4};
    Table table = table_of(text, false);
    assert_int_equal(table.n_row, 3);
    for (size_t row = 0; row < 3; row++) {
        assert_int_equal(table.line[row], line[row]);
        assert_int_equal(table_width(&table, row), width[row]);
        for (size_t column = 0; column < width[row]; column++)
            assert_string_equal(table_cell(&table, row, column), want[row][column]);
    }
    table_free(&table);
    table = table_of(" a  b,\tc ", true);
    assert_int_equal(table.n_row, 1); /* cut at blanks too, which count for nothing in a row */
    assert_int_equal(table.n_cell, 3);
    assert_string_equal(table_cell(&table, 0, 2), "c");
    table_free(&table);
    table = table_of("", false);
    assert_int_equal(table.n_row, 0);
    assert_int_equal(table_first_row(&table), 0);
    table_free(&table);
}

/* Of the last row of `text` the cells are `first` and `second`. */
static void assert_two_cells(const char *text, char cut, const char *first, const char *second)
{
    Table table = table_of(text, false);
    size_t row = table.n_row - 1;
    assert_int_equal(table.cut, cut);
    assert_int_equal(table_width(&table, row), 2);
    assert_string_equal(table_cell(&table, row, 0), first);
    assert_string_equal(table_cell(&table, row, 1), second);
    table_free(&table);
}

static void commas_semicolons_and_tabs_are_recognised(void **state)
{
    (void)state;
    assert_two_cells("# a;b;c\n\na,b;\nc, d \n", ',', "c", "d");
    assert_two_cells("2024-01-01;a\n2024-01-02;b\n", ';', "2024-01-02", "b");
    assert_two_cells("2024-01-01;0,5\n2024-01-02;0,7\n", ';', "2024-01-02", "0,7");
    assert_two_cells("a;b\na,b;c\n", ';', "a,b", "c");
    assert_two_cells("a\tb c\n\tb\n", '\t', "", "b");
    assert_two_cells("a,\tb\nc,\td\n", ',', "c", "d"); /* a tab behind a comma is a blank */
    assert_two_cells("\"x;y\",1\n\"x;z\",2\n", ',', "x;z", "2"); /* what is quoted cuts nothing */
    assert_two_cells("a;b\nc;d\ne\nf,g\n\n#\nh;i\n", ';', "h", "i"); /* three lines of five */
}

/* U+00A0, U+200B, U+202F, U+3000, a second byte order mark: nobody sees that they are there. */
static void blanks_that_nobody_sees_are_no_part_of_a_cell(void **state)
{
    (void)state;
    assert_two_cells("a\xC2\xA0,1\nx\xE3\x80\x80\xE2\x80\x8B,\xE2\x80\xAF"
                     "2 \xEF\xBB\xBF\n",
                     ',', "x", "2");
    assert_two_cells("\xEF\xBB\xBF\xEF\xBB\xBFx,1\ny\xC2\xA0z,2\n", ',', "y\xC2\xA0z", "2");
}

static void a_quote_that_is_left_open_is_named(void **state)
{
    (void)state;
    static const char text[] = "a,b\n\"sun\nny\",2\n";
    Table table;
    Error error;
    assert_false(table_parse(&table, strdup(text), strlen(text), false, "x.csv", &error));
    assert_string_equal(error.text, "x.csv:2: a quote is opened, and not closed on its line");
    assert_two_cells("a,1\n5\" snow,2\n", ',', "5\" snow", "2"); /* no quote opens there */
}

static void another_separator_is_named(void **state)
{
    (void)state;
    Table table;
    Error error;
    const char *text = "2024-01-01|a\n2024-01-02|b\n";
    assert_false(table_parse(&table, strdup(text), strlen(text), false, "x.csv", &error));
    assert_string_equal(error.text, "x.csv: the cells are cut at '|': commas, semicolons or tabs "
                                    "are wanted");
    table = table_of("a|b\nc\nd\n", false); /* in a third of the lines: part of a name */
    assert_string_equal(table_cell(&table, 0, 0), "a|b");
    table_free(&table);
}

static void control_characters_stay_out_of_tables(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"sunny\n\033[31mrainy\n", "x.csv:2: a control character, 0x1b: this is no table"},
        {"a,b\r\n\r\n1,\x7f\r\n", "x.csv:3: a control character, 0x7f: this is no table"},
        {"# \a\n1\n", "x.csv:1: a control character, 0x07: this is no table"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Table table;
        Error error;
        const char *text = cases[k].text;
        assert_false(table_parse(&table, strdup(text), strlen(text), false, "x.csv", &error));
        assert_string_equal(error.text, cases[k].sentence);
    }
    assert_plain("a\fb\n", "a\fb\n"); /* a text to learn from may have them */
}

static void a_decimal_comma_is_read_where_semicolons_cut(void **state)
{
    (void)state;
    Table table = table_of("0,25;-1,5e1;1.5;1,000.5\n", false);
    double value[3];
    Error error;
    for (size_t i = 0; i < 3; i++)
        assert_true(table_number(&value[i], &table, 0, i, &error));
    assert_near(value[0], 0.25, 0, 0);
    assert_near(value[1], -15, 0, 0);
    assert_near(value[2], 1.5, 0, 0);
    assert_false(table_number(value, &table, 0, 3, &error));
    assert_string_equal(error.text, "'1,000.5' is not a number");
    table_free(&table);
    table = table_of("1,234\t5\n678\t0\n", false); /* between tabs it may be one of thousands */
    assert_int_equal(table.cut, '\t');
    assert_false(table_number(value, &table, 0, 0, &error));
    assert_string_equal(error.text, "'1,234' is not a number");
    table_free(&table);
}

static void titles_are_told_from_numbers_and_mistakes(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        bool title;
    } lines[] = {{"t,u1", true},   {"time,rain (mm)", true}, {"u", true},     {"a,1", false},
                 {"1e400", false}, {"-.5", false},           {"+;x", true},   {"1x,b", false},
                 {"nan", false},   {"t,NaN", false},         {"-inf", false}, {"\"\",u", true}};
    for (size_t k = 0; k < sizeof lines / sizeof *lines; k++) {
        Table table = table_of(lines[k].line, false);
        if (table_is_title(&table, 0) != lines[k].title)
            fail_msg("'%s' is %sa title", lines[k].line, lines[k].title ? "" : "not ");
        table_free(&table);
    }
    Table table = table_of("\n1\n", false); /* a row without cells is none */
    assert_false(table_is_title(&table, 0));
    table_free(&table);
}

static void missing_values_are_those_of_pandas_and_some_marks(void **state)
{
    (void)state;
    static const char *const missing[] = {
        "",       "#N/A",    "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan",
        "1.#IND", "1.#QNAN", "<NA>",     "N/A", "NA",      "NULL",     "NaN",  "None",
        "n/a",    "nan",     "null",     "?",   "-",       "."};
    static const char *const there[] = {"0", "na", "none", "no", "--", "sunny", "N", "Nil"};
    for (size_t k = 0; k < sizeof missing / sizeof *missing; k++)
        if (!cell_is_missing(missing[k]))
            fail_msg("'%s' is missing", missing[k]);
    for (size_t k = 0; k < sizeof there / sizeof *there; k++)
        if (cell_is_missing(there[k]))
            fail_msg("'%s' is a value", there[k]);
}

/* ---- records ---------------------------------------------------------------------------- */

static Counts counts_of(const char *text)
{
    Table table = table_of(text, false);
    Counts counts;
    Error error;
    if (!counts_from_table(&counts, &table, &error))
        fail_msg("%s", error.text);
    table_free(&table);
    return counts;
}

static void assert_refused(const char *text, const char *sentence)
{
    Table table = table_of(text, false);
    Counts counts;
    Error error;
    assert_false(counts_from_table(&counts, &table, &error));
    assert_string_equal(error.text, sentence);
    table_free(&table);
}

/* So many states, days, gaps, and the line that is taken for a title. */
static void assert_record(const char *text, size_t n_state, double days, double gaps, size_t title)
{
    Counts counts = counts_of(text);
    assert_int_equal(counts.n_state, n_state);
    assert_near(counts.days, days, 0, 0);
    assert_near(counts.gaps, gaps, 0, 0);
    assert_int_equal(counts.title, title);
    counts_free(&counts);
}

static void a_record_is_read_as_any_machine_wrote_it(void **state)
{
    (void)state;
    assert_record("sunny\rrainy\rsunny\rsunny\r", 2, 4, 0, 0);
    assert_record("\xEF\xBB\xBFsunny\r\nrainy\r\nsunny\r\nsunny\r\n", 2, 4, 0, 0);
    assert_record("2024-01-01;sunny\n2024-01-02;rainy\n2024-01-03;sunny\n", 2, 3, 0, 0);
    assert_record("date\tstate\n2024-01-01\tsunny\n2024-01-02\tlight rain, later sun\n", 2, 2, 0,
                  0);
    assert_record("sunny\nNA\nrainy\nnan\nsunny\nNaN\nrainy\nN/A\nsunny\nnull\nrainy\n-\nsunny\n",
                  2, 7, 6, 0);
}

static void a_title_is_told_from_the_days(void **state)
{
    (void)state;
    assert_record("Weather\nsunny\nrainy\nsunny\nsunny\n", 2, 4, 0, 1);
    assert_record("# from a log\n\nWeather\n\nsunny\nrainy\nsunny\n", 2, 3, 0, 3);
    assert_record("state\nsunny\nrainy\n", 2, 2, 0, 0); /* it says what it is: no need to tell */
    assert_record("day,weather\n2024-01-01,sunny\n2024-01-02,rainy\n", 2, 2, 0, 1);
    assert_record("sunny\nrainy\nrainy\nsunny\n", 2, 4, 0, 0);
    assert_record("sunny\nrainy\nsnow\n", 3, 3, 0, 0); /* each once: no word stands out */
    assert_record("2024-01-01,snow\n2024-01-02,sunny\n2024-01-03,sunny\n", 2, 3, 0, 0);
    assert_refused("01.01.2024,sunny\n02.01.2024,rainy\n",
                   "x.csv:1: '01.01.2024' is not a date like 1987-01-31");
}

static void amounts_are_asked_about(void **state)
{
    (void)state;
    assert_refused("state\n0\n0.4\n0\n12.7\n0\n",
                   "x.csv: are these amounts? The states are 3 different numbers, like 12.7: a "
                   "chain needs a few named states, such as dry for 0 and wet for anything above");
    assert_refused(
        "state\n0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n",
        "x.csv: are these amounts? The states are 13 different numbers, like 12: a chain "
        "needs a few named states, such as dry for 0 and wet for anything above");
    assert_refused("0.0\nT\n0.4\n12.7\n0.0\nT\n0.0\n", /* a trace of rain changes nothing */
                   "x.csv: are these amounts? The states are 3 different numbers, like 12.7: a "
                   "chain needs a few named states, such as dry for 0 and wet for anything above");
    assert_record("state\n0\n1\n1\n0\n", 2, 4, 0, 0); /* classes may be numbers */
    assert_record("state\n0.0\n1.0\n1.0\n0.0\n", 2, 4, 0, 0);
    assert_record("state\n0.5\nhigh\n0.5\nhigh\n", 2, 4, 0, 0);
}

static void a_date_without_its_comma_is_noticed(void **state)
{
    (void)state;
    assert_refused("2024-01-01 sunny\n2024-01-02 rainy\n",
                   "x.csv:1: a comma is wanted between a date and its state: '2024-01-01 sunny'");
}

static void a_table_of_chances_may_have_decimal_commas(void **state)
{
    (void)state;
    StateTable chances;
    Error error;
    Table table = table_of("from;sunny;rainy\nsunny;0,8;0,2\nrainy;0,4;0,6\n", false);
    if (!chances_from_table(&chances, &table, &error))
        fail_msg("%s", error.text);
    assert_near(chances.value[2], 0.4, 0, 1e-15);
    assert_string_equal(chances.name[1], "rainy");
    names_free(chances.name, 2);
    free(chances.value);
    table_free(&table);
}

/* ---- widths ----------------------------------------------------------------------------- */

static void widths_are_counted_in_columns(void **state)
{
    (void)state;
    assert_int_equal(text_width(""), 0);
    assert_int_equal(text_width("rain"), 4);
    assert_int_equal(text_width("d\xC3\xA9j\xC3\xA0"), 4);
    assert_int_equal(text_width("de\xCC\x81ja\xCC\x80"), 4);     /* marks join what is before */
    assert_int_equal(text_width("\xE6\x99\xB4\xE5\xA4\xA9"), 4); /* two characters of two columns */
    assert_int_equal(text_width("\xF0\x9F\x8C\x88"), 2);         /* a rainbow */
    assert_int_equal(text_width("\xEF\xBC\xA1\xEF\xBD\xB1"), 3); /* fullwidth A, halfwidth a */
    assert_int_equal(text_width("\xE2\x80\x8B|\xE2\x94\x80"), 2); /* no space, and a line */
    assert_int_equal(text_width("\xFF\xC3"), 2);                  /* no UTF-8: bytes */
    assert_int_equal(character_width(0x1160), 0);
    assert_int_equal(character_width(0x115F), 2);
    assert_int_equal(character_width(0x3FFFD), 2);
    assert_int_equal(character_width(0x10FFFF), 1);
    assert_int_equal(character_width(0x2FF), 1);
    assert_int_equal(character_width(0x300), 0);
}

/* What is printed by text_pad_cut, or by text_pad if it is not to be cut. */
static void assert_padded(const char *text, int width, bool cut, bool ascii, const char *want)
{
    char got[64] = "";
    FILE *out = fmemopen(got, sizeof got, "w");
    if (cut)
        text_pad_cut(out, text, width, ascii);
    else
        text_pad(out, text, width);
    fclose(out);
    assert_string_equal(got, want);
}

static void texts_are_padded_and_cut_by_columns(void **state)
{
    (void)state;
    assert_padded("\xE6\x99\xB4", 5, false, false, "   \xE6\x99\xB4");
    assert_padded("\xE6\x99\xB4", -5, false, false, "\xE6\x99\xB4   ");
    assert_padded("sunny", 3, false, false, "sunny");
    assert_padded("sunny", 5, true, false, "sunny");
    assert_padded("sunny", 4, true, false, "sun\xE2\x80\xA6");
    assert_padded("sunny", 4, true, true, "sun.");
    assert_padded("\xE6\x99\xB4\xE5\xA4\xA9", -3, true, true, "\xE6\x99\xB4.");
    assert_padded("\xE6\x99\xB4\xE5\xA4\xA9\xE5\xA4\xA9", -4, true, true, "\xE6\x99\xB4. ");
    assert_padded("\xE6\x99\xB4\xE5\xA4\xA9\xE5\xA4\xA9", 4, true, true, " \xE6\x99\xB4.");
}

/* What is printed from here on goes to a file, until printed_end gives it back. */
typedef struct {
    FILE *file;
    int before; /* where stdout went */
} Printed;

static Printed printed_begin(void)
{
    Printed printed;
    fflush(stdout);
    printed.file = tmpfile();
    printed.before = dup(STDOUT_FILENO);
    assert_true(printed.file != NULL && dup2(fileno(printed.file), STDOUT_FILENO) >= 0);
    return printed;
}

static void printed_end(char *text, size_t room, Printed printed)
{
    fflush(stdout);
    dup2(printed.before, STDOUT_FILENO);
    close(printed.before);
    rewind(printed.file);
    text[fread(text, 1, room - 1, printed.file)] = '\0';
    fclose(printed.file);
}

/* What prose prints on a page of so many columns. */
static void assert_said(const char *columns, const char *text, const char *want)
{
    char got[512];
    Printed printed = printed_begin();
    setenv("COLUMNS", columns, 1);
    prose("%s", text);
    unsetenv("COLUMNS");
    printed_end(got, sizeof got, printed);
    assert_string_equal(got, want);
}

static void paragraphs_are_wrapped_at_the_page(void **state)
{
    (void)state;
    assert_said("40", "one line", "one line\n");
    assert_said("40", "", "\n");
    assert_said("40", "The forecast goes round and need not settle; it is periodic.",
                "The forecast goes round and need not\nsettle; it is periodic.\n");
    assert_said("40", "1234567890123456789012345678901234567890 1\n\n2  3",
                "1234567890123456789012345678901234567890\n1\n\n2  3\n");
    assert_said("40", "  class 1, chance 0.5000 to end here:  a 0.5",
                "  class 1, chance 0.5000 to end here:  a\n  0.5\n");
    assert_said("40", "  class 1, chance 0.5000 to end here:  a" UNBROKEN "0.5",
                "  class 1, chance 0.5000 to end here:\n  a 0.5\n");
    assert_said(
        "40", "\xE6\x99\xB4\xE6\x99\xB4\xE6\x99\xB4\xE6\x99\xB4 234567890123456789012345678901 x",
        "\xE6\x99\xB4\xE6\x99\xB4\xE6\x99\xB4\xE6\x99\xB4 234567890123456789012345678901\nx\n");
}

static void names_in_pictures_are_drawn_smaller_where_they_are_wide(void **state)
{
    (void)state;
    char got[4096] = "";
    FILE *out = fmemopen(got, sizeof got, "w");
    svg_name(out, 1, 2, "sunny");
    svg_name(out, 1, 2, "\xE6\x99\xB4\xE6\x99\xB4\xE6\x99\xB4\xE6\x99\xB4"); /* eight columns */
    fclose(out);
    assert_contains(got, "<text x=\"1.0\" y=\"6.0\" text-anchor=\"middle\">sunny</text>");
    assert_contains(got, "font-size=\"12.3\">\xE6\x99\xB4"); /* 13 times 56 / (8 times 7.4) */
}

static void columns_of_states_are_as_wide_as_their_names(void **state)
{
    (void)state;
    static char *short_names[2] = {(char *)"sunny", (char *)"rainy"};
    static char *wide_names[3] = {(char *)"light rain", (char *)"sun, later cloud",
                                  (char *)"\xE6\x99\xB4"};
    unsetenv("COLUMNS");
    assert_int_equal(state_width(short_names, 2), 10);
    assert_int_equal(state_width(wide_names, 3), 16); /* cut: three of 18 and the rest are 84 */
    setenv("COLUMNS", "100", 1);
    assert_int_equal(state_width(wide_names, 3), 18);
    unsetenv("COLUMNS");
}

static void numbers_keep_four_digits_and_never_touch(void **state)
{
    (void)state;
    static const struct {
        double value;
        int decimals;
        const char *text;
    } cases[] = {
        {0, 4, "0.0000"},
        {-0.0, 4, "0.0000"},
        {1, 4, "1.0000"},
        {0.8, 4, "0.8000"},
        {0.1, 4, "0.1000"},
        {0.05, 4, "0.05000"},
        {-0.012345, 4, "-0.01235"},
        {0.0012344, 4, "0.001234"},
        {0.00098765, 4, "9.877e-04"},
        {-1e-12, 4, "-1.000e-12"},
        {12345.6789, 4, "12345.6789"},
        {1e8, 4, "1.000e+08"},
        {-123456, 4, "-1.235e+05"},
        {0.05, 6, "0.050000"},
        {0.5, 1, "0.5"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        assert_string_equal(number_cell(cases[k].value, cases[k].decimals).text, cases[k].text);
    char got[64];
    Printed printed = printed_begin();
    print_number(-99999.25, 4, 10);
    print_number(2, 4, 10);
    printed_end(got, sizeof got, printed);
    assert_string_equal(got, " -99999.2500    2.0000");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_end_with_LF_with_CR_LF_or_with_CR),
        cmocka_unit_test(a_byte_order_mark_is_no_part_of_a_text),
        cmocka_unit_test(UTF_16_is_named),
        cmocka_unit_test(a_zero_byte_is_no_text),
        cmocka_unit_test(control_characters_stay_out_of_tables),
        cmocka_unit_test(what_is_no_UTF_8_is_refused_with_its_line),
        cmocka_unit_test(cells_are_cut_however_they_are_written),
        cmocka_unit_test(commas_semicolons_and_tabs_are_recognised),
        cmocka_unit_test(blanks_that_nobody_sees_are_no_part_of_a_cell),
        cmocka_unit_test(a_quote_that_is_left_open_is_named),
        cmocka_unit_test(another_separator_is_named),
        cmocka_unit_test(a_decimal_comma_is_read_where_semicolons_cut),
        cmocka_unit_test(titles_are_told_from_numbers_and_mistakes),
        cmocka_unit_test(missing_values_are_those_of_pandas_and_some_marks),
        cmocka_unit_test(a_record_is_read_as_any_machine_wrote_it),
        cmocka_unit_test(a_title_is_told_from_the_days),
        cmocka_unit_test(amounts_are_asked_about),
        cmocka_unit_test(a_date_without_its_comma_is_noticed),
        cmocka_unit_test(a_table_of_chances_may_have_decimal_commas),
        cmocka_unit_test(widths_are_counted_in_columns),
        cmocka_unit_test(texts_are_padded_and_cut_by_columns),
        cmocka_unit_test(paragraphs_are_wrapped_at_the_page),
        cmocka_unit_test(names_in_pictures_are_drawn_smaller_where_they_are_wide),
        cmocka_unit_test(columns_of_states_are_as_wide_as_their_names),
        cmocka_unit_test(numbers_keep_four_digits_and_never_touch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
