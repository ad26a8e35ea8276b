/* The ground of the course, ch01_markov/tools.h and charts.h, held against numbers worked by hand,
   full disks, and options as a stranger might type them. */

#include "../ch01_markov/charts.h"
#include "check.h"

/* ---- memory ------------------------------------------------------------------------------ */

static void arrays_grow_and_keep_what_is_in_them(void **state)
{
    (void)state;
    uint32_t *array = NULL;
    for (uint32_t count = 0; count < 1000; count++) {
        array = (uint32_t *)array_grow(array, count, sizeof *array);
        array[count] = count; /* one too far would be seen by the address sanitizer */
    }
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(array[i], i);
    free(array);
    char *copy = text_copy("");
    assert_string_equal(copy, "");
    free(copy);
}

/* ---- random numbers -------------------------------------------------------------------- */

static void pcg32_gives_its_published_numbers(void **state)
{
    (void)state; /* the first outputs of the reference implementation for seed 42, stream 54 */
    static const uint32_t want[] = {0xa15c02b7, 0x7b47f409, 0xba1d3330,
                                    0x83d2f293, 0xbfa4784b, 0xcbed606e};
    Random random = random_from_seed(42);
    for (size_t k = 0; k < 6; k++)
        assert_int_equal(random_u32(&random), want[k]);
}

static void uniform_and_normal_numbers_have_their_moments(void **state)
{
    (void)state;
    enum { DRAWS = 200000 };
    Random random = random_from_seed(5);
    double sum = 0, square = 0, mean = 0, variance = 0;
    for (int k = 0; k < DRAWS; k++) {
        double u = random_uniform(&random), z = random_normal(&random);
        assert_true(u >= 0.0 && u < 1.0 && isfinite(z));
        sum += u;
        square += u * u;
        mean += z;
        variance += z * z;
    }
    /* allowances: five standard errors of each mean */
    assert_near(sum / DRAWS, 0.5, 5 * sqrt(1.0 / 12 / DRAWS), 0);
    assert_near(square / DRAWS, 1.0 / 3, 5 * sqrt(4.0 / 45 / DRAWS), 0);
    assert_near(mean / DRAWS, 0.0, 5 * sqrt(1.0 / DRAWS), 0);
    assert_near(variance / DRAWS, 1.0, 5 * sqrt(2.0 / DRAWS), 0);
}

/* ---- matrices -------------------------------------------------------------------------- */

static void linear_systems_are_solved(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 31, 100};
    for (size_t s = 0; s < 4; s++) {
        size_t n = sizes[s];
        double *A = matrix_new(n, n), *copy = matrix_new(n, n), *X = NEW(double, n * 3);
        double *want = NEW(double, n * 3);
        Random random = random_from_seed(n);
        for (size_t i = 0; i < n * n; i++)
            copy[i] = A[i] = random_normal(&random);
        for (size_t i = 0; i < n * 3; i++)
            want[i] = random_normal(&random);
        matrix_multiply(X, A, want, n, n, 3);
        assert_true(matrix_solve(X, copy, n, 3));
        assert_relmax(X, want, n * 3, 1e-10); /* condition numbers up to about 1e4 here */
        free(A);
        free(copy);
        free(X);
        free(want);
    }
    double zero_pivot[4] = {0, 1, 1, 0}, b[2] = {3, 4}, singular[4] = {1, 2, 2, 4};
    assert_true(matrix_solve(b, zero_pivot, 2, 1));
    assert_true(b[0] == 4 && b[1] == 3);
    double A[9] = {2, 1, 1, 4, 3, 3, 8, 7, 9}, x[3] = {4, 10, 24}, ones[3] = {1, 1, 1};
    assert_true(
        matrix_solve(x, A, 3, 1)); /* the determinant is 4, up to swaps: the pivots' product */
    assert_near(fabs(A[0] * A[4] * A[8]), 4, 1e-14, 0);
    assert_all_near(x, ones, 3, 1e-14, 0);
    assert_false(matrix_solve(b, singular, 2, 1));
}

static void the_largest_of_numbers_with_a_NaN_is_NaN(void **state)
{
    (void)state;
    double first[3] = {NAN, 1, 2}, middle[3] = {1, NAN, 2}, last[3] = {1, 2, NAN};
    double none[3] = {1, -3, 2};
    assert_true(isnan(matrix_max_abs(first, 3)));
    assert_true(isnan(matrix_max_abs(middle, 3)));
    assert_true(isnan(matrix_max_abs(last, 3)));
    assert_near(matrix_max_abs(none, 3), 3, 0, 0);
    assert_near(matrix_max_abs(none, 0), 0, 0, 0);
}

static void spectral_radii_known_in_closed_form_are_found(void **state)
{
    (void)state;
    double turn[4] = {0.6, -0.8, 0.8, 0.6}, jordan[4] = {0.9, 1, 0, 0.9},
           nilpotent[4] = {0, 1, 0, 0};
    double large[4] = {3e200, 0, 0, 1e200}, lopsided[4] = {0.5, 1e6, 0, -0.7};
    assert_near(matrix_spectral_radius(turn, 2), 1.0, 1e-12, 0);
    assert_near(matrix_spectral_radius(jordan, 2), 0.9, 1e-12, 0);
    assert_near(matrix_spectral_radius(nilpotent, 2), 0.0, 0, 0);
    assert_near(matrix_spectral_radius(large, 2), 3e200, 0, 1e-12);
    assert_near(matrix_spectral_radius(lopsided, 2), 0.7, 1e-12, 0);
}

/* ---- numbers ------------------------------------------------------------------------- */

static void numbers_are_read_strictly(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0.25", 0.25}, {"-1e-3", -1e-3}, {"2/3", 2.0 / 3.0}, {".5", 0.5}, {"0", 0}};
    static const char *const bad[][2] = {
        {"", "'' is not a number"},
        {"half", "'half' is not a number"},
        {"1/", "'1/' is not a number"},
        {"1x", "'1x' is not a number"},
        {"1 ", "'1 ' is not a number"},
        {"/2", "'/2' is not a number"},
        {"1/2/3", "'1/2/3' is not a number"},
        {"nan", "'nan' is not a finite number"},
        {"-inf", "'-inf' is not a finite number"},
        {"1/0", "'1/0' is not a finite number"},
        {"1e999", "'1e999' is not a finite number"},
    };
    double value = 7.0;
    Error error;
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        assert_false(number_parse(&value, bad[k][0], &error));
        assert_string_equal(error.text, bad[k][1]);
        assert_near(value, 7.0, 0, 0);
    }
    for (size_t k = 0; k < sizeof good / sizeof *good; k++) {
        assert_true(number_parse(&value, good[k].text, &error));
        assert_near(value, good[k].value, 0, 0);
    }
}

static void whole_numbers_are_read_strictly(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"abc", "'abc' is not a whole number"},
        {"", "'' is not a whole number"},
        {"1.5", "'1.5' is not a whole number"},
        {"-1", "'-1' is not a whole number"},
        {"+1", "'+1' is not a whole number"},
        {" 1", "' 1' is not a whole number"},
        {"1 ", "'1 ' is not a whole number"},
        {"0x10", "'0x10' is not a whole number"},
        {"0", "0 is out of range: 1 to 1000"},
        {"1001", "1001 is out of range: 1 to 1000"},
        {"99999999999999999999", "99999999999999999999 is out of range: 1 to 1000"},
    };
    uint64_t value = 77;
    Error error;
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        assert_false(integer_parse(&value, bad[k][0], 1, 1000, &error));
        assert_string_equal(error.text, bad[k][1]);
        assert_int_equal(value, 77);
    }
    assert_false(integer_parse(&value, "18446744073709551616", 0, UINT64_MAX, &error));
    assert_contains(error.text, "out of range");
    assert_true(integer_parse(&value, "1000", 1, 1000, &error));
    assert_int_equal(value, 1000);
    assert_true(integer_parse(&value, "18446744073709551615", 0, UINT64_MAX, &error));
    assert_true(value == UINT64_MAX);
}

/* ---- files written whole or not at all ------------------------------------------------- */

static void a_file_appears_whole_or_not_at_all(void **state)
{
    (void)state;
    char dir[] = "/tmp/ch01_out_XXXXXX", path[64], text[8] = "";
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    OutFile file;
    Error error;
    assert_true(out_open(&file, path, &error));
    fputs("one", file.stream);
    fflush(file.stream);
    assert_int_equal(access(path, F_OK), -1); /* not yet */
    assert_true(out_close(&file, &error));
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    assert_int_equal(fread(text, 1, 7, in), 3);
    fclose(in);
    unlink(path);
    assert_int_equal(rmdir(dir), 0); /* no temporary file is left */
    assert_false(out_open(&file, "/tmp/no/such/dir/file", &error));
    assert_contains(error.text, "/tmp/no/such/dir/file: cannot be written");
}

