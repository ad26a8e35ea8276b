/* The grader: compiles a submission with the tests of an assignment, runs each test by itself,
   and says what each exercise is worth.

       grade --kit build/assignments/ch04 --submission handed_in/ada --results results.json

   A KIT is a folder that `make assignment` wrote: the chapters, the tests, tests/exercises.txt
   with points, hints and places in the lesson. From the SUBMISSION come the chapter's own files
   and nothing else; they are put into a fresh copy of the kit. A student's `make test` runs the
   same program on the student's own folder.

   What is trusted: the kit and this program. What is not: the submission, when it is compiled and
   when it runs. Both happen in a process of its own (see "The cage"), with limits on time,
   memory, files and processes, without the user's environment, and, where the kernel allows it,
   in namespaces of its own: no network, nothing to write to but a small /tmp, and the folders
   that --hide names, and the home folder, are empty. Run as root, it gives the process a user of
   its own besides.

   A test has passed when cmocka says so and the test's process hands back a ticket (one_test.c).
   No text printed and no exit status makes a test pass. But test and submission share a process,
   so a submission that searches its own memory for the ticket can forge a pass; for grades that
   matter there are PROBES: programs in the --hidden folder that only print numbers. What is right
   is computed by the same program with the course's own chapter (--reference), in another
   process. */

#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <glob.h>
#include <grp.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#endif

enum {
    MAX_EXERCISES = 64,
    MAX_TESTS = 512,
    MAX_PROGRAMS = 64,
    MAX_HINTS = 8,
    MAX_HIDE = 8,
    MAX_ARGUMENTS = 64,
    SUBMITTED_BYTES = 1 << 20, /* a chapter has about 100,000 */
    KEPT_BYTES = 4096,         /* of what a test prints */
    PROBE_BYTES = 1 << 20,     /* of the numbers a probe prints */
    FLOOD_BYTES = 8 << 20,     /* who prints more is stopped */
    TICKET_BYTES = 32,
    TODO_STATUS = 97, /* of exercise.h */
    FIRST_CAGE_USER = 61000,
    CAGE_USERS = 4000
};

#define MIB ((size_t)1 << 20)

