/* Breaks whole folders of models and runs the whole program on them:
   config.json, generation_config.json, the index, tokenizer.json, the weights
   and a saved state, one or several at a time. Whatever they say, the program
   ends by itself, in time, with 0 or with 1 and a sentence that is not about
   memory: ASan, or a limit of the shell's, gives none to who asks for too much.

       clang -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all \
           -fsanitize-coverage=trace-pc-guard tests/fuzz/mutate_folders.c -o m
   -lm
       ./m SECONDS SEED WORK FOLDER... (or: make fuzz)

   Each run is a child of this process, so many a second cost no more than what
   they do. A broken folder that reached what none had reached is kept, to be
   broken further. A finding is left in WORK/finding, with the command that
   shows it. */

#include "../../ch05_mamba_block/pretrained.c"
#include <dirent.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>

enum {
    FILES_MOST = 12,
    SEEDS_MOST = 16,
    KEPT_MOST = 64, /* broken folders that reached something new */
    SLOW = 4,       /* seconds of a processor */
    WAIT = 60,      /* seconds in all */
    EDGES_MOST = 1 << 17
};

typedef struct {
    char name[64], *bytes;
    size_t len;
    bool changed;
} SeedFile;

/* A folder as it should be: on disk in `dir`, and in memory. */
typedef struct {
    char dir[512];
    SeedFile file[FILES_MOST];
    size_t n_file;
} SeedFolder;

/* ---- what was reached ---- */

/* clang calls these two: at the start, with a number for each edge of the
   program to be filled in, and whenever one is taken. Children write into the
   memory of their parent. */
typedef struct {
    uint32_t count; /* edges that any run has taken */
    bool edge[EDGES_MOST];
} Reached;

static Reached *reached;

void __sanitizer_cov_trace_pc_guard_init(uint32_t *start, uint32_t *stop);
void __sanitizer_cov_trace_pc_guard(const uint32_t *guard);

void __sanitizer_cov_trace_pc_guard_init(uint32_t *start, uint32_t *stop)
{
    for (uint32_t number = 0; start < stop && *start == 0; start++)
        *start = ++number;
}

void __sanitizer_cov_trace_pc_guard(const uint32_t *guard)
{
    if (reached == NULL || *guard >= EDGES_MOST || reached->edge[*guard])
        return;
    reached->edge[*guard] = true;
    reached->count++;
}

/* ---- a run ---- */

const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void)
{
    return "exitcode=77:allocator_may_return_null=1:max_allocation_size_mb=1024:"
           "detect_leaks=0";
}

const char *__ubsan_default_options(void)
{
    return "exitcode=77:print_stacktrace=1";
}

static void die(const char *what)
{
    fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* Not emptied first: some file systems bring a file to disk that was. */
static void bytes_write(const char *dir, const char *name, const char *bytes, size_t len)
{
    char *path = path_in(dir, name);
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || write(file, bytes, len) != (ssize_t)len || ftruncate(file, (off_t)len) != 0 ||
        close(file) != 0)
        die(path);
    free(path);
}

static void limits_set(void)
{
    struct itimerval slow = {{0, 0}, {SLOW, 0}};
    setitimer(ITIMER_PROF, &slow, NULL);
    alarm(WAIT);
}

/* What a run has to say goes to a file, and what it writes nowhere. */
static int run_child(int argc, char **argv, int errors)
{
    int status = 0;
    if (ftruncate(errors, 0) != 0 || lseek(errors, 0, SEEK_SET) != 0)
        die("the errors of a run");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int nothing = open("/dev/null", O_RDWR);
        if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(nothing, 1) < 0 || dup2(errors, 2) < 0)
            _exit(3);
        limits_set();
        exit(pretrained_main(argc, argv));
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        die("a child");
    return status;
}

/* The ways in which a folder is run; %d stands for it. */
static const char *const ways[][10] = {
    {"p", "%d", "--ids", "1,2,3", "-n", "4"},
    {"p", "%d", "the rain, 12", "-n", "4"},
    {"p", "%d", "caf\xC3\xA9 the ", "--tokenize"},
    {"p", "%d", "--ids", "1", "-n", "3", "--load-state", "%d/state"},
    {"p", "%d", "--load-state", "%d/state", "-n", "2", "--int8"},
    {"p", "%d", "-n", "3", "--temperature", "1", "--top-p", "0.9"},
    {"p", "%d", "--perplexity", "%d/text"},
    {"p", "%d", "a b", "--focus"},
    {"p", "%d", "--ids", "2,3", "-n", "0", "--logits", "%d/out"},
    {"p", "%d", "--ids", "2", "-n", "2", "--int4", "--save-state", "%d/out"}};

