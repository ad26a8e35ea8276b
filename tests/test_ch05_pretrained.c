/* A pretrained model: products of every type, steps against many tokens at once, memories on disk,
   the program. Its folder: test_ch05_model_folder.c; its tokenizer: test_ch05_tokenizer.c. */

#include "../ch05_mamba_block/measure_pretrained.c"
#include "golden.h"

#include "folders.h"

/* ---- weights ---- */

/* A random matrix in a type; its data belongs to *own. */
static Weight random_weight(void **own, TensorType type, size_t rows, size_t cols, Random *random)
{
    Tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.type = type;
    tensor.rank = 2;
    tensor.shape[0] = rows;
    tensor.shape[1] = cols;
    assert_true(tensor_measure(&tensor));
    unsigned char *data = NEW(unsigned char, tensor.bytes);
    for (size_t i = 0; i < rows * cols; i++) {
        float value = (float)random_normal(random);
        uint16_t half =
            type == TENSOR_BF16 ? tensor_bf16_from_float(value) : tensor_f16_from_float(value);
        if (type == TENSOR_F32)
            memcpy(data + 4 * i, &value, 4);
        else
            memcpy(data + 2 * i, &half, 2);
    }
    tensor.data = data;
    *own = data;
    return weight_from_tensor(&tensor);
}

/* A copy in 8 or 4 bits; its blocks belong to *arena. */
static Weight copied(Arena *arena, const Weight *weight, size_t bits)
{
    *arena = arena_new(int_bytes(weight->rows, weight->cols, bits));
    memset(arena->bytes, 0xff, arena->room);
    return weight_to_int(weight, bits, arena);
}

/* The scale of a weight's block. */
static float scale_of(const Weight *copy, size_t row, size_t col)
{
    size_t block = col / block_cols(copy->bits), blocks = blocks_of(copy->cols, copy->bits);
    size_t place = block_place(row, block, blocks, copy->bits);
    return copy->bits == 4 ? tensor_float_from_bf16(((const uint16_t *)copy->scale)[place])
                           : ((const float *)copy->scale)[place];
}

/* Every type and many sizes: the fast products are those of doubles, rows outside stay as they
   are. */
static void products_of_every_type_are_those_of_doubles(void **state)
{
    const struct {
        TensorType type;
        size_t bits;
        double x_error; /* of a number of x, against the largest */
    } kinds[] = {{TENSOR_F32, 0, 0.0},          {TENSOR_F16, 0, 0.0},
                 {TENSOR_BF16, 0, 0.0},         {TENSOR_F32, 8, 1.0 / 65534},
                 {TENSOR_BF16, 8, 1.0 / 65534}, {TENSOR_F32, 4, 1.0 / 254},
                 {TENSOR_F16, 4, 1.0 / 254}};
    const size_t sizes[] = {1, 2, 15, 16, 31, 33, 48, 64, 65, 127, 130, 257, 768};
    Random random = random_from_seed(4);
    (void)state;
    for (size_t k = 0; k < TABLE_SIZE(kinds); k++)
        for (size_t j = 0; j < TABLE_SIZE(sizes); j++) {
            size_t rows = 7, cols = sizes[j], bits = kinds[k].bits;
            void *own;
            Arena arena = {NULL, 0, 0};
            Weight weight = random_weight(&own, kinds[k].type, rows, cols, &random);
            if (bits > 0)
                weight = copied(&arena, &weight, bits);
            float *memory = NEW(float, activation_floats(cols)), clear[7], fast[9], scale = 0.0f;
            for (size_t i = 0; i < activation_floats(cols); i++)
                memory[i] = NAN;
            Activation x = activation_place(memory, cols);
            for (size_t i = 0; i < cols; i++) {
                x.value[i] = (float)random_normal(&random);
                scale += fabsf(x.value[i]);
            }
            activation_set(&x, &weight);
            for (size_t i = 0; i < cols && bits > 0; i++) {
                double unit = (double)(bits == 8 ? x.unit : x.byte_unit[i / INT4_BLOCK]);
                double whole = bits == 8 ? x.whole[i] : x.byte[i];
                assert_near(whole * unit, x.value[i], 0.501 * unit, 0);
            }
            for (size_t i = 0; i < 9; i++)
                fast[i] = 77.0f;
            weight_product_clear(clear, &weight, &x, 0, rows);
            weight_product(fast + 1, &weight, &x, 0, 3);
            weight_product(fast + 1, &weight, &x, 3, rows);
            /* a weight is at most 5, a number of x too */
            double allowed = (double)scale * 5.0 * 2e-7 + 1e-7 +
                             kinds[k].x_error * 5.0 * 3.0 * sqrt((double)cols);
            assert_all_near(fast + 1, clear, rows, allowed, 0);
            assert_true(fast[0] == 77.0f && fast[8] == 77.0f);
            float part[7] = {77.0f, 77.0f, 77.0f, 77.0f, 77.0f, 77.0f, 77.0f};
            weight_product(part, &weight, &x, 2, 3);
            assert_true(part[2] == fast[3] && part[1] == 77.0f && part[3] == 77.0f);
            weight_free(&weight);
            free(own), free(memory), free(arena.bytes);
        }
}

#ifdef LANES_FUSED
/* Which of 64 sums takes number i of a row, one after the other by fused multiply-adds. */
static size_t sum_of(TensorType type, size_t i, size_t cols)
{
    bool left = i >= cols / (type == TENSOR_BF16 ? 128 : 64) * (type == TENSOR_BF16 ? 128 : 64);
    if (type == TENSOR_BF16)
        return (left ? 0 : i % 128 / 32 * 16) + i % 32 / 2;
    return left ? (type == TENSOR_F16 ? 16 : 0) + i % 16 : i % 64;
}

/* The product as every machine makes it: 64 sums, of which four and four are added, then halves. */
static float product_in_order(const float *x, const float *w, TensorType type, size_t cols)
{
    float sum[64] = {0};
    for (size_t i = 0; i < cols; i++) {
        size_t s = sum_of(type, i, cols);
        sum[s] = fmaf(x[i], w[i], sum[s]);
    }
    for (size_t l = 0; l < 16; l++)
        sum[l] = (sum[l] + sum[16 + l]) + (sum[32 + l] + sum[48 + l]);
    for (size_t count = 8; count > 0; count /= 2)
        for (size_t l = 0; l < count; l++)
            sum[l] += sum[l + count];
    return sum[0];
}

/* In 8 bits: sixteen sums of four products a block, whole numbers, times the block's scale. */
static float eight_bits_in_order(const Activation *x, const Weight *weight)
{
    float sum[16] = {0};
    for (size_t b = 0; b < blocks_of(weight->cols, 8); b++) {
        const int8_t *w = (const int8_t *)weight->data + INT8_ROWS * b * INT8_BLOCK;
        const int16_t *by = x->whole + b * INT8_BLOCK;
        for (size_t l = 0; l < 16; l++) {
            int32_t four = 0;
            for (size_t i = 2 * l; i < 64; i += i % 2 == 0 ? 1 : 31)
                four += w[i] * by[i];
            sum[l] = fmaf((float)four, ((const float *)weight->scale)[INT8_ROWS * b], sum[l]);
        }
    }
    for (size_t count = 8; count > 0; count /= 2)
        for (size_t l = 0; l < count; l++)
            sum[l] += sum[l + count];
    return x->unit * sum[0];
}

