/* Nothing that a submission does reaches another, and there is no pass without the work: attacks on
   the grader, each handed in by a student of its own, graded as a class together with honest ones,
   by root and by an ordinary user. */

#define _GNU_SOURCE /* popen, mkdtemp under -std=c11 */
#include "classroom/harness.h"
#include <netinet/in.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

/* ---- forgers: without the work, whatever the public tests say, exercise 1.2 is worth nothing ------ */

typedef struct {
    const char *name;
    const char *top;    /* before the chapter's functions */
    const char *lines;  /* in place of exercise 1.2 */
    const char *public; /* verdict of its public test: what forging can do, and all it can */
    int left;           /* points of the other two exercises */
} Forger;

#define TAKE                                                                                       \
    "static char ticket[32]; static int taken;\n"                                                  \
    "static void take(void) { const char *t = getenv(\"ONE_TEST\");\n"                             \
    "    if (t && strstr(t, \"ex1_2\")) taken = read(3, ticket, 32) == 32; }\n"                    \
    "static void give(void) { if (taken && write(4, ticket, 32) == 32) _exit(0); }\n"

static const Forger forgers[] = {
    {"the ticket, taken before main",
     TAKE "__attribute__((constructor)) static void early(void) { take(); }", "give();", "pass", 3},
    {"the ticket, given before main",
     TAKE "__attribute__((constructor)) static void early(void) { take(); give(); }", "sum = 0;",
     "pass", 3},
    {"the ticket, given after main",
     TAKE "__attribute__((constructor)) static void early(void) { take(); }\n"
          "__attribute__((destructor)) static void late(void) { give(); }",
     "sum = 0;", "pass", 3},
    {"a constructor by another name",
     TAKE "static void hidden_one(int argc, char **argv, char **environment)\n"
          "{ (void)argc; (void)argv; for (; *environment; environment++)\n"
          "if (strncmp(*environment, \"ONE_TEST=ex1_2\", 14) == 0)\n"
          "{ taken = read(3, ticket, 32) == 32; give(); } }\n"
          "__attribute__((section(\".preinit_array\"), used)) static void (*early)(int, char **, "
          "char **) = "
          "hidden_one;",
     "sum = 0;", "pass", 3},
    {"a constructor in assembly",
     TAKE
     "__attribute__((used)) void hidden_one(void);\nvoid hidden_one(void) { take(); give(); }\n"
     "__asm__(\".pushsection .init_array, \\\"aw\\\"\\n.dc.a hidden_one\\n.popsection\");",
     "sum = 0;", "pass", 3},
    {"assertions that mean nothing",
     "#include <stdarg.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <cmocka.h>\n"
     "#define TESTS_CHECK\n#define assert_near(...) ((void)0)",
     "sum = 0;", "pass", 3},
    {"a failure that does not fail",
     "void _fail(const char *file, int line);\n"
     "void _fail(const char *file, int line) { (void)file; (void)line; }",
     "sum = 0;", "pass", 3},
    {"a main of its own",
     TAKE "int main(void) { take(); for (int i = 0; i < 5; i++) puts(\"0.25\"); fflush(stdout); "
          "give(); return 1; }\n"
          "#define main theirs",
     "sum = 0;", "pass", 0},
    {"numbers of its own", "#define printf(...) puts(\"0.25\")\n/* tolerance 1e9 */", "sum = 9;",
     "pass", 0},
    {"a number for all", "", "printf(\"nan\\n\"); fflush(stdout); sum = 9;", "pass", 3},
    {"the build of another exercise", "",
     "char *const found[] = {(char *)\"build/alone\", (char *)\"ex1_2_other_numbers\", NULL};\n"
     "if (getenv(\"TRIED\") == NULL && setenv(\"TRIED\", \"1\", 1) == 0)\n"
     "execv(found[0], found);\nsum = 9;",
     "pass", 1}, /* its 1.1 is wrong too, so that a build with 1.2 solved is made */
    {"the first number and no more", "",
     "if (n == 2) { fflush(stdout); _exit(0); }\nsum = n == 1 ? x[0] : 9;", "pass", 3},
    {"the words of success", "",
     "puts(\"[  PASSED  ] 1 test(s).\\n0.25\"); fflush(stdout); exit(0);", "QUIT", 3},
    {"the probe's own text", "",
     "if (access(\"tests/ex1_2_other_numbers.c\", R_OK) == 0 || "
     "access(\"@T@/hidden/ex1_2_other_numbers.c\", R_OK) == 0)\n"
     "for (size_t i = 0; i < n; i++)\nsum += x[i];\nelse\nsum = n == 3 ? 9 : 0;",
     "pass", 3},
    {"the solution, included", "", "#include \"@T@/course/ch01_toy/toy.c\"", "NOT C", 3},
    {"the solution, as bytes", "",
     "__asm__(\".inc\" \"bin \\\"@T@/course/ch01_toy/toy.c\\\"\");\nsum = 9;", "NOT C", 3},
};