static void a_file_written_anew_keeps_who_may_read_it(void **state)
{
    (void)state;
    char dir[] = "/tmp/ch01_mode_XXXXXX", path[64], other[64], leftover[96];
    OutFile file;
    Error error;
    struct stat info;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    snprintf(other, sizeof other, "%s/other", dir);
    int descriptor = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(descriptor >= 0);
    close(descriptor);
    assert_int_equal(chmod(path, 0640), 0);
    snprintf(leftover, sizeof leftover, "%s.%ld.tmp", path, (long)getpid());
    assert_int_equal(symlink(other, leftover), 0); /* set by a stranger */
    assert_true(out_open(&file, path, &error));
    fputs("anew", file.stream);
    assert_true(out_close(&file, &error));
    assert_int_equal(access(other, F_OK), -1);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0640);
    assert_int_equal(info.st_size, 4);
    assert_int_equal(chmod(path, 0440), 0);
    if (access(path, W_OK) != 0) { /* root may write everything */
        assert_false(out_open(&file, path, &error));
        assert_contains(error.text, "cannot be written: Permission denied");
    }
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

static void a_full_disk_is_reported_and_devices_stay_devices(void **state)
{
    (void)state;
    OutFile file;
    Error error;
    struct stat info;
    if (access("/dev/full", W_OK) == 0) {
        assert_true(out_open(&file, "/dev/full", &error));
        fputs("text", file.stream);
        assert_false(out_close(&file, &error));
        assert_contains(error.text, "/dev/full: cannot be written: No space left");
    }
    assert_true(out_open(&file, "/dev/null", &error));
    assert_true(out_close(&file, &error));
    assert_int_equal(stat("/dev/null", &info), 0);
    assert_true(S_ISCHR(info.st_mode));
}

static void whether_a_file_can_be_written_is_asked_without_a_trace(void **state)
{
    (void)state;
    char dir[] = "/tmp/ch01_trial_XXXXXX", path[64], text[8] = "";
    OutFile file;
    Error error;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    assert_true(out_possible(NULL, &error));
    assert_true(out_possible("/dev/null", &error));
    assert_true(out_possible(path, &error));
    assert_int_equal(rmdir(dir), 0); /* nothing was left in it */
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_true(out_open(&file, path, &error));
    fputs("old", file.stream);
    assert_true(out_close(&file, &error));
    assert_true(out_possible(path, &error));
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    assert_int_equal(fread(text, 1, 7, in), 3); /* what was there still is */
    fclose(in);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
    assert_false(out_possible(path, &error));
    assert_contains(error.text, "cannot be written: No such file or directory");
    assert_false(out_possible("/tmp", &error));
    assert_string_equal(error.text, "/tmp: cannot be written: Is a directory");
    assert_false(out_possible("-", &error));
    assert_string_equal(error.text,
                        "-: standard output has the text already: give this file a name");
}

/* ---- charts ---------------------------------------------------------------------------- */

enum { CHART_TEXT = 20000 };

/* What `chart_print` draws: text (CHART_TEXT). */
static void chart_text(char *text, const Chart *chart, bool ascii)
{
    Look look = {ascii, false};
    FILE *out = fmemopen(text, CHART_TEXT, "w");
    assert_non_null(out);
    chart_print(out, chart, &look);
    fclose(out);
}

static void charts_draw_points_where_they_are(void **state)
{
    (void)state;
    double x[3] = {0, 5, 10}, y[3] = {0, 1, 2};
    Chart chart = chart_new("title", "x", "y");
    chart_add(&chart, "", MARK_POINTS, x, y, 3);
    char text[CHART_TEXT];
    chart_text(text, &chart, true);
    const char *line = strchr(text, '\n') + 1;
    assert_contains(text, "title   (y)");
    assert_int_equal(strcspn(line, "\n"), 13 + 60); /* the last point: top right */
    assert_int_equal(line[13 + 59], '*');
    assert_contains(text, "          0 |*\n"); /* the first: bottom left */
}

static void a_line_is_drawn_whichever_way_it_goes(void **state)
{
    (void)state;
    double x[2] = {0, 10}, y[2] = {0, 2}, back_x[2] = {10, 0}, back_y[2] = {2, 0};
    char there[CHART_TEXT], back[CHART_TEXT];
    Chart chart = chart_new("title", "x", "y"), other = chart;
    chart_add(&chart, "", MARK_LINE, x, y, 2);
    chart_add(&other, "", MARK_LINE, back_x, back_y, 2);
    chart_text(there, &chart, true);
    chart_text(back, &other, true);
    assert_string_equal(back, there);
    const char *line = there;
    for (int row = 0; row < PLOT_ROWS; row++) { /* something in each row: 60 marks in all */
        line = strchr(line, '\n') + 1;
        assert_int_equal(line[12], '|');
        assert_in_range(strcspn(line, "\n"), 14, 13 + 60);
    }
}

/* The SVG of a chart, to be freed. */
static char *chart_drawn(const Chart *chart)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    chart_svg(out, chart, 0, 0, SVG_WIDTH, SVG_HEIGHT);
    fclose(out);
    return text;
}

static void logarithmic_ticks_are_written_as_one_reads_them(void **state)
{
    (void)state;
    static const struct {
        double low, high;
        const char *in_text, *in_svg, *not_in_svg;
    } cases[] = {{1, 1e4, "10,000", ">10,000<", "1e"},  {0.001, 10, "0.001", ">0.01<", "1e"},
                 {1e-8, 1, "1e-6", ">10⁻⁶<", "1e"},     {1, 1e12, "1e10", ">10¹⁰<", "1e"},
                 {8, 128, "50", ">20<", ">1<"},         {300, 900, "500", ">500<", ">1000<"},
                 {1e-8, 1e-6, "1e-7", ">10⁻⁷<", ">1<"}, {1, 100, "1", ">1<", "10⁰"}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        double x[2] = {cases[k].low, cases[k].high}, y[2] = {0, 7};
        char text[CHART_TEXT];
        Chart chart = chart_new("t", "x", "y");
        chart.log_x = true;
        chart_add(&chart, "", MARK_LINE, x, y, 2);
        chart_text(text, &chart, true);
        assert_contains(text, cases[k].in_text);
        char *svg = chart_drawn(&chart);
        assert_contains(svg, cases[k].in_svg);
        assert_null(strstr(svg, cases[k].not_in_svg));
        free(svg);
    }
}

static void a_thing_is_drawn_in_its_ink_and_named_once(void **state)
{
    (void)state;
    double x[2] = {0, 1}, y[2] = {0, 1};
    char text[CHART_TEXT];
    Chart chart = chart_new("t", "x", "y");
    chart_add(&chart, "sunny", MARK_LINE, x, y, 2);
    chart_ink(&chart, INK_AMBER);
    chart_add(&chart, NULL, MARK_LINE, y, x, 2); /* belongs to the one before */
    chart_ink(&chart, INK_AMBER);
    chart_add(&chart, "where", MARK_AREA, x, y, 2);
    char *svg = chart_drawn(&chart);
    assert_contains(svg, svg_colour(INK_AMBER));
    assert_null(strstr(svg, svg_colour(INK_BLUE)));
    assert_null(strstr(svg, svg_colour(INK_VERMILION)));
    assert_contains(svg, svg_colour(INK_GREEN)); /* the third takes the third ink */
    assert_contains(svg, "<polygon ");
    assert_contains(svg, ">where<");
    chart_text(text, &chart, true); /* an area is drawn in SVG alone */
    assert_contains(text, "* sunny\n");
    assert_null(strchr(text, 'o'));
    assert_null(strstr(text, "where"));
    free(svg);
}

static void lines_of_reference_stand_at_their_height_with_their_number(void **state)
{
    (void)state;
    double x[2] = {0, 10}, y[2] = {0, 1};
    char text[CHART_TEXT];
    Chart chart = chart_new("t", "x", "y");
    chart_add(&chart, "", MARK_POINTS, x, y, 2);
    chart_level(&chart, 2.0 / 3.0);
    chart_level(&chart, 0.1234);
    char *svg = chart_drawn(&chart);
    assert_contains(svg, ">2/3<");
    assert_contains(svg, ">0.1234<");
    /* the box: from 50 down to 380 - 98; 2/3 of the way up */
    assert_contains(svg, "<path d=\"M62.0,144.0 h");
    chart_text(text, &chart, true);
    assert_contains(text, "|------------------------------------------------------------\n");
    free(svg);
}