static void products_are_summed_in_one_order_for_every_width_of_vectors(void **state)
{
    static const TensorType types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};
    static const size_t sizes[] = {1, 15, 17, 31, 63, 64, 66, 127, 130, 257, 515};
    Random random = random_from_seed(9);
    (void)state;
    for (size_t k = 0; k < TABLE_SIZE(types); k++)
        for (size_t j = 0; j < TABLE_SIZE(sizes); j++) {
            size_t cols = sizes[j];
            void *own;
            Arena arena = {NULL, 0, 0};
            Weight weight = random_weight(&own, types[k], 2, cols, &random);
            float *memory = NEW(float, activation_floats(cols)), *row = NEW(float, cols), y[2];
            Activation x = activation_place(memory, cols);
            for (size_t i = 0; i < cols; i++)
                x.value[i] = (float)random_normal(&random);
            activation_set(&x, &weight);
            weight_product(y, &weight, &x, 0, 2);
            weight_rows_to_float(row, &weight, 0, 1);
            assert_true(y[0] == product_in_order(x.value, row, types[k], cols));
            Weight eight = copied(&arena, &weight, 8);
            activation_set(&x, &eight);
            weight_product(y, &eight, &x, 0, 2);
            assert_true(y[0] == eight_bits_in_order(&x, &eight));
            weight_free(&eight);
            weight_free(&weight);
            free(own), free(memory), free(row), free(arena.bytes);
        }
}
#endif

static void eight_bits_are_near_by_half_a_step(void **state)
{
    enum { ROWS_ = 5, COLS = 150 };
    Random random = random_from_seed(6);
    void *own;
    Arena arena;
    float got[COLS], want[COLS];
    (void)state;
    Weight weight = random_weight(&own, TENSOR_F32, ROWS_, COLS, &random);
    ((float *)own)[3] = 100.0f; /* far out: its block gets coarse, the next one does not */
    Weight small = copied(&arena, &weight, 8);
    for (size_t r = 0; r < ROWS_; r++) {
        weight_rows_to_float(got, &small, r, 1);
        weight_rows_to_float(want, &weight, r, 1);
        for (size_t i = 0; i < COLS; i++)
            assert_near(got[i], want[i], 0.5001 * (double)scale_of(&small, r, i), 0);
    }
    assert_true(scale_of(&small, 0, 0) > 0.7f && scale_of(&small, 0, 64) < 0.05f);
    free(own), free(arena.bytes);
}

/* A number in 4 bits is the nearest of the 16 that its block's scale allows. */
static void four_bits_are_the_nearest_of_sixteen(void **state)
{
    const size_t rows_of[] = {1, 31, 33}, cols_of[] = {8, 40, 257};
    Random random = random_from_seed(7);
    (void)state;
    for (size_t j = 0; j < 9; j++) {
        size_t rows = rows_of[j / 3], cols = cols_of[j % 3];
        void *own;
        Arena arena;
        float got[257], want[257];
        Weight weight = random_weight(&own, TENSOR_F32, rows, cols, &random);
        ((float *)own)[3] = 100.0f;
        Weight small = copied(&arena, &weight, 4);
        for (size_t r = 0; r < rows; r++) {
            weight_rows_to_float(got, &small, r, 1);
            weight_rows_to_float(want, &weight, r, 1);
            for (size_t i = 0; i < cols; i++) {
                double scale = (double)scale_of(&small, r, i);
                double nearest = fmin(fmax(rint((double)want[i] / scale), -8.0), 7.0);
                /* between two of them either may be taken */
                double tie = fabs(fabs((double)want[i] / scale - nearest) - 0.5);
                assert_near(got[i], scale * nearest, tie < 1e-5 ? 1.001 * fabs(scale) : 0.0, 1e-6);
            }
        }
        assert_true(fabsf(scale_of(&small, 0, 3)) > 11.0f);
        assert_true(cols < 40 || fabsf(scale_of(&small, 0, 33)) < 0.6f);
        free(own), free(arena.bytes);
    }
}

/* The scale is searched for: on normal numbers the error is below what the plain choice leaves, by
   which the largest becomes -8 (8.57 percent). */
static void a_search_finds_a_better_scale_than_the_largest_gives(void **state)
{
    enum { ROWS_ = 64, COLS = 256 };
    Random random = random_from_seed(8);
    void *own;
    Arena arena;
    float got[COLS];
    double error = 0.0, all = 0.0, plain_error = 0.0;
    (void)state;
    Weight weight = random_weight(&own, TENSOR_F32, ROWS_, COLS, &random);
    Weight small = copied(&arena, &weight, 4);
    for (size_t r = 0; r < ROWS_; r++) {
        const float *want = (const float *)own + r * COLS;
        float plain = 0.0f;
        weight_rows_to_float(got, &small, r, 1);
        for (size_t i = 0; i < COLS; i++) {
            if (i % INT4_BLOCK == 0) {
                plain = 0.0f;
                for (size_t k = i; k < i + INT4_BLOCK; k++)
                    plain = fabsf(want[k]) > fabsf(plain) ? want[k] : plain;
                plain /= -8.0f;
            }
            double off = (double)got[i] - (double)want[i];
            double plain_off = (double)(plain * fminf(rintf(want[i] / plain), 7.0f) - want[i]);
            error += off * off;
            plain_error += plain_off * plain_off;
            all += (double)want[i] * (double)want[i];
        }
    }
    assert_true(sqrt(error / all) < 0.082);
    assert_true(error < 0.92 * plain_error);
    free(own), free(arena.bytes);
}

/* The same bits on every machine that fuses: each block's sum is exact, and the blocks of a row
   are added in their order. */
static void four_bits_multiply_exactly_in_their_order(void **state)
{
    const size_t rows_of[] = {1, 31, 33}, cols_of[] = {8, 40, 257};
    Random random = random_from_seed(9);
    (void)state;
    for (size_t j = 0; j < 9; j++) {
        size_t rows = rows_of[j / 3], cols = cols_of[j % 3];
        void *own;
        Arena arena;
        float row[257], fast[33], *memory = NEW(float, activation_floats(cols));
        Weight weight = random_weight(&own, TENSOR_F32, rows, cols, &random);
        Weight small = copied(&arena, &weight, 4);
        Activation x = activation_place(memory, cols);
        for (size_t i = 0; i < cols; i++)
            x.value[i] = (float)random_normal(&random);
        activation_set(&x, &small);
        weight_product(fast, &small, &x, 0, rows);
        for (size_t r = 0; r < rows; r++) {
            float want = 0.0f;
            weight_rows_to_float(row, &small, r, 1);
            for (size_t b = 0; b * INT4_BLOCK < cols; b++) {
                float scale = scale_of(&small, r, b * INT4_BLOCK);
                int sum = 0;
                for (size_t i = b * INT4_BLOCK; i < smaller(cols, (b + 1) * INT4_BLOCK); i++)
                    sum += (int)rintf(row[i] / scale) * x.byte[i];
                want = fmaf((float)sum, scale * x.byte_unit[b], want);
            }
#if defined(__FMA__) || defined(__aarch64__)
            assert_true(fast[r] == want);
#else
            assert_near(fast[r], want, 1e-6, 1e-6);
#endif
        }
        free(own), free(arena.bytes), free(memory);
    }
}

/* NaN and infinities, of the vector or of the matrix, go into the product, not into undefined
   conversions; and blocks of zeros, or of numbers too small for a scale, are zeros. */