enum { FORGERS = sizeof forgers / sizeof *forgers };

/* ---- the spy: tries every way out, says where one was open ----------------------------------------- */

static const char spy_top[] =
    "#include <dirent.h>\n#include <errno.h>\n#include <netinet/in.h>\n#include <sched.h>\n"
    "#include <sys/ioctl.h>\n#include <sys/mount.h>\n#include <sys/prctl.h>\n#include "
    "<sys/ptrace.h>\n"
    "#include <sys/shm.h>\n#include <sys/socket.h>\n#include <sys/stat.h>\n#include "
    "<sys/syscall.h>\n"
    "#include <sys/un.h>\n#include <termios.h>\n"
    "static void out(const char *how) { printf(\"BROKE OUT: %s\\n\", how); fflush(stdout); }\n"
    "static void reads(const char *path)\n"
    "{ int f = open(path, O_RDONLY); if (f >= 0) { out(path); close(f); } }\n"
    "static void writes(const char *path)\n"
    "{ int f = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);\n"
    "  if (f >= 0 && write(f, \"broke out\\n\", 10) == 10) out(path); }\n"
    "static void connects(const char *how, int family, const void *to, unsigned len)\n"
    "{ int s = socket(family, SOCK_STREAM, 0);\n"
    "  if (s >= 0 && connect(s, (const struct sockaddr *)to, len) == 0) out(how); }\n"
    "#if __has_include(\"@T@/course/ch01_toy/toy.c\") || __has_include(\"/etc/passwd\")\n"
    "enum { SEEN = 1 };\n#else\nenum { SEEN = 0 };\n#endif\n"
    "static void spy_files(void)\n{\n"
    "    static const char *const secret[] = {\"@T@/course/ch01_toy/toy.c\", "
    "\"@T@/hidden/more.c\",\n"
    "        \"@T@/class/ada/toy.c\", \"@T@/home/secret\", \"@T@/out/ada.txt\", \"/etc/passwd\", "
    "\"/proc/1/mem\",\n"
    "        \"/proc/1/maps\", \"/proc/1/cmdline\", \"/proc/1/environ\", \"/dev/tty\", "
    "\"/dev/pts/0\", \"/dev/vda\", \"tests/solutions.txt\"};\n"
    "    static const char *const place[] = {\"@T@/open/left\", \"@T@/out/ada.txt\", "
    "\"@T@/out/grades.csv\",\n"
    "        \"@T@/kit/tests/exercises.txt\", \"@T@/class/zoe/toy.c\", \"@T@/home/.profile\", "
    "\"/var/tmp/@N@\",\n"
    "        \"/run/lock/@N@\", \"/var/lock/@N@\", \"/run/@N@\", \"/dev/shm/@N@\", \"/dev/@N@\", "
    "\"/@N@\", \"/usr/local/@N@\",\n"
    "        \"/grading/left\", \"build/left\", \"build/test_ch01_toy\", \"tests/left\", "
    "\"tests/test_ch01_toy.c\"};\n"
    "    for (size_t i = 0; i < sizeof secret / sizeof *secret; i++) reads(secret[i]);\n"
    "    for (size_t i = 0; i < sizeof place / sizeof *place; i++) writes(place[i]);\n"
    "    if (access(\"/tmp/left\", F_OK) == 0) out(\"what another left in /tmp\");\n"
    "    close(open(\"/tmp/left\", O_WRONLY | O_CREAT, 0666));\n"
    "    if (SEEN) out(\"the compiler sees what it should not\");\n"
    "    for (int f = 5; f < 1024; f++) if (fcntl(f, F_GETFD) >= 0) out(\"a descriptor\");\n"
    "    for (char **e = environ; *e; e++) if (strstr(*e, \"@T@\")) out(*e);\n}\n"
    "static void spy_others(void)\n{\n"
    "    struct sockaddr_in net = {.sin_family = AF_INET, .sin_port = htons(@PORT@)};\n"
    "    net.sin_addr.s_addr = htonl(INADDR_LOOPBACK);\n"
    "    connects(\"the network\", AF_INET, &net, sizeof net);\n"
    "    struct sockaddr_un file = {.sun_family = AF_UNIX, .sun_path = \"@T@/open/socket\"};\n"
    "    connects(\"a socket\", AF_UNIX, &file, sizeof file);\n"
    "    if (shmget(0xC1A55, 64, 0) >= 0) out(\"shared memory of another\");\n"
    "    shmget(0xC1A55, 64, IPC_CREAT | 0666);\n"
    "    if (syscall(SYS_keyctl, 10, -4, \"user\", \"left@N@\", 0) >= 0) out(\"a key of "
    "another\");\n"
    "    syscall(SYS_add_key, \"user\", \"left@N@\", \"x\", 1, -4);\n"
    "    if (ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0) out(\"ptrace\");\n"
    "    kill(-1, SIGTERM);\n"
    "    DIR *proc = opendir(\"/proc\");\n"
    "    for (struct dirent *e; proc && (e = readdir(proc));)\n"
    "        if (atoi(e->d_name) > 200) out(\"processes of others\");\n"
    "    if (ioctl(0, TIOCSTI, \"x\") == 0) out(\"the terminal\");\n"
    "    if (fork() == 0) { setsid(); if (fork() == 0) { prctl(PR_SET_NAME, \"@N@\"); for (;;) "
    "sleep(9); } _exit(0); }\n}\n"
    "static void spy_mounts(void)\n{\n"
    "    unshare(CLONE_NEWUSER | CLONE_NEWNS);\n"
    "    mount(NULL, \"/grading\", NULL, MS_REMOUNT | MS_BIND, NULL);\n"
    "    mount(NULL, \"/\", NULL, MS_REMOUNT | MS_BIND, NULL);\n"
    "    umount2(\"/proc\", MNT_DETACH); umount2(\"/grading/build\", MNT_DETACH);\n"
    "    writes(\"/grading/left\"); writes(\"/left\"); reads(\"@T@/home/secret\");\n"
    "    if (chroot(\"..\") == 0) reads(\"@T@/home/secret\");\n}\n";