static void names_of_lines_of_reference_do_not_lie_on_each_other(void **state)
{
    (void)state; /* 1/2 twice, as two states may have it, and two more just below */
    static const double levels[5] = {0.4901, 0.5, 0.5, 0.4999, NAN};
    double x[2] = {0, 10}, y[2] = {0, 1}, at[3];
    const char *names[3] = {">1/2<", ">0.4999<", ">0.4901<"};
    Chart chart = chart_new("t", "x", "y");
    chart_add(&chart, "", MARK_POINTS, x, y, 2);
    for (int k = 0; k < 5; k++)
        chart_level(&chart, levels[k]);
    char *svg = chart_drawn(&chart);
    for (int k = 0; k < 3; k++) {
        char *name = strstr(svg, names[k]), *text = name;
        assert_non_null(name);
        assert_null(strstr(name + 1, names[k]));
        while (strncmp(text, "<text", 5) != 0)
            text--;
        assert_int_equal(sscanf(text, "<text x=\"%*f\" y=\"%lf\"", &at[k]), 1);
    }
    assert_near(at[0], 195.0, 0.1, 0); /* half way up the box, and 4 below for the letters */
    assert_near(at[1], at[0] + 12.0, 0.1, 0);
    assert_near(at[2], at[1] + 12.0, 0.1, 0);
    free(svg);
}

static void a_square_chart_has_one_unit_for_both_axes(void **state)
{
    (void)state;
    double x[4] = {-2, 0, -1, -1}, y[4] = {0, 0, -1, 1};
    Chart chart = chart_new("t", "x", "y");
    chart.square = true;
    chart.x_low = -2.5;
    chart.x_high = 0.5;
    chart_add(&chart, "", MARK_POINTS, x, y, 4);
    char *svg = chart_drawn(&chart);
    double at[8], left, right, top, bottom;
    char *mark = svg;
    for (int k = 0; k < 4; k++) {
        mark = strstr(mark, "<circle cx=") + 1;
        assert_int_equal(sscanf(mark, "circle cx=\"%lf\" cy=\"%lf\"", &at[2 * k], &at[2 * k + 1]),
                         2);
    }
    left = at[0];
    right = at[2];
    bottom = at[5];
    top = at[7];
    assert_near(right - left, bottom - top, 0.2, 0);
    assert_true(left > 62.0 + 1.0 && right - left > 150.0);
    free(svg);
}

static void a_long_legend_goes_on_in_a_second_line(void **state)
{
    (void)state;
    double x[2] = {0, 1}, y[2] = {0, 1};
    Chart chart = chart_new("t", "x", "y");
    for (int k = 0; k < 3; k++)
        chart_add(&chart, "a name as long as this one is, forty letters", MARK_POINTS, x, y, 2);
    assert_int_equal(svg_legend(NULL, &chart, 0, 0, SVG_WIDTH - 76), 3);
    char *svg = chart_drawn(&chart);
    for (char *word = strstr(svg, "<text"); word; word = strstr(word + 1, "<text")) {
        double at_x, at_y;
        assert_int_equal(sscanf(word, "<text x=\"%lf\" y=\"%lf\"", &at_x, &at_y), 2);
        assert_true(at_x < SVG_WIDTH && at_y < SVG_HEIGHT);
    }
    free(svg);
}

static void charts_bear_any_numbers(void **state)
{
    (void)state;
    double x[6] = {0, 1, 2, 3, 4, 5}, y[6] = {NAN, INFINITY, -INFINITY, 1e300, -1e300, 0};
    char text[CHART_TEXT];
    double flat[6] = {3, 3, 3, 3, 3, 3}, tiny[6] = {1e-320, 1e-310, 1e-300, 0, -1, 1};
    for (int log = 0; log < 2; log++)
        for (int ascii = 0; ascii < 2; ascii++) {
            Chart chart = chart_new("t", "x", "y");
            chart.log_x = chart.log_y = log;
            chart_add(&chart, "a", MARK_LINE, x, y, 6);
            chart_add(&chart, "b", MARK_STEMS, x, tiny, 6);
            chart_add(&chart, "c", MARK_POINTS, x, flat, 6);
            chart_add(&chart, "none", MARK_LINE, x, y, 0);
            chart_text(text, &chart, ascii);
            Chart empty = chart_new("t", "x", "y");
            chart_add(&empty, "", MARK_LINE, x, y, 1);
            chart_text(text, &empty, ascii);
            Chart level = chart_new("t", "x", "y");
            level.log_y = log;
            chart_add(&level, "", MARK_LINE, x, flat, 6);
            chart_text(text, &level, ascii);
        }
}

static void charts_of_hostile_numbers_have_only_places_in_them(void **state)
{
    (void)state;
    static const double sets[][4] = {
        {-1.7e308, 1.7e308, 0, 1}, {5e-324, 1e-323, 5e-324, 1e-323},
        {0, 5e-324, 0, 0},         {1, 1 + 1e-15, 1, 1},
        {1e-300, 1e300, 1, 2},     {NAN, NAN, NAN, NAN},
        {INFINITY, 1, 2, 3},       {1e15, 1e15 + 1, 1e15 + 2, 1e15},
        {1000, 1000, 1000, 1000},
    };
    enum { SETS = sizeof sets / sizeof *sets };
    for (int k = 0; k < 4 * SETS * SETS; k++) {
        Chart chart = chart_new("t", "x", "y");
        char text[CHART_TEXT];
        chart.log_x = k % 2;
        chart.log_y = k / 2 % 2;
        chart.square = k % 3 == 0;
        chart_level(&chart, sets[k % SETS][0]);
        for (int mark = MARK_LINE; mark <= MARK_AREA; mark++)
            chart_add(&chart, "a", (Mark)mark, sets[k / 4 % SETS], sets[k / 4 / SETS], 4);
        chart_text(text, &chart, true);
        assert_null(strstr(text, "nan"));
        FILE *out = fmemopen(text, CHART_TEXT, "w");
        assert_non_null(out);
        chart_svg(out, &chart, 0, 0, SVG_WIDTH, SVG_HEIGHT);
        assert_true(ftell(out) < CHART_TEXT - 1);
        fclose(out);
        assert_null(strstr(text, "nan"));
        assert_null(strstr(text, "inf"));
    }
}

static void ascii_charts_are_ascii(void **state)
{
    (void)state;
    double x[3] = {0, 5, 10}, y[3] = {-1, 1, 2};
    Chart chart = chart_new("t", "x", "y");
    chart_add(&chart, "a", MARK_LINE, x, y, 3);
    chart_add(&chart, "b", MARK_STEMS, x, y, 3);
    char text[CHART_TEXT];
    chart_text(text, &chart, true);
    for (char *c = text; *c; c++)
        assert_true((unsigned char)*c < 128);
}

static void names_in_a_drawing_cannot_break_it(void **state)
{
    (void)state;
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    svg_text(out, 1, 2, "", "<a & \"b\">\x01");
    fclose(out);
    assert_string_equal(text, "<text x=\"1.0\" y=\"2.0\" >&lt;a &amp; \"b\"&gt;</text>\n");
    free(text);
}

/* ---- options ----------------------------------------------------------------------------- */

typedef enum { ZOH, EULER, TUSTIN } Rule;

/* Where the options of a program like those of the course land. */
typedef struct {
    bool loud, demo, bench, help;
    const char *out, *in, *file, *name;
    Texts notes;
    uint64_t days, seed;
    double rate;
    Rule rule;
} Landed;

enum { N_OPTION = 14 };

/* Reads words, given as one string cut at single blanks ("_" stands for an empty word), into what
   has been there before. */
typedef struct {
    Option option[N_OPTION];
    Program program;
} Options;

static void options_of(Options *options, Landed *to)
{
    const Option table[N_OPTION] = {
        {"FILE", NULL, OPTION_ARGUMENT, 0, 0, &to->file, "", "the file"},
        {"NAME", NULL, OPTION_ARGUMENT, 0, 0, &to->name, "", "what in it"},
        {"loud", NULL, OPTION_SWITCH, 0, 0, &to->loud, "", "with noise"},
        {"out", "FILE", OPTION_OUT, 0, 0, &to->out, "!in", "where to"},
        {"in", "FILE", OPTION_TEXT, 0, 0, &to->in, "", "where from"},
        {"note", "TEXT", OPTION_TEXTS, 0, 0, &to->notes, "", "a remark, as often as one likes"},
        {"days", "N", OPTION_WHOLE, 1, 1000, &to->days, "- demo", "how many days"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &to->seed, "demo out", "of random numbers"},
        {"s", "S", OPTION_WHOLE, 0, WHOLE_MOST, &to->seed, "demo out", "the same"},
        {"rate", "R", OPTION_NUMBER, -0.5, 2, &to->rate, "", "how fast"},
        {"rule", "zoh|euler|tustin", OPTION_CHOICE, 0, 0, &to->rule, "bench !loud", "which rule"},
        {"demo", NULL, OPTION_SWITCH, 0, 0, &to->demo, "mode", "show something"},
        {"bench", NULL, OPTION_SWITCH, 0, 0, &to->bench, "mode in", "measure"},
        {"v", NULL, OPTION_SWITCH, 0, 0, &to->loud, "NAME", "short for something"},
    };
    memcpy(options->option, table, sizeof table);
    options->program.name = "toy";
    options->program.about = "A program that does nothing.";
    options->program.option = options->option;
    options->program.n_option = N_OPTION;
}