static void numbers_that_are_none_stay_none_in_few_bits(void **state)
{
    const float bad[] = {NAN, INFINITY, -INFINITY};
    Random random = random_from_seed(6);
    void *own;
    float *memory = NEW(float, activation_floats(70)), y[3], row[70];
    (void)state;
    for (size_t bits = 4; bits <= 8; bits += 4)
        for (size_t i = 0; i < 3; i++) {
            Arena arena;
            Weight weight = random_weight(&own, TENSOR_F32, 3, 70, &random);
            float *number = (float *)own;
            number[66] = bad[i];
            for (size_t k = 70; k < 140; k++)
                number[k] = k < 134 ? 0.0f : 1e-45f;
            Weight small = copied(&arena, &weight, bits);
            Activation x = activation_place(memory, 70);
            for (size_t k = 0; k < 70; k++)
                x.value[k] = 1.0f;
            activation_set(&x, &small);
            weight_product(y, &small, &x, 0, 3);
            assert_false(isfinite(y[0]));
            assert_true(y[1] == 0.0f && isfinite(y[2]));
            weight_rows_to_float(row, &small, 1, 1);
            for (size_t k = 0; k < 70; k++)
                assert_near(row[k], 0.0, 1e-44, 0);
            x.value[5] = bad[i];
            activation_set(&x, &small);
            weight_product(y, &small, &x, 0, 3);
            assert_false(isfinite(y[0]) || isfinite(y[2]));
            free(own), free(arena.bytes);
        }
    free(memory);
}

/* Logits of one text by chapter 5's own model, in full: (len, vocab). */
static float *clear_logits(const Model *model, const uint32_t *ids, size_t len)
{
    int32_t *copy = NEW(int32_t, len);
    float *logits = NEW(float, len * model->config.vocab_size);
    for (size_t i = 0; i < len; i++)
        copy[i] = (int32_t)ids[i];
    ModelWork work = model_work_new(model, 1, len, false);
    model_forward(&work, NULL, copy, model);
    memcpy(logits, work.logits, len * model->config.vocab_size * sizeof *logits);
    model_work_free(&work);
    free(copy);
    return logits;
}

/* Steps, many tokens at once, and both by turns give the logits of language_model.c, for biases, an
   own head and sizes that divide nothing. */
static void check_against_clear(const MambaConfig *config, TensorType type, double tolerance)
{
    enum { LEN = 23 };
    OwnFolder folder = own_folder(config, type, 12);
    Pretrained model = opened(folder.dir, 0);
    Error error;
    char *path = path_in(folder.dir, "model.safetensors");
    uint32_t ids[LEN];
    size_t vocab = config->vocab_size;
    for (uint32_t t = 0; t < LEN; t++)
        ids[t] = t * 7919 % (uint32_t)vocab;
    assert_true(model_load(&folder.model, path, &error)); /* what was rounded by `type` */
    free(path);
    float *want = clear_logits(&folder.model, ids, LEN);
    for (size_t first = 0; first <= LEN; first += first < 4 ? 1 : 6) {
        Runner run = runner_new(&model);
        Memory memory = memory_new(&model.config);
        runner_feed(&run, &memory, ids, first, first > 0);
        if (first > 0)
            assert_relmax(run.logits, want + (first - 1) * vocab, vocab, tolerance);
        for (size_t t = first; t < LEN; t++) {
            runner_step(&run, &memory, ids[t], true);
            assert_relmax(run.logits, want + t * vocab, vocab, tolerance);
        }
        assert_int_equal(memory.count, LEN);
        runner_free(&run), memory_free(&memory);
    }
    free(want);
    pretrained_close(&model);
    own_folder_free(&folder);
}

static void steps_and_prompts_agree_with_the_clear_model(void **state)
{
    MambaConfig odd = odd_config(), plain = config_default(32), one = config_default(16);
    (void)state;
    plain.vocab_size = 97;
    one.vocab_size = 50;
    one.conv_kernel = 1; /* the convolution remembers nothing */
    one.use_conv_bias = false;
    one.state_size = 1;
    check_against_clear(&odd, TENSOR_F32, 1e-5);
    check_against_clear(&odd, TENSOR_BF16, 1e-5);
    check_against_clear(&odd, TENSOR_F16, 1e-5);
    check_against_clear(&plain, TENSOR_F32, 1e-5);
    check_against_clear(&one, TENSOR_BF16, 1e-5);
    odd.kind = MODEL_FALCON_MAMBA;
    odd.mixer_rms_eps = 0.03; /* large enough to tell */
    check_against_clear(&odd, TENSOR_F32, 1e-5);
    check_against_clear(&odd, TENSOR_BF16, 1e-5);
    check_against_clear(&odd, TENSOR_F16, 1e-5);
}

static void steps_and_prompts_of_mamba_2_agree_with_the_clear_model(void **state)
{
    MambaConfig odd = heads_config(), plain = config_default_heads(32, 16, 16);
    (void)state;
    plain.vocab_size = 97;
    plain.conv_kernel = 1;
    check_against_clear(&odd, TENSOR_F32, 1e-5);
    check_against_clear(&odd, TENSOR_BF16, 1e-5);
    check_against_clear(&odd, TENSOR_F16, 1e-5);
    check_against_clear(&plain, TENSOR_BF16, 1e-5);
}

/* ---- golden ---- */

static void check_golden(const char *folder, const char *expected, size_t bits, double tolerance,
                         double loss_tolerance)
{
    char name[64];
    Safetensors file;
    snprintf(name, sizeof name, "%s/golden.safetensors", expected);
    char *path = golden_path(name), *dir = golden_path(folder);
    golden_open(&file, path);
    Pretrained model = opened(dir, bits);
    Runner run = runner_new(&model);
    const Tensor *ids_tensor, *greedy_tensor;
    double *ids = golden_doubles(&ids_tensor, &file, "ids");
    double *greedy = golden_doubles(&greedy_tensor, &file, "greedy");
    float *want = golden_floats(NULL, &file, "logits");
    size_t len = ids_tensor->shape[1], more = greedy_tensor->shape[greedy_tensor->rank - 1];
    size_t continued = greedy_tensor->count / more; /* all prompts, or the first one */
    size_t vocab = model.config.vocab_size;
    double more_loss = 0.0, count = 0.0;
    for (size_t b = 0; b < ids_tensor->shape[0]; b++) {
        Memory memory = memory_new(&model.config);
        for (size_t t = 0; t < len; t++) {
            runner_step(&run, &memory, (uint32_t)ids[b * len + t], true);
            const float *golden = want + (b * len + t) * vocab;
            assert_relmax(run.logits, golden, vocab, tolerance);
            for (uint32_t next = 0; next < vocab; next++, count++)
                more_loss +=
                    fabs(token_loss(run.logits, vocab, next) - token_loss(golden, vocab, next));
        }
        for (size_t t = 0; t < more && b < continued && bits == 0; t++) {
            size_t token = token_greedy(run.logits, vocab);
            assert_int_equal(token, (size_t)greedy[b * more + t]);
            runner_step(&run, &memory, (uint32_t)token, true);
        }
        memory_free(&memory);
    }
    assert_near(more_loss / count, 0.0, loss_tolerance, 0);
    free(ids), free(greedy), free(want), free(path), free(dir);
    runner_free(&run);
    pretrained_close(&model);
    safetensors_close(&file);
}

static void golden_folders_give_golden_logits_and_tokens(void **state)
{
    (void)state;
    check_golden("ch05_lm", "ch05_lm", 0, 2e-5, 1e-4);
    check_golden("ch05_lm_sharded", "ch05_lm", 0, 2e-5, 1e-4);
    check_golden("ch05_lm_bf16", "ch05_lm_bf16", 0, 2e-5, 1e-4);
}