static int run_way(size_t way, const char *dir, int errors)
{
    static char words[10][600];
    char *argv[11];
    int argc = 0;
    for (; argc < 10 && ways[way][argc] != NULL; argc++) {
        const char *word = ways[way][argc];
        bool here = strncmp(word, "%d", 2) == 0;
        snprintf(words[argc], sizeof words[argc], "%s%s", here ? dir : word, here ? word + 2 : "");
        argv[argc] = words[argc];
    }
    argv[argc] = NULL;
    return run_child(argc, argv, errors);
}

static void seed_read(SeedFolder *seed, const char *from, const char *work, size_t number)
{
    static const char *const not_these[] = {"golden.safetensors", "tokenizer_config.json"};
    snprintf(seed->dir, sizeof seed->dir, "%s/folder%zu", work, number);
    DIR *dir = opendir(from);
    if (dir == NULL || (mkdir(seed->dir, 0700) != 0 && errno != EEXIST))
        die(from);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        Error error;
        SeedFile *file = &seed->file[seed->n_file];
        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= sizeof file->name ||
            strcmp(entry->d_name, not_these[0]) == 0 || strcmp(entry->d_name, not_these[1]) == 0)
            continue;
        char *path = path_in(from, entry->d_name);
        strcpy(file->name, entry->d_name);
        if (seed->n_file == FILES_MOST - 2 ||
            !json_file_read(&file->bytes, &file->len, path, &error))
            die(path);
        bytes_write(seed->dir, file->name, file->bytes, file->len);
        seed->n_file++;
        free(path);
    }
    closedir(dir);
}

/* A tokenizer for a folder that has none, and a state that it has saved itself.
 */
static void seed_complete(SeedFolder *seed, int errors)
{
    char state[600], text[] = "the rain falls . what is a rainbow ?\n";
    Error error;
    bool tokenizer = path_exists(seed->dir, "tokenizer.json");
    SeedFile *file = &seed->file[seed->n_file++];
    strcpy(file->name, "state");
    snprintf(state, sizeof state, "%s/state", seed->dir);
    char *argv[] = {(char *)"p",  seed->dir,   (char *)"--ids",        (char *)"1,2",
                    (char *)"-n", (char *)"2", (char *)"--save-state", state,
                    NULL};
    if (run_child(8, argv, errors) != 0 || !json_file_read(&file->bytes, &file->len, state, &error))
        die(state);
    if (!tokenizer) {
        static const char small[] =
            "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"merges\":[\"t "
            "h\",[\"th\",\"e\"]],\"vocab\":{\"t\":0,"
            "\"h\":1,\"e\":2,\"th\":3,\"the\":4,\"?\":5,\"\xC4\xA0\":6}},\"pre_"
            "tokenizer\":{"
            "\"type\":\"Sequence\","
            "\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},{"
            "\"type\":"
            "\"ByteLevel\"}]},"
            "\"normalizer\":{\"type\":\"NFC\"},\"added_tokens\":[{\"id\":7,"
            "\"content\":\"<s>\"}],"
            "\"post_processor\":{"
            "\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
            "\"<s>\"}},{"
            "\"Sequence\":{\"id\":"
            "\"A\"}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[7]}}}}";
        file = &seed->file[seed->n_file++];
        strcpy(file->name, "tokenizer.json");
        file->bytes = text_copy(small);
        file->len = strlen(small);
        bytes_write(seed->dir, file->name, file->bytes, file->len);
    }
    bytes_write(seed->dir, "text", text, strlen(text));
}

/* ---- to break a file ---- */

static size_t below(Random *random, size_t count)
{
    return count == 0 ? 0 : random_u32(random) % count;
}

/* Puts `len` bytes in place of those from `at` to `end`. */
static void bytes_replace(SeedFile *file, size_t at, size_t end, const char *bytes, size_t len)
{
    char *longer = NEW(char, file->len - (end - at) + len + 1);
    memcpy(longer, file->bytes, at);
    memcpy(longer + at, bytes, len);
    memcpy(longer + at + len, file->bytes + end, file->len - end);
    file->len = file->len - (end - at) + len;
    free(file->bytes);
    file->bytes = longer;
}

