/* A whole class: every folder and zip file of a folder is a submission, and so is what Canvas puts
   loose beside each other, "doejane_12345_67890_markov.c". As many are graded at once as there are
   processors, each in a process of its own. What was graded is graded again only if what was taken
   from it, or what it is graded by, has changed.

   OUT/NAME.txt to read, OUT/NAME.json for Gradescope; for all OUT/grades.csv, canvas.csv,
   moodle.csv, similar.csv, and .graded, by which the next run knows what is done.

   HOLDS  Class; class_seed, class_grade
   FOR    grade.c, which includes it behind everything else */

#ifndef GRADE_CLASS
#define GRADE_CLASS

/* What one exercise of one submission came to. */
typedef struct {
    double points;
    uint64_t shape; /* of its tokens, whatever the names in it */
    int tokens;
} Part;

/* What a grading process tells of its submission. */
typedef struct {
    uint64_t contents, setting; /* of what was taken; of what it was graded by */
    long long time;             /* of its newest file */
    Part part[MAX_EXERCISES];
} Mark;

typedef enum { NOT_GRADED, GRADED, UNCHANGED } State;

typedef struct {
    char *name;   /* the folder's, without .zip, or what Canvas has before the second number */
    char *path;   /* of the folder or zip file */
    char *prefix; /* of the files of a flat class, or NULL */
    Mark mark;
    bool known; /* the mark is of an earlier run */
    State state;
    const char *why; /* it was graded */
    pid_t pid;
    int pipe;
} Entry;

typedef struct {
    const char *dir, *out;
    int jobs;
    time_t due;     /* 0: never */
    double per_day; /* percent */
    bool seed_given, all;
    Entry *entry;
    int count, running, done;
    uint64_t setting;
    double started;
} Class;

/* ==================================== Tokens =============================================== */

typedef struct {
    const char *name[128];
    size_t len[128];
    int count;
} Names;

/* A name stands for the place of its first use: the same text under other names is the same. */
static int name_number(Names *names, const char *at, size_t len)
{
    int k = 0;
    while (k < names->count && (names->len[k] != len || strncmp(names->name[k], at, len) != 0))
        k++;
    if (k == names->count && k < 127) {
        names->name[k] = at;
        names->len[k] = len;
        names->count++;
    }
    return k;
}

static bool is_word(const char *at, size_t len, const char *list)
{
    for (const char *found = list; (found = strstr(found, " ")) != NULL; found++)
        if (strncmp(found + 1, at, len) == 0 && found[1 + len] == ' ')
            return true;
    return false;
}

/* The length of a comment or a literal at `at`; 0 if there is none. */
static size_t skipped(const char *at, const char *end)
{
    const char *from = at;
    if (at + 1 < end && at[0] == '/' && (at[1] == '/' || at[1] == '*')) {
        const char *close = at[1] == '/' ? "\n" : "*/";
        at = strstr(at + 2, close);
        return (size_t)((at == NULL || at > end ? end : at + strlen(close)) - from);
    }
    if (*at != '"' && *at != '\'')
        return 0;
    for (at++; at < end && *at != *from; at++)
        at += *at == '\\';
    return (size_t)((at < end ? at + 1 : end) - from);
}

/* The tokens from `at` to `end`: their number, and a number for their shape. */
static void shape_of(Part *part, const char *at, const char *end)
{
    static const char keywords[] = " if else for while do return break continue switch case "
                                   "default const static sizeof float double int long size_t bool "
                                   "true false struct NULL ";
    Names names;
    names.count = 0;
    part->shape = HASH_START;
    part->tokens = 0;
    while (at < end) {
        size_t len = skipped(at, end);
        unsigned char kind[2] = {(unsigned char)*at, 0};
        const bool comment = len > 0 && *at == '/';
        if (len > 0) {
            kind[0] = '"';
        } else if (isalpha((unsigned char)*at) || *at == '_') {
            while (at + len < end && (isalnum((unsigned char)at[len]) || at[len] == '_'))
                len++;
            if (is_word(at, len, keywords)) {
                part->shape = hash_add(part->shape, at, len);
            } else {
                kind[0] = 'a';
                kind[1] = (unsigned char)name_number(&names, at, len);
            }
        } else if (isdigit((unsigned char)*at)) {
            kind[0] = '0';
            while (at + len < end && (isalnum((unsigned char)at[len]) || at[len] == '.'))
                len++;
        } else {
            len = 1;
        }
        if (!comment && !isspace((unsigned char)*at)) {
            part->shape = hash_add(part->shape, kind, sizeof kind);
            part->tokens++;
        }
        at += len;
    }
}

