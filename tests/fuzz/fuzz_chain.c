/* libFuzzer target: chapter 1's reader of tables, as a chain, as counts and as a record. */

#include "../../ch01_markov/markov.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Table table;
    Error error;
    Chain chain;
    Counts counts;
    Fit fit;
    char *text = NEW(char, size + 1);
    memcpy(text, data, size);
    if (!table_parse(&table, text, size, false, "fuzz", &error))
        return 0;
    if (chain_from_table(&chain, &table, &error)) {
        Structure structure = chain_structure(&chain);
        double *limit = NEW(double, chain.n_state), *start = NEW(double, chain.n_state);
        start[0] = 1.0;
        chain_long_run(limit, start, &chain, &structure);
        free(limit);
        free(start);
        structure_free(&structure);
        chain_free(&chain);
    }
    if (counts_from_table(&counts, &table, &error)) {
        if (chain_fit(&fit, &counts, &error))
            fit_free(&fit);
        counts_free(&counts);
    }
    table_free(&table);
    return 0;
}