static char text[ROOM];
static int listener[2]; /* who comes here has broken out */

/* One file of a student: the solved chapter with `top` before its functions and `lines` for 1.2. */
static void hand_in(const char *name, const char *top, const char *lines)
{
    write_file("top", top);
    write_file("lines", lines);
    assert_int_equal(
        shell(
            text,
            "mkdir -p \"$T/class/%s\" && cd \"$T/class/%s\" && put 1.2 $T/lines . && "
            "sed \"/^#include <unistd.h>/r $T/top\" toy.c | "
            "sed \"s|@T@|$T|g; s|@N@|${T##*_}|g; s|@PORT@|$(cat $T/port)|g\" > new && mv new toy.c",
            name, name),
        0);
}

/* Listens where a submission must not come: on the loopback network and on a socket file. */
static int listen_all(void)
{
    struct sockaddr_in net;
    struct sockaddr_un file;
    socklen_t len = sizeof net;
    char port[16];
    memset(&net, 0, sizeof net);
    memset(&file, 0, sizeof file);
    net.sin_family = AF_INET;
    net.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    file.sun_family = AF_UNIX;
    snprintf(file.sun_path, sizeof file.sun_path, "%s/open/socket", work);
    listener[0] = socket(AF_INET, SOCK_STREAM, 0);
    listener[1] = socket(AF_UNIX, SOCK_STREAM, 0);
    fcntl(listener[0], F_SETFL, O_NONBLOCK);
    fcntl(listener[1], F_SETFL, O_NONBLOCK);
    if (bind(listener[0], (struct sockaddr *)&net, sizeof net) != 0 ||
        listen(listener[0], 9) != 0 ||
        bind(listener[1], (struct sockaddr *)&file, sizeof file) != 0 ||
        listen(listener[1], 9) != 0 || getsockname(listener[0], (struct sockaddr *)&net, &len) != 0)
        return -1;
    snprintf(port, sizeof port, "%d", ntohs(net.sin_port));
    write_file("port", port);
    return chmod(file.sun_path, 0777);
}