/* Every folder whose name matches, with its own golden data. */
static void check_family(const char *folders, size_t bits, double tolerance, double loss_tolerance)
{
    glob_t found;
    size_t count = golden_list(&found, folders);
    for (size_t i = 0; i < count; i++) {
        const char *folder = found.gl_pathv[i] + strlen(golden_dir()) + 1;
        check_golden(folder, folder, bits, tolerance, loss_tolerance);
    }
    globfree(&found);
}

static void falcon_mamba_gives_golden_logits_and_tokens(void **state)
{
    (void)state;
    check_family("falcon_mamba_*", 0, 2e-5, 1e-4);
    check_family("falcon_mamba_*", 8, 0.08, 0.03);
    check_family("falcon_mamba_*", 4, 1.0, 0.3);
}

static void mamba_2_gives_golden_logits_and_tokens(void **state)
{
    (void)state;
    check_family("mamba2_*", 0, 2e-5, 1e-4);
    check_family("mamba2_*", 8, 0.08, 0.03);
}

/* Weights are off by 1/254 of the largest of 64 at most, about 1 % of a usual one; that much is
   seen in the logits of this small random model. In four bits they are off by 8 %, and the worst
   logit by many times that; a token's loss is off by what the last column says, on average. */
static void fewer_bits_lose_little_of_the_golden_logits(void **state)
{
    (void)state;
    check_golden("ch05_lm", "ch05_lm", 8, 0.04, 0.01);
    check_golden("ch05_lm", "ch05_lm", 4, 0.6, 0.2);
}

/* Nats a token of the trained model on the beginning of the stories that it has not seen, by steps
   or all at once. */
static double tiny_loss(size_t bits, bool steps)
{
    enum { BYTES = 3000 };
    Pretrained model = opened("data/tiny-mamba", bits);
    Runner run = runner_new(&model);
    Memory memory = memory_new(&model.config);
    Ids ids = {NULL, 0, 0, 0};
    Error error;
    char *text;
    size_t len, vocab = model.config.vocab_size, d_model = model.config.hidden_size;
    double sum = 0.0;
    assert_true(text_read(&text, &len, "data/rainbow/test.txt", &error));
    assert_true(tokenizer_encode(&ids, &model.folder.tokenizer, text, smaller(len, BYTES), &error));
    float *logits = NEW(float, vocab);
    for (size_t t = 0; t + 1 < ids.count; t++) {
        if (steps)
            runner_step(&run, &memory, ids.id[t], true);
        else if (t % PROMPT_CHUNK == 0)
            runner_chunk(&run, &memory, ids.id + t, smaller(PROMPT_CHUNK, ids.count - t), 0);
        if (!steps)
            runner_many_logits(&run, logits, run.final + t % PROMPT_CHUNK * d_model, 1);
        sum += token_loss(steps ? run.logits : logits, vocab, ids.id[t + 1]);
    }
    double mean = sum / (double)(ids.count - 1);
    free(text), free(logits), ids_free(&ids);
    runner_free(&run), memory_free(&memory);
    pretrained_close(&model);
    return mean;
}

/* What the lesson says of the whole text: 0.01 nats, of which the rounding of the vector, which
   only steps do, is a small part. */
static void four_bits_cost_the_trained_model_little(void **state)
{
    double exact = tiny_loss(0, true), eight = tiny_loss(8, true);
    double four = tiny_loss(4, true), at_once = tiny_loss(4, false);
    (void)state;
    assert_near(tiny_loss(0, false), exact, 1e-5, 0);
    assert_near(eight, exact, 0.005, 0);
    assert_near(four, exact, 0.08, 0); /* five seeds: from 0.02 better to 0.04 worse */
    assert_near(at_once, four, 0.005, 0);
    assert_true(fabs(four - exact) > 1e-4);
}

static void check_threads(MambaConfig config)
{
    int most = threads_most();
    config.vocab_size = 333;
    config.num_hidden_layers = 2;
    OwnFolder folder = own_folder(&config, TENSOR_BF16, 5);
    for (size_t bits = 0; bits <= 8; bits += 4) {
        float *logits[4];
        for (int threads = 1; threads <= 4; threads++) {
            threads_use(threads);
            Pretrained model = opened(folder.dir, bits);
            Runner run = runner_new(&model);
            Memory memory = memory_new(&model.config);
            assert_int_equal(run.threads, 1); /* too small for more; but let it have them: */
            runner_threads(&run, (size_t)threads);
            for (uint32_t t = 0; t < 12; t++)
                runner_step(&run, &memory, t * 27, true);
            logits[threads - 1] = NEW(float, 333);
            memcpy(logits[threads - 1], run.logits, 333 * sizeof(float));
            assert_memory_equal(logits[threads - 1], logits[0], 333 * sizeof(float));
            runner_free(&run), memory_free(&memory);
            pretrained_close(&model);
        }
        for (int i = 0; i < 4; i++)
            free(logits[i]);
    }
    threads_use(most);
    own_folder_free(&folder);
}

static void any_number_of_threads_gives_the_same_bits(void **state)
{
    (void)state;
    MambaConfig falcon = config_default(96);
    falcon.kind = MODEL_FALCON_MAMBA;
    check_threads(config_default(96));
    check_threads(falcon);
    check_threads(config_default_heads(96, 16, 24));
}

/* One thread's way through rounds that end in two meetings; every now and then it comes so late
   that the others sleep. Whether between the two it ever saw a thread that was not there yet. */
static bool meet_in_rounds(Meeting *meeting, size_t *rounds, size_t thread, size_t threads)
{
    bool early = false;
    for (size_t round = 1; round <= 200; round++) {
        if (round % 50 == 10 * thread)
            usleep(3000);
        __atomic_store_n(&rounds[thread], round, __ATOMIC_RELAXED);
        threads_meet(meeting, threads);
        for (size_t k = 0; k < threads; k++)
            early = early || __atomic_load_n(&rounds[k], __ATOMIC_RELAXED) != round;
        threads_meet(meeting, threads);
    }
    return early;
}

static void threads_that_meet_wait_for_the_last_awake_or_asleep(void **state)
{
    (void)state;
    enum { THREADS = 3 };
    Meeting meeting;
    size_t rounds[THREADS] = {0};
    bool early = false;
    memset(&meeting, 0, sizeof meeting);
#ifdef _OPENMP
    PARALLEL_PRAGMA(omp parallel num_threads(THREADS) reduction(|| : early))
    early = meet_in_rounds(&meeting, rounds, (size_t)omp_get_thread_num(),
                           (size_t)omp_get_num_threads());
#else /* a single thread meets nobody, and waits for nobody */
    early = meet_in_rounds(&meeting, rounds, 0, 1);
#endif
    assert_false(early);
    assert_int_equal(rounds[0], 200);
}

/* Steps of so many seconds, by whoever is to make them: how many one thread made alone. */
static size_t steps_alone(Pace *pace, size_t steps, double all, double one)
{
    size_t alone = 0;
    for (size_t i = 0; i < steps; i++) {
        bool by_one = pace_threads(pace, 2) == 1;
        alone += by_one;
        pace_took(pace, by_one ? one : all);
    }
    return alone;
}