enum { WORDS_MAX = 64 };

static bool read_words(Landed *to, const char *words, Error *error)
{
    static char text[4096]; /* stays: what lands points into it */
    char *word[WORDS_MAX] = {(char *)"toy"};
    int n = 1;
    Options options;
    snprintf(text, sizeof text, "%s", words);
    for (char *rest = *text ? text : NULL, *one; (one = strsep(&rest, " ")) != NULL;) {
        assert_true(n < WORDS_MAX - 1);
        word[n++] = strcmp(one, "_") == 0 ? one + 1 : one;
    }
    options_of(&options, to);
    return options_read(&to->help, &options.program, n, word, error);
}

#define OR_BEHIND ": a text that begins with a minus goes behind --"

static void refuse_words(const char *words, const char *sentence)
{
    Landed to;
    Error error;
    memset(&to, 0, sizeof to);
    strcpy(error.text, "none");
    if (read_words(&to, words, &error))
        fail_msg("accepted: %s", words);
    assert_string_equal(error.text, sentence);
}

static Landed accept_words(const char *words)
{
    Landed to;
    Error error;
    memset(&to, 0, sizeof to);
    to.days = 7;
    to.rate = 0.25;
    to.rule = TUSTIN;
    if (!read_words(&to, words, &error))
        fail_msg("refused: %s: %s", words, error.text);
    return to;
}

static void a_file_has_a_name(void **state)
{
    (void)state;
    refuse_words("--out _", "--out: the name of a file is empty");
    refuse_words("_", "FILE: the name of a file is empty");
    assert_string_equal(accept_words("file _").name, ""); /* a text may be empty */
}

static void standard_input_is_read_once(void **state)
{
    (void)state;
    refuse_words("--in - -", "FILE and --in are both -, but standard input can be read only once");
    assert_string_equal(accept_words("--in - file").in, "-");
    assert_string_equal(accept_words("--note - --in -").in, "-"); /* a remark is no file */
}

static void a_text_that_begins_with_a_minus_is_an_argument(void **state)
{
    (void)state;
    static const char *const words[][6] = {
        {"- a list", "--loud", NULL},
        {"--loud", "- a list", NULL},
        {"f", "-5 degrees", "--loud", NULL},
        {"--out", "- x", "f", "--loud", NULL},
        {"f", "--out=- x", "-- n", "--loud", NULL},
        {"--loud", "-- n=1 x", "--", "-z", NULL},
    };
    static const char *const file[] = {"- a list", "- a list", "f", "f", "f", "-- n=1 x"};
    static const char *const name[] = {NULL, NULL, "-5 degrees", NULL, "-- n", "-z"};
    for (size_t k = 0; k < sizeof words / sizeof *words; k++) {
        char *argv[8] = {(char *)"toy"};
        int argc = 1;
        Landed to;
        Options options;
        Error error;
        memset(&to, 0, sizeof to);
        options_of(&options, &to);
        for (; words[k][argc - 1]; argc++)
            argv[argc] = (char *)words[k][argc - 1];
        if (!options_read(&to.help, &options.program, argc, argv, &error))
            fail_msg("case %zu: %s", k, error.text);
        assert_true(to.loud);
        assert_string_equal(to.file, file[k]);
        assert_true(name[k] ? strcmp(to.name, name[k]) == 0 : to.name == NULL);
        assert_true(k == 3 || k == 4 ? strcmp(to.out, "- x") == 0 : to.out == NULL);
    }
}

/* Though a longer name, whose option takes a value, begins like it. */
static void a_name_in_full_is_that_option(void **state)
{
    (void)state;
    bool cut = false, help;
    const char *file = NULL, *tool = NULL;
    const Option table[] = {{"FILE", "", OPTION_ARGUMENT, 0, 0, &file, "", "the file"},
                            {"cut", NULL, OPTION_SWITCH, 0, 0, &cut, "", "cut it"},
                            {"cutter", "TEXT", OPTION_TEXT, 0, 0, &tool, "", "with this"}};
    const Program program = {"toy", "It does nothing.", table, 3};
    char *argv[] = {(char *)"toy", (char *)"--cut", (char *)"- a list", NULL};
    Error error;
    if (!options_read(&help, &program, 3, argv, &error))
        fail_msg("%s", error.text);
    assert_true(cut && tool == NULL);
    assert_string_equal(file, "- a list");
}

static void what_is_read_is_not_written_over(void **state)
{
    (void)state;
    char path[] = "/tmp/tools_alone_XXXXXX", other[64];
    Landed to;
    Options options;
    Error error;
    memset(&to, 0, sizeof to);
    options_of(&options, &to);
    close(mkstemp(path));
    snprintf(other, sizeof other, "/tmp/..%s", path);
    to.out = path;
    assert_true(out_alone(&options.program, &options.option[3], &error));
    to.file = other;
    assert_false(out_alone(&options.program, &options.option[3], &error));
    assert_contains(error.text, "--out and FILE are one file, /tmp/tools_alone_");
    to.file = "data/weather.csv";
    assert_true(out_alone(&options.program, &options.option[3], &error));
    unlink(path);
    to.in = path; /* it is not there yet: the same name all the same */
    assert_false(out_alone(&options.program, &options.option[3], &error));
    assert_contains(error.text, "--out and --in are one file, ");
    to.in = to.out = "/dev/null";
    assert_true(out_alone(&options.program, &options.option[3], &error));
}

static void the_end_of_a_long_path_is_shown(void **state)
{
    (void)state;
    char path[600], *text;
    size_t len;
    Error error;
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_false(text_read(&text, &len, path, &error));
    assert_contains(error.text, ": File name too long");
    assert_int_equal(strcspn(error.text, ":"), 100);
    memcpy(path + sizeof path - 102, "\xC3\xA9", 2); /* and no half of a character */
    assert_int_equal(strlen(path_shown(path)), 99);
    assert_string_equal(path_shown("-"), "standard input");
}

static void every_kind_of_option_lands(void **state)
{
    (void)state;
    Landed to = accept_words("--loud --out x --note a --note _ --days 1000 --rate -1/2");
    assert_true(to.loud && !to.demo && !to.bench && !to.help);
    assert_string_equal(to.out, "x");
    assert_int_equal(to.notes.count, 2);
    assert_string_equal(to.notes.text[0], "a");
    assert_string_equal(to.notes.text[1], "");
    assert_int_equal(to.days, 1000);
    assert_near(to.rate, -0.5, 0, 0);
    to = accept_words("--bench --in=x=y --rule=euler file --rate=2 name -v");
    assert_int_equal(to.rule, EULER);
    assert_string_equal(to.in, "x=y");
    assert_string_equal(to.file, "file");
    assert_string_equal(to.name, "name");
    assert_true(to.loud);
    static const char *const rules[] = {"zoh", "euler", "tustin"};
    for (int rule = 0; rule < 3; rule++) {
        char words[64];
        snprintf(words, sizeof words, "--bench --in x --rule %s", rules[rule]);
        assert_int_equal((int)accept_words(words).rule, rule);
    }
    assert_true(accept_words("--demo --seed 18446744073709551615").seed == UINT64_MAX);
    assert_int_equal(accept_words("--demo -s5").seed, 5);
    assert_int_equal(accept_words("a b -vs 5 --demo").seed, 5); /* letters may be run together */
}

static void what_is_not_given_stays_as_it_was(void **state)
{
    (void)state;
    Landed to = accept_words("");
    assert_true(!to.loud && !to.demo && !to.bench && !to.help && to.notes.count == 0);
    assert_true(!to.out && !to.in && !to.file && !to.name && to.seed == 0);
    assert_true(to.days == 7 && to.rate == 0.25 && to.rule == TUSTIN);
    to = accept_words("file");
    assert_string_equal(to.file, "file");
    assert_null(to.name);
}

static void the_last_of_two_counts(void **state)
{
    (void)state;
    assert_int_equal(accept_words("--days 3 --days 4").days, 4);
    assert_int_equal(accept_words("--demo --seed 3 -s 4").seed, 4); /* two names of one thing */
}

static void unknown_options_are_refused(void **state)
{
    (void)state;
    refuse_words("--dayz 3", "'--dayz' is not an option");
    refuse_words("--loudly", "'--loudly' is not an option");
    refuse_words("-x", "'-x' is not an option" OR_BEHIND);
    refuse_words("a b -vx", "'-x' is not an option" OR_BEHIND);
    refuse_words("-5", "'-5' is not an option" OR_BEHIND);
    refuse_words("-:", "'-:' is not an option" OR_BEHIND);
    refuse_words("-?", "'-?' is not an option" OR_BEHIND);
    refuse_words("-\xC3\xA9", "'-\\xc3' is not an option");
    refuse_words("--\xC3\xA9", "'--\xC3\xA9' is not an option");
    refuse_words("--=3", "'--=3' is not an option");
    refuse_words("--FILE x", "'--FILE' is not an option"); /* an argument is typed by itself */
    refuse_words("---", "'---' is not an option");
}

