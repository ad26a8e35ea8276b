/* Texts on their way: from a user or a file into a model, and out of a model to a reader.

   HOLDS   a prompt, as a text, as ids or line by line; a text file read in pieces and cut where no
           token is cut (TextSource); tokens shown as soon as whole characters are there, up to a
           stop text (Stream); tokens in a list
   FOR     pretrained.c */

#ifndef CH05_TEXT_STREAM
#define CH05_TEXT_STREAM

#include "tokenizer_json.c"
#include "../ch01_markov/text_files.h"
#include <signal.h>

/* ======================================== A prompt ========================================= */

/* "1,2,3", each below vocab. */
bool ids_parse(Ids *ids, const char *text, size_t vocab, Error *error)
{
    for (const char *at = text;;) {
        char *end;
        errno = 0;
        unsigned long long id = strtoull(at, &end, 10);
        if (end == at || !isdigit((unsigned char)*at))
            return fail(error, "--ids: '%.20s' is not a number; wanted are ids such as 1,2,3", at);
        if (errno != 0 || id >= vocab)
            return fail(error, "--ids: %.*s is out of range: the model knows %zu tokens, from 0",
                        end - at < 24 ? (int)(end - at) : 24, at, vocab);
        ids_push(ids, (uint32_t)id);
        if (*end == '\0')
            return true;
        if (*end != ',')
            return fail(error, "--ids: '%.20s' where a comma is wanted", end);
        at = end + 1;
    }
}

/* The first of len bytes that is no UTF-8, or len. */
static size_t text_bad_byte(const char *text, size_t len)
{
    uint32_t code;
    size_t at = 0;
    for (size_t step; at < len && (step = utf8_next(&code, text + at, len - at)) > 0;)
        at += step;
    return at;
}

/* The prompt's bytes: the argument as it is, or all of standard input, made plain. */
bool prompt_text(Text *text, const char *prompt, Error *error)
{
    char *bytes;
    size_t len = strlen(prompt), bad = text_bad_byte(prompt, len);
    if (bad < len)
        return fail(error, "the prompt: byte %zu (0x%02x) is not UTF-8: an older encoding?",
                    bad + 1, (unsigned char)prompt[bad]);
    if (strcmp(prompt, "-") != 0) {
        text_append(text, prompt, len);
        return true;
    }
    if (!text_read_plain(&bytes, &len, prompt, error))
        return false;
    text_append(text, bytes, len);
    free(bytes);
    return true;
}

/* Says what became of bytes that have no token. */
void note_left_out(size_t left_out)
{
    if (left_out > 0)
        fprintf(stderr, "note: %zu byte%s of the text %s no token and %s left out\n", left_out,
                left_out == 1 ? "" : "s", left_out == 1 ? "has" : "have",
                left_out == 1 ? "is" : "are");
}

/* How many ids, from one on, are the token for what is unknown. */
size_t ids_unknown(const Ids *ids, size_t from, const Tokenizer *tokenizer)
{
    size_t unknown = 0;
    for (size_t i = from; i < ids->count; i++)
        unknown += ids->id[i] == tokenizer->unknown;
    return unknown;
}

void note_unknown(size_t unknown)
{
    if (unknown > 0)
        fprintf(stderr, "note: %zu token%s of the text %s the one for what is unknown\n", unknown,
                unknown == 1 ? "" : "s", unknown == 1 ? "is" : "are");
}

/* Appends the ids of a prompt: of a text that begins with it, that ends with it, or neither. */
bool prompt_encode(Ids *ids, const Tokenizer *tokenizer, const Text *text, bool begins, bool ends,
                   Error *error)
{
    Error why;
    size_t before = ids->count, left_out = ids->left_out;
    if (begins)
        ids_frame(ids, &tokenizer->begin);
    if (text->len > 0 &&
        !tokenizer_encode_part(ids, tokenizer, text->bytes, text->len, !begins, &why)) {
        ids->count = before;
        return fail(error, "the prompt: %s", why.text);
    }
    if (ends)
        ids_frame(ids, &tokenizer->end);
    note_left_out(ids->left_out - left_out);
    note_unknown(ids_unknown(ids, before, tokenizer));
    return true;
}

/* Set by Ctrl-C: the one thing of this course that is shared without being handed over, because a
   signal can hand over nothing. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

/* From now on Ctrl-C ends an answer or a line, and not the program. */
void lines_begin(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt; /* and no SA_RESTART: it ends getline, too */
    sigaction(SIGINT, &action, NULL);
}

/* Appends the next line of standard input, made plain, after a > on a terminal; false at its end.
   A line that is no text is named and left out. */
