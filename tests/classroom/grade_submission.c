/* What was handed in: found, whatever its name and folder became on the way; put into a copy of the
   kit; compiled, exercise by exercise if the whole does not compile.

   HOLDS  submission_place; compile, program_compile; salvage
   FOR    grade.c */

#ifndef GRADE_SUBMISSION
#define GRADE_SUBMISSION

#include "grade_cage.c"

enum {
    SUBMITTED_BYTES = 1 << 20, /* a chapter has about 100,000 */
    ZIP_BYTES = 16 << 20,
    MAX_FOUND = 4096, /* files that are looked at */
    MAX_DEPTH = 3,    /* a zipped folder with the kit in it has the chapter there */
    NO_MATCH = 100,
    NO_MARKERS = -1
};

/* ==================================== Finding ============================================== */

/* A file that may be the one, in the submitted folder or in the zip file in it. */
typedef struct {
    char *path; /* from the top of the submission */
    time_t time;
} Found;

typedef struct {
    Found file[MAX_FOUND];
    int count;
    char *zip; /* all are in this file, or NULL */
} Heap;

static void heap_add(Heap *heap, char *path, time_t time)
{
    if (heap->count == MAX_FOUND) {
        free(path);
        return;
    }
    heap->file[heap->count].path = path;
    heap->file[heap->count++].time = time;
}

/* Keeps what begins with this, or all. */
static void heap_keep(Heap *heap, const char *prefix)
{
    int kept = 0;
    for (int i = 0; prefix != NULL && i < heap->count; i++)
        if (strncmp(heap->file[i].path, prefix, strlen(prefix)) == 0)
            heap->file[kept++] = heap->file[i];
        else
            free(heap->file[i].path);
    heap->count = prefix != NULL ? kept : heap->count;
}

static void heap_free(Heap *heap)
{
    for (int i = 0; i < heap->count; i++)
        free(heap->file[i].path);
    free(heap->zip);
    memset(heap, 0, sizeof *heap);
}

static bool same_letters(const char *a, const char *b, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (tolower((unsigned char)a[i]) != tolower((unsigned char)b[i]) || a[i] == '\0')
            return false;
    return true;
}

/* What Canvas puts before a name: "doejane_12345_67890_markov.c", "doejane_LATE_12345_67890_". */
static const char *without_prefix(const char *name)
{
    int end = 0;
    const char *at = strchr(name, '_');
    if (at != NULL && strncmp(at, "_LATE", 5) == 0)
        at += 5;
    return at != NULL && sscanf(at, "_%*[0-9]_%*[0-9]_%n", &end) == 0 && end > 0 ? at + end : name;
}

/* How far a file's name is from the one that is wanted: 0 the same, 1 but for capitals, 2 with what
   machines add to a second copy, " (1)", "-1", " copy"; NO_MATCH. */
static int name_distance(const char *name, const char *want)
{
    static const char *const copies[] = {"copy", "kopie", "copie", "copia", "of", "final"};
    size_t stem = strcspn(want, "."), tail = strlen(want) - stem;
    if (strcmp(name, want) == 0)
        return 0;
    name = without_prefix(name);
    size_t len = strlen(name);
    if (len < stem + tail || !same_letters(name, want, stem) ||
        !same_letters(name + len - tail, want + stem, tail))
        return NO_MATCH;
    const char *at = name + stem, *end = name + len - tail;
    int distance = at < end ? 2 : 1;
    while (at < end) {
        size_t word = strspn(at, " ()[]_-0123456789");
        for (size_t i = 0; word == 0 && i < sizeof copies / sizeof *copies; i++)
            if (same_letters(at, copies[i], strlen(copies[i])))
                word = strlen(copies[i]);
        if (word == 0)
            return NO_MATCH;
        at += word;
    }
    return distance;
}

/* The less, the better: by the name, then by the place: in its folder, at the top, further down. */
static int distance(const char *path, const char *file)
{
    int name = name_distance(base_name(path), base_name(file)), depth = 0;
    size_t folder = (size_t)(base_name(file) - file), len = (size_t)(base_name(path) - path);
    if (name == NO_MATCH)
        return NO_MATCH;
    for (const char *c = path; *c != '\0'; c++)
        depth += *c == '/';
    bool in_folder = len >= folder && same_letters(path + len - folder, file, folder) &&
                     (len == folder || path[len - folder - 1] == '/');
    return 20 * name + (in_folder ? 2 * depth - 2 : 2 * depth + 1);
}