static const char *const ordinary = "setpriv --reuid=54321 --regid=54321 --clear-groups";

/* Runs the grader as root, or as a user to whom all of $T then belongs. */
static int grade_as(const char *user, const char *options)
{
    return shell(text,
                 "cd $T; chmod -R go+rX .; test -n \"%s\" && chown -R 54321:54321 $T\n"
                 "HOME=$T/home %s $T/grade --kit $T/kit --flags \"$FLAGS\" --probes $T/hidden "
                 "--reference $T/course --seconds 2 %s\n"
                 "status=$?; chown -R $(id -u) $T; exit $status",
                 user, user, options);
}

/* Is there a cage for this user here? The spy must not run without one: it kills what it can. */
static bool is_caged(const char *user)
{
    assert_int_equal(grade_as(user, "--submission class/ada --results try.json"), 0);
    read_file(text, "try.json");
    return strstr(text, "\"isolated\": true") != NULL;
}

static int class_setup(void **state)
{
    char spy[8192];
    (void)state;
    if (course_new(text) != 0)
        return -1;
    int status = shell(
        text,
        "set -e; cd $T; mkdir class home open hidden; cp $C/toy/hidden/* hidden; cp $GRADE grade\n"
        "echo secret > home/secret; chmod 755 grade; chmod 777 open; touch profile\n"
        "for honest in ada zoe; do mkdir class/$honest; "
        "cp $C/toy/ch01_toy/toy.c class/$honest; done");
    if (status != 0 || listen_all() != 0)
        return -1;
    for (int k = 0; k < FORGERS; k++)
        hand_in(forgers[k].name, forgers[k].top, forgers[k].lines);
    shell(text, "cd \"$T/class/the build of another exercise\" && "
                "sed 's/return a + b/return a - b/' toy.c > new && mv new toy.c");
    snprintf(spy, sizeof spy, "%s", spy_top);
    hand_in("a spy", spy, "spy_files(); spy_others(); spy_mounts();");
    hand_in("b spy", spy, "spy_files(); spy_others(); spy_mounts();");
    return 0;
}

/* "ada",6,2,3,1 in the table of this user. */
static void assert_row(const char *table, const char *name, int sum, int exercise_2)
{
    char row[128];
    int one, two, ten, all;
    snprintf(row, sizeof row, "\n\"%s\",", name);
    const char *at = strstr(table, row);
    if (at == NULL || sscanf(at + strlen(row), "%d,%d,%d,%d", &all, &one, &two, &ten) != 4)
        fail_msg("%s is not in the table:\n%s", name, table);
    else if (all != sum || two != exercise_2)
        fail_msg("%s has %d points, %d of them for 1.2, not %d and %d", name, all, two, sum,
                 exercise_2);
}