/* The shapes of all exercises of a course, or of the submission in the work folder. */
static void shapes_read(Part *part, const Grading *grading, const char *dir)
{
    for (int k = 0; k < grading->n_exercise; k++) {
        Text text = {NULL, 0, 0};
        size_t from, to;
        char *path = join(dir, grading->exercises[k].file);
        if (read_path(&text, path) &&
            region_find(&from, &to, text_of(&text), grading->exercises[k].id))
            shape_of(&part[k], text.data + from, text.data + to);
        text_free(&text);
        free(path);
    }
}

/* ==================================== What is known ======================================== */

/* A name as one word: what could end a line or a column stands as %0A. */
static void say_word(Text *out, const char *name)
{
    for (; *name != '\0'; name++)
        if ((unsigned char)*name <= ' ' || *name == '%' || *name == 0x7F)
            text_say(out, "%%%02X", (unsigned char)*name);
        else
            text_add(out, name, 1);
}

static void unword(char *word)
{
    char *out = word;
    for (const char *at = word; *at != '\0'; at++) {
        unsigned code;
        if (*at == '%' && sscanf(at + 1, "%2x", &code) == 1) {
            *out++ = (char)code;
            at += 2;
        } else {
            *out++ = *at;
        }
    }
    *out = '\0';
}

/* OUT/.graded, whole after each submission, so that an interrupted run goes on where it was. */
static void marks_write(const Class *class, const Grading *grading)
{
    Text out = {NULL, 0, 0};
    text_say(&out, "seed %llu\n", grading->seed);
    for (int i = 0; i < class->count; i++) {
        const Entry *entry = &class->entry[i];
        if (!entry->known && entry->state != GRADED)
            continue;
        text_say(&out, "%016llx %016llx %lld", (unsigned long long)entry->mark.contents,
                 (unsigned long long)entry->mark.setting, entry->mark.time);
        for (int k = 0; k < grading->n_exercise; k++)
            text_say(&out, " %.17g:%016llx:%d", entry->mark.part[k].points,
                     (unsigned long long)entry->mark.part[k].shape, entry->mark.part[k].tokens);
        text_say(&out, " ");
        say_word(&out, entry->name);
        text_say(&out, "\n");
    }
    char *path = join(class->out, ".graded");
    write_result(path, &out);
    free(path);
    text_free(&out);
}

static void mark_read(Class *class, const Grading *grading, char *line)
{
    Mark mark;
    unsigned long long contents, setting, shape;
    int at = 0;
    memset(&mark, 0, sizeof mark);
    if (sscanf(line, "%llx %llx %lld%n", &contents, &setting, &mark.time, &at) != 3)
        return;
    mark.contents = contents;
    mark.setting = setting;
    for (int k = 0, step = 0; k < grading->n_exercise; k++, at += step) {
        Part *part = &mark.part[k];
        if (sscanf(line + at, " %lf:%llx:%d%n", &part->points, &shape, &part->tokens, &step) != 3)
            return;
        part->shape = shape;
    }
    if (line[at] != ' ')
        return;
    unword(line + at + 1);
    for (int i = 0; i < class->count; i++)
        if (strcmp(class->entry[i].name, line + at + 1) == 0) {
            class->entry[i].mark = mark;
            class->entry[i].known = true;
        }
}

/* The seed of an earlier run goes on, unless another is asked for: one class, the same numbers. */
static unsigned long long class_seed(const Class *class, unsigned long long seed)
{
    Text text = {NULL, 0, 0};
    char *path = join(class->out, ".graded");
    if (read_path(&text, path))
        sscanf(text.data, "seed %llu", &seed);
    text_free(&text);
    free(path);
    return seed;
}

