/* The ground of the course, ch01_markov/tools.h and charts.h, held against numbers worked by hand,
   full disks, and options as a stranger might type them. */

#include "../ch01_markov/charts.h"
#include "check.h"

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

/* ---- numbers in words ------------------------------------------------------------------ */

static void whole_numbers_are_read_strictly(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"abc", "--days: 'abc' is not a whole number"},
        {"", "--days: '' is not a whole number"},
        {"1.5", "--days: '1.5' is not a whole number"},
        {"-1", "--days: '-1' is not a whole number"},
        {"0", "--days: 0 is out of range: 1 to 1000"},
        {"1001", "--days: 1001 is out of range: 1 to 1000"},
        {"99999999999999999999", "--days: 99999999999999999999 is out of range: 1 to 1000"},
    };
    uint64_t value = 77;
    Error error;
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        assert_false(option_integer(&value, "days", bad[k][0], 1, 1000, &error));
        assert_string_equal(error.text, bad[k][1]);
        assert_int_equal(value, 77);
    }
    assert_false(option_integer(&value, "seed", "18446744073709551616", 0, UINT64_MAX, &error));
    assert_contains(error.text, "out of range");
    assert_true(option_integer(&value, "days", "1000", 1, 1000, &error));
    assert_int_equal(value, 1000);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pcg32_gives_its_published_numbers),
        cmocka_unit_test(uniform_and_normal_numbers_have_their_moments),
        cmocka_unit_test(linear_systems_are_solved),
        cmocka_unit_test(the_largest_of_numbers_with_a_NaN_is_NaN),
        cmocka_unit_test(spectral_radii_known_in_closed_form_are_found),
        cmocka_unit_test(whole_numbers_are_read_strictly),
        cmocka_unit_test(a_file_appears_whole_or_not_at_all),
        cmocka_unit_test(a_full_disk_is_reported_and_devices_stay_devices),
        cmocka_unit_test(charts_draw_points_where_they_are),
        cmocka_unit_test(charts_bear_any_numbers),
        cmocka_unit_test(ascii_charts_are_ascii),
        cmocka_unit_test(names_in_a_drawing_cannot_break_it),
    };
    return cmocka_run_group_tests_name("the tools and the charts", tests, NULL, NULL);
}