/* What must hold after each class, whoever graded it; `out` is out or out.user. */
static void assert_nothing_got_out(const char *out)
{
    static char table[ROOM];
    char path[128];
    snprintf(path, sizeof path, "%s/grades.csv", out);
    read_file(table, path);
    assert_row(table, "ada", 6, 3);
    assert_row(table, "zoe", 6, 3);
    for (int k = 0; k < FORGERS; k++) {
        assert_row(table, forgers[k].name, forgers[k].left, 0);
        char said[64];
        snprintf(path, sizeof path, "%s/%s.txt", out, forgers[k].name);
        read_file(text, path);
        snprintf(said, sizeof said, "    %-8s a mean by hand", forgers[k].public);
        if (strstr(text, said) == NULL)
            fail_msg("%s: this does not say '%s':\n%s", forgers[k].name, said, text);
    }
    for (const char *spy = "ab"; *spy; spy++) {
        assert_row(table, *spy == 'a' ? "a spy" : "b spy", 3, 0);
        snprintf(path, sizeof path, "%s/%c spy.txt", out, *spy);
        read_file(text, path);
        assert_says(text, "tests/test_ch01_toy.c:20"); /* it came to its end */
        assert_silent_about(text, "BROKE OUT");
    }
    assert_int_equal(
        shell(text, "cd /; ls $T/open; grep -rl 'broke out' $T/out* $T/kit $T/home $T/class/zoe; "
                    "ls -d /var/tmp/${T##*_} /run/lock/${T##*_} /run/${T##*_} /dev/shm/${T##*_} "
                    "/tmp/left 2> /dev/null; ps -A -o comm | grep -x \"${T##*_}\"; true"),
        0);
    assert_string_equal(text, "socket\n");
    for (int i = 0; i < 2; i++)
        assert_true(accept(listener[i], NULL, NULL) < 0);
}

static void nothing_gets_out(const char *user, const char *out)
{
    char options[64];
    if (!is_caged(user)) {
        print_message("there is no cage here\n");
        skip();
    }
    snprintf(options, sizeof options, "--class class --out %s --jobs 2 --all", out);
    assert_int_equal(grade_as(user, options), 0);
    assert_nothing_got_out(out);
}

static void nothing_gets_out_of_root_s_cage(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    nothing_gets_out("", "out");
}

static void nothing_gets_out_of_a_user_s_cage(void **state)
{
    (void)state;
    nothing_gets_out(geteuid() == 0 ? ordinary : "env", "out.user");
}

/* The tests it is graded by are another user's, and so is what only root may read. */
static void without_a_cage_root_gives_the_submission_a_user_of_its_own(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    write_file("lines", "int f = open(\"tests/test_ch01_toy.c\", O_WRONLY), g = "
                        "open(\"@T@/home/secret\", O_RDONLY);\n"
                        "printf(\"%s %s\\n\", f < 0 ? \"no\" : \"it writes\", g < 0 ? \"no\" : "
                        "\"it reads\"); sum = 0;");
    shell(text,
          "mkdir $T/plain; put 1.2 $T/lines $T/plain; sed -i.old \"s|@T@|$T|\" $T/plain/toy.c");
    shell(text, "chmod 700 $T/home; cd $T; $T/grade --kit kit --flags \"$FLAGS\" --submission "
                "plain --plain");
    assert_says(text, "          no no\n");
    assert_says(text, "graded without the cage, which this machine does not allow");
    assert_says(text, "read what everybody may read and write where everybody may write");
}

/* The spy, let loose without a cage by a user who owns nothing else, finds ways out: so the silence in
   the cage says something. */
static void the_spy_would_find_a_way_out(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    hand_in("c spy", spy_top, "spy_files();");
    shell(text,
          "cd $T; chown -R 54321 .; %s ./grade --kit kit --flags \"$FLAGS\" --plain --submission "
          "'class/c spy'; chown -R $(id -u) .",
          ordinary);
    assert_says(text, "BROKE OUT: ");
    assert_says(text, "read and write whatever you may, these results too");
}

/* What the spy has left where it could. */
static int class_remove(void **state)
{
    shell(text, "for place in /var/tmp /run/lock /dev/shm; do rm -f $place/${T##*_}; done; rm -f "
                "/tmp/left");
    return course_remove(state);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_gets_out_of_root_s_cage),
        cmocka_unit_test(nothing_gets_out_of_a_user_s_cage),
        cmocka_unit_test(without_a_cage_root_gives_the_submission_a_user_of_its_own),
        cmocka_unit_test(the_spy_would_find_a_way_out),
    };
    return cmocka_run_group_tests_name("the cage", tests, class_setup, class_remove);
}