/* The nearest of them; of two that are equally near the newer; NULL if none is near. */
static const Found *heap_find(const Heap *heap, const char *file)
{
    const Found *best = NULL;
    int least = NO_MATCH;
    for (int i = 0; i < heap->count; i++) {
        int far = distance(heap->file[i].path, file);
        if (far < least || (far == least && far < NO_MATCH && heap->file[i].time > best->time)) {
            least = far;
            best = &heap->file[i];
        }
    }
    return best;
}

/* Every regular file below an open folder, through no link; what begins with a dot is no work. */
static void walk(Heap *heap, int folder, const char *path, int depth)
{
    DIR *dir = folder >= 0 ? fdopendir(folder) : NULL;
    if (dir == NULL) {
        close(folder);
        return;
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        struct stat info;
        char *below = *path ? join(path, entry->d_name) : copy_text(entry->d_name);
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "__MACOSX") == 0 ||
            fstatat(folder, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0)
            free(below);
        else if (S_ISREG(info.st_mode))
            heap_add(heap, below, info.st_mtime);
        else {
            if (S_ISDIR(info.st_mode) && depth < MAX_DEPTH && strcmp(below, "build") != 0)
                walk(heap,
                     openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC),
                     below, depth + 1);
            free(below);
        }
    }
    closedir(dir);
}

/* A regular file below `dir`, reached through no link; -1 if there is none. */
static int open_inside(const char *dir, const char *path)
{
    int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (at >= 0) {
        char name[NAME_MAX + 1];
        size_t len = strcspn(path, "/");
        snprintf(name, sizeof name, "%.*s", (int)len, path);
        int next = openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        close(at);
        at = next;
        if (path[len] == '\0')
            break;
        path += len + 1;
    }
    struct stat info;
    if (at >= 0 && (fstat(at, &info) != 0 || !S_ISREG(info.st_mode))) {
        close(at);
        return -1;
    }
    return at;
}

/* ---- zip files: opened in the cage, one file of them at a time, to a pipe -------------------- */

/* unzip's brackets and stars stand for themselves. */
static char *unzip_literal(const char *path)
{
    Text text = {NULL, 0, 0};
    for (; *path != '\0'; path++)
        text_say(&text, strchr("[]*?\\", *path) ? "\\%c" : "%c", *path);
    return text.data != NULL ? text.data : copy_text("");
}

/* unzip -p (a file's bytes) or -Z1 (the list of names); to `text`, of at most `most` bytes. */
static bool unzip(Text *text, const Grading *grading, const char *option, const char *path,
                  size_t most)
{
    Job job;
    Outcome outcome;
    memset(&job, 0, sizeof job);
    job_words(&job, "unzip");
    job_words(&job, option);
    job_words(&job, "submitted.zip");
    if (path != NULL)
        job.argv[3] = unzip_literal(path);
    job.cpu = 5.0;
    job.wall = 10.0;
    job.memory = 512 * MIB;
    job.file = MIB;
    job.processes = 8;
    job.keep = most + 1;
    job.keep_stdout_only = true;
    cage_run(&outcome, grading, &job);
    *text = outcome.output;
    job_free(&job);
    return outcome.status == 0 && text->len <= most;
}

/* The files in the submission's zip file, if it has one and no file of the chapter beside it. */
static void heap_open_zip(Heap *heap, Grading *grading, const char *dir, const char *name)
{
    Text bytes = {NULL, 0, 0}, list = {NULL, 0, 0};
    int in = open_inside(dir, name);
    char *place = join(grading->work, "submitted.zip");
    struct stat info;
    time_t time = in >= 0 && fstat(in, &info) == 0 ? info.st_mtime : 0;
    if (in >= 0 && read_all(&bytes, in, ZIP_BYTES))
        write_work(place, &bytes);
    if (in >= 0)
        close(in);
    if (bytes.len == 0 || !unzip(&list, grading, "-Z1", NULL, MIB)) {
        text_say(&grading->notes,
                 "%s could not be opened: unzip must be there, and the file a zip file of at most "
                 "%d bytes\n",
                 name, ZIP_BYTES);
    } else {
        heap_free(heap);
        heap->zip = copy_text(name);
        char *rest = list.data;
        for (char *line; (line = strsep(&rest, "\n")) != NULL;)
            if (*line != '\0' && line[strlen(line) - 1] != '/' && strstr(line, "__MACOSX") == NULL)
                heap_add(heap, copy_text(line), time);
    }
    text_free(&bytes);
    text_free(&list);
    free(place);
}

/* ==================================== Taking =============================================== */

