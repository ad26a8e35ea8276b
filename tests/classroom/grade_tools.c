/* The ground under the grader: texts that grow, files read and written whole, folders copied and
   removed, the clock.

   HOLDS  die; Text; now; join; reading and writing files; copy_tree, remove_tree; hash_add
   FOR    the other files of the grader: grade.c */

#ifndef GRADE_TOOLS
#define GRADE_TOOLS

#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <glob.h>
#include <grp.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
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
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#endif

#define MIB ((size_t)1 << 20)

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
    if (text->data == NULL || text->len + len + 1 > text->room) {
        size_t room = 2 * (text->len + len + 1);
        char *larger = (char *)realloc(text->data, room);
        if (larger == NULL)
            die("out of memory");
        text->data = larger;
        text->room = room;
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

/* The caller frees it. */
static char *copy_text(const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL)
        die("out of memory");
    return copy;
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
/* FNV-1a, 64 bits: what is the same gives the same number. Start with HASH_START. */
#define HASH_START 14695981039346656037u

static uint64_t hash_add(uint64_t hash, const void *bytes, size_t count)
{
    const unsigned char *byte = (const unsigned char *)bytes;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ byte[i]) * 1099511628211u; /* NOLINT: the analyser knows no double's bytes */
    return hash;
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
    return hash_add(hash, text, strlen(text) + 1); /* the 0 too: "ab" "c" is not "a" "bc" */
}

static uint64_t random_bits(void)
{
    uint64_t bits;
    int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, &bits, sizeof bits) != (ssize_t)sizeof bits)
        die("/dev/urandom: no random bytes");
    close(file);
    return bits;
}

#endif