bool line_next(Text *text)
{
    Error error;
    char *line = NULL;
    size_t room = 0, plain = 0;
    ssize_t len;
    bool again;
    do {
        if (isatty(STDIN_FILENO))
            fputs("> ", stderr);
        interrupted = 0;
        errno = 0;
        len = getline(&line, &room, stdin);
        again = len < 0 && errno == EINTR;
        if (again) {
            clearerr(stdin);
            fputc('\n', stderr);
        }
        plain = len > 0 ? (size_t)len : 0;
        if (plain > 0 && !text_make_plain(line, &plain, "standard input", &error)) {
            fputs("error: this line is no text in UTF-8, and is left out\n", stderr);
            again = true;
        }
    } while (again);
    if (plain > 0)
        text_append(text, line, plain - (line[plain - 1] == '\n'));
    free(line);
    return len > 0;
}

/* ====================================== In from a file ===================================== */

/* Reads pieces of a file, makes them plain, and lets whole ones through, cut where no token is
   cut. */
typedef struct {
    FILE *stream;
    const char *path;    /* "-": standard input */
    Text text;           /* what was read and not yet let through */
    size_t bytes, piece; /* let through: so far, and last */
    size_t size;         /* of the file, if it has one */
    bool begun, ended;
    bool after_cr; /* the last byte that was read was a CR */
} TextSource;

bool source_open(TextSource *source, const char *path, Error *error)
{
    struct stat info;
    memset(source, 0, sizeof *source);
    source->path = path;
    source->stream = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (source->stream == NULL || fstat(fileno(source->stream), &info) != 0) {
        fail(error, "%s: %s", shown_path(path), strerror(errno));
        if (source->stream != NULL && source->stream != stdin)
            fclose(source->stream);
        return false;
    }
    source->size = (size_t)info.st_size;
    return true;
}

void source_close(TextSource *source)
{
    if (source->stream != stdin)
        fclose(source->stream);
    text_free(&source->text);
}

/* The next bytes of the file, made plain as text_make_plain makes a whole text: without a byte
   order mark, and with a '\n' at the end of each line. *end: there are no more. */