static void one_thread_goes_alone_while_all_are_slower(void **state)
{
    (void)state;
    Pace pace;
    memset(&pace, 0, sizeof pace);
    assert_int_equal(pace_threads(&pace, 3), 3);
    assert_int_equal(steps_alone(&pace, 100, 1.0, 2.0), 0);
    assert_int_equal(steps_alone(&pace, 100, 1.4, 2.0), 0); /* half as long again may be */
    assert_in_range(steps_alone(&pace, 1000, 9.0, 2.0), 950,
                    995);                                        /* some by all, to see how it is */
    assert_in_range(steps_alone(&pace, 1000, 1.0, 2.0), 1, 256); /* and then it is well again */
    assert_int_equal(steps_alone(&pace, 100, 1.0, 2.0), 0);
    assert_in_range(steps_alone(&pace, 1000, 1.9, 2.0), 0, 8); /* slow, but one is slower */
}

/* ---- memories ---- */

static void check_memory_on_disk(MambaConfig config, size_t bits)
{
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    Pretrained model = opened(folder.dir, bits);
    Runner run = runner_new(&model);
    Memory one = memory_new(&config), two = memory_new(&config);
    Sampler seen = sampler_new(config.vocab_size), back = sampler_new(config.vocab_size);
    char *path = path_in(folder.dir, "talk.state");
    Error error;
    uint32_t ids[9] = {1, 2, 3, 500, 600, 5, 5, 7, 0};
    float *logits = NEW(float, config.vocab_size);
    runner_feed(&run, &one, ids, 9, true);
    memcpy(logits, run.logits, config.vocab_size * sizeof *logits);
    sampler_see(&seen, 500);
    sampler_see(&seen, 7);
    if (!memory_save(&one, &seen, &model, path, &error) ||
        !memory_load(&two, &back, &model, path, &error))
        fail_msg("%s", error.text);
    assert_int_equal(two.count, 9);
    assert_int_equal(back.n_seen, 2);
    assert_true(back.flag[500] && back.flag[7]);
    runner_logits(&run, &two);
    assert_memory_equal(run.logits, logits, config.vocab_size * sizeof *logits);
    runner_step(&run, &one, 42, true);
    memcpy(logits, run.logits, config.vocab_size * sizeof *logits);
    runner_step(&run, &two, 42, true);
    assert_memory_equal(run.logits, logits, config.vocab_size * sizeof *logits);
    free(path), free(logits);
    memory_free(&one), memory_free(&two), sampler_free(&seen), sampler_free(&back);
    runner_free(&run);
    pretrained_close(&model);
    own_folder_free(&folder);
}

static void a_memory_comes_back_from_its_file(void **state)
{
    (void)state;
    MambaConfig falcon = odd_config();
    falcon.kind = MODEL_FALCON_MAMBA;
    check_memory_on_disk(odd_config(), 0);
    check_memory_on_disk(odd_config(), 4);
    check_memory_on_disk(falcon, 0);
    check_memory_on_disk(heads_config(), 0);
    check_memory_on_disk(heads_config(), 4);
}

static void memory_refused(const char *path, const Pretrained *model, const char *says)
{
    Memory memory = memory_new(&model->config);
    Sampler sampler = sampler_new(model->config.vocab_size);
    Error error;
    assert_false(memory_load(&memory, &sampler, model, path, &error));
    assert_contains(error.text, says);
    memory_free(&memory), sampler_free(&sampler);
}

static void memories_that_do_not_fit_are_refused(void **state)
{
    MambaConfig config = odd_config();
    OwnFolder one = own_folder(&config, TENSOR_F32, 3), two = own_folder(&config, TENSOR_F32, 4);
    Pretrained model = opened(one.dir, false), other = opened(two.dir, false);
    Memory memory = memory_new(&config);
    Sampler sampler = sampler_new(config.vocab_size);
    char *path = path_in(one.dir, "talk.state"), *text;
    Error error;
    size_t len;
    (void)state;
    sampler_see(&sampler, 9);
    assert_true(memory_save(&memory, &sampler, &model, path, &error));
    memory_refused(path, &other, "another model");
    char *weights = path_in(one.dir, "model.safetensors");
    memory_refused(weights, &model, "no saved state");
    sampler.seen[0] = 601; /* one beyond the vocabulary */
    assert_true(memory_save(&memory, &sampler, &model, path, &error));
    memory_refused(path, &model, "has the id 601");
    memory.conv[1] = NAN;
    assert_true(memory_save(&memory, &sampler, &model, path, &error));
    memory_refused(path, &model, "tensor 'conv': 1 of its");
    assert_true(text_read(&text, &len, path, &error));
    file_write(one.dir, "talk.state", text, len - 100);
    memory_refused(path, &model, "talk.state");
    free(text), free(path), free(weights);
    memory_free(&memory), sampler_free(&sampler);
    pretrained_close(&model), pretrained_close(&other);
    own_folder_free(&one), own_folder_free(&two);
}

/* ---- perplexity and logits ---- */

/* A text longer than the pieces it is read in: the same as all of its ids at once. */
static void perplexity_of_a_file_is_that_of_its_ids(void **state)
{
    static const char *const parts[] = {" the", "ing", "\n",        " 23",
                                        "!",    "  ",  "e\xCC\x81", "<|endoftext|>"};
    MambaConfig config = config_default(16);
    (void)state;
    config.vocab_size = 640;
    config.state_size = 2;
    OwnFolder folder = own_folder(&config, TENSOR_F32, 21);
    give_tokenizer(&folder);
    Pretrained model = opened(folder.dir, 0);
    Runner run = runner_new(&model);
    Text text = {NULL, 0, 0};
    Ids ids = {NULL, 0, 0, 0};
    Random random = random_from_seed(2);
    Surprise surprise;
    Error error;
    size_t bytes = 0;
    while (text.len < 70000) {
        const char *part = parts[random_u32(&random) % TABLE_SIZE(parts)];
        text_append(&text, part, strlen(part));
    }
    file_write(folder.dir, "text", text.bytes, text.len);
    char *path = path_in(folder.dir, "text");
    if (!runner_perplexity(&surprise, &bytes, &run, path, &error))
        fail_msg("%s", error.text);
    assert_true(tokenizer_encode(&ids, &model.folder.tokenizer, text.bytes, text.len, &error));
    float *logits = clear_logits(&folder.model, ids.id, ids.count);
    double sum = 0.0;
    for (size_t t = 0; t + 1 < ids.count; t++)
        sum += token_loss(logits + t * 640, 640, ids.id[t + 1]);
    assert_int_equal(bytes, text.len);
    assert_int_equal(surprise.count, ids.count - 1);
    assert_near(surprise.sum, sum, 0, 1e-5);
    file_write(folder.dir, "text", "a", 1);
    assert_false(runner_perplexity(&surprise, &bytes, &run, path, &error));
    assert_contains(error.text, "two tokens or more");
    free(path), free(logits);
    text_free(&text), ids_free(&ids);
    runner_free(&run);
    pretrained_close(&model);
    own_folder_free(&folder);
}

static OwnFolder folder_of_one_file(void)
{
    MambaConfig config = config_default(2);
    config.vocab_size = 2;
    return own_folder(&config, TENSOR_F32, 1); /* which is beside others */
}

/* All that a file lets through, as one text; false if it is refused. */
static bool stream_all(Text *got, const char *path, Error *error)
{
    TextSource source;
    bool end = false, ok = source_open(&source, path, error);
    text_free(got);
    if (!ok)
        return false;
    while (ok && !end)
        ok = source_read(&end, &source, error);
    text_append(got, source.text.bytes, source.text.len);
    source_close(&source);
    return ok;
}