static void marks_read(Class *class, const Grading *grading)
{
    Text text = {NULL, 0, 0};
    char *path = join(class->out, ".graded");
    char *rest = read_path(&text, path) ? text.data : NULL;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        mark_read(class, grading, line);
    text_free(&text);
    free(path);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const Found *)a)->path, ((const Found *)b)->path);
}

static uint64_t hash_tree(uint64_t hash, const char *dir)
{
    static Heap heap;
    walk(&heap, open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "", 0);
    qsort(heap.file, (size_t)heap.count, sizeof *heap.file, by_path);
    for (int i = 0; i < heap.count; i++) {
        Text text = {NULL, 0, 0};
        char *path = join(dir, heap.file[i].path);
        read_path(&text, path);
        hash = hash_add(hash_text(hash, heap.file[i].path), text_of(&text), text.len);
        text_free(&text);
        free(path);
    }
    heap_free(&heap);
    return hash;
}

/* All that a mark depends on, besides the submission. */
static uint64_t setting_of(const Grading *grading)
{
    const double numbers[] = {grading->seconds,
                              grading->clock,
                              (double)grading->seed,
                              (double)grading->sanitize,
                              (double)grading->n_probes,
                              (double)grading->plain,
                              (double)grading->probes_only};
    uint64_t hash = hash_add(HASH_START, numbers, sizeof numbers);
    hash = hash_text(hash_text(hash, grading->compiler), grading->optimise);
    hash = hash_text(hash, grading->exercise != NULL ? grading->exercise : "");
    hash = hash_tree(hash, grading->kit);
    for (int k = 0; k < grading->n_probes; k++)
        hash = hash_tree(hash, grading->probes[k]);
    for (int t = 0; t < grading->n_test; t++) /* the course's solution may have been mended */
        hash = hash_text(hash, text_of(&grading->tests[t].want));
    return hash;
}

/* ==================================== Who is in it ========================================= */

/* The texts are the class's from now on. */
static void entry_add(Class *class, char *name, char *path, char *prefix)
{
    for (int i = 0; i < class->count; i++)
        if (strcmp(class->entry[i].name, name) == 0) {
            if (prefix == NULL)
                die("%s: there is a folder and a zip file of this name", path);
            free(name), free(path), free(prefix); /* one more file of theirs */
            return;
        }
    class->entry = (Entry *)realloc(class->entry, ((size_t) class->count + 1) * sizeof(Entry));
    if (class->entry == NULL)
        die("out of memory");
    Entry *entry = &class->entry[class->count++];
    memset(entry, 0, sizeof *entry);
    entry->name = name;
    entry->path = path;
    entry->prefix = prefix;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const Entry *)a)->name, ((const Entry *)b)->name);
}

static void class_read(Class *class)
{
    DIR *dir = opendir(class->dir);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        struct stat info;
        const char *name = entry->d_name, *file = without_prefix(name);
        size_t len = strlen(name);
        if (name[0] == '.' || strcmp(name, "__MACOSX") == 0 ||
            fstatat(dirfd(dir), name, &info, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISDIR(info.st_mode)) {
            entry_add(class, copy_text(name), join(class->dir, name), NULL);
        } else if (S_ISREG(info.st_mode) && file != name) { /* name_1234_5678_file */
            size_t number = (size_t)(file - name) - 1;
            while (name[number - 1] != '_')
                number--;
            entry_add(class, strndup(name, number - 1), copy_text(class->dir),
                      strndup(name, number));
        } else if (S_ISREG(info.st_mode) && len > 4 && same_letters(name + len - 4, ".zip", 4)) {
            entry_add(class, strndup(name, len - 4), join(class->dir, name), NULL);
        }
    }
    if (dir != NULL)
        closedir(dir);
    if (class->count == 0)
        die("%s: there is no folder and no zip file in it", class->dir);
    qsort(class->entry, (size_t) class->count, sizeof *class->entry, by_name);
}

/* ==================================== Grading them ========================================= */