/* Is this the first exercise of its file? So each file is met once. */
static bool first_of_file(const Grading *grading, int k)
{
    for (int i = 0; i < k; i++)
        if (strcmp(grading->exercises[i].file, grading->exercises[k].file) == 0)
            return false;
    return true;
}

static bool heap_has_work(const Heap *heap, const Grading *grading)
{
    for (int k = 0; k < grading->n_exercise; k++)
        if (heap_find(heap, grading->exercises[k].file) != NULL)
            return true;
    return false;
}

/* All that was handed in: a folder, or a zip file, or a folder with one in it. */
static void heap_fill(Heap *heap, Grading *grading)
{
    struct stat info;
    if (stat(grading->submission, &info) == 0 && S_ISREG(info.st_mode)) {
        char *copy = copy_text(grading->submission), *slash = strrchr(copy, '/');
        if (slash != NULL)
            *slash = '\0';
        heap_open_zip(heap, grading, slash ? copy : ".", base_name(grading->submission));
        free(copy);
        return;
    }
    walk(heap, open(grading->submission, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "", 0);
    heap_keep(heap, grading->prefix);
    const Found *zip = NULL;
    for (int i = 0; i < heap->count && !heap_has_work(heap, grading); i++) {
        const char *path = heap->file[i].path;
        size_t len = strlen(path);
        if (len > 4 && same_letters(path + len - 4, ".zip", 4) &&
            (zip == NULL || heap->file[i].time > zip->time))
            zip = &heap->file[i];
    }
    if (zip != NULL) {
        char *name = copy_text(zip->path);
        heap_open_zip(heap, grading, grading->submission, name);
        free(name);
    }
}

/* Lines that end as on Windows end as everywhere else: markers are found by whole lines. */
static void returns_drop(Text *text)
{
    size_t kept = 0;
    for (size_t i = 0; i < text->len; i++)
        if (text->data[i] != '\r' || text->data[i + 1] != '\n')
            text->data[kept++] = text->data[i];
    if (text->data != NULL)
        text->data[text->len = kept] = '\0';
}

/* One file of the chapter as it was handed in; says which was taken if it is not the one. */
static bool submitted_read(Text *text, Grading *grading, const Heap *heap, const char *file)
{
    const Found *found = heap_find(heap, file);
    const char *bad = NULL;
    if (found == NULL) {
        text_say(&grading->notes,
                 "%s was not handed in: it must be there under this name, as a file and not as a "
                 "link\n",
                 file);
        return false;
    }
    if (heap->zip != NULL) {
        bad = unzip(text, grading, "-p", found->path, SUBMITTED_BYTES)
                  ? NULL
                  : "cannot be unzipped, or is too large,";
    } else {
        int in = open_inside(grading->submission, found->path);
        if (in < 0 || !read_all(text, in, SUBMITTED_BYTES))
            bad = in < 0 ? "cannot be read" : "is larger than 1048576 bytes";
        if (in >= 0)
            close(in);
    }
    if (bad == NULL && memchr(text_of(text), 0, text->len) != NULL)
        bad = "is not text";
    returns_drop(text);
    if (bad != NULL) {
        text_say(&grading->notes, "%s %s and was not taken\n", file, bad);
        text_free(text);
    } else if (distance(found->path, file) > 1 || heap->zip != NULL) {
        text_say(&grading->notes, "taken as %s: %s%s%s\n", file, found->path,
                 heap->zip ? " in " : "", heap->zip ? heap->zip : "");
    }
    return bad == NULL;
}

static bool region_find(size_t *from, size_t *to, const char *text, const char *id);

/* Says which marker lines of an exercise are not as they were: without them what one exercise does
   wrong may cost another. */
static void markers_check(Grading *grading, const Exercise *exercise, const char *text)
{
    char open[400], close[64];
    size_t from, to;
    int start = snprintf(open, sizeof open, "//> EX %s ", exercise->id);
    snprintf(close, sizeof close, "//< EX %s\n", exercise->id);
    if (region_find(&from, &to, text, exercise->id))
        return;
    bool opens = strstr(text, open) != NULL, closes = strstr(text, close) != NULL;
    snprintf(open + start, sizeof open - (size_t)start, "[%g pt%s] [%d min] %s\n", exercise->points,
             exercise->points == 1 ? "" : "s", exercise->minutes, exercise->title);
    text_say(&grading->notes, "%s: %s\n%s%s", exercise->file,
             opens && closes ? "the markers of an exercise stand in the wrong order:"
                             : "a marker of an exercise is gone, or changed; put back",
             opens && !closes ? "" : open, closes && !opens ? "" : close);
}

/* Puts what was handed in into the work folder. What was not stays as the kit has it: stubs. */
static void submission_place(Grading *grading)
{
    static Heap heap;
    heap_fill(&heap, grading);
    grading->taken = HASH_START;
    for (int k = 0; k < grading->n_exercise; k++) {
        Text text = {NULL, 0, 0};
        const char *file = grading->exercises[k].file;
        if (!first_of_file(grading, k) || !submitted_read(&text, grading, &heap, file))
            continue;
        char *path = join(grading->work, file);
        write_work(path, &text);
        if (heap_find(&heap, file)->time > grading->newest)
            grading->newest = heap_find(&heap, file)->time;
        grading->taken = hash_add(hash_text(grading->taken, file), text_of(&text), text.len);
        for (int j = k; j < grading->n_exercise; j++)
            if (strcmp(grading->exercises[j].file, file) == 0)
                markers_check(grading, &grading->exercises[j], text_of(&text));
        free(path);
        grading->exercises[k].handed_in = text;
    }
    char *zip = join(grading->work, "submitted.zip");
    unlink(zip);
    free(zip);
    heap_free(&heap);
}

/* The folder the compiler writes to, and what is in it, belong to this user. Only the compiler may
   write there: before a test runs it is given back. */
static void give_build(const Grading *grading, uid_t user)
{
    char *path = join(grading->work, "build");
    mkdir(path, 0755);
    DIR *dir = geteuid() == 0 ? opendir(path) : NULL;
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, "..") != 0 &&
            fchownat(dirfd(dir), entry->d_name, user, (gid_t)user, AT_SYMLINK_NOFOLLOW) != 0)
            die("%s/%s: %s", path, entry->d_name, strerror(errno));
    if (dir != NULL)
        closedir(dir);
    free(path);
}