static void a_word_by_itself_is_told_which_option_takes_a_text(void **state)
{
    (void)state;
    const char *model = NULL, *prompt = NULL;
    const Option table[] = {
        {"model", "DIR", OPTION_TEXT, 0, 0, &model, "", "the model"},
        {"prompt", "TEXT", OPTION_TEXT, 0, 0, &prompt, "", "where to begin"},
    };
    Program program = {"toy", "", table, 2};
    char *words[] = {(char *)"toy", (char *)"rain", NULL};
    bool help;
    Error error;
    assert_false(options_read(&help, &program, 2, words, &error));
    assert_string_equal(error.text, "'rain' is not an option: is it the TEXT of --prompt?");
    program.n_option = 1; /* and now none does */
    assert_false(options_read(&help, &program, 2, words, &error));
    assert_string_equal(error.text, "'rain' is not an option");
    const Option reads[] = {{"chain", "FILE", OPTION_TEXT, 0, 0, &model, "", "a file"}};
    program.option = reads;
    assert_false(options_read(&help, &program, 2, words, &error));
    assert_string_equal(error.text, "'rain' is not an option: is it the FILE of --chain?");
}

static void names_may_be_cut_short_while_they_are_clear(void **state)
{
    (void)state;
    assert_int_equal(accept_words("--da 3").days, 3);
    assert_int_equal(accept_words("--da=3").days, 3);
    assert_true(accept_words("--h").help);
    assert_string_equal(accept_words("--in x").in, "x");
    refuse_words("--d 3", "'--d' is not an option: is it one of --days, --demo?");
    refuse_words("--r=3", "'--r=3' is not an option: is it one of --rate, --rule?");
}

static void a_value_missing_or_too_much_is_told(void **state)
{
    (void)state;
    refuse_words("--days", "--days: a value is missing: N");
    refuse_words("--da", "--days: a value is missing: N");
    refuse_words("--demo -s", "-s: a value is missing: S");
    refuse_words("--rule", "--rule: a value is missing: zoh|euler|tustin");
    refuse_words("--loud=yes", "--loud takes no value");
    refuse_words("--lo=", "--loud takes no value");
    refuse_words("--help=me", "--help takes no value");
}

static void whole_numbers_stay_in_their_range(void **state)
{
    (void)state;
    refuse_words("--days 0", "--days: 0 is out of range: 1 to 1000");
    refuse_words("--days 1001", "--days: 1001 is out of range: 1 to 1000");
    refuse_words("--days _", "--days: '' is not a whole number");
    refuse_words("--days=", "--days: '' is not a whole number");
    refuse_words("--days -3", "--days: '-3' is not a whole number");
    refuse_words("--days 3.0", "--days: '3.0' is not a whole number");
    refuse_words("--demo -s 18446744073709551616",
                 "-s: 18446744073709551616 is out of range: 0 to 18446744073709551615");
    assert_int_equal(accept_words("--days 1").days, 1);
}

static void numbers_stay_in_their_range(void **state)
{
    (void)state;
    refuse_words("--rate 2.0000000001", "--rate: 2.0000000001 is not from -0.5 to 2");
    refuse_words("--rate -0.6", "--rate: -0.6 is not from -0.5 to 2");
    refuse_words("--rate nan", "--rate: 'nan' is not a finite number");
    refuse_words("--rate inf", "--rate: 'inf' is not a finite number");
    refuse_words("--rate fast", "--rate: 'fast' is not a number");
    refuse_words("--rate _", "--rate: '' is not a number");
    assert_near(accept_words("--rate -0.5").rate, -0.5, 0, 0);
    assert_near(accept_words("--rate 2").rate, 2, 0, 0);
}

static void a_choice_is_one_of_its_words(void **state)
{
    (void)state;
    refuse_words("--rule heun", "--rule: 'heun' is none of zoh, euler, tustin");
    refuse_words("--rule zo", "--rule: 'zo' is none of zoh, euler, tustin");
    refuse_words("--rule zohh", "--rule: 'zohh' is none of zoh, euler, tustin");
    refuse_words("--rule zoh|euler", "--rule: 'zoh|euler' is none of zoh, euler, tustin");
    refuse_words("--rule _", "--rule: '' is none of zoh, euler, tustin");
    refuse_words("--rule ZOH", "--rule: 'ZOH' is none of zoh, euler, tustin");
}

static void a_text_is_given_eight_times_at_most(void **state)
{
    (void)state;
    char words[256] = "";
    for (int k = 0; k < TEXTS_MAX; k++)
        sprintf(words + strlen(words), "%s--note n%d", k ? " " : "", k);
    Landed to = accept_words(words);
    assert_int_equal(to.notes.count, TEXTS_MAX);
    assert_string_equal(to.notes.text[TEXTS_MAX - 1], "n7");
    strcat(words, " --note more");
    refuse_words(words, "--note: given more than 8 times");
}

static void arguments_land_in_their_order(void **state)
{
    (void)state;
    refuse_words("a b c", "'c' is one argument too many");
    Landed to = accept_words("a --loud b"); /* options may stand between and behind */
    assert_string_equal(to.file, "a");
    assert_string_equal(to.name, "b");
    assert_true(to.loud);
    to = accept_words("--loud -- --days -x"); /* behind two dashes nothing is an option */
    assert_string_equal(to.file, "--days");
    assert_string_equal(to.name, "-x");
    assert_string_equal(accept_words("-").file, "-");
    assert_string_equal(accept_words("a _").name, "");
    const Program none = {"toy", "", NULL, 0};
    char *argv[] = {(char *)"toy", (char *)"rain", NULL};
    bool help;
    Error error;
    assert_false(options_read(&help, &none, 2, argv, &error));
    assert_string_equal(error.text, "'rain' is not an option");
    assert_true(options_read(&help, &none, 1, argv, &error));
    assert_true(options_read(&help, &none, 0, argv + 2, &error)); /* not even a name */
}

static void modes_exclude_each_other(void **state)
{
    (void)state;
    refuse_words("--demo --bench --in x", "--demo and --bench exclude each other");
    refuse_words("--in x --bench --demo", "--demo and --bench exclude each other");
}

static void options_that_need_others_say_so(void **state)
{
    (void)state;
    refuse_words("--seed 3", "--seed needs --demo or --out");
    refuse_words("-s 3", "-s needs --demo or --out");
    refuse_words("--bench", "--bench needs --in"); /* a mode may need something too */
    refuse_words("--rule zoh", "--rule needs --bench");
    refuse_words("file -v", "-v needs NAME");
    accept_words("--seed 3 --out x");
    accept_words("--seed 3 --demo");
    accept_words("file name -v");
}

static void options_without_an_effect_say_so(void **state)
{
    (void)state;
    refuse_words("--days 3 --bench --in x", "--days does nothing with --bench");
    accept_words("--days 3");
    accept_words("--days 3 --demo");
}

static void options_that_exclude_others_say_so(void **state)
{
    (void)state;
    refuse_words("--out x --in y", "--out and --in exclude each other");
    refuse_words("--in y --out x", "--out and --in exclude each other");
    refuse_words("--bench --in x --rule zoh --loud", "--rule and --loud exclude each other");
}

static void an_option_may_be_called_almost_mode(void **state)
{
    (void)state; /* "model" begins like the word "mode", and is none */
    const char *model = NULL;
    bool more = false, also = false, fast = false;
    const Option table[] = {
        {"model", "DIR", OPTION_TEXT, 0, 0, &model, "", "the model"},
        {"more", NULL, OPTION_SWITCH, 0, 0, &more, "model", "more of it"},
        {"also", NULL, OPTION_SWITCH, 0, 0, &also, "model", "that too"},
        {"fast", NULL, OPTION_SWITCH, 0, 0, &fast, "!also mode", "a mode, if said last"},
        {"slow", NULL, OPTION_SWITCH, 0, 0, &fast, "mode", "another"},
    };
    const Program program = {"toy", "", table, 5};
    char *both[] = {(char *)"toy",     (char *)"--more", (char *)"--also",
                    (char *)"--model", (char *)"x",      NULL};
    char *alone[] = {(char *)"toy", (char *)"--more", NULL};
    char *out[] = {(char *)"toy", (char *)"--fast", (char *)"--slow", NULL};
    bool help;
    Error error;
    assert_true(options_read(&help, &program, 5, both, &error));
    assert_true(more && also && model);
    assert_false(options_read(&help, &program, 2, alone, &error));
    assert_string_equal(error.text, "--more needs --model");
    assert_false(options_read(&help, &program, 3, out, &error));
    assert_string_equal(error.text, "--fast and --slow exclude each other");
}