/* Marks and line ends are no part of a text, wherever the pieces that it is read in end. */
static void a_text_for_perplexity_is_made_plain(void **state)
{
    enum { PIECE = 1 << 16 };
    static const char *const ends[] = {"\r\n", "\r"};
    OwnFolder folder = folder_of_one_file();
    char *path = path_in(folder.dir, "text");
    (void)state;
    for (size_t k = 0; k < 6;
         k++) { /* the end of a line lies before, on and behind a piece's end */
        Text raw = {NULL, 0, 0}, plain = {NULL, 0, 0}, got = {NULL, 0, 0};
        Error error;
        text_append(&raw, "\xEF\xBB\xBF", 3);
        while (raw.len < PIECE - 2 + k / 2) {
            text_append(&raw, "r", 1);
            text_append(&plain, "r", 1);
        }
        for (size_t i = 0; i < 3; i++) {
            text_append(&raw, ends[k % 2], strlen(ends[k % 2]));
            text_append(&plain, "\n", 1);
        }
        while (raw.len < 2 * PIECE) {
            text_append(&raw, "s", 1);
            text_append(&plain, "s", 1);
        }
        text_append(&raw, "\xEF\xBB\xBF.", 4); /* a mark that marks nothing stays */
        text_append(&plain, "\xEF\xBB\xBF.", 4);
        file_write(folder.dir, "text", raw.bytes, raw.len);
        if (!stream_all(&got, path, &error))
            fail_msg("%s", error.text);
        assert_int_equal(got.len, plain.len);
        assert_memory_equal(got.bytes, plain.bytes, plain.len);
        text_free(&raw), text_free(&plain), text_free(&got);
    }
    free(path);
    own_folder_free(&folder);
}

static void a_text_for_perplexity_that_is_none_is_named(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *says;
    } cases[] = {{"\xFF\xFE"
                  "h\0i\0",
                  6, "text: this is UTF-16, and UTF-8 is wanted"},
                 {"\0h\0i\0\n", 6, "text: this is UTF-16"},
                 {"a text\0with a zero in it, of some length", 41, "text: a zero byte"}};
    OwnFolder folder = folder_of_one_file();
    char *path = path_in(folder.dir, "text");
    Text got = {NULL, 0, 0};
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(cases); i++) {
        Error error;
        file_write(folder.dir, "text", cases[i].bytes, cases[i].len);
        assert_false(stream_all(&got, path, &error));
        assert_contains(error.text, cases[i].says);
    }
    text_free(&got), free(path);
    own_folder_free(&folder);
}

/* What `before BUILD/program path` prints. */
static void perplexity_of(char *text, size_t room, const char *before, const char *program,
                          const char *path)
{
    char command[512];
    const char *build = getenv("BUILD");
    snprintf(command, sizeof command, "%s %s/%s %s 2> /dev/null", before, build ? build : "build",
             program, path);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    text[fread(text, 1, room - 1, out)] = '\0';
    assert_int_equal(pclose(out), 0);
}

static void perplexity_reads_standard_input(void **state)
{
    char file[512], piped[512], marked[512];
    const char *say = "ch05_pretrained data/tiny-mamba --perplexity";
    (void)state;
    perplexity_of(file, sizeof file, "", say, "data/stories/long_walk.txt");
    perplexity_of(piped, sizeof piped, "cat data/stories/long_walk.txt |", say, "-");
    perplexity_of(marked, sizeof marked,
                  "{ printf '\\357\\273\\277'; sed 's/$/\\r/' data/stories/long_walk.txt; } |", say,
                  "-");
    assert_contains(file, "perplexity ");
    assert_string_equal(piped, file);
    assert_string_equal(marked, file);
}

static void logits_of_every_position_go_to_a_file(void **state)
{
    MambaConfig config = odd_config();
    OwnFolder folder = own_folder(&config, TENSOR_BF16, 31);
    Pretrained model = opened(folder.dir, 0);
    Runner run = runner_new(&model);
    Memory memory = memory_new(&config);
    Error error;
    Safetensors file;
    uint32_t ids[PROMPT_CHUNK + 3];
    size_t len = TABLE_SIZE(ids), vocab = config.vocab_size;
    char *path = path_in(folder.dir, "logits"), *weights = path_in(folder.dir, "model.safetensors");
    (void)state;
    for (uint32_t t = 0; t < len; t++)
        ids[t] = t * 31 % (uint32_t)vocab;
    if (!runner_feed_logits(&run, &memory, ids, len, path, &error))
        fail_msg("%s", error.text);
    golden_open(&file, path);
    assert_int_equal(golden_size(&file, "logits", 0), len);
    float *got = golden_floats(NULL, &file, "logits");
    assert_true(model_load(&folder.model, weights, &error));
    float *want = clear_logits(&folder.model, ids, len);
    assert_relmax(got, want, len * vocab, 1e-5);
    assert_relmax(run.logits, want + (len - 1) * vocab, vocab, 1e-5);
    free(got), free(want), free(path), free(weights);
    safetensors_close(&file);
    runner_free(&run), memory_free(&memory);
    pretrained_close(&model);
    own_folder_free(&folder);
}

/* ---- an answer ---- */

static void an_answer_ends_where_it_should(void **state)
{
    MambaConfig config = config_default(16);
    (void)state;
    config.vocab_size = 600;
    OwnFolder folder = own_folder(&config, TENSOR_F32, 40);
    give_tokenizer(&folder);
    Pretrained model = opened(folder.dir, 0);
    Runner run = runner_new(&model);
    Conversation talk = {&run, memory_new(&config), sampler_new(600), random_from_seed(1)};
    AnswerSettings settings;
    FILE *out = fopen("/dev/null", "w");
    const uint32_t ids[3] = {41, 247, 276};
    memset(&settings, 0, sizeof settings);
    settings.sampling = sampling_greedy();
    settings.count = 9;
    runner_feed(&run, &talk.memory, ids, 3, true);
    model.folder.generation.n_stop = 0;
    size_t likeliest = token_greedy(run.logits, 600);
    assert_int_equal(answer(&talk, &settings, out), 9);
    assert_int_equal(talk.memory.count, 12);
    assert_true(talk.sampler.flag[likeliest]);
    model.folder.generation.stop[model.folder.generation.n_stop++] =
        (uint32_t)token_greedy(run.logits, 600);
    assert_int_equal(answer(&talk, &settings, out), 0);
    assert_int_equal(talk.memory.count, 12);
    settings.past_end = true;
    assert_true(answer(&talk, &settings, out) > 0);
    fclose(out);
    memory_free(&talk.memory), sampler_free(&talk.sampler);
    runner_free(&run);
    pretrained_close(&model);
    own_folder_free(&folder);
}

/* ---- the program ---- */

/* The model is open, waits for a line, and its file is emptied: a sentence, and no crash. */
static void a_file_that_gets_shorter_ends_the_program_with_a_sentence(void **state)
{
    MambaConfig config = config_default(64);
    char command[512], text[512];
    const char *build = getenv("BUILD");
    (void)state;
    config.vocab_size = 640;
    OwnFolder folder = own_folder(&config, TENSOR_F32, 50);
    give_tokenizer(&folder);
    snprintf(command, sizeof command,
             "(sleep 0.7; : > %s/model.safetensors; echo the) | "
             "%s/ch05_pretrained %s --interactive 2>&1",
             folder.dir, build ? build : "build", folder.dir);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    text[fread(text, 1, sizeof text - 1, out)] = '\0';
    int status = pclose(out);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_contains(text, "error: ");
    own_folder_free(&folder);
}