/* A copy of a kit or of the course, which no other submission's user can read. */
static char *work_new(const char *from)
{
    const char *given = getenv("TMPDIR"), *dir = given != NULL && *given ? given : "/tmp";
    char *path = join(dir, "grade.XXXXXX");
    if (mkdtemp(path) == NULL || chmod(path, 0755) != 0)
        die("%s: no folder can be made there: %s", dir, strerror(errno));
    copy_tree(from, path, 0);
    char *solutions = join(path, "tests/solutions.txt"); /* are not for the submission's eyes */
    unlink(solutions);
    free(solutions);
    if (geteuid() == 0 && (chown(path, 0, (gid_t)cage_user()) != 0 || chmod(path, 0750) != 0))
        die("%s: %s", path, strerror(errno));
    return path;
}

/* ==================================== Compiling ============================================ */

/* ---- what the compiler says, in short ---- */

/* "tests/../ch01_toy/toy.c:17:9: error: ..." taken apart. */
typedef struct {
    int exercise;      /* the first of this file; -1 if it is not a file of exercises */
    char file[300];    /* ch01_toy/toy.c */
    long line, column; /* column: 0 if there is none */
    const char *words; /* "error: ..." up to the end of the line */
    size_t len;        /* of the words */
} Remark;

/* Is this line a remark of this kind, "error: " or "warning: "? */
static bool remark_read(Remark *remark, const Grading *grading, const char *line, const char *kind)
{
    size_t len = strcspn(line, "\n"), path = strcspn(line, ":\n");
    int end = 0;
    if (strncmp(line, "tests/../", 9) == 0)
        return remark_read(remark, grading, line + 9, kind);
    remark->column = 0;
    if (sscanf(line + path, ":%ld:%n", &remark->line, &end) != 1 || end == 0)
        return false;
    const char *at = line + path + end;
    if (sscanf(at, "%ld:%n", &remark->column, &end) == 1)
        at += end;
    at += *at == ' ';
    if (strncmp(at, "fatal ", 6) == 0)
        at += 6;
    if (at > line + len || strncmp(at, kind, strlen(kind)) != 0)
        return false;
    snprintf(remark->file, sizeof remark->file, "%.*s", (int)path, line);
    remark->exercise = -1;
    for (int k = grading->n_exercise - 1; k >= 0; k--)
        if (strcmp(grading->exercises[k].file, remark->file) == 0)
            remark->exercise = k;
    remark->words = at;
    remark->len = len - (size_t)(at - line);
    return true;
}

static const char *next_line(const char *text)
{
    text += strcspn(text, "\n");
    return text + (*text == '\n');
}