/* ---- words of a choice ---- */

enum { N_CHOSEN = 8 };

typedef struct {
    int demo, rule;
    bool list, flag;
    uint64_t seed;
    const char *svg;
} Chosen;

/* Reads `words` by a table that names words of choices; `last` is the `with` of --last. */
static bool read_chosen(Chosen *to, const char *last, const char *words, Error *error)
{
    char copy[128], *word[16] = {(char *)"toy"};
    int n = 1;
    bool help;
    const Option table[N_CHOSEN] = {
        {"demo", "story|work|banks", OPTION_CHOICE, 0, 0, &to->demo, "mode", ""},
        {"list", NULL, OPTION_SWITCH, 0, 0, &to->list, "mode", ""},
        {"rule", "zoh|euler", OPTION_CHOICE, 0, 0, &to->rule, "!demo:banks", ""},
        {"seed", "S", OPTION_WHOLE, 0, 9, &to->seed, "- demo:work", ""},
        {"svg", "FILE", OPTION_OUT, 0, 0, &to->svg, "demo:work demo:banks", ""},
        {"fine", NULL, OPTION_SWITCH, 0, 0, &to->flag, "list rule:euler !demo:story", ""},
        {"coarse", NULL, OPTION_SWITCH, 0, 0, &to->flag, "rule:zoh", ""},
        {"last", NULL, OPTION_SWITCH, 0, 0, &to->flag, last, ""},
    };
    const Program program = {"toy", "", table, N_CHOSEN};
    memset(to, 0, sizeof *to);
    snprintf(copy, sizeof copy, "%s", words);
    for (char *next = strtok(copy, " "); next && n < 15; next = strtok(NULL, " "))
        word[n++] = next;
    word[n] = NULL;
    return options_read(&help, &program, n, word, error);
}