static void the_files_of_a_model_are_not_written_over(void **state)
{
    static const char *const options[] = {"--logits", "--save-state"};
    static const char *const names[] = {"model.safetensors", "config.json", "tokenizer.json"};
    MambaConfig config = config_default(16);
    char text[512], words[256];
    (void)state;
    config.vocab_size = 640;
    OwnFolder folder = own_folder(&config, TENSOR_F32, 50);
    give_tokenizer(&folder);
    Pretrained model = opened(folder.dir, 0);
    const Shards *shards = &model.folder.shards;
    Error error;
    assert_true(folder_spared(folder.dir, shards, NULL, &error));
    for (size_t k = 0; k < TABLE_SIZE(names); k++) {
        char *path = path_in(folder.dir, names[k]);
        assert_false(folder_spared(folder.dir, shards, path, &error));
        free(path);
    }
    pretrained_close(&model);
    for (size_t i = 0; i < TABLE_SIZE(options); i++)
        for (size_t k = 0; k < TABLE_SIZE(names); k++) {
            snprintf(words, sizeof words, "%s the -n 1 %s %s/%s", folder.dir, options[i],
                     folder.dir, names[k]);
            assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", words), 1);
            assert_contains(text, "this is a file of the model, and is not written over");
        }
    snprintf(words, sizeof words, "%s the -n 1 --save-state %s/state", folder.dir, folder.dir);
    assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", words), 0);
    snprintf(words, sizeof words, "%s the -n 1 --load-state %s/state --save-state %s/state",
             folder.dir, folder.dir, folder.dir);
    assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", words), 0);
    own_folder_free(&folder);
}

/* The status of `before | ch05_pretrained data/tiny-mamba words`, and all that it says. */
static int said_after(char *text, size_t room, const char *before, const char *words)
{
    char command[512];
    const char *build = getenv("BUILD");
    snprintf(command, sizeof command, "printf '%s' | %s/ch05_pretrained data/tiny-mamba %s 2>&1",
             before, build ? build : "build", words);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    text[fread(text, 1, room - 1, out)] = '\0';
    int status = pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A shell may put a mark before what it pipes, and end lines with CR LF. */
static void a_prompt_that_is_piped_is_read_like_any_text(void **state)
{
    char want[512], text[512];
    (void)state;
    assert_int_equal(said_after(want, sizeof want, "the rain\\nwas wet\\n", "- --tokenize"), 0);
    assert_int_equal(
        said_after(text, sizeof text, "\\357\\273\\277the rain\\r\\nwas wet\\r\\n", "- --tokenize"),
        0);
    assert_string_equal(text, want);
    assert_int_equal(said_after(text, sizeof text, "\\377\\376t\\000h\\000", "-"), 1);
    assert_contains(text, "error: standard input: this is UTF-16, and UTF-8 is wanted");
    assert_int_equal(said_after(text, sizeof text, "caf\\351", "-"), 1);
    assert_contains(text, "error: standard input:1: byte 4 of the file (0xe9) is not UTF-8");
    assert_int_equal(said_after(text, sizeof text, "tea\\r\\ncaf\\351 and tea", "--perplexity -"),
                     1);
    assert_contains(
        text,
        "error: standard input: after 7 bytes the byte 0xe9 is not UTF-8: an older encoding?");
    assert_int_equal(said_after(text, sizeof text, "", "\"$(printf 'caf\\351')\""), 1);
    assert_contains(text, "error: the prompt: byte 4 (0xe9) is not UTF-8");
    assert_int_equal(said_after(want, sizeof want, "the rain\\n", "--interactive -n 3"), 0);
    assert_int_equal(said_after(text, sizeof text, "caf\\351\\n\\357\\273\\277the rain\\r\\n",
                                "--interactive -n 3"),
                     0);
    assert_contains(text, "error: this line is no text in UTF-8, and is left out\n");
    assert_string_equal(strchr(text, '\n') + 1, want);
}

/* An empty answer, or one to words that the model never saw, looks like a mistake. */
static void what_a_reader_would_wonder_at_is_noted(void **state)
{
    char text[512];
    (void)state;
    assert_int_equal(said_after(text, sizeof text, "", "'Xyzzy rain' -n 1"), 0);
    assert_contains(text, "note: 1 token of the text is the one for what is unknown\n");
    assert_int_equal(said_after(text, sizeof text, "", "'the rain' -n 1"), 0);
    assert_null(strstr(text, "note:"));
    assert_int_equal(said_after(text, sizeof text, "",
                                "'what is a rainbow ? a rainbow is light refracted and dispersed "
                                "in water droplets .'"),
                     0);
    assert_contains(text, "note: the first token ends the text; --past-end goes on\n");
}

/* Two lines and an empty one: two answers of one conversation, each on a line of its own. */
static void a_conversation_answers_line_after_line(void **state)
{
    char text[512], command[256];
    const char *build = getenv("BUILD");
    (void)state;
    snprintf(command, sizeof command,
             "printf 'a boy dreamt of thor .\\nwhat is a rainbow ?\\n' | "
             "%s/ch05_pretrained data/tiny-mamba --interactive -n 3",
             build ? build : "build");
    FILE *out = popen(command, "r");
    assert_non_null(out);
    text[fread(text, 1, sizeof text - 1, out)] = '\0';
    assert_int_equal(pclose(out), 0);
    char *second = strchr(text, '\n');
    assert_non_null(second);
    assert_true(second > text && strlen(second) > 2);
    assert_ptr_equal(strchr(second + 1, '\n'), text + strlen(text) - 1);
}

/* The table has a line for each, with what a run of its own says. */
static void a_comparison_says_what_each_run_says(void **state)
{
    static const struct {
        const char *name, *words;
    } kinds[] = {{"F32", ""}, {"int8", "--int8"}, {"int4", "--int4"}};
    char table[1024], one[512], words[128];
    double perplexity[3], mb[3], nats, more, percent;
    const char *file = "data/stories/long_walk.txt";
    (void)state;
    snprintf(words, sizeof words, "data/tiny-mamba --compare --perplexity %s", file);
    assert_int_equal(run_program_output(table, sizeof table, "ch05_pretrained", words), 0);
    for (size_t i = 0; i < 3; i++) {
        snprintf(words, sizeof words, "data/tiny-mamba %s --perplexity %s", kinds[i].words, file);
        assert_int_equal(run_program_output(one, sizeof one, "ch05_pretrained", words), 0);
        const char *line = strstr(table, kinds[i].name), *said = strstr(one, "perplexity ");
        assert_non_null(line);
        assert_non_null(said);
        int read = sscanf(line + strlen(kinds[i].name), "%lf MB %lf %lf %lf %lf", &mb[i],
                          &perplexity[i], &nats, &more, &percent);
        assert_int_equal(read, i == 0 ? 3 : 5);
        assert_near(perplexity[i], strtod(said + strlen("perplexity "), NULL), 1e-9, 0);
        assert_near(nats, log(perplexity[i]), 1e-3, 0);
        if (i > 0)
            assert_near(percent, 100.0 * (perplexity[i] / perplexity[0] - 1.0), 0.1, 0);
    }
    assert_true(mb[0] > 2.0 * mb[1] && mb[1] > 1.4 * mb[2]);
}

/* Two lines and an answer each, in four bits, and the state of it goes on in another run. */
static void four_bits_talk_and_remember(void **state)
{
    char text[1024], words[256], name[] = "/tmp/test_pretrained_XXXXXX";
    int file = mkstemp(name);
    (void)state;
    assert_true(file >= 0);
    close(file);
    snprintf(words, sizeof words, "data/tiny-mamba --int4 'a harp played .' -n 4 --save-state %s",
             name);
    assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", words), 0);
    snprintf(words, sizeof words, "data/tiny-mamba --int4 -n 5 --load-state %s", name);
    assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", words), 0);
    assert_contains(text, "5 written");
    unlink(name);
}

static void options_are_checked(void **state)
{
    const struct {
        const char *words;
        int code;
        const char *says;
    } cases[] = {
        {"--help", 0, ""},
        {"--sizes", 0, ""},
        {"--nothing", 2, "usage:"},
        {"-n x", 2, "n"},
        {"--top-p 1.5", 2, "--top-p: 1.5 is not from 0 to 1"},
        {"--temperature -1", 2, "--temperature"},
        {"a b c", 2, "one argument too many"},
        {"--tokenize a", 2, "--tokenize needs PROMPT"},
        {"--stop ''", 1, "--stop: the text is empty"},
        {"'' x", 2, "DIR: the name of a folder is empty"},
        {"a --perplexity ''", 2, "--perplexity: the name of a file is empty"},
        {"a --perplexity - --compare", 1, "--compare reads a text three times: give a file"},
        {"a b --save-state ''", 2, "--save-state: the name of a file is empty"},
        {"data/tiny-mamba b --temperature 0 --seed 2", 1, "--seed does nothing at temperature 0"},
        {"a b --temperature 1 --seed 2", 1, "a: No such file"},
        {"a b -n 0", 1, "-n 0 writes nothing: with it, give --logits or --save-state"},
        {"--svg x a b", 2, "--svg needs"},
        {"a b --ids 1", 2, "exclude each other"},
        {"--interactive --sizes", 2, "exclude"},
        {"-h", 0, ""},
        {"data/tiny-mamba b --seed 2", 1, "--seed does nothing at temperature 0"},
        {"data/tiny-mamba b --seed 2 --top-k 3 -n 2", 0, "2 written"},
        {"a b --focus --profile", 2, "--profile does nothing with --focus"},
        {"--sizes a", 2, "DIR does nothing with --sizes"},
        {"a b --perplexity c", 2, "PROMPT does nothing with --perplexity"},
        {"--bandwidth 10", 2, "--bandwidth needs --sizes"},
        {"a --perplexity c --top-k 3", 2, "--top-k does nothing with --perplexity"},
        {"a --interactive --logits b", 2, "--logits does nothing with --interactive"},
        {"a b --tokenize --int8", 2, "--int8 does nothing with --tokenize"},
        {"a b --tokenize --int4", 2, "--int4 does nothing with --tokenize"},
        {"a b --int8 --int4", 2, "--int4 and --int8 exclude each other"},
        {"a b --compare", 2, "--compare needs --perplexity"},
        {"a --perplexity b --compare --int4", 2, "--compare and --int4 exclude each"},
        {"a --perplexity b --compare", 1, "a: No such file"},
        {"data/tiny-mamba --perplexity /nowhere --compare", 1, "/nowhere"},
        {"tests/golden/ch05_lm --perplexity README.md --compare", 1, "a tokenizer.json"},
        {"tests/golden/ch05_lm --ids 1,2 -n 3 --int4", 0, "3 written"},
        {"--int4 -n 2", 0, "2 written"},
        {"a b --tokenizer ''", 2, "--tokenizer: the name of a folder is empty"},
        {"--sizes --tokenizer a", 2, "--tokenizer does nothing with --sizes"},
        {"tests/golden/ch05_lm x --tokenizer /nowhere", 1, "/nowhere/tokenizer.json"},
        {"tests/golden/ch05_lm x --tokenizer tests/golden/tokenizer", 1,
         "but the model knows only"},
        {"tests/golden/ch05_lm abc --tokenize --tokenizer tests/golden/tokenizer", 0, ""},
        {"data/tiny-mamba --tokenizer data/tiny-mamba -n 2 'a harp'", 0, "2 written"},
        {"/nowhere x", 1, "/nowhere: No such file"},
        {"tests/golden/ch05_lm x", 1, "give --ids 1,2,3"},
        {"tests/golden/ch05_lm --ids 97", 1, "97 is out of range"},
        {"tests/golden/ch05_lm --interactive", 1, "needs a tokenizer.json"},
        {"tests/golden/ch05_lm --perplexity README.md", 1, "needs a tokenizer.json"},
        {"tests/golden/ch05_lm --load-state README.md", 1, "README.md"},
        {"tests/golden/ch05_lm --ids 1 -n 0 --logits /nowhere/x", 1, "/nowhere/x"},
        {"tests/golden/ch05_lm --ids 1,2 -n 3 --threads 2 --top-k 5", 0, "3 written"},
        {"tests/golden/tokenizer abc --tokenize", 0, ""}};
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(cases); i++)
        assert_command_says("ch05_pretrained", cases[i].words, cases[i].says, cases[i].code);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_every_type_are_those_of_doubles),