/* OUT/NAME.txt; the caller frees it. */
static char *result_path(const Class *class, const Entry *entry, const char *ending)
{
    char *path;
    if (asprintf(&path, "%s/%s%s", class->out, entry->name, ending) < 0)
        die("out of memory");
    return path;
}

/* Of a mark of an earlier run: why it does not hold any more, or NULL. */
static const char *why_again(const Class *class, const Entry *entry, uint64_t contents)
{
    char *text = result_path(class, entry, ".txt"), *json = result_path(class, entry, ".json");
    bool there = access(text, R_OK) == 0 && access(json, R_OK) == 0;
    free(text);
    free(json);
    return !entry->known                           ? "new"
           : entry->mark.contents != contents      ? "handed in again"
           : entry->mark.setting != class->setting ? "what it is graded by has changed"
           : !there                                ? "its results were gone"
                                                   : NULL;
}

/* In a process of its own: everything printed goes to NAME.txt. */
__attribute__((noreturn)) static void entry_grade(const Class *class, Entry *entry,
                                                  Grading *grading, int out)
{
    char *text = result_path(class, entry, ".txt"), *new = result_path(class, entry, ".txt.new");
    int file = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0 || dup2(file, 1) < 0 || dup2(file, 2) < 0)
        _exit(1);
    grading->submission = entry->path;
    grading->prefix = entry->prefix;
    grading->results = result_path(class, entry, ".json");
    grade_begin(grading);
    entry->why = why_again(class, entry, grading->taken);
    bool again = entry->why != NULL;
    if (again) {
        entry->mark.contents = grading->taken;
        entry->mark.setting = class->setting;
        shapes_read(entry->mark.part, grading, grading->work);
        grade_finish(grading);
        report(grading);
        for (int k = 0; k < grading->n_exercise; k++)
            entry->mark.part[k].points = exercise_score(&grading->exercises[k]);
    }
    entry->mark.time = grading->newest;
    bool ok = fflush(stdout) == 0;
    if (again)
        ok = rename(new, text) == 0 && ok;
    else
        unlink(new);
    remove_tree(grading->work);
    entry->state = again ? GRADED : UNCHANGED;
    ok = ok && write(out, entry, sizeof *entry) == (ssize_t)sizeof *entry;
    _exit(!ok);
}

static void entry_start(Class *class, Entry *entry, Grading *grading)
{
    int ends[2];
    if (pipe(ends) != 0)
        die("no pipe: %s", strerror(errno));
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    fflush(NULL);
    entry->pid = fork();
    if (entry->pid < 0)
        die("no process: %s", strerror(errno));
    if (entry->pid == 0)
        entry_grade(class, entry, grading, ends[1]);
    close(ends[1]);
    entry->pipe = ends[0];
    class->running++;
}

/* The last line of what a grading that failed has said. */
static void say_failure(const Class *class, const Entry *entry)
{
    Text text = {NULL, 0, 0};
    char *path = result_path(class, entry, ".txt.new");
    read_path(&text, path);
    while (text.len > 0 && text.data[text.len - 1] == '\n')
        text.data[--text.len] = '\0';
    const char *line = text.len > 0 ? strrchr(text.data, '\n') : NULL;
    printf("%s could not be graded: %s\n", printable(entry->name),
           printable(line != NULL ? line + 1 : text_of(&text)));
    text_free(&text);
    free(path);
}

/* Waits for one of them. */
static void entry_end(Class *class, const Grading *grading)
{
    pid_t pid = wait(NULL);
    if (pid < 0)
        return;
    for (int i = 0; i < class->count; i++) {
        Entry *entry = &class->entry[i], told;
        if (entry->pid != pid)
            continue;
        bool ok = read(entry->pipe, &told, sizeof told) == (ssize_t)sizeof told;
        close(entry->pipe);
        entry->pid = 0;
        class->running--;
        class->done++;
        if (!ok) {
            entry->known = false;
            say_failure(class, entry);
            return;
        }
        if (told.state == GRADED && entry->known)
            printf("%s is graded again: %s\n", printable(entry->name), told.why);
        entry->mark = told.mark;
        entry->state = told.state;
        if (told.state == GRADED)
            marks_write(class, grading);
    }
}