/* The line of the student's file that a remark is about, and a mark below the place. */
static void line_show(Text *out, const Remark *remark, const char *text)
{
    for (long line = 1; line < remark->line && *text != '\0'; line++)
        text = next_line(text);
    int len = (int)strcspn(text, "\n"), at = (int)remark->column - 1;
    if (len == 0)
        return;
    text_say(out, "%5ld | %.*s\n", remark->line, len, text);
    if (at >= 0 && at <= len && memchr(text, '\t', (size_t)at) == NULL)
        text_say(out, "      | %*s^\n", at, "");
}

/* The first error, with its line and what the compiler notes on it, and how many more there are: most
   often they come of the first. If there is none in a file, what was said first. */
static void errors_shorten(Text *out, const Grading *grading, const char *said)
{
    Remark first, other;
    int more = 0, lines = 0;
    const char *line = said;
    while (*line != '\0' && !remark_read(&first, grading, line, "error: "))
        line = next_line(line);
    if (*line == '\0') {
        for (line = said; *line != '\0' && lines < 8; line = next_line(line), lines++)
            text_say(out, "%.*s\n", (int)strcspn(line, "\n"), line);
        return;
    }
    text_say(out, "%s:%ld: %.*s\n", first.file, first.line, (int)first.len, first.words);
    if (first.exercise >= 0)
        line_show(out, &first, text_of(&grading->exercises[first.exercise].handed_in));
    bool of_first = true;
    for (line = next_line(line); *line != '\0'; line = next_line(line)) {
        bool error = remark_read(&other, grading, line, "error: ");
        of_first = of_first && !error && strstr(line, "In function") != line &&
                   !remark_read(&other, grading, line, "warning: ");
        more += error;
        if (of_first && remark_read(&other, grading, line, "note: ") &&
            strstr(other.words, "each undeclared") != other.words + 6)
            text_say(out, "%s:%ld: %.*s\n", other.file, other.line, (int)other.len, other.words);
        else if (of_first && first.exercise < 0 && lines++ < 3)
            text_say(out, "%.*s\n", (int)strcspn(line, "\n"), line);
    }
    if (more > 0)
        text_say(out, "and %d more error%s, which may come of this one\n", more,
                 more == 1 ? "" : "s");
}

/* Runs the compiler in the cage; what it says goes to message. */
static bool compile(Text *message, Grading *grading, const char *words)
{
    Job job;
    Outcome outcome;
    if (clock_left(grading) <= 0.0) {
        text_say(message, "not compiled: %g s were lost in what had to be stopped\n",
                 grading->lost);
        return false;
    }
    memset(&job, 0, sizeof job);
    job_words(&job, grading->compiler);
    job_words(&job, "-Werror=implicit-function-declaration -Werror=return-type "
                    "-include tests/exercise.h");
    job_words(&job, grading->optimise);
    if (grading->sanitize)
        job_words(&job, "-fsanitize=address,undefined -fno-sanitize-recover=all");
    job_words(&job, words);
    job.cpu = 30.0;
    job.wall = 90.0;
    job.memory = 1024 * MIB;
    job.file = 64 * MIB;
    job.processes = 16;
    job.may_write = true;
    job.keep = 64 * KEPT_BYTES; /* a brace that is missing: a screen of errors and more */
    give_build(grading, cage_user());
    cage_run(&outcome, grading, &job);
    give_build(grading, geteuid());
    bool ok = outcome.status == 0;
    if (!ok && outcome.seconds >= job.cpu)
        grading->lost += outcome.seconds;
    if (!ok && outcome.output.len == 0)
        text_say(message, "the compiler did not come to an end%s\n",
                 outcome.late ? " in time" : "");
    if (ok)
        text_add(message, text_of(&outcome.output), outcome.output.len);
    else
        errors_shorten(message, grading, text_of(&outcome.output));
    text_free(&outcome.output);
    job_free(&job);
    return ok;
}

/* dir/name becomes tests/name in the work folder. */
static void place_in_tests(const Grading *grading, const char *dir, const char *name)
{
    char *tests = join(grading->work, "tests"), *from = join(dir, name), *to = join(tests, name);
    copy_file(from, to);
    free(tests);
    free(from);
    free(to);
}

/* Compiles a program of tests to program->built. The source of a probe is in the work folder only
   as long as that takes: no output can quote it. */
