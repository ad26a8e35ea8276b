/* Chapter 5, measured.

   HOLDS   the options of build/ch05_bench, and which of them runs what
   FOR     make bench, and the lessons' sections on speed */

#ifndef CH05_BENCH
#define CH05_BENCH

#include "measure_block.c"
#include "measure_mamba2.c"
#include "measure_pretrained.c"
#include "measure_training.c"
#include "measure_threads.c"

int block_bench_main(int argc, char **argv)
{
    bool block = false, compare = false, training = false, contended = false, mamba2 = false;
    bool ascii = false;
    const char *file = NULL, *svg = NULL, *pretrained = NULL;
    uint64_t width = 256;
    const Option table[] = {
        {"block", NULL, OPTION_SWITCH, 0, 0, &block, "mode",
         "how near the products of a block come to what this machine can do (the default)"},
        {"compare", NULL, OPTION_SWITCH, 0, 0, &compare, "mode",
         "time and memory of long sequences against attention"},
        {"training", NULL, OPTION_SWITCH, 0, 0, &training, "mode",
         "a training step of the language model, and its parts, beside what this machine allows"},
        {"contended", NULL, OPTION_SWITCH, 0, 0, &contended, "mode",
         "all threads against one, alone and beside a busy process"},
        {"mamba2", NULL, OPTION_SWITCH, 0, 0, &mamba2, "mode",
         "Mamba-2's scan, as a recurrence and in chunks, against chapter 4's"},
        {"pretrained", "DIR", OPTION_TEXT, 0, 0, &pretrained, "mode",
         "a pretrained model's steps, prompts and draws, with random models of mamba-130m's shape, "
         "which are made in DIR (1 GB)"},
        {"width", "N", OPTION_WHOLE, 1, 4096, &width, "compare !config",
         "with --compare: d_model (default 256)"},
        {"config", "FILE", OPTION_TEXT, 0, 0, &file, "compare",
         "with --compare: sizes from a Hugging Face config.json"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &svg, "compare mamba2", "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "compare mamba2",
         "draw charts without Unicode"},
    };
    const Program program = {"ch05_bench",
                             "Measures the Mamba block (chapter 5) on this machine. Without "
                             "options: --block.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    MambaConfig config = config_default((size_t)width);
    BlockShow with = {{look_at_terminal(ascii), svg, 1}, config, config};
    Error error;
    bool ok = !file || config_read(&with.config, file, &error);
    if (ok && pretrained)
        ok = measure_pretrained(pretrained, &error);
    else if (ok)
        ok = (compare     ? demo_compare
              : training  ? demo_training_speed
              : contended ? demo_threads_speed
              : mamba2    ? demo_mamba2_speed
                          : demo_block_speed)(&with.show, &error);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return block_bench_main(argc, argv);
}
#endif

#endif /* CH05_BENCH */