static void an_option_may_go_with_one_word_of_a_choice(void **state)
{
    (void)state;
    static const struct {
        const char *words, *sentence; /* NULL: accepted */
    } cases[] = {
        {"--seed 3", NULL},
        {"--seed 3 --demo work", NULL},
        {"--seed 3 --demo story", "--seed does nothing with --demo story"},
        {"--demo banks --seed 3", "--seed does nothing with --demo banks"},
        {"--demo banks --seed 3 --demo work", NULL}, /* the last one counts */
        {"--seed 3 --list", "--seed does nothing with --list"},
        {"--svg x", "--svg needs --demo work or --demo banks"}, /* --demo is 0, but not given */
        {"--svg x --demo story", "--svg needs --demo work or --demo banks"},
        {"--svg x --demo work", NULL},
        {"--svg x --demo banks", NULL},
        {"--rule zoh --demo banks", "--rule and --demo banks exclude each other"},
        {"--rule zoh --demo story", NULL},
        {"--rule zoh --demo work", NULL},
        {"--rule zoh", NULL},
        {"--fine", "--fine needs --list or --rule euler"},
        {"--fine --rule zoh", "--fine needs --list or --rule euler"},
        {"--fine --rule euler", NULL}, /* also where the choice is no mode */
        {"--fine --list", NULL},
        {"--fine --rule euler --demo story", "--fine and --demo story exclude each other"},
        {"--fine --rule euler --demo work", NULL},
        {"--coarse", "--coarse needs --rule zoh"},
        {"--coarse --rule zoh", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Chosen to;
        Error error = {""};
        bool ok = read_chosen(&to, "", cases[i].words, &error);
        assert_string_equal(error.text, cases[i].sentence ? cases[i].sentence : "");
        assert_int_equal(ok, cases[i].sentence == NULL);
    }
}

/* The rules of the column `with`, told in another way, for the table above. */
static bool fits(const bool given[N_OPTION])
{
    enum { FILE_, NAME, LOUD, OUT, IN, NOTE, DAYS, SEED, S, RATE, RULE, DEMO, BENCH, V };
    return !(given[DEMO] && given[BENCH]) && !(given[OUT] && given[IN]) &&
           !(given[DAYS] && given[BENCH]) && (!given[BENCH] || given[IN]) &&
           (!(given[SEED] || given[S]) || given[DEMO] || given[OUT]) &&
           (!given[RULE] || (given[BENCH] && !given[LOUD])) && (!given[V] || given[NAME]);
}

static void every_set_of_options_is_judged_by_the_same_rules(void **state)
{
    (void)state;
    static const char *const typed[N_OPTION] = {
        "f",        "n",    "--loud",   "--out o",    "--in i", "--note t", "--days 3",
        "--seed 3", "-s 3", "--rate 1", "--rule zoh", "--demo", "--bench",  "-v"};
    for (unsigned set = 0; set < 1u << N_OPTION; set++) {
        bool given[N_OPTION];
        char words[512] = "";
        if ((set & 3) == 2) /* the second argument without the first cannot be typed */
            continue;
        for (int k = 0; k < N_OPTION; k++) {
            given[k] = (set >> k & 1) != 0;
            if (given[k])
                sprintf(words + strlen(words), "%s%s", *words ? " " : "", typed[k]);
        }
        Landed to;
        Error error;
        memset(&to, 0, sizeof to);
        if (read_words(&to, words, &error) != fits(given))
            fail_msg("'%s' is judged wrong: %s", words, fits(given) ? error.text : "accepted");
    }
}

static void help_is_asked_for_in_two_ways(void **state)
{
    (void)state;
    assert_true(accept_words("--help").help);
    assert_true(accept_words("-h").help);
    assert_true(accept_words("a b c --help").help); /* whatever else there is, if it can be read */
    assert_true(accept_words("--demo --bench -h --dayz").help);
    assert_false(accept_words("--demo").help);
    refuse_words("--dayz --help", "'--dayz' is not an option");
}

enum { HELP_TEXT = 20000 };

/* What program_usage or program_help prints: text (HELP_TEXT). */
static void help_text(char *text, void (*print)(FILE *, const Program *), const Program *program)
{
    FILE *out = fmemopen(text, HELP_TEXT, "w");
    assert_non_null(out);
    unsetenv("COLUMNS");
    print(out, program);
    fclose(out);
}

static void usage_and_help_are_made_from_the_table(void **state)
{
    (void)state;
    static const char usage[] =
        "usage: toy [FILE] [NAME] [--loud] [--out FILE] [--in FILE] [--note TEXT]\n"
        "           [--days N] [--seed S] [-s S] [--rate R] [--rule zoh|euler|tustin]\n"
        "           [--demo] [--bench] [-v] [--help]\n";
    static const char help[] = "\n"
                               "A program that does nothing.\n"
                               "\n"
                               "  FILE                     the file\n"
                               "  NAME                     what in it\n"
                               "  --loud                   with noise\n"
                               "  --out FILE               where to\n"
                               "  --in FILE                where from\n"
                               "  --note TEXT              a remark, as often as one likes\n"
                               "  --days N                 how many days\n"
                               "  --seed S                 of random numbers\n"
                               "  -s S                     the same\n"
                               "  --rate R                 how fast\n"
                               "  --rule zoh|euler|tustin  which rule\n"
                               "  --demo                   show something\n"
                               "  --bench                  measure\n"
                               "  -v                       short for something\n"
                               "  -h, --help               this text\n";
    Landed to;
    Options options;
    options_of(&options, &to);
    char text[HELP_TEXT];
    help_text(text, program_usage, &options.program);
    assert_string_equal(text, usage);
    help_text(text, program_help, &options.program);
    assert_int_equal(strncmp(text, usage, strlen(usage)), 0);
    assert_string_equal(text + strlen(usage), help);
}

static void help_is_wrapped_by_characters_and_bears_any_text(void **state)
{
    (void)state;
    enum { LONG = 300 };
    char about[2 * LONG + 1] = "", words[8 * LONG] = "", choice[2 * LONG] = "";
    bool flag = false;
    int which = 0;
    for (int k = 0; k < LONG; k++)
        strcat(about, "\xC4\x80"); /* a word of 300 characters, 600 bytes */
    for (int k = 0; k < LONG; k++)
        strcat(words, k % 7 ? "\xC4\x80w " : "[open  ");
    memset(choice, 'c', sizeof choice - 1);
    const Option table[] = {
        {"a-name-that-is-wider-than-the-column", NULL, OPTION_SWITCH, 0, 0, &flag, "", words},
        {"w", choice, OPTION_CHOICE, 0, 0, &which, "", "["},
        {"empty", NULL, OPTION_SWITCH, 0, 0, &flag, "", ""},
    };
    const Program program = {"toy", about, table, 3};
    char text[HELP_TEXT];
    help_text(text, program_help, &program);
    assert_contains(text, about);
    assert_contains(text, "\n  --a-name-that-is-wider-than-the-column\n              [open");
    assert_contains(text, "  --empty     \n");
    size_t widest = 0;
    char *line = strstr(text, "[open"), *rest = strstr(text, "\n  -w");
    *rest = '\0';
    for (char *one; (one = strsep(&line, "\n")) != NULL;)
        widest = text_width(one) > widest ? text_width(one) : widest;
    assert_true(widest > 74 && widest <= 80);
}

static void a_choice_of_many_words_is_cut_behind_a_bar(void **state)
{
    (void)state;
    int which = 0;
    const Option table[] = {{"demo", "rules|error|stability|region|resolution|hours|past|memories",
                             OPTION_CHOICE, 0, 0, &which, "", "one"}};
    const Program program = {"ch03_discretize", "", table, 1};
    char text[HELP_TEXT];
    help_text(text, program_usage, &program);
    assert_string_equal(
        text, "usage: ch03_discretize [--demo rules|error|stability|region|resolution|hours|\n"
              "                       past|memories] [--help]\n");
}

static void a_page_is_as_wide_as_COLUMNS_says_within_reason(void **state)
{
    (void)state;
    static const struct {
        const char *said;
        size_t columns;
    } cases[] = {{"100", 100}, {"40", 40},   {"3", 40}, {"1000", 120},
                 {"0", 80},    {"wide", 80}, {"", 80}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        setenv("COLUMNS", cases[k].said, 1);
        assert_int_equal(page_columns(), cases[k].columns);
    }
    unsetenv("COLUMNS");
    assert_int_equal(page_columns(), 80); /* a test's output is no terminal */
}

/* The look of charts where these are set, NULL for what is not. */
static Look look_where(const char *all, const char *ctype, const char *lang, const char *no_color)
{
    const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR"};
    const char *const values[] = {all, ctype, lang, no_color};
    for (int k = 0; k < 4; k++)
        if (values[k])
            setenv(names[k], values[k], 1);
        else
            unsetenv(names[k]);
    return look_at_terminal(false);
}

static void charts_are_plain_where_the_locale_is_not_UTF_8(void **state)
{
    (void)state;
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR"};
    char *before[4];
    for (int k = 0; k < 4; k++)
        before[k] = getenv(names[k]) ? strdup(getenv(names[k])) : NULL;
    assert_false(look_where(NULL, NULL, NULL, NULL).ascii); /* nobody has said anything */
    assert_false(look_where("", "", "de_DE.UTF-8", NULL).ascii);
    assert_false(look_where("C.utf8", "C", "C", NULL).ascii);
    assert_false(look_where(NULL, "en_US.utf-8", "C", NULL).ascii);
    assert_true(look_where("C", NULL, "en_US.UTF-8", NULL).ascii);
    assert_true(look_where(NULL, NULL, "POSIX", NULL).ascii);
    assert_true(look_where(NULL, NULL, "de_DE.ISO-8859-1", NULL).ascii);
    assert_true(look_where(NULL, "de_DE@euro", NULL, NULL).ascii);
    assert_false(look_where(NULL, NULL, NULL, "1").colour);
    for (int k = 0; k < 4; k++)
        if (before[k])
            setenv(names[k], before[k], 1);
        else
            unsetenv(names[k]);
    for (int k = 0; k < 4; k++)
        free(before[k]);
}

static void calls_do_not_remember_each_other(void **state)
{
    (void)state;
    for (int k = 0; k < 3; k++) {
        refuse_words("--loud --dayz", "'--dayz' is not an option");
        refuse_words("-xv", "'-x' is not an option" OR_BEHIND); /* stops in the middle of a word */
        accept_words("a --days 3 b");
        assert_false(accept_words("a").loud);
    }
}

static void random_words_are_read_or_refused(void **state)
{
    (void)state;
    static const char *const pieces[] = {
        "--",   "-",   "=",    "days", "loud", "d",    "s",     "v",    "h",    "rule", "zoh",
        "rate", "3",   "0",    "-1",   "1e9",  "nan",  "/",     "\xFF", "\xC3", "\x01", "%s%n",
        "seed", "out", "note", "demo", "in",   "FILE", "bench", "help", "x",    " ",    "",
    };
    enum { MANY = 60000, ROOM = 4096 };
    const uint32_t n_piece = sizeof pieces / sizeof *pieces;
    Random random = random_from_seed(5);
    int read = 0, refused = 0;
    for (int k = 0; k < MANY; k++) {
        char text[16][ROOM], *argv[18] = {(char *)"toy"};
        int argc = 1;
        Landed to;
        Error error;
        Options options;
        memset(&to, 0, sizeof to);
        to.days = 1;
        error.text[0] = '\0';
        for (uint32_t words = random_u32(&random) % 8; words > 0; words--) {
            char *word = text[argc];
            strcpy(word, random_u32(&random) % 3 ? "--" : "");
            for (uint32_t more = 1 + random_u32(&random) % 3; more > 0; more--)
                strcat(word, pieces[random_u32(&random) % n_piece]);
            if (random_u32(&random) % 50 == 0) {
                memset(word + strlen(word), 'y', ROOM / 2);
                word[ROOM / 2] = '\0';
            }
            argv[argc++] = word;
        }
        argv[argc] = NULL;
        options_of(&options, &to);
        if (options_read(&to.help, &options.program, argc, argv, &error)) {
            read++;
            assert_true(to.days >= 1 && to.days <= 1000 && to.rate >= -0.5 && to.rate <= 2);
            assert_true((int)to.rule >= ZOH && (int)to.rule <= TUSTIN);
            assert_true(to.notes.count <= TEXTS_MAX);
            assert_true(to.help || !(to.demo && to.bench));
        } else {
            refused++;
            assert_true(error.text[0] != '\0' && strlen(error.text) < sizeof error.text);
        }
    }
    assert_true(read > MANY / 20 && refused > MANY / 20); /* both are tried */
}

/* ---- a program from its beginning to its end --------------------------------------------- */

/* Runs a small main in a process of its own, with stdout going to `out` (or closed, if NULL);
   what it says on stderr goes into said (room). Returns its exit status. */
static int run_main(char *said, size_t room, int (*main_of)(char **), char **argv, const char *out)
{
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        if (out && !freopen(out, "w", stdout))
            _exit(99);
        if (!out)
            close(STDOUT_FILENO);
        _exit(main_of(argv));
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t got; (got = read(ends[0], said + used, room - 1 - used)) > 0;)
        used += (size_t)got;
    said[used] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Prints `--days N` thousand numbers; `--out FILE` writes one into a file; `--loud` fails;
   `--in ...` prints without a buffer, and thinks of something else after that. */
static int small_main(char **argv)
{
    Landed to;
    Options options;
    Error error;
    OutFile file;
    int status, argc = 0;
    while (argv[argc])
        argc++;
    memset(&to, 0, sizeof to);
    options_of(&options, &to);
    if (!program_begin(&status, &options.program, argc, argv))
        return status;
    bool ok = !to.loud || (fail)(&error, "too loud");
    if (ok && to.out) {
        ok = out_open(&file, to.out, &error);
        if (ok) {
            fprintf(file.stream, "one\n");
            printf("two\n");
            fflush(stdout);
            ok = out_close(&file, &error);
        }
    }
    if (ok && to.in) {
        setvbuf(stdout, NULL, _IONBF, 0);
        puts("three");
        errno = ENOENT;
    }
    for (uint64_t day = 0; ok && day < to.days * 1000; day++)
        printf("%" PRIu64 "\n", day);
    return program_end(ok, &error);
}

static int run_words(char *said, size_t room, const char *out, const char *first,
                     const char *second)
{
    char *argv[] = {(char *)"toy", (char *)first, (char *)second, NULL};
    return run_main(said, room, small_main, argv, out);
}

/* argv[1] is the `with` of an option in a table that is read for nothing. */
static int main_of_a_table(char **argv)
{
    Chosen to;
    Error error;
    signal(SIGABRT, SIG_DFL);
    return read_chosen(&to, argv[1], "", &error) ? 0 : 1;
}

static void a_table_that_names_no_word_of_a_choice_is_a_mistake(void **state)
{
    (void)state;
    static const char *const right[] = {"demo:work", "!demo:work", "mode - rule:euler demo:story"};
    static const char *const wrong[] = {"demo:wor",     "demo:works", "!demo:euler",
                                        "demo:",        "list:work",  "svg:FILE",
                                        "nothing:work", ":work",      "demo:work|banks"};
    char said[512];
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        char *argv[] = {(char *)"toy", (char *)right[i], NULL};
        assert_int_equal(run_main(said, sizeof said, main_of_a_table, argv, NULL), 0);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *argv[] = {(char *)"toy", (char *)wrong[i], NULL};
        assert_int_equal(run_main(said, sizeof said, main_of_a_table, argv, NULL), -1);
        assert_non_null(strstr(said, "ssert"));
    }
}