static bool program_compile(Text *message, Grading *grading, const Program *program)
{
    Text words = {NULL, 0, 0};
    char *source, name[300];
    snprintf(name, sizeof name, "%s.c", program->name);
    if (asprintf(&source, "%s/tests/%s", grading->work, name) < 0)
        die("out of memory");
    if (program->probe) {
        place_in_tests(grading, program->dir, name);
        text_say(&words, "%s -DPROBE_OF=\"%s\"", grading->probe_flags, program->only);
    } else {
        text_say(&words, "%s-D_cmocka_run_group_tests=one_test_run build/one_test.o",
                 grading->for_student ? "-Wall -Wextra " : "");
    }
    text_say(&words, " tests/%s -o %s %s -lm", name, program->built,
             program->probe ? "" : grading->flags);
    bool ok = compile(message, grading, text_of(&words));
    if (program->probe)
        unlink(source);
    text_free(&words);
    free(source);
    return ok;
}

/* ---- a submission that does not compile ----------------------------------------------------- */
/* One slip must not cost everything. Exercise by exercise, the solution between the markers is
   put into a file that does compile; what breaks it stays a stub. */

/* The lines between the markers of an exercise: from .. to in text. */
static bool region_find(size_t *from, size_t *to, const char *text, const char *id)
{
    char open[64], close[64];
    snprintf(open, sizeof open, "//> EX %s ", id);
    snprintf(close, sizeof close, "//< EX %s\n", id);
    const char *start = strstr(text, open), *end = start ? strstr(start, close) : NULL;
    if (end == NULL)
        return false;
    *from = (size_t)(start - text) + strcspn(start, "\n") + 1;
    while (end > text && end[-1] != '\n')
        end--;
    *to = (size_t)(end - text);
    return *from <= *to;
}

/* The line that the compiler counts at this place: "#line 7" makes the next one the 7th. */
static long line_at(const char *text, const char *at)
{
    long line = 1, said;
    for (const char *c = text; c < at; c++)
        if (*c == '\n')
            line = c[1] == '#' && sscanf(c + 1, "#line %ld", &said) == 1 ? said - 1 : line + 1;
    return line;
}

/* out = base with `lines` between the markers of an exercise. The lines after them keep their
   numbers, so that the compiler, and a sanitizer, names those of the student's file. */
static bool region_put(Text *out, const char *base, const char *id, const char *lines, size_t len)
{
    size_t from, to;
    if (!region_find(&from, &to, base, id))
        return false;
    text_add(out, base, from);
    text_add(out, lines, len);
    text_say(out, "#line %ld\n", line_at(base, base + to));
    text_add(out, base + to, strlen(base + to));
    return true;
}

/* The compiler only reads it: that finds nearly every slip, in a fifteenth of the time. What is
   found later, by the assembler or because a function is nowhere, costs its exercise alone too: see
   compile_alone. */
static bool file_compiles(Text *message, Grading *grading, const char *file, const Text *text)
{
    char *path = join(grading->work, file), *words;
    write_work(path, text);
    if (asprintf(&words, "-fsyntax-only -x c %s", file) < 0)
        die("out of memory");
    bool ok = compile(message, grading, words);
    free(path);
    free(words);
    return ok;
}

/* The submitted file with all its solutions taken out: the student's own helpers stay. */
static void stubs_of(Text *base, const Grading *grading, const char *file, const Text *submitted)
{
    text_add(base, text_of(submitted), submitted->len);
    for (int k = 0; k < grading->n_exercise; k++) {
        Text next = {NULL, 0, 0};
        char stub[64];
        int len =
            snprintf(stub, sizeof stub, "    EXERCISE_TODO(\"%s\");\n", grading->exercises[k].id);
        if (strcmp(grading->exercises[k].file, file) == 0 &&
            region_put(&next, text_of(base), grading->exercises[k].id, stub, (size_t)len)) {
            text_free(base);
            *base = next;
        }
    }
}

/* The kit's own file instead. */
static void stubs_of_kit(Text *base, Grading *grading, const char *file, const Text *message)
{
    char *path = join(grading->kit, file);
    text_free(base);
    if (!read_path(base, path))
        die("%s: cannot be read", path);
    text_say(&grading->notes, "%s does not compile, and not because of an exercise%s:\n%s", file,
             grading->for_student ? "" : "; what was changed between them does not count",
             text_of(message));
    free(path);
}

/* How many braces open in these lines, less those that close; but for comments and quotes. */
static int braces(int *opened, int *closed, const char *text, size_t len)
{
    char in = 0; /* what is in: a quote, or '/' and '*' for the comments of one line and of more */
    *opened = *closed = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i], next = i + 1 < len ? text[i + 1] : '\0';
        if (in == '"' || in == '\'') {
            i += c == '\\';
            in = c == in || c == '\n' ? 0 : in;
        } else if (in == '/') {
            in = c == '\n' ? 0 : in;
        } else if (in == '*') {
            in = c == '*' && next == '/' ? 0 : in;
        } else if (c == '"' || c == '\'' || (c == '/' && (next == '/' || next == '*'))) {
            in = c == '/' ? next : c;
            i += c == '/';
        } else {
            *opened += c == '{';
            *closed += c == '}';
        }
    }
    return *opened - *closed;
}

