/* A fuzz target for the readers of ch05_mamba_block/safetensors.c and json.c: any bytes at all,
   taken as a safetensors file and as a JSON text. Nothing may crash, and what is accepted must
   hold.

       clang -g -O1 -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_safetensors.c -o fuzz
       mkdir -p build/new && ./fuzz build/new tests/fuzz/corpus/safetensors     (or: make fuzz)

   The corpus beside it was written by hand, a header at a time: 8 bytes of length, the JSON, then
   as many bytes 0, 1, 2 ... of data as the header asks for (or, where that is the fault, does not
   ask for). A file named valid_* must be accepted, one named bad_* refused;
   tests/test_ch05_safetensors.c checks that, and plays the corpus and mutations of it through the
   function below. */

#include "../../ch05_mamba_block/safetensors.c"

/* Like assert, but whatever NDEBUG says. */
#define MUST(condition) ((condition) ? (void)0 : abort())

static void fuzz_convert(const Tensor *tensor)
{
    float *floats = (float *)malloc(tensor->count * sizeof(float)); /* not one too many: for ASan */
    double *doubles = (double *)malloc(tensor->count * sizeof(double));
    tensor_to_float(floats, tensor);
    tensor_to_double(doubles, tensor);
    free(floats);
    free(doubles);
}

/* Names in rising order, each found; sizes that multiply up; all of the data used. */
static void fuzz_accepted(const Safetensors *file)
{
    size_t bytes = 0;
    for (size_t i = 0; i < file->n_tensor; i++) {
        const Tensor *tensor = &file->tensor[i];
        size_t count = 1;
        for (size_t axis = 0; axis < tensor->rank; axis++)
            count *= tensor->shape[axis];
        bool other = tensor->type == TENSOR_OTHER; /* listed, but not read */
        MUST(tensor->count == count);
        MUST(other || tensor->bytes == count * tensor_type_size(tensor->type));
        MUST(tensor->data >= file->data);
        MUST(tensor->data + tensor->bytes <= file->data + file->data_bytes);
        MUST(i == 0 || strcmp(tensor[-1].name, tensor->name) < 0);
        MUST(safetensors_find(file, tensor->name) == tensor);
        bytes += tensor->bytes;
        if (!other)
            fuzz_convert(tensor);
    }
    MUST(bytes == file->data_bytes);
    for (size_t i = 0; i < file->n_note; i++)
        MUST(safetensors_metadata(file, file->note[i].key) == file->note[i].value);
}

static void fuzz_same(const Safetensors *left, const Safetensors *right)
{
    MUST(left->n_tensor == right->n_tensor && left->n_note == right->n_note);
    for (size_t i = 0; i < left->n_tensor; i++) {
        const Tensor *a = &left->tensor[i], *b = &right->tensor[i];
        MUST(strcmp(a->name, b->name) == 0 && a->type == b->type && a->rank == b->rank);
        MUST(memcmp(a->shape, b->shape, sizeof a->shape) == 0);
        MUST(a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0);
    }
    for (size_t i = 0; i < left->n_note; i++) {
        MUST(strcmp(left->note[i].key, right->note[i].key) == 0);
        MUST(strcmp(left->note[i].value, right->note[i].value) == 0);
    }
}

/* Written again and read again it is the same, with every number at a multiple of its size. */
static void fuzz_write(const Safetensors *file)
{
    SafetensorsWriter writer;
    Safetensors again;
    Error error;
    char *head, *bytes;
    size_t head_len, len;
    safetensors_writer_init(&writer);
    for (size_t i = 0; i < file->n_tensor; i++) {
        const Tensor *tensor = &file->tensor[i];
        safetensors_add(&writer, tensor->name, tensor->type, tensor->data, tensor->rank,
                        tensor->shape);
    }
    for (size_t i = 0; i < file->n_note; i++)
        safetensors_add_metadata(&writer, file->note[i].key, file->note[i].value);
    MUST(writer_head(&head, &head_len, &writer, "fuzz", &error));
    FILE *out = open_memstream(&bytes, &len);
    writer_emit(out, head, head_len, &writer);
    fclose(out);
    MUST(safetensors_parse(&again, bytes, len, "fuzz", &error));
    fuzz_same(file, &again);
    for (size_t i = 0; i < again.n_tensor; i++)
        MUST((size_t)((const char *)again.tensor[i].data - bytes) %
                 tensor_type_size(again.tensor[i].type) ==
             0);
    safetensors_close(&again);
    safetensors_writer_free(&writer);
    free(head);
    free(bytes);
}