#ifdef LANES_FUSED
        cmocka_unit_test(products_are_summed_in_one_order_for_every_width_of_vectors),
#endif
        cmocka_unit_test(eight_bits_are_near_by_half_a_step),
        cmocka_unit_test(four_bits_are_the_nearest_of_sixteen),
        cmocka_unit_test(a_search_finds_a_better_scale_than_the_largest_gives),
        cmocka_unit_test(four_bits_multiply_exactly_in_their_order),
        cmocka_unit_test(numbers_that_are_none_stay_none_in_few_bits),
        cmocka_unit_test(steps_and_prompts_agree_with_the_clear_model),
        cmocka_unit_test(steps_and_prompts_of_mamba_2_agree_with_the_clear_model),
        cmocka_unit_test(golden_folders_give_golden_logits_and_tokens),
        cmocka_unit_test(falcon_mamba_gives_golden_logits_and_tokens),
        cmocka_unit_test(mamba_2_gives_golden_logits_and_tokens),
        cmocka_unit_test(fewer_bits_lose_little_of_the_golden_logits),
        cmocka_unit_test(four_bits_cost_the_trained_model_little),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(threads_that_meet_wait_for_the_last_awake_or_asleep),
        cmocka_unit_test(one_thread_goes_alone_while_all_are_slower),
        cmocka_unit_test(a_memory_comes_back_from_its_file),
        cmocka_unit_test(memories_that_do_not_fit_are_refused),
        cmocka_unit_test(perplexity_of_a_file_is_that_of_its_ids),
        cmocka_unit_test(a_text_for_perplexity_is_made_plain),
        cmocka_unit_test(a_text_for_perplexity_that_is_none_is_named),
        cmocka_unit_test(perplexity_reads_standard_input),
        cmocka_unit_test(logits_of_every_position_go_to_a_file),
        cmocka_unit_test(an_answer_ends_where_it_should),
        cmocka_unit_test(a_file_that_gets_shorter_ends_the_program_with_a_sentence),
        cmocka_unit_test(the_files_of_a_model_are_not_written_over),
        cmocka_unit_test(a_prompt_that_is_piped_is_read_like_any_text),
        cmocka_unit_test(what_a_reader_would_wonder_at_is_noted),
        cmocka_unit_test(a_conversation_answers_line_after_line),
        cmocka_unit_test(a_comparison_says_what_each_run_says),
        cmocka_unit_test(four_bits_talk_and_remember),
        cmocka_unit_test(options_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
