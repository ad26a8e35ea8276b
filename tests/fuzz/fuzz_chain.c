/* libFuzzer target: chapter 1's reader of tables, as a chain, as counts and as a record. */

#include "../../ch01_markov/markov.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Table table;
    Error error;
    StateTable states;
    Counts counts;
    Fit fit;
    char *text = NEW(char, size + 1);
    memcpy(text, data, size);
    if (!table_parse(&table, text, size, false, "fuzz", &error))
        return 0;
    if (chances_from_table(&states, &table, &error)) {
        Chain chain = {states.n_state, states.name, states.value};
        Structure structure = chain_structure(&chain);
        double *limit = NEW(double, chain.n_state), *start = NEW(double, chain.n_state);
        start[0] = 1.0;
        if (chain_long_run(limit, start, &chain, &structure, &error))
            for (size_t k = 0; k < chain.n_state; k++)
                assert(limit[k] >= 0.0 && limit[k] <= 1.0 + 1e-6);
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