static bool source_read(bool *end, TextSource *source, Error *error)
{
    enum { PIECE = 1 << 16 };
    char piece[PIECE];
    size_t got = fread(piece, 1, sizeof piece, source->stream), kept = 0;
    bool first = source->bytes == 0 && source->text.len == 0;
    if (got < sizeof piece && ferror(source->stream))
        return fail(error, "%s: %s", shown_path(source->path), strerror(errno));
    if (!text_has_no_zeros(piece, got, path_shown(source->path), error))
        return false;
    for (size_t i = first && got >= 3 && memcmp(piece, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0; i < got;
         i++) {
        char c = piece[i];
        if (c != '\n' || !source->after_cr)
            piece[kept++] = c == '\r' ? '\n' : c;
        source->after_cr = c == '\r';
    }
    text_append(&source->text, piece, kept);
    *end = got < sizeof piece;
    return true;
}

/* The ids of the next piece of a text; none at its end. What goes before and after a text goes with
   the first piece and the last. */
bool source_next(Ids *ids, TextSource *source, const Tokenizer *tokenizer, Error *error)
{
    static const char nothing[1] = "";
    size_t cut = 0;
    bool end = source->ended, goes_on = source->begun;
    ids->count = 0;
    if (!source->begun)
        ids_frame(ids, &tokenizer->begin);
    source->begun = true;
    while (cut == 0 && !end) {
        if (!source_read(&end, source, error))
            return false;
        cut = end ? source->text.len
                  : tokenizer_safe_cut(tokenizer, source->text.bytes, source->text.len);
    }
    Error why;
    const char *bytes = source->text.bytes == NULL ? nothing : source->text.bytes;
    size_t bad = text_bad_byte(bytes, cut);
    if (bad < cut)
        return fail(error,
                    "%s: after %zu bytes the byte 0x%02x is not UTF-8: an older encoding? Save it "
                    "as UTF-8",
                    path_shown(shown_path(source->path)), source->bytes + bad,
                    (unsigned char)bytes[bad]);
    if (!tokenizer_encode_part(ids, tokenizer, bytes, cut, goes_on, &why))
        return fail(error, "%s: %s", shown_path(source->path), why.text);
    if (end && !source->ended)
        ids_frame(ids, &tokenizer->end);
    source->ended = end;
    source->bytes += cut;
    source->piece = cut;
    source->text.len -= cut;
    if (source->text.bytes != NULL)
        memmove(source->text.bytes, source->text.bytes + cut, source->text.len);
    return true;
}

/* ================================= Out, token after token =================================== */

/* What was written but not yet shown: the beginning of a character, or of a stop text. */
typedef struct {
    Decoding decoding;
    Text held;
    const char *const *stop; /* (n_stop) texts that end the answer and are not shown */
    size_t n_stop;
    FILE *out;
} Stream;

/* An answer by this tokenizer; the texts that end it are borrowed. */
Stream stream_to(FILE *out, const Tokenizer *tokenizer, const char *const *stop, size_t n_stop)
{
    const Stream stream = {{tokenizer, {NULL, 0, 0}, false, 0}, {NULL, 0, 0}, stop, n_stop, out};
    return stream;
}

/* How many bytes at the end of the text may still become a stop text. */
static size_t stream_may_stop(const Stream *stream)
{
    size_t most = 0;
    for (size_t i = 0; i < stream->n_stop; i++) {
        size_t len = strlen(stream->stop[i]);
        size_t part = len - 1 < stream->held.len ? len - 1 : stream->held.len;
        for (; part > most; part--)
            if (memcmp(stream->held.bytes + stream->held.len - part, stream->stop[i], part) == 0)
                most = part;
    }
    return most;
}

/* Where the first stop text begins, or the text's length. */
static size_t stream_stop_at(const Stream *stream)
{
    size_t first = stream->held.len;
    for (size_t i = 0; i < stream->n_stop; i++) {
        const char *found = (const char *)memmem(stream->held.bytes, stream->held.len,
                                                 stream->stop[i], strlen(stream->stop[i]));
        if (found != NULL && (size_t)(found - stream->held.bytes) < first)
            first = (size_t)(found - stream->held.bytes);
    }
    return first;
}

/* Shows the first `len` bytes that are held, whole characters only; at the `end` also what never
   became one, each byte as U+FFFD. Returns how many bytes are done with. */
static size_t stream_show(Stream *stream, size_t len, bool end)
{
    const unsigned char *bytes = (const unsigned char *)stream->held.bytes;
    size_t at = 0, step;
    for (; at < len; at += step) {
        uint32_t code = utf8_decode(&step, bytes + at, len - at);
        unsigned char lead = bytes[at];
        size_t want = lead < 0xC2 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 1;
        if (code >= UTF8_BAD && !end && want > len - at && len - at < 4)
            break; /* its other bytes may be in the next token */
        if (code >= UTF8_BAD)
            fputs("\xEF\xBF\xBD", stream->out);
        else
            fwrite(bytes + at, 1, step, stream->out);
    }
    fflush(stream->out);
    return at;
}

/* Takes a token's text; false: a stop text has come, and all before it is shown. */
bool stream_add(Stream *stream, uint32_t id, bool first)
{
    tokenizer_decode(&stream->held, &stream->decoding, id, first);
    size_t settled = stream->held.len;
    Decoding ahead = stream->decoding; /* a stop text is one also if its last bytes still wait */
    decoding_settle(&stream->held, &ahead);
    size_t stop = stream->held.len == 0 ? 0 : stream_stop_at(stream);
    if (stop < stream->held.len) {
        stream_show(stream, stop, true);
        stream->held.len = stream->decoding.run.len = 0;
        return false;
    }
    stream->held.len = settled;
    size_t shown = stream->held.len == 0
                       ? 0
                       : stream_show(stream, stream->held.len - stream_may_stop(stream), false);
    stream->held.len -= shown;
    if (shown > 0)
        memmove(stream->held.bytes, stream->held.bytes + shown, stream->held.len);
    return true;
}

void stream_end(Stream *stream)
{
    decoding_settle(&stream->held, &stream->decoding);
    if (stream->held.len > 0)
        stream_show(stream, stream->held.len, true);
    text_free(&stream->held), text_free(&stream->decoding.run);
}

/* ====================================== In a list ========================================== */

/* A piece as it is shown in a list: quoted, control characters and bytes that are no character as
   \x0A. */
static void print_piece(FILE *out, const unsigned char *bytes, size_t len)
{
    fputc('\'', out);
    for (size_t at = 0, step; at < len; at += step) {
        uint32_t code = utf8_decode(&step, bytes + at, len - at);
        if (code < 0x20 || (code >= 0x7F && code < 0xA0) || code >= UTF8_BAD)
            fprintf(out, "\\x%02X", bytes[at]);
        else
            fwrite(bytes + at, 1, step, out);
        if (code >= 0x80 && code < 0xA0)
            fprintf(out, "\\x%02X", bytes[at + 1]);
    }
    fputc('\'', out);
}

void print_token_text(FILE *out, const Tokenizer *tokenizer, uint32_t id)
{
    if (id < tokenizer->n_token && tokenizer->token[id].text != NULL)
        print_piece(out, tokenizer->token[id].bytes, tokenizer->token[id].n_bytes);
    else
        fputs("(no token)", out);
}

/* Ids and pieces of a prompt. */
bool show_tokens(const Tokenizer *tokenizer, const char *prompt, Error *error)
{
    Ids ids = {NULL, 0, 0, 0};
    Text text = {NULL, 0, 0};
    bool ok = prompt_text(&text, prompt, error) &&
              prompt_encode(&ids, tokenizer, &text, true, true, error);
    for (size_t i = 0; ok && i < ids.count; i++) {
        printf("%8u  ", ids.id[i]);
        print_token_text(stdout, tokenizer, ids.id[i]);
        putchar('\n');
    }
    if (ok)
        printf("%zu token%s for %zu bytes\n", ids.count, ids.count == 1 ? "" : "s", text.len);
    ids_free(&ids), text_free(&text);
    return ok;
}

#endif /* CH05_TEXT_STREAM */