/* What a brace too few or too many does shows far below: so it is said where it is. */
static void braces_say(Text *out, const Grading *grading, const char *id, const char *lines,
                       size_t len)
{
    const char *solved = text_of(&grading->solutions);
    size_t from, to;
    int opened, closed, balance = 0;
    if (region_find(&from, &to, solved, id))
        balance = braces(&opened, &closed, solved + from, to - from);
    if (braces(&opened, &closed, lines, len) != balance)
        text_say(out, "between its markers there are %d { and %d }\n", opened, closed);
}

/* The solutions between the markers, one by one, into the file that compiles. */
static void regions_put(Text *base, Grading *grading, const char *file, const Text *submitted)
{
    for (int k = 0; k < grading->n_exercise; k++) {
        Exercise *exercise = &grading->exercises[k];
        Text next = {NULL, 0, 0};
        size_t from, to;
        if (strcmp(exercise->file, file) != 0)
            continue;
        if (!region_find(&from, &to, text_of(submitted), exercise->id) ||
            !region_put(&next, text_of(base), exercise->id, submitted->data + from, to - from)) {
            text_say(&exercise->broken, "its markers //> EX %s and //< EX %s are gone\n",
                     exercise->id, exercise->id);
        } else if (file_compiles(&exercise->broken, grading, file, &next)) {
            text_free(&exercise->broken);
            text_free(base);
            *base = next;
            memset(&next, 0, sizeof next);
        } else {
            braces_say(&exercise->broken, grading, exercise->id, submitted->data + from, to - from);
        }
        text_free(&next);
    }
}

/* False if the file cannot be helped yet: not even its stubs compile, perhaps because of another
   file, which it includes. If it is the `last` resort, the kit's stubs are taken. */
static bool salvage_file(Grading *grading, const char *file, bool last)
{
    Text submitted = {NULL, 0, 0}, base = {NULL, 0, 0}, message = {NULL, 0, 0};
    char *path = join(grading->work, file);
    if (!read_path(&submitted, path))
        die("%s: cannot be read", path);
    bool whole = file_compiles(&message, grading, file, &submitted), helped = whole;
    if (!whole) {
        text_free(&message);
        stubs_of(&base, grading, file, &submitted);
        helped = file_compiles(&message, grading, file, &base);
        if (!helped && last)
            stubs_of_kit(&base, grading, file, &message);
        if (helped || (last && !grading->for_student))
            regions_put(&base, grading, file, &submitted);
        for (int k = 0; !helped && last && grading->for_student && k < grading->n_exercise; k++)
            if (strcmp(grading->exercises[k].file, file) == 0) /* whose kit has no other file */
                text_say(&grading->exercises[k].broken, "see below\n");
        helped = helped || last;
    }
    write_work(path, whole || !helped ? &submitted : &base);
    text_free(&submitted);
    text_free(&base);
    text_free(&message);
    free(path);
    return helped;
}

static void salvage(Grading *grading)
{
    bool done[MAX_EXERCISES] = {false};
    for (int last = 0; last < 2; last++)
        for (bool again = true; again;) {
            again = false;
            for (int k = 0; k < grading->n_exercise; k++)
                if (first_of_file(grading, k) && !done[k]) {
                    done[k] = salvage_file(grading, grading->exercises[k].file, last);
                    again = again || done[k];
                }
        }
}

/* The compiler's warnings that are about lines between the markers of an exercise, each once. The
   stubs give none. */
static void warnings_keep(Grading *grading, const char *said)
{
    Remark remark;
    for (const char *line = said; *line != '\0'; line = next_line(line)) {
        if (!remark_read(&remark, grading, line, "warning: ") || remark.exercise < 0)
            continue;
        const char *text = text_of(&grading->exercises[remark.exercise].handed_in);
        for (int k = 0; k < grading->n_exercise; k++) {
            Exercise *exercise = &grading->exercises[k];
            size_t from, to;
            char *warning;
            if (strcmp(exercise->file, remark.file) != 0 ||
                !region_find(&from, &to, text, exercise->id) ||
                remark.line < line_at(text, text + from) || remark.line >= line_at(text, text + to))
                continue;
            if (asprintf(&warning, "%s:%ld: %.*s\n", remark.file, remark.line, (int)remark.len - 9,
                         remark.words + 9) < 0) /* without "warning: " */
                die("out of memory");
            if (strstr(text_of(&exercise->warnings), warning) == NULL)
                text_say(&exercise->warnings, "%s", warning);
            free(warning);
        }
    }
}