/* A number or a word of JSON becomes another. */
static void change_word(SeedFile *file, size_t at, size_t most, Random *random)
{
    static const char *const words[] = {"0",
                                        "1",
                                        "2",
                                        "-1",
                                        "3",
                                        "7",
                                        "16",
                                        "255",
                                        "65536",
                                        "4294967295",
                                        "4294967296",
                                        "18446744073709551615",
                                        "9223372036854775808",
                                        "1e308",
                                        "1e999",
                                        "0.5",
                                        "NaN",
                                        "Infinity",
                                        "-Infinity",
                                        "null",
                                        "true",
                                        "false",
                                        "\"\"",
                                        "\"auto\"",
                                        "[]",
                                        "{}",
                                        "[1,2]",
                                        "\"mamba\"",
                                        "\"mamba2\"",
                                        "\"falcon_mamba\"",
                                        "\"F64\"",
                                        "\"BF16\"",
                                        "\"F8_E4M3\"",
                                        "\"../x\"",
                                        "{\"__float__\":\"Infinity\"}",
                                        "\"\\u0000\"",
                                        "\"\xC3\xA9\""};
    const char *word = words[below(random, TABLE_SIZE(words))];
    while (at < most && !isdigit((unsigned char)file->bytes[at]) && file->bytes[at] != '"')
        at++;
    size_t end = at + 1;
    if (at >= most)
        return;
    if (file->bytes[at] == '"') {
        while (end < most && file->bytes[end] != '"')
            end++;
        end += end < most;
    } else
        while (end < most && (isdigit((unsigned char)file->bytes[end]) || file->bytes[end] == '.'))
            end++;
    bytes_replace(file, at, end, word, strlen(word));
}

/* One change: a bit, a byte, a word, some bytes gone or there twice, the end
   cut off. Of weights and states mostly the header, whose length then goes with
   it, or nothing behind it would be looked at. */
static void change_once(SeedFile *file, Random *random)
{
    bool weights = strstr(file->name, ".json") == NULL;
    uint64_t header = 0;
    size_t least = weights ? 8 : 0, before = file->len;
    if (weights && file->len > 8)
        memcpy(&header, file->bytes, 8);
    bool in_header = header > 0 && header <= file->len - 8 && below(random, 8) > 0;
    size_t most = in_header ? 8 + (size_t)header : file->len;
    if (most <= least || below(random, 64) == 0)
        least = 0;
    if (most == 0)
        return;
    size_t at = least + below(random, most - least),
           end = at + below(random, smaller(most - at, 64) + 1);
    char piece[64];
    memcpy(piece, file->bytes + at, end - at);
    switch (below(random, 10)) {
    case 0: file->bytes[at] ^= (char)(1 << below(random, 8)); break;
    case 1: file->bytes[at] = (char)random_u32(random); break;
    case 2: bytes_replace(file, at, end, "", 0); break;
    case 3: bytes_replace(file, at, at, piece, end - at); break;
    case 4:
        if (below(random, 8) == 0)
            file->len = at;
        break;
    default: change_word(file, at, most, random);
    }
    if (in_header && file->len > 8 && below(random, 16) > 0) {
        header += file->len - before;
        memcpy(file->bytes, &header, 8);
    }
}

/* ---- runs ---- */

/* Up to three files of a folder, each with a few changes, on disk. */
static void seed_break(SeedFolder *seed, const SeedFolder *whole, Random *random)
{
    for (size_t files = 1 + below(random, 3); files > 0; files--) {
        size_t which = below(random, seed->n_file);
        SeedFile *file = &seed->file[which];
        if (!file->changed) {
            file->len = whole->file[which].len;
            file->bytes = NEW(char, file->len + 1);
            memcpy(file->bytes, whole->file[which].bytes, file->len);
        }
        file->changed = true;
        for (size_t changes = 1 + below(random, below(random, 4) == 0 ? 12 : 2); changes > 0;
             changes--)
            change_once(file, random);
        bytes_write(seed->dir, file->name, file->bytes, file->len);
    }
}

