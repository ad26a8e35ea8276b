/* libFuzzer target: chapter 2's readers of systems and of input series. */

#include "../../ch02_ssm_abcd/ssm.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Error error;
    for (int spaces = 0; spaces < 2; spaces++) {
        Table table;
        char *text = NEW(char, size + 1);
        memcpy(text, data, size);
        if (!table_parse(&table, text, size, spaces, "fuzz", &error))
            return 0;
        Ssm system;
        double *T;
        if (ssm_from_table(&system, &T, &table, &error)) {
            Signal u = {0, 0, NULL, NULL};
            Ssm changed;
            double *y = NEW(double, 8 * system.d_out);
            if (signal_built_in(&u, "noise", 8, system.d_in, 1))
                ssm_compute(y, u.value, &system, 8, BY_RECURRENCE, READ_AFTER, &error);
            if (T && ssm_change_basis(&changed, &system, T, &error))
                ssm_free(&changed);
            free(y);
            free(T);
            signal_free(&u);
            ssm_free(&system);
        }
        Signal series;
        if (signal_from_table(&series, &table, 1, &error))
            signal_free(&series);
        table_free(&table);
    }
    return 0;
}
