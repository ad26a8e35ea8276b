/* The cage: a command of the submission's, its compiler too, runs in processes of its own, with
   limits, without the user's environment, and, where the kernel allows it, in a small world of its
   own: the system's compilers and libraries to read, the work folder to read, a small /tmp, an own
   /dev and /proc, no network. What is not there cannot be read, written or spoken to: no home, no
   course, no results, no other submission, no socket.

       grader -> warden -> the command

   The warden is the first process of the new namespaces; when it dies, everything in them dies with
   it. It waits for the command and hands its end on. Run as root, the grader gives the command a
   user of its own besides.

   HOLDS  Job, Outcome; cage_run; cage_try, which finds out whether there can be a cage here
   FOR    grade.c and grade_submission.c */

#ifndef GRADE_CAGE
#define GRADE_CAGE

#include "grade_kit.c"

enum {
    MAX_ARGUMENTS = 64,
    KEPT_BYTES = 4096,       /* of what a test prints */
    FLOOD_BYTES = 8 << 20,   /* who prints more is stopped */
    TICKET_BYTES = 32,       /* of one_test.c */
    FIRST_CAGE_USER = 61000, /* and CAGE_USERS from there */
    CAGE_USERS = 4000,
    NEVER_ENDED = -1, /* a status: the command was stopped, or killed its warden */
    NO_CAGE = -2      /* a status: the cage could not be built */
};

typedef struct {
    char *argv[MAX_ARGUMENTS];
    char one_test[300];  /* "ONE_TEST=name", for the environment */
    double cpu, wall;    /* seconds */
    size_t memory, file; /* bytes; memory 0: no limit */
    rlim_t processes;
    bool may_write; /* to the work folder's build: the compiler does, a test does not */
    bool keep_stdout_only;
    size_t keep; /* bytes of output */
} Job;

typedef struct {
    int status; /* as of waitpid, or NEVER_ENDED */
    bool late, flooded, ticket;
    double seconds;
    Text output;
} Outcome;

typedef struct {
    int output[2], status[2], ticket_in[2], ticket_out[2];
} Pipes;

static void job_words(Job *job, const char *words)
{
    int count = 0;
    while (job->argv[count] != NULL)
        count++;
    char *copy = copy_text(words), *rest = copy;
    for (char *word; (word = strsep(&rest, " \n")) != NULL;)
        if (*word != '\0') {
            if (count + 1 >= MAX_ARGUMENTS)
                die("a command of more than %d words: %s", MAX_ARGUMENTS - 1, words);
            job->argv[count++] = copy_text(word);
        }
    free(copy);
}

static void job_free(Job *job)
{
    for (int i = 0; job->argv[i] != NULL; i++)
        free(job->argv[i]);
}

/* Seconds until the whole submission is out of time: `clock` of them lost in runs that had to be
   stopped, or ten times as many in all. Not all count, for a busy machine costs nobody points. */
static double clock_left(const Grading *grading)
{
    if (grading->clock <= 0.0)
        return HUGE_VAL;
    return fmin(grading->clock - grading->lost, 10.0 * grading->clock - (now() - grading->started));
}

static uid_t cage_user(void)
{
    return geteuid() != 0 ? geteuid() : (uid_t)(FIRST_CAGE_USER + getpid() % CAGE_USERS);
}

/* How many processes and threads this user has already: the limit counts them too. Without a /proc
   to count them in, as on macOS, there is no such limit. */
static rlim_t tasks_of_user(void)
{
    rlim_t count = 0;
    if (geteuid() == 0)
        return 0; /* the command gets a user of its own */
    DIR *proc = opendir("/proc");
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
    return count > 0 ? count : RLIM_INFINITY;
}

/* ---- the small world ------------------------------------------------------------------------ */

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

/* The new root is made in this folder, which is on every machine. It covers what was there. */
#define NEW_ROOT  "/tmp"
#define NEW(path) NEW_ROOT path

/* This mount, for reading only. Flags that its file system has must stay. */
static bool remount_read_only(const char *path)
{
    struct statvfs info;
    unsigned long flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID;
    if (statvfs(path, &info) != 0)
        return false;
    flags |= info.f_flag & ST_NODEV ? MS_NODEV : 0;
    flags |= info.f_flag & ST_NOEXEC ? MS_NOEXEC : 0;
    flags |= info.f_flag & ST_NOATIME ? MS_NOATIME : 0;
    flags |= info.f_flag & ST_NODIRATIME ? MS_NODIRATIME : 0;
    flags |= info.f_flag & ST_RELATIME ? MS_RELATIME : 0;
    return mount(NULL, path, NULL, flags, NULL) == 0;
}