static void progress(const Class *class)
{
    if (!isatty(STDERR_FILENO) || class->done == 0)
        return;
    double left = (now() - class->started) * (class->count - class->done) / class->done;
    int width = 40 * class->done / class->count;
    fprintf(stderr, "\r  [%.*s%.*s] %d of %d, %.0f s left ", width,
            "########################################", 40 - width,
            "........................................", class->done, class->count, left);
    if (class->done == class->count)
        fputc('\n', stderr);
}

static void all_grade(Class *class, Grading *grading)
{
    class->started = now();
    for (int i = 0; i < class->count || class->running > 0;) {
        if (stopped) {
            for (int k = 0; k < class->count; k++)
                if (class->entry[k].pid > 0)
                    kill(class->entry[k].pid, SIGTERM);
            while (wait(NULL) > 0)
                ;
            fputs("\nstopped: what was graded is kept; run it again to go on\n", stderr);
            exit(130);
        }
        if (i < class->count && class->running < class->jobs) {
            entry_start(class, &class->entry[i++], grading);
            continue;
        }
        entry_end(class, grading);
        progress(class);
    }
}

/* ==================================== The sum of it ======================================== */

static double entry_points(const Entry *entry, const Grading *grading)
{
    double points = 0.0;
    for (int k = 0; k < grading->n_exercise; k++)
        points += entry->mark.part[k].points;
    return points;
}

/* Days begun after the due time. */
static int days_late(const Class *class, const Entry *entry)
{
    double late = class->due != 0 ? difftime((time_t)entry->mark.time, class->due) : 0.0;
    return late > 0.0 ? (int)ceil(late / 86400.0) : 0;
}

static double points_counted(const Class *class, const Entry *entry, const Grading *grading)
{
    double share = 1.0 - 0.01 * class->per_day * days_late(class, entry);
    return entry_points(entry, grading) * (share > 0.0 ? share : 0.0);
}

/* A field of CSV. A spreadsheet takes what begins with one of these for a formula. */
static void say_field(Text *out, const char *value)
{
    text_say(out, "\"%s", strchr("=+-@\t\r", *value) != NULL && *value != '\0' ? "'" : "");
    for (; *value != '\0'; value++)
        text_say(out, *value == '"' ? "\"\"" : "%c", *value);
    text_say(out, "\"");
}

static void write_out(const Class *class, const char *name, Text *text)
{
    char *path = join(class->out, name);
    write_result(path, text);
    free(path);
    text_free(text);
}

static void grades_csv(const Class *class, const Grading *grading)
{
    Text out = {NULL, 0, 0};
    text_say(&out, "name,points%s", class->due != 0 ? ",days late,points counted" : "");
    for (int k = 0; k < grading->n_exercise; k++)
        text_say(&out, ",%s", grading->exercises[k].id);
    text_say(&out, "\n");
    for (int i = 0; i < class->count; i++) {
        const Entry *entry = &class->entry[i];
        say_field(&out, entry->name);
        if (entry->state == NOT_GRADED) {
            text_say(&out, ",not graded\n");
            continue;
        }
        text_say(&out, ",%.4g", entry_points(entry, grading));
        if (class->due != 0)
            text_say(&out, ",%d,%.4g", days_late(class, entry),
                     points_counted(class, entry, grading));
        for (int k = 0; k < grading->n_exercise; k++)
            text_say(&out, ",%.4g", entry->mark.part[k].points);
        text_say(&out, "\n");
    }
    write_out(class, "grades.csv", &out);
}

/* As Canvas's gradebook is imported: these five columns, then the assignment; a row of the points
   possible. Who is meant it knows by the ID, the login or the name. */