static void seed_mend(SeedFolder *seed, const SeedFolder *whole)
{
    for (size_t i = 0; i < seed->n_file; i++)
        if (seed->file[i].changed) {
            free(seed->file[i].bytes);
            seed->file[i] = whole->file[i];
            bytes_write(seed->dir, seed->file[i].name, seed->file[i].bytes, seed->file[i].len);
        }
}

/* Whether a run ended as it may: with 0, or with 1 and a sentence. */
static bool ended_well(int status, int errors, char *text, size_t room)
{
    ssize_t len = pread(errors, text, room - 1, 0);
    text[len < 0 ? 0 : len] = '\0';
    return WIFEXITED(status) &&
           (WEXITSTATUS(status) == 0 ||
            (WEXITSTATUS(status) == 1 && strstr(text, "error: ") != NULL &&
             strstr(text, "out of memory") == NULL && strstr(text, "runtime error") == NULL &&
             strstr(text, "Sanitizer") == NULL));
}

static void tell_finding(const SeedFolder *seed, const char *work, size_t way, int status,
                         const char *text)
{
    char command[2048];
    snprintf(command, sizeof command, "rm -rf %s/finding && cp -r %s %s/finding", work, seed->dir,
             work);
    if (system(command) != 0)
        die(command);
    printf("FINDING: status %d, %s/finding, words:", status, work);
    for (size_t i = 1; i < TABLE_SIZE(ways[way]) && ways[way][i] != NULL; i++)
        printf(" '%s'", ways[way][i]);
    printf("\n%s\n", text);
    exit(1);
}

/* Keeps a broken folder as one more to begin with. */
static void seed_keep(SeedFolder *kept, const SeedFolder *seed, const char *work, size_t number)
{
    *kept = *seed;
    snprintf(kept->dir, sizeof kept->dir, "%s/folder%zu", work, number);
    if (mkdir(kept->dir, 0700) != 0 && errno != EEXIST)
        die(kept->dir);
    for (size_t k = 0; k < kept->n_file; k++) {
        SeedFile *file = &kept->file[k];
        if (file->changed) {
            file->bytes = NEW(char, file->len + 1);
            memcpy(file->bytes, seed->file[k].bytes, file->len);
        }
        file->changed = false;
        bytes_write(kept->dir, file->name, file->bytes, file->len);
    }
}

int main(int argc, char **argv)
{
    static SeedFolder whole[SEEDS_MOST + KEPT_MOST], seed[SEEDS_MOST + KEPT_MOST];
    static char text[1 << 16], path[1024];
    if (argc < 5 || argc - 4 > SEEDS_MOST)
        return 2;
    size_t given = (size_t)argc - 4, seeds = given, runs = 0, refused = 0, last = 0;
    Random random = random_from_seed((uint64_t)atoll(argv[2]));
    const char *work = argv[3];
    snprintf(path, sizeof path, "%s/errors", work);
    int errors = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (errors < 0)
        die(path);
    for (size_t i = 0; i < given; i++) {
        seed_read(&whole[i], argv[4 + i], work, i);
        seed_complete(&whole[i], errors);
        seed[i] = whole[i];
    }
    reached = (Reached *)mmap(NULL, sizeof *reached, PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (reached == MAP_FAILED)
        die("shared memory");
    double start = seconds_now();
    while (seconds_now() < start + atof(argv[1])) {
        size_t i = below(&random, below(&random, 2) == 0 ? given : seeds);
        size_t way = below(&random, TABLE_SIZE(ways));
        uint32_t before = reached->count;
        seed_break(&seed[i], &whole[i], &random);
        int status = run_way(way, seed[i].dir, errors);
        if (!ended_well(status, errors, text, sizeof text))
            tell_finding(&seed[i], work, way, status, text);
        refused += WEXITSTATUS(status) == 1;
        runs++;
        if (reached->count > before) {
            last = runs;
            if (seeds < given + KEPT_MOST) {
                seed_keep(&whole[seeds], &seed[i], work, seeds);
                seed[seeds] = whole[seeds];
                seeds++;
            }
        }
        seed_mend(&seed[i], &whole[i]);
    }
    printf("%zu runs of broken folders, %.0f a second, %zu of them refused with "
           "a sentence; %u edges, "
           "the last new one after %zu runs\n",
           runs, (double)runs / (seconds_now() - start), refused, reached->count, last);
    return 0;
}