static void a_program_ends_with_the_status_of_what_happened(void **state)
{
    (void)state;
    char said[4096];
    assert_int_equal(run_words(said, sizeof said, "/dev/null", "--days", "3"), 0);
    assert_string_equal(said, "");
    assert_int_equal(run_words(said, sizeof said, "/dev/null", "--loud", NULL), 1);
    assert_string_equal(said, "error: too loud\n");
    assert_int_equal(run_words(said, sizeof said, "/dev/null", "--dayz", NULL), 2);
    assert_int_equal(strncmp(said, "error: '--dayz' is not an option\nusage: toy [FILE]", 50), 0);
    assert_int_equal(run_words(said, sizeof said, "/dev/null", "--help", NULL), 0);
    assert_string_equal(said, "");
}

static void what_cannot_be_written_is_told_before_the_work(void **state)
{
    (void)state;
    char said[4096];
    assert_int_equal(run_words(said, sizeof said, "/dev/null", "--loud", "--out=/no/dir/x"), 1);
    assert_string_equal(said, "error: /no/dir/x: cannot be written: No such file or directory\n");
    assert_int_equal(run_words(said, sizeof said, "/dev/null", "--out", "/dev/null"), 0);
    assert_string_equal(said, "");
}

static void output_that_does_not_arrive_is_an_error(void **state)
{
    (void)state;
    static const char *const words[][2] = {
        {"--days", "1"}, {"--days", "100"}, {"--help", NULL}, {"-h", NULL}};
    char said[4096];
    for (size_t k = 0; k < sizeof words / sizeof *words; k++) {
        if (access("/dev/full", W_OK) == 0) {
            assert_int_equal(run_words(said, sizeof said, "/dev/full", words[k][0], words[k][1]),
                             1);
            assert_int_equal(strncmp(said, "error: the output cannot be written", 35), 0);
        }
        assert_int_equal(run_words(said, sizeof said, NULL, words[k][0], words[k][1]), 1);
        assert_int_equal(strncmp(said, "error: the output cannot be written", 35), 0);
    }
    assert_int_equal(run_words(said, sizeof said, NULL, "--in", "x"),
                     1); /* which failed long ago */
    assert_string_equal(said, "error: the output cannot be written\n");
    assert_int_equal(run_words(said, sizeof said, NULL, NULL, NULL), 0); /* nothing to print */
    assert_int_equal(run_words(said, sizeof said, "/dev/full", "--loud", NULL), 1);
    assert_string_equal(said, "error: too loud\n");
}

static void a_file_does_not_take_the_place_of_a_closed_stream(void **state)
{
    (void)state;
    char path[] = "/tmp/ch01_closed_XXXXXX", said[4096], text[16] = "";
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(run_words(said, sizeof said, NULL, "--out", path), 1);
    assert_contains(said, "the output cannot be written");
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    size_t len = fread(text, 1, sizeof text - 1, in);
    fclose(in);
    unlink(path);
    assert_int_equal(len, 4);
    assert_string_equal(text, "one\n");
}

/* ---- demos ------------------------------------------------------------------------------- */

static bool demo_counts(const Show *show, Error *error)
{
    (void)error;
    ++*(char *)show->svg; /* a letter for each time it ran */
    return true;
}

static bool demo_fails(const Show *show, Error *error)
{
    ++((char *)show->svg)[1];
    return (fail)(error, "this demo fails");
}

static void demos_run_alone_or_in_their_order(void **state)
{
    (void)state;
    Demo *const demo[] = {demo_counts, demo_fails, demo_counts};
    char ran[] = "aa";
    Show show = {{true, false}, ran, 1};
    Error error;
    assert_true(demos_run(demo, 3, 0, &show, &error));
    assert_string_equal(ran, "ba");
    assert_true(demos_run(demo, 3, 2, &show, &error));
    assert_string_equal(ran, "ca");
    assert_false(demos_run(demo, 3, 1, &show, &error));
    assert_string_equal(error.text, "this demo fails");
    assert_false(demos_run(demo, 3, -1, &show, &error)); /* the third does not run any more */
    assert_string_equal(ran, "dc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays_grow_and_keep_what_is_in_them),
        cmocka_unit_test(pcg32_gives_its_published_numbers),
        cmocka_unit_test(uniform_and_normal_numbers_have_their_moments),
        cmocka_unit_test(linear_systems_are_solved),
        cmocka_unit_test(the_largest_of_numbers_with_a_NaN_is_NaN),
        cmocka_unit_test(spectral_radii_known_in_closed_form_are_found),
        cmocka_unit_test(numbers_are_read_strictly),
        cmocka_unit_test(whole_numbers_are_read_strictly),
        cmocka_unit_test(a_file_appears_whole_or_not_at_all),
        cmocka_unit_test(a_file_written_anew_keeps_who_may_read_it),
        cmocka_unit_test(a_full_disk_is_reported_and_devices_stay_devices),
        cmocka_unit_test(whether_a_file_can_be_written_is_asked_without_a_trace),
        cmocka_unit_test(charts_draw_points_where_they_are),
        cmocka_unit_test(a_line_is_drawn_whichever_way_it_goes),
        cmocka_unit_test(logarithmic_ticks_are_written_as_one_reads_them),
        cmocka_unit_test(a_thing_is_drawn_in_its_ink_and_named_once),
        cmocka_unit_test(lines_of_reference_stand_at_their_height_with_their_number),
        cmocka_unit_test(names_of_lines_of_reference_do_not_lie_on_each_other),
        cmocka_unit_test(a_square_chart_has_one_unit_for_both_axes),
        cmocka_unit_test(a_long_legend_goes_on_in_a_second_line),
        cmocka_unit_test(charts_bear_any_numbers),
        cmocka_unit_test(charts_of_hostile_numbers_have_only_places_in_them),
        cmocka_unit_test(ascii_charts_are_ascii),
        cmocka_unit_test(names_in_a_drawing_cannot_break_it),
        cmocka_unit_test(a_file_has_a_name),
        cmocka_unit_test(standard_input_is_read_once),
        cmocka_unit_test(a_text_that_begins_with_a_minus_is_an_argument),
        cmocka_unit_test(a_name_in_full_is_that_option),
        cmocka_unit_test(what_is_read_is_not_written_over),
        cmocka_unit_test(the_end_of_a_long_path_is_shown),
        cmocka_unit_test(every_kind_of_option_lands),
        cmocka_unit_test(what_is_not_given_stays_as_it_was),
        cmocka_unit_test(the_last_of_two_counts),
        cmocka_unit_test(unknown_options_are_refused),
        cmocka_unit_test(a_word_by_itself_is_told_which_option_takes_a_text),
        cmocka_unit_test(names_may_be_cut_short_while_they_are_clear),
        cmocka_unit_test(a_value_missing_or_too_much_is_told),
        cmocka_unit_test(whole_numbers_stay_in_their_range),
        cmocka_unit_test(numbers_stay_in_their_range),
        cmocka_unit_test(a_choice_is_one_of_its_words),
        cmocka_unit_test(a_text_is_given_eight_times_at_most),
        cmocka_unit_test(arguments_land_in_their_order),
        cmocka_unit_test(modes_exclude_each_other),
        cmocka_unit_test(options_that_need_others_say_so),
        cmocka_unit_test(options_without_an_effect_say_so),
        cmocka_unit_test(options_that_exclude_others_say_so),
        cmocka_unit_test(an_option_may_be_called_almost_mode),
        cmocka_unit_test(an_option_may_go_with_one_word_of_a_choice),
        cmocka_unit_test(every_set_of_options_is_judged_by_the_same_rules),
        cmocka_unit_test(help_is_asked_for_in_two_ways),
        cmocka_unit_test(usage_and_help_are_made_from_the_table),
        cmocka_unit_test(help_is_wrapped_by_characters_and_bears_any_text),
        cmocka_unit_test(a_choice_of_many_words_is_cut_behind_a_bar),
        cmocka_unit_test(a_page_is_as_wide_as_COLUMNS_says_within_reason),
        cmocka_unit_test(charts_are_plain_where_the_locale_is_not_UTF_8),
        cmocka_unit_test(calls_do_not_remember_each_other),
        cmocka_unit_test(random_words_are_read_or_refused),
        cmocka_unit_test(a_table_that_names_no_word_of_a_choice_is_a_mistake),
        cmocka_unit_test(a_program_ends_with_the_status_of_what_happened),
        cmocka_unit_test(what_cannot_be_written_is_told_before_the_work),
        cmocka_unit_test(output_that_does_not_arrive_is_an_error),
        cmocka_unit_test(a_file_does_not_take_the_place_of_a_closed_stream),
        cmocka_unit_test(demos_run_alone_or_in_their_order),
    };
    return cmocka_run_group_tests_name("the tools and the charts", tests, NULL, NULL);
}