static void canvas_csv(const Class *class, const Grading *grading, double points)
{
    Text out = {NULL, 0, 0};
    text_say(&out, "Student,ID,SIS User ID,SIS Login ID,Section,Chapter %s\n", grading->chapter);
    text_say(&out, "    Points Possible,,,,,%g\n", points);
    for (int i = 0; i < class->count; i++) {
        const Entry *entry = &class->entry[i];
        const char *number = strrchr(entry->name, '_');
        if (entry->state == NOT_GRADED)
            continue;
        char *student = strndup(entry->name, strcspn(entry->name, "_"));
        say_field(&out, student);
        free(student);
        text_say(&out, ",%s,,", entry->prefix != NULL ? number + 1 : "");
        if (entry->prefix == NULL)
            say_field(&out, entry->name);
        text_say(&out, ",,%.4g\n", points_counted(class, entry, grading));
    }
    write_out(class, "canvas.csv", &out);
}

/* As Moodle's grading worksheet: it looks for Identifier, Grade and Last modified (grade). The
   identifier is in the names of the folders that Moodle writes, Jane
   Doe_1234_assignsubmission_file. */
static void moodle_csv(const Class *class, const Grading *grading, double points)
{
    Text out = {NULL, 0, 0};
    text_say(&out, "Identifier,Full name,Grade,Maximum grade,Last modified (grade)\n");
    for (int i = 0; i < class->count; i++) {
        const Entry *entry = &class->entry[i];
        int participant = 0, end = 0;
        if (entry->state == NOT_GRADED)
            continue;
        size_t name = strcspn(entry->name, "_");
        sscanf(entry->name + name, "_%d_assignsubmission%n", &participant, &end);
        if (end > 0)
            text_say(&out, "Participant %d", participant);
        char *full = strndup(entry->name, name);
        text_say(&out, ",");
        say_field(&out, full);
        free(full);
        text_say(&out, ",%.4g,%g,-\n", points_counted(class, entry, grading), points);
    }
    write_out(class, "moodle.csv", &out);
}

/* ---- who has written the same --------------------------------------------------------------- */

enum { TOKENS_THAT_SAY_SOMETHING = 12 };

typedef struct {
    int a, b, tokens;
    Text exercises;
} Pair;

static bool is_same(const Part *a, const Part *b)
{
    return a->tokens >= TOKENS_THAT_SAY_SOMETHING && a->tokens == b->tokens && a->shape == b->shape;
}

/* How many of the class wrote this exercise so. What many write says nothing. */
static bool is_rare(const Class *class, const Part *part, int k)
{
    int same = 0;
    for (int i = 0; i < class->count; i++)
        same += class->entry[i].state != NOT_GRADED && is_same(&class->entry[i].mark.part[k], part);
    return same <= 2 || 10 * same <= class->count;
}

static int by_tokens(const void *a, const void *b)
{
    return ((const Pair *)b)->tokens - ((const Pair *)a)->tokens;
}

static Pair pair_of(const Class *class, const Grading *grading, int a, int b)
{
    Pair pair = {a, b, 0, {NULL, 0, 0}};
    if (class->entry[a].state == NOT_GRADED || class->entry[b].state == NOT_GRADED)
        return pair;
    for (int k = 0; k < grading->n_exercise; k++) {
        const Part *part = &class->entry[a].mark.part[k];
        if (is_same(part, &class->entry[b].mark.part[k]) && is_rare(class, part, k)) {
            pair.tokens += part->tokens;
            text_say(&pair.exercises, " %s", grading->exercises[k].id);
        }
    }
    return pair;
}

static void say_pair(Text *out, const char *a, const char *b, int tokens, const char *exercises)
{
    say_field(out, a);
    text_say(out, ",");
    say_field(out, b);
    text_say(out, ",%d,%s\n", tokens, exercises);
}

/* Who has most exercises as the course itself has them, which everybody may read. */
static void say_as_the_course(Text *out, const Class *class, const Grading *grading)
{
    Part course[MAX_EXERCISES];
    memset(course, 0, sizeof course);
    if (grading->reference == NULL)
        return;
    shapes_read(course, grading, grading->reference);
    for (int i = 0; i < class->count; i++) {
        int same = 0, all = 0, tokens = 0;
        Text exercises = {NULL, 0, 0};
        for (int k = 0; k < grading->n_exercise; k++) {
            all += course[k].tokens >= TOKENS_THAT_SAY_SOMETHING;
            if (!is_same(&class->entry[i].mark.part[k], &course[k]))
                continue;
            same++;
            tokens += course[k].tokens;
            text_say(&exercises, " %s", grading->exercises[k].id);
        }
        if (class->entry[i].state != NOT_GRADED && 2 * same > all)
            say_pair(out, class->entry[i].name, "the course", tokens, text_of(&exercises));
        text_free(&exercises);
    }
}