/* ==================================== Tools ================================================ */

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list arguments;
    fputs("error: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

/* A text that grows. */
typedef struct {
    char *data; /* (len) and a 0; NULL as long as there is nothing */
    size_t len, room;
} Text;

static void text_add(Text *text, const char *from, size_t len)
{
    if (text->len + len + 1 > text->room) {
        text->room = 2 * (text->len + len + 1);
        text->data = (char *)realloc(text->data, text->room);
        if (text->data == NULL)
            die("out of memory");
    }
    memcpy(text->data + text->len, from, len);
    text->len += len;
    text->data[text->len] = '\0';
}

__attribute__((format(printf, 2, 3))) static void text_say(Text *text, const char *format, ...)
{
    char *line;
    va_list arguments;
    va_start(arguments, format);
    int len = vasprintf(&line, format, arguments);
    va_end(arguments);
    if (len < 0)
        die("out of memory");
    text_add(text, line, (size_t)len);
    free(line);
}

static const char *text_of(const Text *text)
{
    return text->data != NULL ? text->data : "";
}

static void text_free(Text *text)
{
    free(text->data);
    memset(text, 0, sizeof *text);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* "dir/name"; the caller frees it. */
static char *join(const char *dir, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", dir, name) < 0)
        die("out of memory");
    return path;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* Everything of an open file, at most `most` bytes; false if there is more or it cannot be read. */
static bool read_all(Text *text, int file, size_t most)
{
    char block[65536];
    ssize_t got;
    while ((got = read(file, block, sizeof block)) > 0 && text->len <= most)
        text_add(text, block, (size_t)got);
    text_add(text, "", 0);
    return got == 0 && text->len <= most;
}

static bool read_path(Text *text, const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = file >= 0 && read_all(text, file, 64 * MIB);
    if (file >= 0)
        close(file);
    return ok;
}

static bool write_stream(FILE *out, const Text *text)
{
    bool ok = out != NULL && fwrite(text_of(text), 1, text->len, out) == text->len;
    return out != NULL && fflush(out) == 0 && ok;
}

/* A file of the work folder. */
static void write_work(const char *path, const Text *text)
{
    FILE *out = fopen(path, "w");
    if (!write_stream(out, text) || fclose(out) != 0)
        die("%s: cannot be written: %s", path, strerror(errno));
}

/* A file of results: it appears whole or not at all. */
static void write_result(const char *path, const Text *text)
{
    char *temporary;
    if (asprintf(&temporary, "%s.%ld", path, (long)getpid()) < 0)
        die("out of memory");
    FILE *out = fopen(temporary, "w");
    bool ok = write_stream(out, text) && fsync(fileno(out)) == 0;
    ok = out != NULL && fclose(out) == 0 && ok;
    if (!ok || rename(temporary, path) != 0) {
        unlink(temporary);
        die("%s: cannot be written: %s", path, strerror(errno));
    }
    free(temporary);
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info;
    (void)kind;
    (void)at;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void copy_file(const char *from, const char *to)
{
    Text text = {NULL, 0, 0};
    if (!read_path(&text, from))
        die("%s: cannot be read: %s", from, strerror(errno));
    write_work(to, &text);
    text_free(&text);
}

/* Copies regular files and folders; leaves out links, what begins with a dot, and the kit's own
   build folder. */
static void copy_tree(const char *from, const char *to, int depth)
{
    DIR *dir = opendir(from);
    if (dir == NULL || (mkdir(to, 0755) != 0 && errno != EEXIST))
        die("%s: cannot be copied to %s: %s", from, to, strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.' || (depth == 0 && strcmp(entry->d_name, "build") == 0))
            continue;
        char *source = join(from, entry->d_name), *target = join(to, entry->d_name);
        struct stat info;
        if (lstat(source, &info) == 0 && S_ISDIR(info.st_mode) && depth < 8)
            copy_tree(source, target, depth + 1);
        else if (S_ISREG(info.st_mode))
            copy_file(source, target);
        free(source);
        free(target);
    }
    closedir(dir);
}

/* ==================================== The kit ============================================== */

/* One marked exercise, as tests/exercises.txt has it. */
typedef struct {
    char id[16];                   /* "4.2" */
    double points;                 /* shared evenly by its tests */
    int minutes;                   /* that it should take */
    char file[256];                /* ch04_selective/selective.c */
    char title[256], section[256]; /* what to write; where the lesson speaks of it */
    char hint[MAX_HINTS][512];
    int hints;
    Text broken; /* what the compiler said, if this exercise alone does not compile */
    int tests, passed;
} Exercise;

typedef enum { PASS, FAIL, TODO, CRASH, TIMEOUT, FLOOD, QUIT, NOT_COMPILED, NOT_RUN } Verdict;

static const char *const verdict_word[] = {"pass",     "FAIL", "todo",  "CRASH",  "TIMEOUT",
                                           "TOO LONG", "QUIT", "NOT C", "not run"};

/* What one C file of tests became. */
typedef struct {
    char name[256];  /* test_ch04_selective; for a probe ex4_2_something */
    char built[300]; /* build/test_ch04_selective */
    bool hidden, probe, compiled, tried;
    Text message; /* of the compiler */
} Program;

typedef struct {
    int exercise, program;
    char name[256]; /* ex4_2_steps_are_the_scan_bit_for_bit */
    Verdict verdict;
    double seconds;
    Text output; /* for people: what was expected and what came */
} Test;

typedef struct {
    const char *kit, *submission, *hidden, *reference;
    const char *hide[MAX_HIDE];
    int n_hide;
    const char *exercise; /* only this one, or NULL */
    const char *results, *junit;
    const char *compiler, *flags, *optimise;
    bool sanitize, score_only, for_student, plain;
    double seconds; /* of processor time for one test */

    char chapter[8];
    Exercise exercises[MAX_EXERCISES];
    Program programs[MAX_PROGRAMS];
    Test tests[MAX_TESTS];
    int n_exercise, n_program, n_test;
    char *work;     /* the fresh copy of the kit */
    Text solutions; /* of all exercises, between their markers */
    Text notes;     /* what the student should know besides */
    bool isolated;  /* namespaces were had */
    double started;
} Grading;

static Exercise *exercise_find(Grading *grading, const char *id)
{
    for (int i = 0; i < grading->n_exercise; i++)
        if (strcmp(grading->exercises[i].id, id) == 0)
            return &grading->exercises[i];
    return NULL;
}

/* One line of tests/exercises.txt: a word, an exercise, and what the word is about. */
static bool kit_line(Grading *grading, char *line)
{
    char id[16];
    int rest = 0;
    if (sscanf(line, "chapter %7s", grading->chapter) == 1)
        return true;
    if (sscanf(line, "exercise %15s %n", id, &rest) == 1 && rest > 0) {
        if (grading->n_exercise == MAX_EXERCISES)
            return false;
        Exercise *new = &grading->exercises[grading->n_exercise++];
        snprintf(new->id, sizeof new->id, "%s", id);
        return sscanf(line + rest, "%lf %d %255s %255[^\n]", &new->points, &new->minutes, new->file,
                      new->title) == 4;
    }
    if (sscanf(line, "%*s %15s %n", id, &rest) != 1 || rest == 0)
        return false;
    Exercise *known = exercise_find(grading, id);
    if (known == NULL)
        return false;
    if (strncmp(line, "hint ", 5) == 0 && known->hints < MAX_HINTS)
        snprintf(known->hint[known->hints++], sizeof known->hint[0], "%s", line + rest);
    else if (strncmp(line, "goes-on ", 8) == 0 && known->hints > 0)
        snprintf(strchr(known->hint[known->hints - 1], '\0'), 256, " %.254s", line + rest);
    else if (strncmp(line, "section ", 8) == 0)
        snprintf(known->section, sizeof known->section, "%s", line + rest);
    return true;
}

static void kit_read(Grading *grading)
{
    char *path = join(grading->kit, "tests/exercises.txt");
    Text text = {NULL, 0, 0};
    if (!read_path(&text, path))
        die("%s: cannot be read: is this a folder that make assignment wrote?", path);
    char *rest = text.data;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        if (*line != '\0' && !kit_line(grading, line))
            die("%s: this line is not understood: %s", path, line);
    if (grading->n_exercise == 0 || grading->chapter[0] == '\0')
        die("%s: no exercises", path);
    text_free(&text);
    free(path);
}

/* The exercise that a test's name belongs to: ex4_2_... is a test of 4.2. */
static Exercise *exercise_of_name(Grading *grading, const char *name)
{
    int chapter, number, end = 0;
    char id[32];
    if (sscanf(name, "ex%d_%d_%n", &chapter, &number, &end) != 2 || end == 0)
        return NULL;
    snprintf(id, sizeof id, "%d.%d", chapter, number);
    return exercise_find(grading, id);
}

static void test_add(Grading *grading, int program, const char *name)
{
    Exercise *exercise = exercise_of_name(grading, name);
    if (exercise == NULL || (grading->exercise && strcmp(grading->exercise, exercise->id) != 0))
        return;
    if (grading->n_test == MAX_TESTS)
        die("more than %d tests", MAX_TESTS);
    Test *test = &grading->tests[grading->n_test++];
    memset(test, 0, sizeof *test);
    test->exercise = (int)(exercise - grading->exercises);
    test->program = program;
    test->verdict = NOT_RUN;
    snprintf(test->name, sizeof test->name, "%s", name);
    exercise->tests++;
}

/* Finds the tests in one C file by its table, cmocka_unit_test(ex4_2_...). */
static void program_add(Grading *grading, const char *path, bool hidden, bool probe)
{
    Text text = {NULL, 0, 0};
    if (grading->n_program == MAX_PROGRAMS || !read_path(&text, path))
        die("%s: cannot be read, or too many of them", path);
    Program *program = &grading->programs[grading->n_program];
    memset(program, 0, sizeof *program);
    snprintf(program->name, sizeof program->name, "%.*s", (int)strcspn(base_name(path), "."),
             base_name(path));
    snprintf(program->built, sizeof program->built, "build/%.*s",
             (int)strcspn(base_name(path), "."), base_name(path));
    program->hidden = hidden;
    program->probe = probe;
    int before = grading->n_test;
    if (probe)
        test_add(grading, grading->n_program, program->name);
    for (const char *at = text.data; !probe && (at = strstr(at, "cmocka_unit_test")) != NULL;) {
        char name[256];
        at += strcspn(at, "(\n");
        if (sscanf(at, "(%255[A-Za-z0-9_]", name) == 1)
            test_add(grading, grading->n_program, name);
    }
    grading->n_program += grading->n_test > before; /* else nothing in it is graded */
    text_free(&text);
}

static void programs_find(Grading *grading, const char *dir, const char *pattern, bool hidden,
                          bool probe)
{
    glob_t found;
    char *path = join(dir, pattern);
    if (glob(path, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++)
            program_add(grading, found.gl_pathv[i], hidden, probe);
        globfree(&found);
    }
    free(path);
}

static void tests_find(Grading *grading)
{
    char pattern[64];
    snprintf(pattern, sizeof pattern, "tests/test_ch%s_*.c", grading->chapter);
    programs_find(grading, grading->kit, pattern, false, false);
    if (grading->hidden != NULL) {
        programs_find(grading, grading->hidden, "test_*.c", true, false);
        programs_find(grading, grading->hidden, "ex[0-9]*.c", true, true);
    }
    if (grading->n_test == 0)
        die("%s: there is no test%s%s", grading->kit, grading->exercise ? " of exercise " : "",
            grading->exercise ? grading->exercise : "");
}

/* ==================================== The cage ============================================= */
/* Grader -> warden -> the command. The warden is the first process of the new namespaces; when */
/* it dies, everything in them dies with it. It waits for the command and hands its end on.     */

typedef struct {
    char *argv[MAX_ARGUMENTS];
    char one_test[300];  /* "ONE_TEST=name", for the environment */
    double cpu, wall;    /* seconds */
    size_t memory, file; /* bytes; memory 0: no limit */
    rlim_t processes;
    bool may_write; /* to the work folder: the compiler does, a test does not */
    bool keep_stdout_only;
    size_t keep; /* bytes of output */
} Job;

typedef struct {
    int status; /* as of waitpid; -1 if the command never came to an end of its own */
    bool late, flooded, ticket;
    double seconds;
    Text output;
} Outcome;

typedef struct {
    int output[2], status[2], ticket_in[2], ticket_out[2];
} Pipes;

static uid_t cage_user(void)
{
    return geteuid() != 0 ? geteuid() : (uid_t)(FIRST_CAGE_USER + getpid() % CAGE_USERS);
}

/* How many processes and threads this user has already: the limit counts them too. */
static rlim_t tasks_of_user(void)
{
    rlim_t count = 0;
    DIR *proc = geteuid() == 0 ? NULL : opendir("/proc");
    for (struct dirent *entry; proc != NULL && (entry = readdir(proc)) != NULL;) {
        char path[300];
        struct stat info;
        snprintf(path, sizeof path, "/proc/%s/task", entry->d_name);
        if (isdigit((unsigned char)entry->d_name[0]) && stat(path, &info) == 0 &&
            info.st_uid == geteuid())
            count += info.st_nlink - 2;
    }
    if (proc != NULL)
        closedir(proc);
    return count;
}

#ifdef __linux__
static bool write_once(const char *path, const char *text)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = file >= 0 && write(file, text, strlen(text)) == (ssize_t)strlen(text);
    if (file >= 0)
        close(file);
    return ok;
}

/* In a user namespace of its own the warden is still the user it was. */
static void map_user(uid_t user, gid_t group)
{
    char line[64];
    snprintf(line, sizeof line, "%u %u 1", (unsigned)user, (unsigned)user);
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* else /proc/self is root's */
    write_once("/proc/self/uid_map", line);
    write_once("/proc/self/setgroups", "deny");
    snprintf(line, sizeof line, "%u %u 1", (unsigned)group, (unsigned)group);
    write_once("/proc/self/gid_map", line);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/* Binds a folder on itself, for reading only. Flags that the file system has must stay. */
static void mount_read_only(const char *path)
{
    struct statvfs info;
    unsigned long flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV;
    if (statvfs(path, &info) == 0 && (info.f_flag & ST_NOEXEC))
        flags |= MS_NOEXEC;
    if (mount(path, path, NULL, MS_BIND, NULL) == 0)
        mount(NULL, path, NULL, flags, NULL);
}

/* What the command can see and write: the work folder (where the warden stands), an empty /tmp, and
   nothing of what is hidden. The work folder may lie below /tmp: paths are relative to it. */
static void mount_cage(const Grading *grading, bool may_write)
{
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (!may_write)
        mount_read_only(grading->work);
    if (chdir(grading->work) != 0)
        _exit(126);
    for (int i = 0; i < grading->n_hide; i++)
        mount("none", grading->hide[i], "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k");
    mount("none", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=1777");
    mount("none", "/var/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=1777");
    mount("none", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=1777");
}

/* fork(), with namespaces if they are to be had. */
static pid_t fork_warden(const Grading *grading, bool *isolated)
{
    int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    if (geteuid() != 0)
        flags |= CLONE_NEWUSER;
    fflush(NULL);
    long child = grading->plain
                     ? -1
                     : syscall(SYS_clone, (unsigned long)flags | SIGCHLD, NULL, NULL, NULL, NULL);
    *isolated = child >= 0;
    return child >= 0 ? (pid_t)child : fork();
}
#else
static pid_t fork_warden(const Grading *grading, bool *isolated)
{
    (void)grading;
    *isolated = false;
    fflush(NULL);
    return fork();
}
#endif

static void limit(int what, rlim_t most)
{
    struct rlimit limits = {most, most};
    setrlimit(what, &limits);
}

static void limits_set(const Job *job, rlim_t tasks)
{
    rlim_t cpu = (rlim_t)ceil(job->cpu);
    struct rlimit time = {cpu, cpu + 1};
    setrlimit(RLIMIT_CPU, &time);
    if (job->memory > 0)
        limit(RLIMIT_AS, job->memory);
    limit(RLIMIT_FSIZE, job->file);
    limit(RLIMIT_NOFILE, 64);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_STACK, 8 * MIB);
    limit(RLIMIT_NPROC, tasks + job->processes);
}

/* Becomes the program argv[0], which is looked for in the grader's own PATH. Returns if there is
   none. */
static void execute(char *const *argv, char *const *environment)
{
    const char *directory = getenv("PATH");
    if (directory == NULL || strchr(argv[0], '/') != NULL) {
        execve(argv[0], argv, environment);
        return;
    }
    for (size_t len; *directory != '\0'; directory += len + (directory[len] == ':')) {
        char path[4096];
        len = strcspn(directory, ":");
        if (snprintf(path, sizeof path, "%.*s/%s", (int)len, directory, argv[0]) < (int)sizeof path)
            execve(path, argv, environment);
    }
}

/* In the process that becomes the command. */
__attribute__((noreturn)) static void become_command(const Job *job, const Pipes *pipes,
                                                     rlim_t tasks, uid_t user)
{
    char *const environment[] = {
        "PATH=/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin",
        "HOME=/tmp",
        "TMPDIR=/tmp",
        "LC_ALL=C",
        "NO_COLOR=1",
        "OMP_NUM_THREADS=2",
        "ASAN_OPTIONS=handle_segv=2:hard_rss_limit_mb=512:detect_leaks=0:exitcode=99",
        job->one_test[0] != '\0' ? (char *)job->one_test : NULL,
        NULL};
    int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, 0);
    dup2(pipes->output[1], 1);
    dup2(job->keep_stdout_only ? nothing : pipes->output[1], 2);
    int in = fcntl(pipes->ticket_in[0], F_DUPFD, 64),
        out = fcntl(pipes->ticket_out[1], F_DUPFD, 64);
    dup2(in, 3);
    dup2(out, 4);
    for (int file = 5; file < 1024; file++)
        close(file);
#ifdef __linux__
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    write_once("/proc/self/oom_score_adj", "1000"); /* if memory runs out, this goes first */
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
#endif
    limits_set(job, tasks);
    if (geteuid() == 0 && (setgroups(0, NULL) != 0 || setgid(user) != 0 || setuid(user) != 0))
        _exit(126);
    execute(job->argv, environment);
    _exit(127);
}

/* The warden: sets up the cage, starts the command, tells how it ended. */
__attribute__((noreturn)) static void warden(const Grading *grading, const Job *job,
                                             const Pipes *pipes, bool isolated, rlim_t tasks,
                                             uid_t user, gid_t group)
{
    int status = -1;
    signal(SIGINT, SIG_IGN);
    setsid();
    if (chdir(grading->work) != 0)
        _exit(126);
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (isolated) {
        if (geteuid() != 0) /* in a user namespace, before anything is mapped */
            map_user(user, group);
        mount_cage(grading, job->may_write);
    }
#else
    (void)isolated;
    (void)group;
#endif
    pid_t command = fork();
    if (command == 0)
        become_command(job, pipes, tasks, user);
    while (command > 0 && waitpid(command, &status, 0) < 0 && errno == EINTR)
        ;
    if (write(pipes->status[1], &status, sizeof status) != sizeof status)
        _exit(125);
    _exit(0);
}

/* Orphans of a command come to the grader, as their subreaper: none of them stays. */
static void kill_orphans(void)
{
    for (int round = 0; round < 100; round++) {
        Text pids = {NULL, 0, 0};
        bool any = read_path(&pids, "/proc/thread-self/children") && pids.len > 0;
        char *at = pids.data;
        for (long pid; any && (pid = strtol(at, &at, 10)) > 0;) {
            kill((pid_t)pid, SIGKILL);
            waitpid((pid_t)pid, NULL, 0);
        }
        text_free(&pids);
        if (!any)
            return;
    }
}

/* Ends whatever a command may have left behind. In namespaces of its own nothing can be left. */
static void kill_rest(pid_t warden_pid, bool isolated, uid_t user)
{
    kill(-warden_pid, SIGKILL);
    kill(warden_pid, SIGKILL);
    waitpid(warden_pid, NULL, 0);
    if (isolated)
        return;
    kill_orphans();
    if (geteuid() != 0)
        return;
    pid_t killer = fork(); /* as that user, every process of that user */
    if (killer == 0) {
        if (setuid(user) == 0)
            kill(-1, SIGKILL);
        _exit(0);
    }
    waitpid(killer, NULL, 0);
}

static volatile sig_atomic_t stopped; /* by Ctrl-C */

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

__attribute__((noreturn)) static void leave(const Grading *grading)
{
    remove_tree(grading->work);
    fputs("\nstopped: nothing was written\n", stderr);
    _exit(130);
}

static void pipes_open(Pipes *pipes)
{
    int *const all[] = {pipes->output, pipes->status, pipes->ticket_in, pipes->ticket_out};
    for (int i = 0; i < 4; i++) {
        if (pipe(all[i]) != 0)
            die("no pipe: %s", strerror(errno));
        fcntl(all[i][0], F_SETFD, FD_CLOEXEC);
        fcntl(all[i][1], F_SETFD, FD_CLOEXEC);
    }
}

/* Reads what is there; keeps the first `keep` bytes. Returns false at the end of the stream. */
static bool output_take(Outcome *outcome, size_t *total, int file, size_t keep)
{
    char block[65536];
    ssize_t got = read(file, block, sizeof block);
    if (got <= 0)
        return false;
    size_t room = outcome->output.len < keep ? keep - outcome->output.len : 0;
    text_add(&outcome->output, block, (size_t)got < room ? (size_t)got : room);
    *total += (size_t)got;
    return true;
}

/* Until the command has ended, is late, or prints without end. */
static void watch(Outcome *outcome, const Job *job, const Pipes *pipes)
{
    double start = now();
    size_t total = 0;
    struct pollfd wait[2] = {{pipes->output[0], POLLIN, 0}, {pipes->status[0], POLLIN, 0}};
    while (true) {
        double left = job->wall - (now() - start);
        int ready = left > 0.0 ? poll(wait, 2, (int)(1000.0 * left) + 1) : 0;
        if (ready < 0 && stopped)
            return;
        if (ready == 0) {
            outcome->late = true;
            return;
        }
        if (ready > 0 && wait[0].revents && !output_take(outcome, &total, wait[0].fd, job->keep))
            wait[0].fd = -1;
        outcome->flooded = total > FLOOD_BYTES;
        if (outcome->flooded)
            return;
        if (ready > 0 && wait[1].revents && wait[0].revents == 0) {
            if (read(wait[1].fd, &outcome->status, sizeof outcome->status) !=
                sizeof outcome->status)
                outcome->status = -1; /* the warden was killed */
            return;
        }
    }
}

static void ticket_new(unsigned char *ticket)
{
    int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, ticket, TICKET_BYTES) != TICKET_BYTES)
        die("/dev/urandom: no random bytes");
    close(file);
}

static bool ticket_came_back(int file, const unsigned char *ticket)
{
    unsigned char got[TICKET_BYTES + 1];
    struct pollfd wait = {file, POLLIN, 0};
    return poll(&wait, 1, 0) == 1 && read(file, got, sizeof got) == TICKET_BYTES &&
           memcmp(got, ticket, TICKET_BYTES) == 0;
}

/* Runs a command in the cage, in the work folder. */
static void run(Outcome *outcome, Grading *grading, const Job *job)
{
    Pipes pipes;
    unsigned char ticket[TICKET_BYTES];
    memset(outcome, 0, sizeof *outcome);
    outcome->status = -1;
    pipes_open(&pipes);
    ticket_new(ticket);
    if (write(pipes.ticket_in[1], ticket, sizeof ticket) != sizeof ticket)
        die("a pipe that takes no %d bytes", TICKET_BYTES);
    close(pipes.ticket_in[1]);
    uid_t user = cage_user();
    gid_t group = getegid();
    rlim_t tasks = tasks_of_user();
    double start = now();
    bool isolated;
    pid_t child = fork_warden(grading, &isolated);
    if (child < 0)
        die("no process: %s", strerror(errno));
    if (child == 0)
        warden(grading, job, &pipes, isolated, tasks, user, group);
    grading->isolated = isolated;
    close(pipes.output[1]);
    close(pipes.status[1]);
    close(pipes.ticket_in[0]);
    close(pipes.ticket_out[1]);
    watch(outcome, job, &pipes);
    outcome->seconds = now() - start;
    kill_rest(child, isolated, user);
    if (stopped)
        leave(grading);
    outcome->ticket = ticket_came_back(pipes.ticket_out[0], ticket);
    close(pipes.output[0]);
    close(pipes.status[0]);
    close(pipes.ticket_out[0]);
}

/* ==================================== The submission ======================================= */

/* A regular file below `dir`, reached through no link; -1 if there is none. */
static int open_inside(const char *dir, const char *path)
{
    int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (at >= 0) {
        char name[256];
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

/* One file of the chapter as it was handed in, in its folder or at the top. */
static bool submitted_read(Text *text, Grading *grading, const char *file)
{
    int in = open_inside(grading->submission, file);
    if (in < 0)
        in = open_inside(grading->submission, base_name(file));
    if (in < 0) {
        text_say(&grading->notes,
                 "%s was not handed in: it must be there under this name, as a "
                 "file and not as a link\n",
                 file);
        return false;
    }
    bool ok = read_all(text, in, SUBMITTED_BYTES);
    close(in);
    if (!ok)
        text_say(&grading->notes, "%s is larger than %d bytes and was not taken\n", file,
                 SUBMITTED_BYTES);
    else if (strstr(text_of(text), "incbin") != NULL || memchr(text->data, 0, text->len) != NULL)
        text_say(&grading->notes, "%s %s and was not taken\n", file,
                 strstr(text_of(text), "incbin") ? "reads other files (incbin)" : "is not text");
    else
        return true;
    text_free(text);
    return false;
}

/* Is this the first exercise of its file? So each file is met once. */
static bool first_of_file(const Grading *grading, int k)
{
    for (int i = 0; i < k; i++)
        if (strcmp(grading->exercises[i].file, grading->exercises[k].file) == 0)
            return false;
    return true;
}

/* Puts what was handed in into the work folder. What was not stays as the kit has it: stubs. */
static void submission_place(Grading *grading)
{
    for (int k = 0; k < grading->n_exercise; k++) {
        Text text = {NULL, 0, 0};
        if (!first_of_file(grading, k) ||
            !submitted_read(&text, grading, grading->exercises[k].file))
            continue;
        char *path = join(grading->work, grading->exercises[k].file);
        write_work(path, &text);
        free(path);
        text_free(&text);
    }
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

static char *work_new(const char *from)
{
    const char *dir = getenv("TMPDIR") && *getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    char *path = join(dir, "grade.XXXXXX");
    if (mkdtemp(path) == NULL || chmod(path, 0755) != 0)
        die("%s: no folder can be made there: %s", dir, strerror(errno));
    copy_tree(from, path, 0);
    return path;
}

/* ==================================== Compiling ============================================ */

static void job_words(Job *job, const char *words)
{
    int count = 0;
    while (job->argv[count] != NULL)
        count++;
    char *copy = strdup(words), *rest = copy;
    for (char *word; (word = strsep(&rest, " \n")) != NULL;)
        if (*word != '\0' && count + 1 < MAX_ARGUMENTS)
            job->argv[count++] = strdup(word);
    free(copy);
}

static void job_free(Job *job)
{
    for (int i = 0; job->argv[i] != NULL; i++)
        free(job->argv[i]);
}

/* A file that the compiler read: part of the work folder or of the system? */
static bool may_be_included(const Grading *grading, const char *path)
{
    static const char *const system[] = {"/usr/", "/opt/", "/nix/", "/Library/", "/Applications/"};
    char *full = *path == '/' ? strdup(path) : join(grading->work, path);
    char *real = realpath(full, NULL), *work = realpath(grading->work, NULL);
    bool ok = real == NULL; /* what is not there could not be read either */
    ok = ok || (work != NULL && strncmp(real, work, strlen(work)) == 0);
    for (size_t i = 0; !ok && i < sizeof system / sizeof *system; i++)
        ok = strncmp(real, system[i], strlen(system[i])) == 0;
    free(full);
    free(real);
    free(work);
    return ok;
}

/* Looks through the list of files that the compiler read (-MD). */
static bool includes_hold(Text *message, const Grading *grading)
{
    Text list = {NULL, 0, 0};
    char *path = join(grading->work, "build/includes"), *rest;
    bool ok = true;
    if (read_path(&list, path)) {
        rest = list.data;
        for (char *word; ok && (word = strsep(&rest, " \n\\")) != NULL;)
            if (*word != '\0' && word[strlen(word) - 1] != ':' && !may_be_included(grading, word)) {
                text_say(message, "%s is included, which is no part of the assignment\n", word);
                ok = false;
            }
    }
    unlink(path);
    free(path);
    text_free(&list);
    return ok;
}

/* Runs the compiler in the cage; what it says goes to message. */
static bool compile(Text *message, Grading *grading, const char *words)
{
    Job job;
    Outcome outcome;
    memset(&job, 0, sizeof job);
    job_words(&job, grading->compiler);
    job_words(&job, "-Werror=implicit-function-declaration -include tests/exercise.h -MD -MF "
                    "build/includes");
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
    job.keep = KEPT_BYTES;
    give_build(grading, cage_user());
    run(&outcome, grading, &job);
    give_build(grading, geteuid());
    bool ok = outcome.status == 0;
    if (!ok && outcome.output.len == 0)
        text_say(message, "the compiler did not come to an end%s\n",
                 outcome.late ? " in time" : "");
    text_add(message, text_of(&outcome.output), outcome.output.len);
    ok = includes_hold(message, grading) && ok;
    text_free(&outcome.output);
    job_free(&job);
    return ok;
}

static bool program_compile(Text *message, Grading *grading, const Program *program)
{
    char *words;
    if (asprintf(&words, "%s tests/%s.c -o %s %s -lm",
                 program->probe ? "" : "-D_cmocka_run_group_tests=one_test_run build/one_test.o",
                 program->name, program->built, program->probe ? "" : grading->flags) < 0)
        die("out of memory");
    bool ok = compile(message, grading, words);
    free(words);
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

/* out = base with `lines` between the markers of an exercise. */
static bool region_put(Text *out, const char *base, const char *id, const char *lines, size_t len)
{
    size_t from, to;
    if (!region_find(&from, &to, base, id))
        return false;
    text_add(out, base, from);
    text_add(out, lines, len);
    text_add(out, base + to, strlen(base + to));
    return true;
}

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

/* The file to start from: the submitted one with all its solutions taken out, so that the student's
   own helpers stay; or, if that does not compile either, the kit's. */
static void stubs_of(Text *base, Grading *grading, const char *file, const Text *submitted)
{
    Text message = {NULL, 0, 0};
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
    if (!file_compiles(&message, grading, file, base)) {
        char *path = join(grading->kit, file);
        text_free(base);
        if (!read_path(base, path))
            die("%s: cannot be read", path);
        text_say(&grading->notes, "%s does not compile, and not because of an exercise%s:\n%s",
                 file, grading->for_student ? "" : "; what was changed between them does not count",
                 text_of(&message));
        free(path);
    }
    text_free(&message);
}

/* Exercise by exercise into the file that compiles. */
static void salvage_file(Grading *grading, const char *file)
{
    Text submitted = {NULL, 0, 0}, base = {NULL, 0, 0};
    char *path = join(grading->work, file);
    if (!read_path(&submitted, path))
        die("%s: cannot be read", path);
    stubs_of(&base, grading, file, &submitted);
    for (int k = 0; k < grading->n_exercise; k++) {
        Exercise *exercise = &grading->exercises[k];
        Text next = {NULL, 0, 0};
        size_t from, to;
        if (strcmp(exercise->file, file) != 0)
            continue;
        if (!region_find(&from, &to, text_of(&submitted), exercise->id) ||
            !region_put(&next, text_of(&base), exercise->id, submitted.data + from, to - from)) {
            text_say(&exercise->broken, "its markers //> EX %s and //< EX %s are gone\n",
                     exercise->id, exercise->id);
        } else if (file_compiles(&exercise->broken, grading, file, &next)) {
            text_free(&exercise->broken);
            text_free(&base);
            base = next;
            memset(&next, 0, sizeof next);
        }
        text_free(&next);
    }
    write_work(path, &base);
    text_free(&submitted);
    text_free(&base);
    free(path);
}

static void salvage(Grading *grading)
{
    for (int k = 0; k < grading->n_exercise; k++)
        if (first_of_file(grading, k))
            salvage_file(grading, grading->exercises[k].file);
}

/* Compiles every program of this kind; false if one does not compile. */
static bool programs_compile(Grading *grading, bool hidden)
{
    bool all = true;
    for (int p = 0; p < grading->n_program; p++) {
        Program *program = &grading->programs[p];
        if (program->hidden != hidden)
            continue;
        text_free(&program->message);
        program->compiled = program_compile(&program->message, grading, program);
        all = all && program->compiled;
    }
    return all;
}

/* ==================================== Running ============================================== */

static void job_limits(Job *job, const Grading *grading)
{
    job->cpu = grading->seconds;
    job->wall = 2.0 * grading->seconds;
    job->memory = grading->sanitize ? 0 : 512 * MIB; /* the sanitizers reserve terabytes */
    job->file = 16 * MIB;
    job->processes = 8;
    job->keep = KEPT_BYTES;
}

static Verdict verdict_of(const Outcome *outcome, double seconds)
{
    int status = outcome->status;
    if (outcome->flooded)
        return FLOOD;
    if (outcome->late)
        return TIMEOUT;
    if (status == -1)
        return CRASH; /* it killed its warden, and so itself */
    if (WIFSIGNALED(status)) {
        int number = WTERMSIG(status);
        bool time = number == SIGXCPU || (number == SIGKILL && outcome->seconds >= seconds);
        return time ? TIMEOUT : number == SIGXFSZ ? FLOOD : CRASH;
    }
    if (WEXITSTATUS(status) == TODO_STATUS)
        return TODO;
    if (outcome->ticket && WEXITSTATUS(status) == 0)
        return PASS;
    if (strstr(text_of(&outcome->output), "Test failed with exception") != NULL ||
        strstr(text_of(&outcome->output), "ERROR: AddressSanitizer") != NULL)
        return CRASH;
    return WEXITSTATUS(status) == 1 ? FAIL : QUIT;
}

/* What the words of a verdict mean, for people. */
static void verdict_say(Text *out, Verdict verdict, const Outcome *outcome, double seconds)
{
    switch (verdict) {
    case TIMEOUT:
        text_say(out, "stopped after %.1f s (%.0f s of work are allowed): a loop without end?\n",
                 outcome->seconds, seconds);
        break;
    case FLOOD: text_say(out, "stopped: it printed or wrote without end\n"); break;
    case QUIT: text_say(out, "the program ended before the test did: an exit() in it?\n"); break;
    case CRASH:
        if (outcome->status != -1 && WIFSIGNALED(outcome->status))
            text_say(out, "crashed: %s\n", strsignal(WTERMSIG(outcome->status)));
        text_say(out, "a write or read outside an array, or endless recursion? make test "
                      "SANITIZE=1 names the line\n");
        break;
    default: break;
    }
}

/* The lines of a test's output that say what was expected, without cmocka's frame round them. */
static void lines_keep(Text *out, char *text)
{
    int kept = 0;
    for (char *line; kept < 8 && (line = strsep(&text, "\n")) != NULL;) {
        if (strncmp(line, "[  ERROR   ] --- ", 17) == 0)
            line += 17;
        else if (strncmp(line, "tests/../", 9) == 0)
            line += 9;
        else if (*line == '[' || *line == '\0')
            continue;
        if (strstr(line, "error: Failure!") == NULL && strncmp(line, " 1 FAILED TEST", 14) != 0) {
            text_say(out, "%.300s\n", line);
            kept++;
        }
    }
}

static void test_run(Grading *grading, Test *test, const Program *program)
{
    Job job;
    Outcome outcome;
    memset(&job, 0, sizeof job);
    job.argv[0] = strdup(program->built);
    snprintf(job.one_test, sizeof job.one_test, "ONE_TEST=%s", test->name);
    job_limits(&job, grading);
    run(&outcome, grading, &job);
    test->seconds = outcome.seconds;
    test->verdict = verdict_of(&outcome, grading->seconds);
    if (test->verdict != PASS && outcome.output.data != NULL)
        lines_keep(&test->output, outcome.output.data);
    verdict_say(&test->output, test->verdict, &outcome, grading->seconds);
    text_free(&outcome.output);
    job_free(&job);
}

/* ---- probes --------------------------------------------------------------------------------- */

/* Compiles a probe in the work folder and keeps what it prints. */
static bool probe_run(Text *numbers, Outcome *outcome, Grading *grading, const Program *program)
{
    Job job;
    memset(&job, 0, sizeof job);
    job.argv[0] = strdup(program->built);
    job_limits(&job, grading);
    job.keep = PROBE_BYTES;
    job.keep_stdout_only = true;
    run(outcome, grading, &job);
    *numbers = outcome->output;
    memset(&outcome->output, 0, sizeof outcome->output);
    job_free(&job);
    return outcome->status == 0 && !outcome->late && !outcome->flooded && numbers->len > 0;
}

/* Word for word, and number for number within the tolerance. Infinities and NaN are near
   nothing. */
static bool numbers_agree(char *got, char *want, double tolerance)
{
    static const char blank[] = " \t\r\n";
    char *got_rest, *want_rest;
    char *g = strtok_r(got, blank, &got_rest), *w = strtok_r(want, blank, &want_rest);
    for (; g != NULL && w != NULL;
         g = strtok_r(NULL, blank, &got_rest), w = strtok_r(NULL, blank, &want_rest)) {
        char *g_end, *w_end;
        double a = strtod(g, &g_end), b = strtod(w, &w_end);
        bool both = *g_end == '\0' && *w_end == '\0';
        if (both ? !(isfinite(b) && fabs(a - b) <= tolerance * fmax(1.0, fabs(b)))
                 : strcmp(g, w) != 0)
            return false;
    }
    return g == NULL && w == NULL;
}

/* "tolerance 1e-9" anywhere in the probe's file, or 1e-5. */
static double probe_tolerance(const Grading *grading, const Program *program)
{
    Text text = {NULL, 0, 0};
    double tolerance = 1e-5;
    char name[300];
    snprintf(name, sizeof name, "%s.c", program->name);
    char *path = join(grading->hidden, name);
    if (read_path(&text, path)) {
        const char *at = strstr(text_of(&text), "tolerance ");
        if (at != NULL && sscanf(at + 10, "%lf", &tolerance) != 1)
            tolerance = 1e-5;
    }
    text_free(&text);
    free(path);
    return tolerance;
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

/* The hidden file of a program goes beside the public tests. */
static void hidden_place(const Grading *grading, const Program *program)
{
    char name[300];
    snprintf(name, sizeof name, "%s.c", program->name);
    place_in_tests(grading, grading->hidden, name);
}

/* The grading itself cannot go on. */
__attribute__((noreturn)) static void give_up(const Grading *grading, const char *what,
                                              const Text *message)
{
    remove_tree(grading->work);
    die("%s: %s", what, text_of(message));
}

/* What every probe prints with the course's own chapters. want[p] belongs to programs[p]. */
static void probes_reference(Text *want, Grading *grading)
{
    char *work = grading->work;
    bool any = false;
    for (int p = 0; p < grading->n_program; p++)
        any = any || grading->programs[p].probe;
    if (!any)
        return;
    if (grading->reference == NULL)
        die("--hidden has probes: --reference must name the solved course");
    grading->work = work_new(grading->reference);
    char *tests = join(grading->kit, "tests");
    place_in_tests(grading, tests, "exercise.h");
    free(tests);
    for (int p = 0; p < grading->n_program; p++) {
        Program *program = &grading->programs[p];
        Outcome outcome;
        if (!program->probe)
            continue;
        hidden_place(grading, program);
        if (!program_compile(&program->message, grading, program) ||
            !probe_run(&want[p], &outcome, grading, program)) {
            remove_tree(work);
            give_up(grading, "a probe does not work with the course's own chapter",
                    &program->message);
        }
    }
    remove_tree(grading->work);
    free(grading->work);
    grading->work = work;
}

static void probe_test(Grading *grading, Test *test, const Program *program, const Text *want)
{
    Outcome outcome;
    Text got;
    bool ran = probe_run(&got, &outcome, grading, program);
    char *expected = strdup(text_of(want));
    outcome.ticket = ran && numbers_agree(got.data, expected, probe_tolerance(grading, program));
    test->seconds = outcome.seconds;
    test->verdict = ran && !outcome.ticket ? FAIL : verdict_of(&outcome, grading->seconds);
    free(expected);
    text_free(&got);
}

static void results_json(const Grading *grading);

/* One test with a build of its program, that of the whole submission or another. */
static void test_judge(Grading *grading, Test *test, const Program *program, const Text *want)
{
    const Exercise *exercise = &grading->exercises[test->exercise];
    text_free(&test->output);
    if (exercise->broken.len > 0 || !program->compiled) {
        test->verdict = NOT_COMPILED;
        text_say(&test->output, "%s",
                 exercise->broken.len > 0 ? text_of(&exercise->broken)
                                          : text_of(&program->message));
    } else if (program->probe) {
        probe_test(grading, test, program, &want[test->program]);
    } else {
        test_run(grading, test, program);
    }
}

/* ---- each exercise by itself ---------------------------------------------------------------- */
/* What one exercise does wrong, or does not do yet, costs no other: when a test of an exercise     */
/* fails, it and those after it run in a build in which every other exercise is the course's own.   */

/* The course's solutions, from the kit, written in rot47. Nothing of them stays in the work folder. */
static void solutions_read(Grading *grading)
{
    char *path = join(grading->kit, "tests/solutions.txt"),
         *copy = join(grading->work, "tests/solutions.txt");
    if (!read_path(&grading->solutions, path))
        die("%s: cannot be read: is this a folder that make assignment wrote?", path);
    for (char *c = grading->solutions.data; *c != '\0'; c++)
        if (*c > ' ' && *c <= '~')
            *c = (char)('!' + (*c - '!' + 47) % 94);
    unlink(copy);
    free(path);
    free(copy);
}

/* Is there anything between the markers of exercise k but the stub? */
static bool is_written(const Grading *grading, int k)
{
    const Exercise *exercise = &grading->exercises[k];
    Text text = {NULL, 0, 0};
    size_t from = 0, to = 0;
    char stub[64], *path = join(grading->work, exercise->file);
    snprintf(stub, sizeof stub, "EXERCISE_TODO(\"%s\")", exercise->id);
    bool found = read_path(&text, path) && region_find(&from, &to, text_of(&text), exercise->id);
    const char *at = found ? strstr(text.data + from, stub) : NULL;
    bool stubbed = at != NULL && at < text.data + to;
    text_free(&text);
    free(path);
    return found && !stubbed;
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
    memset(submitted, 0, sizeof submitted);
    for (int i = 0; i < grading->n_exercise; i++) {
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
    snprintf(alone->built, sizeof alone->built, "build/alone");
    alone->compiled = program_compile(&message, grading, alone);
    text_free(&message);
    for (int i = 0; i < grading->n_exercise; i++) {
        char *path = join(grading->work, grading->exercises[i].file);
        if (submitted[i].data != NULL)
            write_work(path, &submitted[i]);
        text_free(&submitted[i]);
        free(path);
    }
}

/* The tests of exercise k in program p. If the build with the others solved does not compile, that of
   the whole submission stays. */
static void tests_of(Grading *grading, int k, int p, const Text *want)
{
    Exercise *exercise = &grading->exercises[k];
    Program *whole = &grading->programs[p], alone = *whole;
    bool may_gain = exercise->broken.len == 0 && is_written(grading, k);
    for (int t = 0; t < grading->n_test; t++) {
        Test *test = &grading->tests[t];
        if (test->exercise != k || test->program != p)
            continue;
        test_judge(grading, test, may_gain ? whole : &alone, want);
        if (test->verdict != PASS && may_gain) {
            may_gain = false;
            compile_alone(&alone, grading, k);
            if (alone.compiled)
                test_judge(grading, test, &alone, want);
            else
                alone = *whole;
        }
        exercise->passed += test->verdict == PASS;
        if (grading->results != NULL)
            results_json(grading);
    }
}

/* Runs the public or the hidden tests, and writes the results after each. Called after their
   programs were compiled. */
static void tests_run(Grading *grading, bool hidden, const Text *want)
{
    for (int p = 0; p < grading->n_program; p++)
        for (int k = 0; k < grading->n_exercise; k++)
            if (grading->programs[p].hidden == hidden)
                tests_of(grading, k, p, want);
}

static void grade(Grading *grading)
{
    Text want[MAX_PROGRAMS];
    Text message = {NULL, 0, 0};
    memset(want, 0, sizeof want);
    grading->work = work_new(grading->kit);
    solutions_read(grading);
    probes_reference(want, grading);
    char *words;
    if (asprintf(&words, "-c tests/one_test.c -o build/one_test.o %s", grading->flags) < 0)
        die("out of memory");
    if (!compile(&message, grading, words))
        give_up(grading, "the tests' own part does not compile", &message);
    free(words);
    submission_place(grading);
    if (!programs_compile(grading, false)) {
        salvage(grading);
        programs_compile(grading, false);
    }
    tests_run(grading, false, want);
    for (int p = 0; p < grading->n_program; p++) /* only now: no public output can quote them */
        if (grading->programs[p].hidden)
            hidden_place(grading, &grading->programs[p]);
    programs_compile(grading, true);
    tests_run(grading, true, want);
    for (int p = 0; p < grading->n_program; p++)
        text_free(&want[p]);
    text_free(&message);
    remove_tree(grading->work);
}

/* ==================================== Results ============================================== */

static double exercise_score(const Exercise *exercise)
{
    return exercise->tests > 0 ? exercise->points * exercise->passed / exercise->tests : 0.0;
}

static void totals(double *score, double *points, const Grading *grading)
{
    *score = *points = 0.0;
    for (int k = 0; k < grading->n_exercise; k++) {
        const Exercise *exercise = &grading->exercises[k];
        if (exercise->tests > 0 || grading->exercise == NULL) {
            *score += exercise_score(exercise);
            *points += exercise->points;
        }
    }
}

/* "ex4_2_steps_are_the_scan" is "steps are the scan". */
static void test_title(char *title, size_t room, const Test *test)
{
    int end = 0;
    sscanf(test->name, "ex%*d_%*d_%n", &end);
    snprintf(title, room, "%s", test->name + end);
    for (char *c = title; *c; c++)
        *c = *c == '_' ? ' ' : *c;
}

/* The bytes of one character of UTF-8 at `at`; 0 if there is none. */
static size_t utf8_length(const char *at)
{
    unsigned char first = (unsigned char)*at;
    size_t len = first < 0x80   ? 1
                 : first < 0xC2 ? 0
                 : first < 0xE0 ? 2
                 : first < 0xF0 ? 3
                 : first < 0xF5 ? 4
                                : 0;
    for (size_t i = 1; i < len; i++)
        if (((unsigned char)at[i] & 0xC0) != 0x80)
            return 0;
    return len;
}

/* Text as JSON or XML has it. What is no UTF-8 or no text becomes '?'. */
static void say_quoted(Text *out, const char *text, bool xml)
{
    for (size_t len; *text != '\0'; text += len) {
        unsigned char c = (unsigned char)*text;
        len = utf8_length(text);
        if (len == 0 || (c < 0x20 && c != '\n' && c != '\t')) {
            text_add(out, "?", 1);
            len = 1;
        } else if (!xml && (c == '"' || c == '\\')) {
            text_say(out, "\\%c", c);
        } else if (!xml && c < 0x20) {
            text_say(out, c == '\n' ? "\\n" : "\\t");
        } else if (xml && strchr("<>&\"", c) != NULL) {
            text_say(out, "&#%d;", c);
        } else {
            text_add(out, text, len);
        }
    }
}

static void json_field(Text *out, const char *name, const char *value)
{
    text_say(out, "\"%s\": \"", name);
    say_quoted(out, value, false);
    text_say(out, "\"");
}

/* What a student may read about a test: of a hidden one no more than the verdict. */
static void test_report(Text *out, const Grading *grading, const Test *test)
{
    const Exercise *exercise = &grading->exercises[test->exercise];
    if (test->verdict == PASS)
        return;
    text_say(out, "%s\n", verdict_word[test->verdict]);
    if (!grading->programs[test->program].hidden)
        text_say(out, "%s", text_of(&test->output));
    text_say(out, "Read again: %s\nmake hint EX=%s gives a hint.\n", exercise->section,
             exercise->id);
}

static void json_test(Text *out, const Grading *grading, const Test *test)
{
    const Exercise *exercise = &grading->exercises[test->exercise];
    char title[256], name[600];
    Text report = {NULL, 0, 0};
    double share = exercise->points / exercise->tests;
    test_title(title, sizeof title, test);
    snprintf(name, sizeof name, "%s: %s", exercise->title, title);
    test_report(&report, grading, test);
    text_say(out, "    {\"score\": %.6g, \"max_score\": %.6g, \"status\": \"%s\", ",
             test->verdict == PASS ? share : 0.0, share,
             test->verdict == PASS ? "passed" : "failed");
    json_field(out, "number", exercise->id);
    text_say(out, ", ");
    json_field(out, "name", name);
    text_say(out, ", ");
    json_field(out, "output", text_of(&report));
    text_say(out, ", \"output_format\": \"text\", \"visibility\": \"%s\", ",
             grading->programs[test->program].hidden ? "after_published" : "visible");
    text_say(out, "\"extra_data\": {\"verdict\": \"%s\", \"seconds\": %.3f, \"minutes\": %d, ",
             verdict_word[test->verdict], test->seconds, exercise->minutes);
    json_field(out, "test", test->name);
    text_say(out, "}}");
    text_free(&report);
}

/* results.json as Gradescope reads it; what is ours stands in extra_data. */
static void results_json(const Grading *grading)
{
    Text out = {NULL, 0, 0};
    double score, points;
    totals(&score, &points, grading);
    text_say(&out, "{\n  \"score\": %.6g,\n  \"execution_time\": %.2f,\n  ", score,
             now() - grading->started);
    json_field(&out, "output", text_of(&grading->notes));
    text_say(&out,
             ",\n  \"output_format\": \"text\",\n  \"visibility\": \"visible\",\n  "
             "\"extra_data\": {\"format\": 1, \"max_score\": %.6g, \"chapter\": \"%s\", "
             "\"isolated\": %s},\n  \"tests\": [\n",
             points, grading->chapter, grading->isolated ? "true" : "false");
    for (int t = 0; t < grading->n_test; t++) {
        text_say(&out, t > 0 ? ",\n" : "");
        json_test(&out, grading, &grading->tests[t]);
    }
    text_say(&out, "\n  ]\n}\n");
    write_result(grading->results, &out);
    text_free(&out);
}

static void results_junit(const Grading *grading)
{
    Text out = {NULL, 0, 0};
    int failed = 0;
    for (int t = 0; t < grading->n_test; t++)
        failed += grading->tests[t].verdict != PASS;
    text_say(&out,
             "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"chapter %s\" "
             "tests=\"%d\" failures=\"%d\" time=\"%.2f\">\n",
             grading->chapter, grading->n_test, failed, now() - grading->started);
    for (int t = 0; t < grading->n_test; t++) {
        const Test *test = &grading->tests[t];
        Text report = {NULL, 0, 0};
        test_report(&report, grading, test);
        text_say(&out, "  <testcase classname=\"exercise %s\" name=\"%s\" time=\"%.3f\"",
                 grading->exercises[test->exercise].id, test->name, test->seconds);
        if (test->verdict == PASS) {
            text_say(&out, "/>\n");
        } else {
            text_say(&out, ">\n    <failure message=\"%s\">", verdict_word[test->verdict]);
            say_quoted(&out, text_of(&report), true);
            text_say(&out, "</failure>\n  </testcase>\n");
        }
        text_free(&report);
    }
    text_say(&out, "</testsuite>\n");
    write_result(grading->junit, &out);
    text_free(&out);
}

/* ---- for people ----------------------------------------------------------------------------- */

static const char *colour(const char *code)
{
    bool wanted = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    return wanted ? code : "";
}

/* Lines that may come from a submission: nothing in them reaches the terminal as a command. */
static void print_indented(const char *text)
{
    char *copy = strdup(text), *rest = copy;
    for (char *c = copy; *c; c++)
        if (((unsigned char)*c < 0x20 && *c != '\n' && *c != '\t') || *c == 0x7F ||
            (*c == '\xC2' && (unsigned char)c[1] < 0xA0))
            *c = '?';
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        if (*line != '\0')
            printf("          %s\n", line);
    free(copy);
}

static void print_test(const Grading *grading, const Test *test)
{
    char title[256];
    test_title(title, sizeof title, test);
    printf("    %s%-8s%s %s%s\n", colour(test->verdict == PASS ? "\033[32m" : "\033[31m"),
           verdict_word[test->verdict], colour("\033[0m"), title,
           grading->programs[test->program].hidden ? "  (hidden)" : "");
    if (test->verdict != PASS)
        print_indented(text_of(&test->output));
}

static bool print_exercise(const Grading *grading, int k)
{
    const Exercise *exercise = &grading->exercises[k];
    bool full = exercise->tests > 0 && exercise->passed == exercise->tests;
    if (grading->exercise && strcmp(grading->exercise, exercise->id) != 0)
        return true;
    printf("%s%-5s %-58s %5.3g of %g%s\n", colour("\033[1m"), exercise->id, exercise->title,
           exercise_score(exercise), exercise->points, colour("\033[0m"));
    for (int t = 0; t < grading->n_test && !grading->score_only; t++)
        if (grading->tests[t].exercise == k)
            print_test(grading, &grading->tests[t]);
    return full;
}

static void print_report(const Grading *grading)
{
    double score, points;
    int next = -1;
    totals(&score, &points, grading);
    for (int k = 0; k < grading->n_exercise; k++)
        if (!print_exercise(grading, k) && next < 0)
            next = k;
    print_indented(text_of(&grading->notes));
    printf("%-64s %5.4g of %g\n", "points", score, points);
    if (next >= 0 && grading->for_student) {
        const Exercise *exercise = &grading->exercises[next];
        printf("\nGo on with %s in %s (about %d minutes). Read: %s.\n"
               "make hint EX=%s gives a hint, make test EX=%s runs its tests alone.\n",
               exercise->id, exercise->file, exercise->minutes, exercise->section, exercise->id,
               exercise->id);
    } else if (grading->for_student) {
        printf("\nAll public tests%s%s pass. Your teacher may have others.\n",
               grading->exercise ? " of " : "", grading->exercise ? grading->exercise : "");
    }
}

/* ==================================== The program ========================================== */

static const char usage_text[] =
    "usage: grade --kit DIR [options]\n"
    "  --kit DIR           a folder that make assignment wrote\n"
    "  --submission DIR    what was handed in (default: the kit itself, as a student runs it)\n"
    "  --hidden DIR        more tests: test_*.c as the public ones are, or probes exN_M_*.c\n"
    "  --reference DIR     the solved course, for probes\n"
    "  --exercise N.M      only this one\n"
    "  --results FILE      write results.json (Gradescope)\n"
    "  --junit FILE        write JUnit XML\n"
    "  --score             print the points only\n"
    "  --hide DIR          the submission finds this folder empty (may be repeated)\n"
    "  --seconds S         processor time for one test (default 4)\n"
    "  --plain             do without namespaces, as where the kernel has none\n"
    "  --sanitize          compile with the address and undefined behaviour sanitizers\n"
    "  --compiler CC --optimise FLAGS --flags FLAGS    cc, -O0, -lcmocka\n";

enum {
    OPTION_KIT = 256,
    OPTION_SUBMISSION,
    OPTION_HIDDEN,
    OPTION_REFERENCE,
    OPTION_EXERCISE,
    OPTION_RESULTS,
    OPTION_JUNIT,
    OPTION_SCORE,
    OPTION_HIDE,
    OPTION_SECONDS,
    OPTION_SANITIZE,
    OPTION_PLAIN,
    OPTION_COMPILER,
    OPTION_OPTIMISE,
    OPTION_FLAGS,
    OPTION_HELP
};

static bool option_take(Grading *grading, int option)
{
    char *end = NULL;
    switch (option) {
    case OPTION_KIT: grading->kit = optarg; return true;
    case OPTION_SUBMISSION: grading->submission = optarg; return true;
    case OPTION_HIDDEN: grading->hidden = optarg; return true;
    case OPTION_REFERENCE: grading->reference = optarg; return true;
    case OPTION_EXERCISE: grading->exercise = optarg; return true;
    case OPTION_RESULTS: grading->results = optarg; return true;
    case OPTION_JUNIT: grading->junit = optarg; return true;
    case OPTION_SCORE: grading->score_only = true; return true;
    case OPTION_PLAIN: grading->plain = true; return true;
    case OPTION_SANITIZE: grading->sanitize = true; return true;
    case OPTION_COMPILER: grading->compiler = optarg; return true;
    case OPTION_OPTIMISE: grading->optimise = optarg; return true;
    case OPTION_FLAGS: grading->flags = optarg; return true;
    case OPTION_HIDE:
        if (grading->n_hide == MAX_HIDE)
            die("--hide: more than %d folders", MAX_HIDE);
        grading->hide[grading->n_hide++] = optarg;
        return true;
    case OPTION_SECONDS:
        grading->seconds = strtod(optarg, &end);
        if (end == optarg || *end != '\0' ||
            !(grading->seconds >= 1.0 && grading->seconds <= 600.0))
            die("--seconds: %s is not a number from 1 to 600", optarg);
        return true;
    default: return false;
    }
}

static void options_read(Grading *grading, int argc, char **argv)
{
    static const struct option options[] = {
        {"kit", required_argument, NULL, OPTION_KIT},
        {"submission", required_argument, NULL, OPTION_SUBMISSION},
        {"hidden", required_argument, NULL, OPTION_HIDDEN},
        {"reference", required_argument, NULL, OPTION_REFERENCE},
        {"exercise", required_argument, NULL, OPTION_EXERCISE},
        {"results", required_argument, NULL, OPTION_RESULTS},
        {"junit", required_argument, NULL, OPTION_JUNIT},
        {"score", no_argument, NULL, OPTION_SCORE},
        {"hide", required_argument, NULL, OPTION_HIDE},
        {"seconds", required_argument, NULL, OPTION_SECONDS},
        {"sanitize", no_argument, NULL, OPTION_SANITIZE},
        {"plain", no_argument, NULL, OPTION_PLAIN},
        {"compiler", required_argument, NULL, OPTION_COMPILER},
        {"optimise", required_argument, NULL, OPTION_OPTIMISE},
        {"flags", required_argument, NULL, OPTION_FLAGS},
        {"help", no_argument, NULL, OPTION_HELP},
        {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == OPTION_HELP) {
            fputs(usage_text, stdout);
            exit(0);
        }
        if (!option_take(grading, option)) {
            fputs(usage_text, stderr);
            exit(2);
        }
    }
    if (optind < argc || grading->kit == NULL) {
        fputs(usage_text, stderr);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    static Grading grading;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = stop;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
#ifdef __linux__
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* nobody reads the tickets from outside */
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
#endif
    grading.compiler = "cc";
    grading.optimise = "-O0";
    grading.flags = "-lcmocka";
    grading.seconds = 4.0;
    grading.started = now();
    options_read(&grading, argc, argv);
    grading.for_student = grading.submission == NULL;
    if (grading.for_student)
        grading.submission = grading.kit;
    else if (getenv("HOME") != NULL && strlen(getenv("HOME")) > 1 && grading.n_hide < MAX_HIDE)
        grading.hide[grading.n_hide++] = getenv("HOME"); /* whoever grades has secrets there */
    kit_read(&grading);
    if (grading.exercise != NULL && exercise_find(&grading, grading.exercise) == NULL)
        die("there is no exercise %s here", grading.exercise);
    tests_find(&grading);
    grade(&grading);
    print_report(&grading);
    if (grading.results != NULL)
        results_json(&grading);
    if (grading.junit != NULL)
        results_junit(&grading);
    double score, points;
    totals(&score, &points, &grading);
#ifdef __linux__
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* the leak checker looks at this process */
#endif
    return grading.for_student && score < points;
}