/* Compiles every program of this kind; false if one does not compile. */
static bool programs_compile(Grading *grading, bool probes)
{
    bool all = true;
    for (int p = 0; p < grading->n_program; p++) {
        Program *program = &grading->programs[p];
        if (program->probe != probes || !program->needed)
            continue;
        text_free(&program->message);
        program->compiled = program_compile(&program->message, grading, program);
        all = all && program->compiled;
        if (program->compiled && grading->for_student)
            warnings_keep(grading, text_of(&program->message));
    }
    return all;
}

/* ---- each exercise by itself ---------------------------------------------------------------- */
/* What one exercise does wrong, or does not do yet, costs no other: when a test of an exercise  */
/* fails, it and those after it run in a build in which every other exercise is the course's own. */

/* The course's solutions, from the kit, written in rot47. */
static void solutions_read(Grading *grading)
{
    char *path = join(grading->kit, "tests/solutions.txt");
    if (!read_path(&grading->solutions, path))
        die("%s: cannot be read: is this a folder that make assignment wrote?", path);
    for (char *c = grading->solutions.data; *c != '\0'; c++)
        if (*c > ' ' && *c <= '~')
            *c = (char)('!' + (*c - '!' + 47) % 94);
    free(path);
}

/* The line of exercise k's stub in its file; 0 if something else stands between the markers, and
   NO_MARKERS if they are gone. */
static long stub_line(const Grading *grading, int k)
{
    const Exercise *exercise = &grading->exercises[k];
    Text text = {NULL, 0, 0};
    size_t from, to;
    char stub[64], *path = join(grading->work, exercise->file);
    long line = NO_MARKERS;
    snprintf(stub, sizeof stub, "EXERCISE_TODO(\"%s\")", exercise->id);
    if (read_path(&text, path) && region_find(&from, &to, text_of(&text), exercise->id)) {
        text.data[to] = '\0';
        const char *at = strstr(text.data + from, stub);
        line = at != NULL ? line_at(text.data, at) : 0;
    }
    text_free(&text);
    free(path);
    return line;
}

/* out = the file with every exercise but `keep` solved. */
static void solve_others(Text *out, const Grading *grading, const char *file, const Text *submitted,
                         int keep)
{
    text_add(out, text_of(submitted), submitted->len);
    for (int k = 0; k < grading->n_exercise; k++) {
        const char *id = grading->exercises[k].id, *solved = text_of(&grading->solutions);
        Text next = {NULL, 0, 0};
        size_t from, to;
        if (k != keep && strcmp(grading->exercises[k].file, file) == 0 &&
            region_find(&from, &to, solved, id) &&
            region_put(&next, text_of(out), id, solved + from, to - from)) {
            text_free(out);
            *out = next;
        }
    }
}

/* `alone` becomes the build of its program in which only exercise k is the submission's. */
static void compile_alone(Program *alone, Grading *grading, int k)
{
    Text submitted[MAX_EXERCISES];
    const int count = grading->n_exercise;
    memset(submitted, 0, sizeof submitted);
    for (int i = 0; i < count; i++) {
        Text solved = {NULL, 0, 0};
        char *path = join(grading->work, grading->exercises[i].file);
        if (first_of_file(grading, i) && read_path(&submitted[i], path)) {
            solve_others(&solved, grading, grading->exercises[i].file, &submitted[i], k);
            write_work(path, &solved);
        }
        text_free(&solved);
        free(path);
    }
    Text message = {NULL, 0, 0};
    int chapter, number;
    sscanf(grading->exercises[k].id, "%d.%d", &chapter, &number);
    snprintf(alone->built, sizeof alone->built, "build/alone");
    snprintf(alone->only, sizeof alone->only, "ex%d_%d_", chapter, number);
    alone->compiled = program_compile(&message, grading, alone);
    text_free(&message);
    for (int i = 0; i < count; i++) {
        char *path = join(grading->work, grading->exercises[i].file);
        if (submitted[i].data != NULL)
            write_work(path, &submitted[i]);
        text_free(&submitted[i]);
        free(path);
    }
}

/* What is built holds what not every test may read: "build/alone". */
static void remove_built(const Grading *grading, const char *built)
{
    char *path = join(grading->work, built);
    unlink(path);
    free(path);
}

#endif