/* A path of /proc/self/mountinfo: blanks and the like stand there as \040. */
static void unescape(char *path)
{
    char *out = path;
    for (const char *at = path; *at != '\0';)
        if (at[0] == '\\' && isdigit((unsigned char)at[1]) && isdigit((unsigned char)at[2]) &&
            isdigit((unsigned char)at[3])) {
            *out++ = (char)((at[1] - '0') * 64 + (at[2] - '0') * 8 + (at[3] - '0'));
            at += 4;
        } else {
            *out++ = *at++;
        }
    *out = '\0';
}

/* Everything mounted at `path` and below it, for reading only. */
static bool tree_read_only(const char *path)
{
    Text list = {NULL, 0, 0};
    bool ok = read_path(&list, "/proc/self/mountinfo");
    char *rest = list.data;
    size_t len = strlen(path);
    for (char *line; ok && (line = strsep(&rest, "\n")) != NULL;) {
        char where[4096];
        if (sscanf(line, "%*s %*s %*s %*s %4095s", where) != 1)
            continue;
        unescape(where);
        if (strncmp(where, path, len) == 0 && (where[len] == '/' || where[len] == '\0'))
            ok = remount_read_only(where);
    }
    text_free(&list);
    return ok;
}

/* mkdir -p for what a path of the new root lies in. */
static void make_parents(char *path)
{
    for (char *slash = path + strlen(NEW_ROOT) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
}

/* Shows a file or folder of the machine in the new world, where it was, to be read. Where there is
   none, or it is shown already, nothing is to be done. */
static bool show(const char *path)
{
    char target[4096], real[PATH_MAX];
    struct stat info;
    snprintf(target, sizeof target, NEW("%s"), path);
    if (realpath(path, real) == NULL || lstat(path, &info) != 0 || access(target, F_OK) == 0)
        return true;
    make_parents(target);
    if (S_ISLNK(info.st_mode))
        return symlink(real, target) == 0 && show(real);
    if (S_ISDIR(info.st_mode))
        mkdir(target, 0755);
    else
        close(open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    return mount(path, target, NULL, MS_BIND | MS_REC, NULL) == 0 &&
           (S_ISCHR(info.st_mode) || tree_read_only(target));
}

/* What the compiler's name and flags speak of: -I/opt/cmocka/include, or for /opt/cc/bin/cc
   /opt/cc. */
static bool show_flags(const char *words)
{
    bool ok = true;
    char *copy = copy_text(words), *rest = copy;
    for (char *word; ok && (word = strsep(&rest, " \n")) != NULL;) {
        char *path = strchr(word, '/');
        if (path == NULL)
            continue;
        bool folder =
            path == word + 2 && (strncmp(word, "-I", 2) == 0 || strncmp(word, "-L", 2) == 0);
        if (path > word && (path[-1] == ',' || path[-1] == '='))
            folder = true;
        char *bin = path == word && access(path, X_OK) == 0 ? strstr(path, "/bin/") : NULL;
        if (bin != NULL)
            *bin = '\0';
        if (path == word || folder)
            ok = *path == '\0' || strcmp(path, "/") == 0 || show(path);
    }
    free(copy);
    return ok;
}

/* A folder that the shown ones may contain, and which is not for the submission's eyes. */
static bool hide(const char *path)
{
    char *real = path != NULL ? realpath(path, NULL) : NULL, target[4096];
    struct stat info;
    bool ok = true;
    if (real != NULL && strcmp(real, "/") != 0) {
        snprintf(target, sizeof target, NEW("%s"), real);
        if (lstat(target, &info) == 0 && S_ISDIR(info.st_mode))
            ok = mount("none", target, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k") == 0;
    }
    free(real);
    return ok;
}

static bool hide_secrets(const Grading *grading)
{
    bool ok = hide(grading->kit) && hide(grading->submission) && hide(grading->reference) &&
              hide(getenv("HOME"));
    for (int k = 0; k < grading->n_probes; k++)
        ok = ok && hide(grading->probes[k]);
    return ok;
}

/* From inside the work folder; all paths are absolute or relative to it, so that it may lie where
   the new root is made. */
static bool world_furnish(const Grading *grading, bool may_write)
{
    static const char *const system[] = {"/usr",
                                         "/bin",
                                         "/sbin",
                                         "/lib",
                                         "/lib32",
                                         "/lib64",
                                         "/libx32",
                                         "/nix/store",
                                         "/gnu/store",
                                         "/etc/alternatives",
                                         "/etc/ld.so.cache",
                                         "/etc/ld.so.conf",
                                         "/etc/ld.so.conf.d"};
    static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random",
                                          "/dev/urandom"};
    bool ok = mkdir(NEW("/etc"), 0755) == 0 && mkdir(NEW("/dev"), 0755) == 0 &&
              mkdir(NEW("/grading"), 0755) == 0 && mkdir(NEW("/tmp"), 0755) == 0 &&
              mkdir(NEW("/proc"), 0755) == 0;
    for (size_t i = 0; ok && i < sizeof system / sizeof *system; i++)
        ok = show(system[i]);
    ok = ok && hide_secrets(grading) && show_flags(grading->compiler) && show_flags(grading->flags);
    for (size_t i = 0; ok && i < sizeof devices / sizeof *devices; i++)
        ok = show(devices[i]);
    ok = ok && mount(".", NEW("/grading"), NULL, MS_BIND | MS_REC, NULL) == 0 &&
         tree_read_only(NEW("/grading"));
    if (may_write)
        ok = ok && mount("build", NEW("/grading/build"), NULL, MS_BIND, NULL) == 0;
    /* where the machine's own /proc is cut down, as in a container, there is none */
    mount("proc", NEW("/proc"), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2");
    return ok &&
           mount("none", NEW("/tmp"), "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=1777") == 0;
}

/* Leaves the machine's file system for the new one. */
static bool world_enter(const Grading *grading, bool may_write)
{
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755") == 0 &&
           world_furnish(grading, may_write) && chdir(NEW_ROOT) == 0 &&
           syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 &&
           mount(NULL, "/", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) ==
               0 &&
           chdir("/grading") == 0;
}

#if defined __x86_64__
#define THIS_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define THIS_ARCHITECTURE AUDIT_ARCH_AARCH64
#elif defined __riscv
#define THIS_ARCHITECTURE AUDIT_ARCH_RISCV64
#endif

/* The kernel's key rings are the one place that is neither a file nor in a namespace: whoever comes
   next as the same user would find there what was left. Calls of other architectures, whose numbers
   are others, end the process. */
static void forbid_keys(void)
{
#ifdef THIS_ARCHITECTURE
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCHITECTURE, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 4, 0), /* x32 */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_add_key, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_request_key, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_keyctl, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS)};
    struct sock_fprog all = {sizeof program / sizeof *program, program};
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all, 0, 0);
#endif
}