/* OUT/similar.csv: who has written the same but for names, spaces and comments. Returns how many
   pairs. */
static int similar_write(const Class *class, const Grading *grading)
{
    Text out = {NULL, 0, 0};
    Pair *pairs = NULL;
    int count = 0;
    for (int a = 0; a < class->count; a++)
        for (int b = a + 1; b < class->count; b++) {
            Pair pair = pair_of(class, grading, a, b);
            if (pair.tokens == 0)
                continue;
            pairs = (Pair *)realloc(pairs, ((size_t)count + 1) * sizeof *pairs);
            if (pairs == NULL)
                die("out of memory");
            pairs[count++] = pair;
        }
    if (count > 0)
        qsort(pairs, (size_t)count, sizeof *pairs, by_tokens);
    text_say(&out, "one,other,tokens that are the same,exercises\n");
    for (int i = 0; i < count; i++) {
        say_pair(&out, class->entry[pairs[i].a].name, class->entry[pairs[i].b].name,
                 pairs[i].tokens, text_of(&pairs[i].exercises));
        text_free(&pairs[i].exercises);
    }
    say_as_the_course(&out, class, grading);
    write_out(class, "similar.csv", &out);
    free(pairs);
    return count;
}

static void histogram(const Class *class, const Grading *grading, double points)
{
    int bin[10] = {0}, most = 0, graded = 0;
    double sum = 0.0;
    for (int i = 0; i < class->count; i++) {
        if (class->entry[i].state == NOT_GRADED)
            continue;
        double got = points_counted(class, &class->entry[i], grading);
        int b = (int)(10.0 * got / points);
        b = b > 9 ? 9 : b;
        bin[b]++;
        most = bin[b] > most ? bin[b] : most;
        sum += got;
        graded++;
    }
    for (int b = 9; b >= 0; b--) {
        int width = most > 50 ? 50 * bin[b] / most : bin[b];
        printf("  %5.1f to %5.1f  %4d  %.*s\n", b * points / 10.0, (b + 1) * points / 10.0, bin[b],
               width, "##################################################");
    }
    if (graded > 0)
        printf("  %d graded, mean %.1f of %g points\n", graded, sum / graded, points);
    if (graded < class->count)
        printf("  %d could not be graded\n", class->count - graded);
}

/* Grades all of them and sums up. Returns the exit status. */
static int class_grade(Class *class, Grading *grading)
{
    int again = 0;
    double points = 0.0;
    if (mkdir(class->out, 0755) != 0 && errno != EEXIST)
        die("%s: cannot be made: %s", class->out, strerror(errno));
    for (int k = 0; k < grading->n_exercise; k++)
        points += grading->exercises[k].points;
    if (class->jobs == 0)
        class->jobs = (int)sysconf(_SC_NPROCESSORS_ONLN);
    class_read(class);
    marks_read(class, grading);
    class->setting = setting_of(grading);
    all_grade(class, grading);
    for (int i = 0; i < class->count; i++)
        again += class->entry[i].state == GRADED;
    printf("%d submissions, %d graded now, in %.0f s\n", class->count, again,
           now() - class->started);
    marks_write(class, grading);
    grades_csv(class, grading);
    canvas_csv(class, grading, points);
    moodle_csv(class, grading, points);
    int pairs = similar_write(class, grading);
    histogram(class, grading, points);
    if (pairs > 0)
        printf("  %d pair%s wrote the same: %s/similar.csv\n", pairs, pairs == 1 ? "" : "s",
               class->out);
    printf("%s/grades.csv, canvas.csv, moodle.csv, and for each submission a .txt to read and a "
           ".json for platforms\n",
           class->out);
    return 0;
}

#endif