/* A string of JSON, written and read again, is the same string. */
static void fuzz_string(JsonText text)
{
    char *written;
    size_t len;
    Error error;
    Json json;
    JsonText again;
    FILE *out = open_memstream(&written, &len);
    json_write_string(out, text.bytes);
    fclose(out);
    json_open(&json, written, len, "fuzz", &error);
    MUST(json_string(&json, &again) && json_end(&json));
    MUST(json_is(again, text.bytes));
    json_close(&json);
    free(written);
}

/* Reads a value with the function for its type, strings with all they hold. */
static void fuzz_value(Json *json, size_t *strings)
{
    JsonText text;
    double number;
    bool flag;
    switch (json_peek(json)) {
    case JSON_OBJECT:
        for (json_enter_object(json); json_next_key(json, &text);) {
            MUST(text.bytes[text.len] == '\0');
            fuzz_value(json, strings);
        }
        break;
    case JSON_ARRAY:
        for (json_enter_array(json); json_next_item(json);)
            fuzz_value(json, strings);
        break;
    case JSON_STRING:
        if (json_string(json, &text) && strlen(text.bytes) == text.len && (*strings)++ < 4)
            fuzz_string(text);
        break;
    case JSON_NUMBER:
        if (json_number(json, &number))
            MUST(isfinite(number));
        break;
    case JSON_BOOLEAN: json_boolean(json, &flag); break;
    default: json_skip(json);
    }
}

/* Skipped whole or read value by value, the text is accepted alike (numbers over 1e308 apart). */
static void fuzz_json(const char *text, size_t len)
{
    Json json;
    Error error;
    size_t strings = 0;
    json_open(&json, text, len, "fuzz", &error);
    json_skip(&json);
    bool skipped = json_end(&json);
    json_close(&json);
    json_open(&json, text, len, "fuzz", &error);
    fuzz_value(&json, &strings);
    bool read = json_end(&json);
    MUST(json.used <= len + 1);
    json_close(&json);
    MUST(read == skipped || strstr(error.text, "too large for a double"));
    json_open(&json, text, len, "fuzz", &error);
    uint64_t number;
    if (json_integer(&json, &number, 1000))
        MUST(number <= 1000);
    json_close(&json);
}

static void fuzz_file(const void *bytes, size_t len)
{
    Safetensors file;
    Error error;
    memset(&error, 0, sizeof error);
    if (safetensors_parse(&file, bytes, len, "fuzz", &error)) {
        bool others = false;
        fuzz_accepted(&file);
        for (size_t i = 0; i < file.n_tensor; i++)
            others = others || file.tensor[i].type == TENSOR_OTHER;
        if (!others)
            fuzz_write(&file);
        safetensors_close(&file);
    } else {
        MUST(strncmp(error.text, "fuzz: ", 6) == 0);
    }
}

/* The same bytes with a length at their head that fits: up to the last '}'. Without this hardly
   any mutant would come as far as the entries. */
static void fuzz_headed(const void *bytes, size_t len)
{
    uint64_t header = len;
    while (header > 0 && ((const char *)bytes)[header - 1] != '}')
        header--;
    if (header == 0)
        header = len;
    char *copy = (char *)malloc(sizeof header + len);
    memcpy(copy, &header, sizeof header);
    memcpy(copy + sizeof header, bytes, len);
    fuzz_file(copy, sizeof header + len);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_file(data, size);
    if (size > 0) /* libFuzzer may give NULL for nothing */
        fuzz_json((const char *)data, size);
    if (size > 8) {
        fuzz_headed(data + 8, size - 8);
        fuzz_json((const char *)data + 8, size - 8);
    }
    return 0;
}