/* fork(), with namespaces if they are wanted. */
static pid_t fork_warden(const Grading *grading)
{
    int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    if (geteuid() != 0)
        flags |= CLONE_NEWUSER;
    fflush(NULL);
    if (grading->plain)
        return fork();
    return (pid_t)syscall(SYS_clone, (unsigned long)flags | SIGCHLD, NULL, NULL, NULL, NULL, NULL);
}
#else
static pid_t fork_warden(const Grading *grading)
{
    (void)grading;
    fflush(NULL);
    return fork();
}
#endif

/* ---- the command ---------------------------------------------------------------------------- */

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
    if (tasks != RLIM_INFINITY)
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
    forbid_keys();
#endif
    limits_set(job, tasks);
    if (geteuid() == 0 && (setgroups(0, NULL) != 0 || setgid(user) != 0 || setuid(user) != 0))
        _exit(126);
    execute(job->argv, environment);
    _exit(127);
}

/* The warden: sets up the cage, starts the command, tells how it ended. */
__attribute__((noreturn)) static void warden(const Grading *grading, const Job *job,
                                             const Pipes *pipes, rlim_t tasks, uid_t user,
                                             gid_t group)
{
    int status = NEVER_ENDED;
    signal(SIGINT, SIG_IGN);
    setsid();
    if (chdir(grading->work) != 0)
        _exit(126);
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (!grading->plain) {
        if (geteuid() != 0) /* in a user namespace, before anything is mapped */
            map_user(user, group);
        if (!world_enter(grading, job->may_write)) {
            status = NO_CAGE;
            _exit(write(pipes->status[1], &status, sizeof status) != sizeof status);
        }
    }
#else
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
static void kill_rest(pid_t warden_pid, bool plain, uid_t user)
{
    kill(-warden_pid, SIGKILL);
    kill(warden_pid, SIGKILL);
    waitpid(warden_pid, NULL, 0);
    if (!plain)
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
static void watch(Outcome *outcome, double most, size_t keep, const Pipes *pipes)
{
    double start = now();
    size_t total = 0;
    struct pollfd wait[2] = {{pipes->output[0], POLLIN, 0}, {pipes->status[0], POLLIN, 0}};
    while (true) {
        double left = most - (now() - start);
        int ready = left > 0.0 ? poll(wait, 2, (int)(1000.0 * left) + 1) : 0;
        if (ready < 0 && stopped)
            return;
        if (ready == 0) {
            outcome->late = true;
            return;
        }
        if (ready > 0 && wait[0].revents && !output_take(outcome, &total, wait[0].fd, keep))
            wait[0].fd = -1;
        outcome->flooded = total > FLOOD_BYTES;
        if (outcome->flooded)
            return;
        if (ready > 0 && wait[1].revents && wait[0].revents == 0) {
            if (read(wait[1].fd, &outcome->status, sizeof outcome->status) !=
                sizeof outcome->status)
                outcome->status = NEVER_ENDED; /* the warden was killed */
            return;
        }
    }
}

static bool ticket_came_back(int file, const unsigned char *ticket)
{
    unsigned char got[TICKET_BYTES + 1];
    struct pollfd wait = {file, POLLIN, 0};
    return poll(&wait, 1, 0) == 1 && read(file, got, sizeof got) == TICKET_BYTES &&
           memcmp(got, ticket, TICKET_BYTES) == 0;
}

static void run_once(Outcome *outcome, const Grading *grading, const Job *job)
{
    Pipes pipes;
    unsigned char ticket[TICKET_BYTES];
    uint64_t bits;
    memset(outcome, 0, sizeof *outcome);
    outcome->status = NEVER_ENDED;
    pipes_open(&pipes);
    for (size_t i = 0; i < sizeof ticket; i += sizeof bits) {
        bits = random_bits();
        memcpy(ticket + i, &bits, sizeof bits);
    }
    if (write(pipes.ticket_in[1], ticket, sizeof ticket) != sizeof ticket)
        die("a pipe that takes no %d bytes", TICKET_BYTES);
    close(pipes.ticket_in[1]);
    uid_t user = cage_user();
    gid_t group = getegid();
    rlim_t tasks = tasks_of_user();
    double start = now();
    pid_t child = fork_warden(grading);
    if (child < 0 && grading->plain)
        die("no process: %s", strerror(errno));
    if (child == 0)
        warden(grading, job, &pipes, tasks, user, group);
    close(pipes.output[1]);
    close(pipes.status[1]);
    close(pipes.ticket_in[0]);
    close(pipes.ticket_out[1]);
    if (child < 0)
        outcome->status = NO_CAGE;
    else
        watch(outcome, fmin(job->wall, clock_left(grading)), job->keep, &pipes);
    outcome->seconds = now() - start;
    if (child > 0)
        kill_rest(child, grading->plain, user);
    if (stopped)
        leave(grading);
    outcome->ticket = ticket_came_back(pipes.ticket_out[0], ticket);
    close(pipes.output[0]);
    close(pipes.status[0]);
    close(pipes.ticket_out[0]);
}

/* Runs a command in the cage, in the work folder. */
static void cage_run(Outcome *outcome, const Grading *grading, const Job *job)
{
    run_once(outcome, grading, job);
    if (outcome->status == NO_CAGE) {
        remove_tree(grading->work);
        die("the cage could not be built");
    }
}

/* Can there be a cage on this machine? If not, the limits are all there is. */
static void cage_try(Grading *grading)
{
    Job job;
    Outcome outcome;
    memset(&job, 0, sizeof job);
    job_words(&job, "true");
    job.cpu = job.wall = 10.0;
    job.file = MIB;
    job.processes = 8;
#ifndef __linux__
    grading->plain = true;
#endif
    if (!grading->plain) {
        run_once(&outcome, grading, &job);
        grading->plain = outcome.status != 0;
        text_free(&outcome.output);
    }
    job_free(&job);
}

#endif
