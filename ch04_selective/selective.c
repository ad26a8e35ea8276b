/* Chapter 4. Selection, and the scan that makes it fast

   QUESTION   Chapter 3's system treats every word alike. How can a state keep what matters through
              a thousand words that do not, and let go of it when the story turns?
   NEW        Delta, B and C depend on the input: at every step the model says how far the state
              moves, what is written and what is read. Then: the backward pass, the same recurrence
              in parallel, and the same recurrence as fast as this machine can do it.
   NOT        Where Delta, B and C come from (projections, the convolution, the gate's branch) is
              chapter 5. Nothing is trained here: what is wired, is wired by hand.
   EQUATION   x_t = exp(Delta_t A) x_{t-1} + Delta_t B_t u_t          y_t = C_t . x_t + D u_t
   LETTERS    maths    C           shape                   in papers
              u_t      u           (batch, len, d_inner)   x_t
              x_t      x           (batch, d_inner, d_state)  h_t, the state
              Delta_t  delta       (batch, len, d_inner)   Delta, dt
              A        A           (d_inner, d_state)      A, one row of a diagonal a channel
              B_t C_t  B C         (batch, len, d_state)   B, C; shared by the channels
              D        D           (d_inner)               D, the skip
              z_t      z           (batch, len, d_inner)   z, the gate's branch
   BUILD      cc -O2 ch04_selective/selective.c -o selective -lm && ./selective
   TIME       60 minutes to read, 120 to do the exercises
   SOURCES    A. Gu, T. Dao, Mamba, arXiv 2312.00752: algorithm 2, theorem 1, sections 3 and 4.1
              G. Blelloch, Prefix sums and their applications, CMU-CS-90-190 (1990)
              W. D. Hillis, G. L. Steele, Data parallel algorithms, CACM 29 (1986)
              E. Martin, C. Cundy, Parallelizing linear recurrent neural nets, arXiv 1709.04057
              T. Chen et al., Training deep nets with sublinear memory cost, arXiv 1604.06174 */

#ifndef CH04_SELECTIVE
#define CH04_SELECTIVE

#include "../ch03_discretize/discretize.c"
#ifdef _OPENMP
#include <omp.h>
#endif

/* ====================================== The scan, clear =================================== */
/* A channel is one number a token coming in (u), one going out (y), and d_state numbers kept in  */
/* between (x). Each channel has its own A and its own Delta; all channels share B_t and C_t.     */

/* What a selective scan is given. Arrays are row-major, tokens before channels, and may start at
   any address; what may be left out is NULL then. From chapter 4 on, numbers are floats. */
typedef struct {
    size_t batch, len, d_inner, d_state;
    const float *u;          /* (batch, len, d_inner) the input */
    const float *delta;      /* (batch, len, d_inner) the step, before bias and softplus */
    const float *delta_bias; /* (d_inner), or NULL: 0 */
    const float *A;          /* (d_inner, d_state) */
    const float *B, *C;      /* (batch, len, d_state) */
    const float *D;          /* (d_inner), or NULL: 0 */
    const float *z;          /* (batch, len, d_inner) the gate, or NULL: y is not gated */
    const float *x_start;    /* (batch, d_inner, d_state), or NULL: 0 */
    float *checkpoint;       /* (selective_scan_checkpoint_floats), or NULL: see there */
    bool delta_softplus;     /* the step is softplus(delta + delta_bias), not delta + delta_bias */
} Scan;

/* log(1 + exp(v)): positive, near 0 far left, near v far right (the step size of Mamba, section
   3.6).

   Exercise 4.1. Write softplus so that it neither overflows nor loses small values. */
float softplus(float v)
{
    //> EX 4.1 [2 pts] [10 min] a softplus for every float
    //? What does expf(100) give? log(1 + exp(v)) = v + log(1 + exp(-v)): which side is safe when?
    //? Take exp of -|v| only, and add max(v, 0).
    //? 1 + 1e-9 is 1 in float: log1pf(e) takes e itself.
    return fmaxf(v, 0.0f) + log1pf(expf(-fabsf(v)));
    //< EX 4.1
}

/* 1 / (1 + exp(-v)), by the form whose exp is at most 1: right to the last denormal. */
float sigmoid(float v)
{
    float e = expf(-fabsf(v));
    return (v >= 0.0f ? 1.0f : e) / (1.0f + e);
}

/* v sigmoid(v): near 0 far left, near v far right (SiLU, or Swish). */
float silu(float v)
{
    return v * sigmoid(v);
}

/* The derivative of silu: sigmoid(v) (1 + v (1 - sigmoid(v))). */
float silu_slope(float v)
{
    float s = sigmoid(v);
    return s * (1.0f + v * sigmoid(-v));
}

/* Delta of channel d at a token (counted through the batch): bias and softplus applied. */
static float step_size(const Scan *scan, size_t token, size_t d)
{
    float raw = scan->delta[token * scan->d_inner + d];
    if (scan->delta_bias != NULL)
        raw += scan->delta_bias[d];
    return scan->delta_softplus ? softplus(raw) : raw;
}

/* One channel, one token: x (d_state) moves on, and y before the gate is returned. This is the
   whole of the selective state space model (Mamba, algorithm 2 and equation 2a, with B_bar by the
   rule of chapter 3's discretize_mamba).

   Exercise 4.2. Move every state on by one step, and add up what is read from them. */
static float channel_step(float *x, const Scan *scan, size_t token, size_t d)
{
    const float *A = scan->A + d * scan->d_state;
    const float *B = scan->B + token * scan->d_state, *C = scan->C + token * scan->d_state;
    float u = scan->u[token * scan->d_inner + d], delta = step_size(scan, token, d);
    float y = 0.0f;
    for (size_t n = 0; n < scan->d_state; n++) {
        //> EX 4.2 [3 pts] [15 min] one step of the selective scan
        //? A_bar is exp(delta A); under Mamba's rule B_bar is delta B.
        //? Update x[n] first, then read it: y sums C[n] x[n] over the states.
        x[n] = expf(delta * A[n]) * x[n] + delta * B[n] * u;
        y += C[n] * x[n];
        //< EX 4.2
    }
    return scan->D == NULL ? y : y + scan->D[d] * u;
}

/* One token of each sequence: y (batch, d_inner) comes out, x (batch, d_inner, d_state) is read and
   written. The arrays of `token` have len 1; its x_start is not looked at. Time and memory are the
   same for the millionth token as for the first: this is what generation uses. */
void selective_scan_step(float *y, float *x, const Scan *token)
{
    assert(token->len == 1);
    for (size_t b = 0; b < token->batch; b++)
        for (size_t d = 0; d < token->d_inner; d++) {
            size_t at = b * token->d_inner + d;
            y[at] = channel_step(x + at * token->d_state, token, b, d);
            if (token->z != NULL)
                y[at] *= silu(token->z[at]);
        }
}

/* The whole scan, as it is defined: y (batch, len, d_inner), and the state after the last token in
   x_last (batch, d_inner, d_state), unless that is NULL. x_last may be the array that x_start
   points to: then a sequence cut into pieces is scanned piece by piece, and bit for bit the same
   comes out. y may not overlap an input. */
void selective_scan(float *y, float *x_last, const Scan *scan)
{
    size_t states = scan->d_inner * scan->d_state;
    float *x = NEW(float, states);
    for (size_t b = 0; b < scan->batch; b++) {
        for (size_t i = 0; i < states; i++)
            x[i] = scan->x_start == NULL ? 0.0f : scan->x_start[b * states + i];
        for (size_t token = b * scan->len; token < (b + 1) * scan->len; token++)
            for (size_t d = 0; d < scan->d_inner; d++) {
                size_t at = token * scan->d_inner + d;
                y[at] = channel_step(x + d * scan->d_state, scan, token, d);
                if (scan->z != NULL)
                    y[at] *= silu(scan->z[at]);
            }
        for (size_t i = 0; i < states && x_last != NULL; i++)
            x_last[b * states + i] = x[i];
    }
    free(x);
}

/* ================================== The scan, backwards ==================================== */
/* Which way should every input move to make a loss smaller? The chain rule, from the last */
/* token to the first. It needs the states x_t, which the forward pass did not keep: each  */
/* stretch of sqrt(len) tokens is run again from a checkpoint when its turn comes.         */

/* Where the gradients go: the shapes of the inputs; NULL where one is not wanted. They are written,
   not added to; z's is left alone where there is no gate. */
typedef struct {
    float *u, *delta, *delta_bias, *A, *B, *C, *D, *z, *x_start;
} ScanGrad;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t square_root_up(size_t value)
{
    size_t root = (size_t)sqrt((double)value);
    while (root * root < value)
        root++;
    return root;
}

/* What one channel's backward pass works on. */
typedef struct {
    size_t b, d, stretch; /* sequence, channel, tokens between two checkpoints */
    float *checkpoint;    /* (ceil(len / stretch), d_state) x before each stretch */
    float *x;             /* (stretch + 1, d_state) x before and after each token of a stretch */
    float *x_grad;        /* (d_state) dL/dx_t through everything after token t */
} ChannelBack;

static void zero(float *values, size_t count)
{
    if (values != NULL)
        memset(values, 0, count * sizeof(float));
}

/* The forward pass of one channel once more, keeping x at the start of every stretch. */
static void keep_checkpoints(ChannelBack *back, const Scan *scan)
{
    size_t d_state = scan->d_state, channel = back->b * scan->d_inner + back->d;
    float *x = back->x;
    for (size_t n = 0; n < d_state; n++)
        x[n] = scan->x_start == NULL ? 0.0f : scan->x_start[channel * d_state + n];
    for (size_t t = 0; t < scan->len; t++) {
        if (t % back->stretch == 0)
            memcpy(back->checkpoint + t / back->stretch * d_state, x, d_state * sizeof(float));
        channel_step(x, scan, back->b * scan->len + t, back->d);
    }
}

/* One token backwards: y_grad is dL/dy of this channel here. Lines in the order of the lesson's
   derivation; x_before and x_after are x_{t-1} and x_t.

   Exercise 4.3. The gradients of u, delta and A through x_t = A_bar x_{t-1} + delta B u: add them
   to u_grad, to delta_grad and, unless grad->A is NULL, to its element of channel d and state n.
   And what goes on to the token before: it is back->x_grad[n] from here on. */
static void channel_step_backward(const ScanGrad *grad, float y_grad, ChannelBack *back,
                                  const float *x_before, const float *x_after, const Scan *scan,
                                  size_t token)
{
    size_t d = back->d, at = token * scan->d_inner + d, d_state = scan->d_state;
    const float *A = scan->A + d * d_state, *B = scan->B + token * d_state;
    const float *C = scan->C + token * d_state;
    float u = scan->u[at], delta = step_size(scan, token, d), u_grad = 0.0f, delta_grad = 0.0f;
    if (scan->z != NULL) { /* y = y_ungated silu(z) */
        float y_ungated = scan->D == NULL ? 0.0f : scan->D[d] * u;
        for (size_t n = 0; n < d_state; n++)
            y_ungated += C[n] * x_after[n];
        if (grad->z != NULL)
            grad->z[at] = y_grad * y_ungated * silu_slope(scan->z[at]);
        y_grad *= silu(scan->z[at]);
    }
    if (scan->D != NULL) /* y_ungated = C . x + D u */
        u_grad = y_grad * scan->D[d];
    if (grad->D != NULL)
        grad->D[d] += y_grad * u;
    for (size_t n = 0; n < d_state; n++) {
        float A_bar = expf(delta * A[n]);
        float x_grad = back->x_grad[n] + y_grad * C[n]; /* x_t is read by y_t and by x_{t+1} */
        if (grad->C != NULL)
            grad->C[token * d_state + n] += y_grad * x_after[n];
        if (grad->B != NULL)
            grad->B[token * d_state + n] += x_grad * delta * u;
        //> EX 4.3 [3 pts] [20 min] the backward pass of one line
        //? The line is x_t = A_bar x_{t-1} + delta B u with A_bar = exp(delta A); x_grad = dL/dx_t.
        //? delta occurs twice: in A_bar (dA_bar/ddelta = A A_bar) and in delta B u.
        //? x_{t-1} reaches the loss through A_bar x_{t-1}: what goes on backwards is x_grad A_bar.
        float A_bar_grad = x_grad * x_before[n];
        u_grad += x_grad * delta * B[n];
        delta_grad += x_grad * B[n] * u + A_bar_grad * A_bar * A[n];
        if (grad->A != NULL)
            grad->A[d * d_state + n] += A_bar_grad * A_bar * delta;
        back->x_grad[n] = x_grad * A_bar;
        //< EX 4.3
    }
    if (scan->delta_softplus) /* softplus' = sigmoid */
        delta_grad *=
            sigmoid(scan->delta[at] + (scan->delta_bias == NULL ? 0.0f : scan->delta_bias[d]));
    if (grad->u != NULL)
        grad->u[at] = u_grad;
    if (grad->delta != NULL)
        grad->delta[at] = delta_grad;
    if (grad->delta_bias != NULL)
        grad->delta_bias[d] += delta_grad;
}

/* One channel from its last token to its first, stretch by stretch. */
static void channel_backward(const ScanGrad *grad, const float *y_grad, ChannelBack *back,
                             const Scan *scan)
{
    size_t d_state = scan->d_state;
    for (size_t end = scan->len; end > 0;) {
        size_t stretch = (end - 1) / back->stretch, start = stretch * back->stretch;
        memcpy(back->x, back->checkpoint + stretch * d_state, d_state * sizeof(float));
        for (size_t t = start; t < end; t++) {
            float *x = back->x + (t - start) * d_state;
            memcpy(x + d_state, x, d_state * sizeof(float));
            channel_step(x + d_state, scan, back->b * scan->len + t, back->d);
        }
        for (size_t t = end; t-- > start;) {
            const float *x_before = back->x + (t - start) * d_state;
            size_t token = back->b * scan->len + t;
            channel_step_backward(grad, y_grad[token * scan->d_inner + back->d], back, x_before,
                                  x_before + d_state, scan, token);
        }
        end = start;
    }
}

/* Gradients that are sums start from 0. */
static void scan_grad_zero(const ScanGrad *grad, const Scan *scan)
{
    zero(grad->A, scan->d_inner * scan->d_state);
    zero(grad->B, scan->batch * scan->len * scan->d_state);
    zero(grad->C, scan->batch * scan->len * scan->d_state);
    zero(grad->D, scan->d_inner);
    zero(grad->delta_bias, scan->d_inner);
}

/* How many floats of workspace the backward pass of this scan takes, clear or fast. */
size_t selective_scan_backward_floats(const Scan *scan);

/* The gradient of a loss with respect to everything the scan was given. y_grad (batch, len,
   d_inner) is dL/dy; x_last_grad (batch, d_inner, d_state) is dL/dx_last, or NULL for 0, and lets a
   sequence be gone through backwards piece by piece. Besides the outputs this needs about
   2 sqrt(len) states of one channel, for any number of channels: in `work`, or, if that is NULL, in
   memory of its own. */
void selective_scan_backward(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                             const Scan *scan, float *work)
{
    size_t d_state = scan->d_state, stretch = square_root_up(scan->len);
    float *own = work == NULL ? NEW(float, selective_scan_backward_floats(scan)) : NULL;
    ChannelBack back;
    back.stretch = stretch;
    back.checkpoint = work == NULL ? own : work;
    back.x = back.checkpoint + stretch * d_state;
    back.x_grad = back.x + (stretch + 1) * d_state;
    scan_grad_zero(grad, scan);
    for (back.b = 0; back.b < scan->batch; back.b++)
        for (back.d = 0; back.d < scan->d_inner; back.d++) {
            size_t first = (back.b * scan->d_inner + back.d) * d_state;
            for (size_t n = 0; n < d_state; n++)
                back.x_grad[n] = x_last_grad == NULL ? 0.0f : x_last_grad[first + n];
            keep_checkpoints(&back, scan);
            channel_backward(grad, y_grad, &back, scan);
            for (size_t n = 0; n < d_state && grad->x_start != NULL; n++)
                grad->x_start[first + n] = back.x_grad[n];
        }
    free(own);
}

/* ================================== Selection, wired by hand =============================== */
/* A story streams in word by word. Each context (science, folklore, ...) is a channel with one */
/* state. Most words leave every channel alone: their Delta is next to 0. A cue opens the       */
/* channel of its context; a turn opens all of them, and so lets go of what was there.          */

enum { CONTEXTS_MOST = 8, CUE_WORDS_MOST = 4, CUES_MOST = 10000, STORY_WORDS_MOST = 1000000 };

/* A phrase that says what the story is about. It is known when its last word has come: until then
   three words are looked back at, which is what Mamba's convolution of width 4 sees. */
typedef struct {
    const char *word[CUE_WORDS_MOST]; /* as word_key leaves them */
    size_t n_word, context, line;
    bool turn; /* the story turns to this context, away from the others */
} Cue;

typedef struct {
    char *text; /* the words point into it */
    size_t n_context, n_cue;
    const char *context[CONTEXTS_MOST];
    Cue *cue; /* (n_cue) */
} Cues;

/* A text cut into words: as they stand there, and as they are compared. */
typedef struct {
    char *text, *keys;
    char **word, **key; /* (n_word) */
    size_t n_word;
} Story;

void cues_free(Cues *cues)
{
    free(cues->text);
    free(cues->cue);
}

void story_free(Story *story)
{
    free(story->text);
    free(story->keys);
    free(story->word);
    free(story->key);
}

/* How many bytes of punctuation start here: ASCII, or one of the quotes and dashes of UTF-8. */
static size_t punctuation_at(const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    if (c[0] == 0xE2 && c[1] == 0x80 && c[2] != 0)
        return 3;
    return c[0] != 0 && c[0] < 0x80 && ispunct(c[0]) ? 1 : 0;
}

/* A word as it is compared: without punctuation at its ends, in small letters. In place; returns
   where it starts. */
static char *word_key(char *word)
{
    while (punctuation_at(word) > 0)
        word += punctuation_at(word);
    size_t end = 0;
    for (size_t i = 0; word[i] != '\0';) {
        size_t mark = punctuation_at(word + i);
        i += mark > 0 ? mark : 1;
        end = mark > 0 ? end : i;
    }
    word[end] = '\0';
    for (size_t i = 0; i < end; i++)
        word[i] = (char)tolower((unsigned char)word[i]);
    return word;
}

/* The next word of a text, ended with a 0 byte; NULL if there is none. *text moves behind it. */
static char *next_word(char **text)
{
    char *word = *text + strspn(*text, " \t\r\n\v\f");
    char *end = word + strcspn(word, " \t\r\n\v\f");
    if (*word == '\0')
        return NULL;
    *text = *end == '\0' ? end : end + 1;
    *end = '\0';
    return word;
}

/* Words of `text` (len bytes and a 0, malloc'ed, now the story's own); `path` is for messages. */
bool story_parse(Story *story, char *text, size_t len, const char *path, Error *error)
{
    Story got = {text, NULL, NULL, NULL, 0};
    char *rest = text, *word;
    for (size_t i = 0; i < len; i++)
        if (text[i] == '\0')
            text[i] = ' ';
    got.keys = NEW(char, len + 1);
    got.word = NEW(char *, len / 2 + 1);
    got.key = NEW(char *, len / 2 + 1);
    while ((word = next_word(&rest)) != NULL && got.n_word < STORY_WORDS_MOST) {
        char *key = got.keys + (word - text);
        memcpy(key, word, strlen(word) + 1);
        got.word[got.n_word] = word;
        got.key[got.n_word++] = word_key(key);
    }
    bool ok = word == NULL || fail(error, "%s: more than %d words", path, STORY_WORDS_MOST);
    if (ok && got.n_word == 0)
        ok = fail(error, "%s: there is no word in it", path);
    if (ok)
        *story = got;
    else
        story_free(&got);
    return ok;
}

bool story_read(Story *story, const char *path, Error *error)
{
    char *text;
    size_t len;
    return text_read(&text, &len, path, error) && story_parse(story, text, len, path, error);
}

static size_t cues_find_context(const Cues *cues, const char *name)
{
    size_t i = 0;
    while (i < cues->n_context && strcmp(cues->context[i], name) != 0)
        i++;
    return i;
}

static bool cues_same(const Cue *a, const Cue *b)
{
    bool same = a->n_word == b->n_word;
    for (size_t i = 0; same && i < a->n_word; i++)
        same = strcmp(a->word[i], b->word[i]) == 0;
    return same;
}

/* Where a message is about: a file and a line of it. */
typedef struct {
    const char *path;
    size_t line;
} Place;

/* One phrase of a line, in `cue` but for its words. */
static bool cue_add(Cues *cues, Cue cue, char *phrase, Place at, Error *error)
{
    char *word;
    while ((word = next_word(&phrase)) != NULL) {
        if (cue.n_word == CUE_WORDS_MOST)
            return fail(error, "%s:%zu: '%.40s ...' has more than %d words", at.path, at.line,
                        cue.word[0], CUE_WORDS_MOST);
        cue.word[cue.n_word] = word_key(word);
        cue.n_word += *cue.word[cue.n_word] != '\0';
    }
    if (cue.n_word == 0)
        return fail(error, "%s:%zu: a phrase without a word", at.path, at.line);
    for (size_t i = 0; i < cues->n_cue; i++)
        if (cues_same(&cues->cue[i], &cue))
            return fail(error, "%s:%zu: the phrase that ends in '%.40s' stands in line %zu already",
                        at.path, at.line, cue.word[cue.n_word - 1], cues->cue[i].line);
    if (cues->n_cue == CUES_MOST)
        return fail(error, "%s:%zu: more than %d phrases", at.path, at.line, CUES_MOST);
    cues->cue[cues->n_cue++] = cue;
    return true;
}

/* "context" or "turn context": which it is, and whether it is a new one. */
static bool cue_context(Cues *cues, Cue *cue, char *head, Place at, Error *error)
{
    char *first = next_word(&head), *second = first == NULL ? NULL : next_word(&head);
    cue->turn = second != NULL && strcmp(first, "turn") == 0;
    if (first == NULL || (second != NULL && (!cue->turn || next_word(&head) != NULL)))
        return fail(error, "%s:%zu: a line is 'context: phrase, phrase' or 'turn context: ...'",
                    at.path, at.line);
    const char *name = cue->turn ? second : first;
    cue->context = cues_find_context(cues, name);
    if (cue->context == cues->n_context && cue->turn)
        return fail(error, "%s:%zu: a turn to '%.40s', which no line above has cues of", at.path,
                    at.line, name);
    if (cue->context == CONTEXTS_MOST)
        return fail(error, "%s:%zu: '%.40s' is one context more than %d", at.path, at.line, name,
                    CONTEXTS_MOST);
    if (cue->context == cues->n_context)
        cues->context[cues->n_context++] = name;
    return true;
}

static bool cues_line(Cues *cues, char *line, Place at, Error *error)
{
    char *colon = strchr(line, ':'), *blank = line;
    Cue cue = {{NULL, NULL, NULL, NULL}, 0, 0, at.line, false};
    if (line[strspn(line, " \t\r")] == '#' || line[strspn(line, " \t\r")] == '\0')
        return true;
    if (colon == NULL)
        return fail(error, "%s:%zu: there is no ':' after '%.40s'", at.path, at.line,
                    next_word(&blank));
    *colon = '\0';
    if (!cue_context(cues, &cue, line, at, error))
        return false;
    for (char *phrase = colon + 1; phrase != NULL;) {
        char *comma = strchr(phrase, ',');
        if (comma != NULL)
            *comma = '\0';
        if (!cue_add(cues, cue, phrase, at, error))
            return false;
        phrase = comma == NULL ? NULL : comma + 1;
    }
    return true;
}

/* Cues from a text: lines "context: phrase, phrase" and "turn context: phrase", # for remarks.
   `text` (len bytes and a 0) was malloc'ed and belongs to the cues now. */
bool cues_parse(Cues *cues, char *text, size_t len, const char *path, Error *error)
{
    Cues got;
    Place at = {path, 0};
    bool ok = strlen(text) == len || fail(error, "%s: not a text: there is a 0 byte in it", path);
    memset(&got, 0, sizeof got);
    got.text = text;
    got.cue = NEW(Cue, CUES_MOST);
    for (char *line = text; ok && line != NULL;) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end = '\0';
        at.line++;
        ok = cues_line(&got, line, at, error);
        line = end == NULL ? NULL : end + 1;
    }
    if (ok && got.n_context < 2)
        ok = fail(error, "%s: cues of two contexts at least are wanted, not of %zu", path,
                  got.n_context);
    if (ok)
        *cues = got;
    else
        cues_free(&got);
    return ok;
}

bool cues_read(Cues *cues, const char *path, Error *error)
{
    char *text;
    size_t len;
    return text_read(&text, &len, path, error) && cues_parse(cues, text, len, path, error);
}

/* The longest cue that ends with word `at` of the story, or NULL. */
const Cue *cue_at(const Cues *cues, const Story *story, size_t at)
{
    const Cue *found = NULL;
    for (size_t i = 0; i < cues->n_cue; i++) {
        const Cue *cue = &cues->cue[i];
        bool here = cue->n_word <= at + 1;
        for (size_t k = 0; here && k < cue->n_word; k++)
            here = strcmp(cue->word[k], story->key[at + 1 - cue->n_word + k]) == 0;
        if (here && (found == NULL || cue->n_word > found->n_word))
            found = cue;
    }
    return found;
}

/* What the wiring gives each kind of word before the softplus. sigmoid of it is the share of the
   old context that is replaced (theorem 1 of the Mamba paper). */
#define RAW_FILLER (-20.0f) /* Delta = 2e-9: next to nothing moves */
#define RAW_CUE    1.0f     /* Delta = 1.31: 73 % of what the channel holds is replaced */
#define RAW_TURN   6.0f     /* Delta = 6.00: 99.75 % is */

/* A scan whose arrays are its own. */
typedef struct {
    Scan scan;
    float *u, *delta, *A, *B, *C; /* the arrays that scan points to */
} Wiring;

/* Room for len tokens of `channels` channels with one state each, A = -1, C = 1 and softplus. */
Wiring wiring_new(size_t len, size_t channels)
{
    Wiring wiring;
    memset(&wiring, 0, sizeof wiring);
    wiring.u = NEW(float, len *channels);
    wiring.delta = NEW(float, len *channels);
    wiring.A = NEW(float, channels);
    wiring.B = NEW(float, len);
    wiring.C = NEW(float, len);
    for (size_t d = 0; d < channels; d++)
        wiring.A[d] = -1.0f;
    for (size_t t = 0; t < len; t++)
        wiring.B[t] = wiring.C[t] = 1.0f;
    Scan scan = {1,        len,      channels, 1,    wiring.u, wiring.delta, NULL, wiring.A,
                 wiring.B, wiring.C, NULL,     NULL, NULL,     NULL,         true};
    wiring.scan = scan;
    return wiring;
}

void wiring_free(Wiring *wiring)
{
    free(wiring->u);
    free(wiring->delta);
    free(wiring->A);
    free(wiring->B);
    free(wiring->C);
}

/* (1 - exp(-delta)) / delta: with this B and A = -1, Mamba's Delta B u is what the exact hold of
   chapter 3 writes, so that x = (1 - g) x + g u with g = 1 - exp(-delta). */
float hold_B(float delta)
{
    return delta > 0.0f ? -expm1f(-delta) / delta : 1.0f;
}

/* A small number in (-1/2, 1/2) that a word always has: what it happens to say in a context where
   it means nothing. From the word's letters (FNV-1a) and the number of the context. */
static float word_noise(const char *key, size_t context)
{
    uint64_t hash = 14695981039346656037u;
    for (; *key != '\0'; key++)
        hash = (hash ^ (unsigned char)*key) * 1099511628211u;
    Random random = random_from_seed(hash + context);
    return (float)random_uniform(&random) - 0.5f;
}

/* One word in a scan: filler, cue or turn. */
static void wire_word(Wiring *wiring, size_t t, const Cue *cue, const char *key)
{
    size_t channels = wiring->scan.d_inner;
    for (size_t d = 0; d < channels; d++) {
        bool meant = cue != NULL && cue->context == d, turned = cue != NULL && cue->turn;
        wiring->delta[t * channels + d] = turned ? RAW_TURN : meant ? RAW_CUE : RAW_FILLER;
        wiring->u[t * channels + d] = meant ? 1.0f : turned ? 0.0f : word_noise(key, d);
    }
    if (cue != NULL)
        wiring->B[t] = hold_B(softplus(cue->turn ? RAW_TURN : RAW_CUE));
}

/* The story as the input of a selective scan, a channel a context. */
Wiring story_wire(const Story *story, const Cues *cues)
{
    Wiring wiring = wiring_new(story->n_word, cues->n_context);
    for (size_t t = 0; t < story->n_word; t++)
        wire_word(&wiring, t, cue_at(cues, story, t), story->key[t]);
    return wiring;
}

/* The same input with one step for every word and channel: chapter 3's system, which cannot
   choose. */
static void wire_constant(Wiring *wiring, float step)
{
    wiring->scan.delta_softplus = false;
    for (size_t i = 0; i < wiring->scan.len * wiring->scan.d_inner; i++)
        wiring->delta[i] = step;
    for (size_t t = 0; t < wiring->scan.len; t++)
        wiring->B[t] = hold_B(step);
}

/* Which context a model that reads x would answer from: the largest, if it is ahead of every other
   by a tenth of what a cue writes; else none (the number of contexts). */
size_t story_reading(const float *x, size_t contexts)
{
    size_t best = 0;
    for (size_t d = 1; d < contexts; d++)
        if (x[d] > x[best])
            best = d;
    for (size_t d = 0; d < contexts; d++)
        if (d != best && !(x[best] - x[d] >= 0.1f))
            return contexts;
    return best;
}

/* ---- selective copying ---- */

/* Sixteen symbols to remember, each one of sixteen, scattered among noise (Mamba, section 4.1):
   four channels, a bit of the symbol each. With A_bar = 1/2 a symbol moves what is there one
   binary place down and writes its bit; noise moves nothing. So 16 symbols stand in 16 binary
   places of four numbers. */
enum { COPY_SYMBOLS = 16, COPY_BITS = 4 };

/* How the time-invariant rivals treat every token alike: halve (and so remember an order, but count
   the noise too), or keep (and so ignore the noise, but lose the order). */
typedef enum { COPY_SELECTIVE, COPY_HALVING, COPY_KEEPING } CopyWay;

/* Tokens: symbols 0 .. 15, and COPY_NOISE for noise. */
enum { COPY_NOISE = 16 };

/* The task as the input of a scan.

   Exercise 4.4. Give every token its number before the softplus, so that the task is solved. */
Wiring copying_wire(const int *token, size_t len, CopyWay way)
{
    Wiring wiring = wiring_new(len, COPY_BITS);
    for (size_t t = 0; t < len; t++) {
        bool noise = token[t] == COPY_NOISE;
        float raw = way == COPY_HALVING ? 0.0f : -30.0f; /* for all tokens alike */
        if (way == COPY_SELECTIVE) {
            //> EX 4.4 [2 pts] [15 min] selective copying, wired by hand
            //? What must Delta be for a token that is to change nothing?
            //? With A = -1, A_bar = exp(-Delta). A symbol moves what is there one binary place.
            //? Which number has softplus log 2?
            raw = noise ? -30.0f : 0.0f;
            //< EX 4.4
        }
        wiring.B[t] = 1.0f / softplus(raw); /* Delta B u is u */
        for (size_t bit = 0; bit < COPY_BITS; bit++) {
            wiring.delta[t * COPY_BITS + bit] = raw;
            wiring.u[t * COPY_BITS + bit] = noise ? 0.0f : (float)(token[t] >> bit & 1);
        }
    }
    return wiring;
}

/* The symbols back from x (COPY_BITS), the oldest first. A state that only kept sums knows how many
   ones there were: the best guess is then the commoner bit. */
void copying_read(int symbol[COPY_SYMBOLS], const float *x, CopyWay way)
{
    memset(symbol, 0, COPY_SYMBOLS * sizeof *symbol);
    for (size_t bit = 0; bit < COPY_BITS; bit++) {
        long places = lrint(ldexp(x[bit], COPY_SYMBOLS - 1));
        bool mostly_one = x[bit] > 0.5f * COPY_SYMBOLS;
        for (size_t k = 0; k < COPY_SYMBOLS; k++) {
            bool one = way == COPY_KEEPING ? mostly_one : places >> k & 1;
            symbol[k] |= (int)one << bit;
        }
    }
}

/* A random task: COPY_SYMBOLS symbols at random places among `noise` noise tokens; token
   (COPY_SYMBOLS + noise). */
void copying_task(int *token, int symbol[COPY_SYMBOLS], size_t noise, Random *random)
{
    size_t left = COPY_SYMBOLS;
    for (size_t t = 0, len = COPY_SYMBOLS + noise; t < len; t++) {
        bool here = random_uniform(random) * (double)(len - t) < (double)left;
        token[t] = here ? (int)(random_u32(random) % COPY_NOISE) : COPY_NOISE;
        if (here)
            symbol[COPY_SYMBOLS - left--] = token[t];
    }
}

/* How many of `tasks` times COPY_SYMBOLS symbols come back right, from 0 to 1. */
double copying_score(size_t noise, size_t tasks, CopyWay way, Random random)
{
    size_t len = COPY_SYMBOLS + noise, right = 0;
    int *token = NEW(int, len), symbol[COPY_SYMBOLS], got[COPY_SYMBOLS];
    float *y = NEW(float, len *COPY_BITS), x[COPY_BITS];
    for (size_t task = 0; task < tasks; task++) {
        copying_task(token, symbol, noise, &random);
        Wiring wiring = copying_wire(token, len, way);
        selective_scan(y, x, &wiring.scan);
        copying_read(got, x, way);
        for (size_t k = 0; k < COPY_SYMBOLS; k++)
            right += got[k] == symbol[k];
        wiring_free(&wiring);
    }
    free(token);
    free(y);
    return (double)right / (double)(tasks * COPY_SYMBOLS);
}

/* ================================== The scan in parallel =================================== */
/* x_t = a_t x_{t-1} + b_t looks as if every step must wait for the one before. It need not: */
/* two steps in a row are again a step of the same kind, and it does not matter which        */
/* neighbours are joined first.                                                              */

/* The step x -> a x + b. (1, 0) changes nothing. */
typedef struct {
    float a, b;
} ScanPair;

/* First one step, then the other, as one step. Associative: (1 2) 3 = 1 (2 3); not commutative:
   time has a direction.

   Exercise 4.5. Join two steps into one. */
ScanPair scan_join(ScanPair first, ScanPair then)
{
    ScanPair both;
    //> EX 4.5 [2 pts] [10 min] the associative operator
    //? Put x' = a1 x + b1 into x'' = a2 x' + b2.
    //? What stands before x is the new a; the rest is the new b.
    both.a = first.a * then.a;
    both.b = then.a * first.b + then.b;
    //< EX 4.5
    return both;
}

/* The loop: out[t] = in[0] joined with ... in[t], so that out[t].b is x_t from x = 0. len - 1
   joins, one after the other. */
void scan_pairs(ScanPair *out, const ScanPair *in, size_t len)
{
    for (size_t t = 0; t < len; t++)
        out[t] = t == 0 ? in[0] : scan_join(out[t - 1], in[t]);
}

/* Hillis and Steele (1986): in round k every element joins the one 2^k before it. log2(len) rounds,
   in each of which all elements could go at once; but len log2(len) joins. */
void scan_pairs_hillis_steele(ScanPair *out, const ScanPair *in, size_t len)
{
    ScanPair *now = NEW(ScanPair, len), *next = NEW(ScanPair, len);
    memcpy(now, in, len * sizeof *in);
    for (size_t reach = 1; reach < len; reach *= 2) {
        for (size_t t = 0; t < len; t++)
            next[t] = t < reach ? now[t] : scan_join(now[t - reach], now[t]);
        ScanPair *swap = now;
        now = next;
        next = swap;
    }
    memcpy(out, now, len * sizeof *out);
    free(now);
    free(next);
}

/* Blelloch's sweep up: neighbours are joined to twos, twos to fours, ...; tree (len), len a power
   of two. After it tree[len - 1] is all of them joined. */
static void sweep_up(ScanPair *tree, size_t len)
{
    for (size_t width = 1; width < len; width *= 2)
        for (size_t t = 2 * width - 1; t < len; t += 2 * width)
            tree[t] = scan_join(tree[t - width], tree[t]);
}

/* And down: each node is told what came before it, hands that to its left child, and to its right
   child that joined with the left one. After it tree[t] is everything before t.

   Exercise 4.6. Go down the tree. */
static void sweep_down(ScanPair *tree, size_t len)
{
    ScanPair nothing = {1.0f, 0.0f};
    tree[len - 1] = nothing;
    for (size_t width = len / 2; width > 0; width /= 2)
        for (size_t t = 2 * width - 1; t < len; t += 2 * width) {
            //> EX 4.6 [3 pts] [25 min] the sweep down
            //? A node at t has its left child at t - width and its right child in its own place.
            //? Keep what the left child holds before you write over it.
            //? The left child is told what the node was; the right one that, joined with the left.
            ScanPair left = tree[t - width];
            tree[t - width] = tree[t];
            tree[t] = scan_join(tree[t], left);
            //< EX 4.6
        }
}

/* Blelloch (1990): 2 log2(len) rounds and only about 2 len joins. Where len is no power of two,
   steps that change nothing fill it up. */
void scan_pairs_blelloch(ScanPair *out, const ScanPair *in, size_t len)
{
    ScanPair nothing = {1.0f, 0.0f};
    size_t room = 1;
    while (room < len)
        room *= 2;
    ScanPair *tree = NEW(ScanPair, room);
    for (size_t t = 0; t < room; t++)
        tree[t] = t < len ? in[t] : nothing;
    sweep_up(tree, room);
    sweep_down(tree, room);
    for (size_t t = 0; t < len; t++)
        out[t] = scan_join(tree[t], in[t]);
    free(tree);
}

/* The loop after this goes over all processors, if the compiler has OpenMP; else over one. */
#ifdef _OPENMP
#define PARALLEL_FOR(clauses) PARALLEL_PRAGMA(omp parallel for clauses)
#define PARALLEL_PRAGMA(text) _Pragma(#text)
#else
#define PARALLEL_FOR(clauses)
#endif

static int threads_most(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static void threads_use(int threads)
{
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
}

/* Into how many pieces time is cut, on any machine: the sums are then the same on all. */
enum { TIME_PIECES = 16 };

static size_t piece_start(size_t piece, size_t len)
{
    return len / TIME_PIECES * piece + smaller(piece, len % TIME_PIECES);
}

/* In three phases, as many processors do it: each piece by itself; then a loop over the pieces'
   ends; then what came before is joined to every element of a piece. */
void scan_pairs_chunked(ScanPair *out, const ScanPair *in, size_t len)
{
    ScanPair before[TIME_PIECES], nothing = {1.0f, 0.0f};
    PARALLEL_FOR(schedule(static))
    for (size_t piece = 0; piece < TIME_PIECES; piece++) {
        size_t start = piece_start(piece, len), end = piece_start(piece + 1, len);
        scan_pairs(out + start, in + start, end - start);
    }
    before[0] = nothing;
    for (size_t piece = 1; piece < TIME_PIECES; piece++) {
        size_t start = piece_start(piece - 1, len), end = piece_start(piece, len);
        before[piece] =
            start == end ? before[piece - 1] : scan_join(before[piece - 1], out[end - 1]);
    }
    PARALLEL_FOR(schedule(static))
    for (size_t piece = 1; piece < TIME_PIECES; piece++)
        for (size_t t = piece_start(piece, len); t < piece_start(piece + 1, len); t++)
            out[t] = scan_join(before[piece], out[t]);
}

/* ====================================== The scan, fast ===================================== */
/* Sixteen neighbouring channels go through one instruction (eight or four on a smaller       */
/* machine): they share B_t and C_t and never look at each other. What costs time is exp: one */
/* for each channel, token and state; so it is written here, for sixteen at a time.           */

#if defined(__AVX512F__) && !defined(__CUDACC__)
#define LANES 16
#include <immintrin.h>
#elif defined(__AVX__) && !defined(__CUDACC__)
#define LANES 8
#include <immintrin.h>
#else
#define LANES 4
#endif

/* LANES numbers that are worked on together: the vectors of gcc and clang, which know + - * / and
   comparisons (all bits set where true). */
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t LanesBits __attribute__((vector_size(LANES * sizeof(float))));

#define INLINE static inline __attribute__((always_inline, unused))

INLINE Lanes lanes_load(const float *from) /* from any address */
{
    Lanes v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void lanes_store(float *to, Lanes v)
{
    memcpy(to, &v, sizeof v);
}

/* Only the first `count` lanes, where channels end inside a vector: the others read as 0. */
INLINE Lanes lanes_load_some(const float *from, size_t count)
{
#if LANES == 16
    return (Lanes)_mm512_maskz_loadu_ps((__mmask16)(0xffff >> (LANES - count)), from);
#else
    if (count == LANES)
        return lanes_load(from);
    float padded[LANES] = {0};
    memcpy(padded, from, count * sizeof(float));
    return lanes_load(padded);
#endif
}

INLINE void lanes_store_some(float *to, Lanes v, size_t count)
{
#if LANES == 16
    _mm512_mask_storeu_ps(to, (__mmask16)(0xffff >> (LANES - count)), (__m512)v);
#else
    if (count == LANES)
        lanes_store(to, v);
    else
        memcpy(to, &v, count * sizeof(float));
#endif
}

INLINE Lanes lanes_all(float value)
{
    Lanes zeros = {0};
    return value - zeros; /* v - 0 is v, so compilers leave it out; v + 0 makes a 0 of -0 */
}

/* where ? yes : no, lane by lane. */
INLINE Lanes lanes_choose(LanesBits where, Lanes yes, Lanes no)
{
    return (Lanes)((where & (LanesBits)yes) | (~where & (LanesBits)no));
}

INLINE Lanes lanes_abs(Lanes v)
{
    return (Lanes)((LanesBits)v & 0x7fffffff);
}

/* The larger of the two, lane by lane. */
INLINE Lanes lanes_larger(Lanes a, Lanes b)
{
#if LANES == 16
    return (Lanes)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return lanes_choose(a > b, a, b);
#endif
}

/* a b + c, rounded once where the machine can: a b - c is then exact where the two are near. */
INLINE Lanes lanes_multiply_add(Lanes a, Lanes b, Lanes c)
{
#if LANES == 16
    return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LANES == 8 && defined(__FMA__)
    return (Lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* v, but no less than `least`; NaN stays NaN. */
INLINE Lanes lanes_at_least(Lanes v, float least)
{
#if LANES == 16
    return (Lanes)_mm512_max_ps(_mm512_set1_ps(least), (__m512)v);
#else
    return lanes_choose(v < least, lanes_all(least), v);
#endif
}

/* The largest lane, or NaN if there is one. */
INLINE float lanes_largest(Lanes v)
{
    float largest = v[0];
    for (int i = 1; i < LANES; i++)
        if (!(v[i] <= largest) && !isnan(largest))
            largest = v[i];
    return largest;
}

INLINE float lanes_sum(Lanes v)
{
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)v); /* halves to halves: few additions wait for others */
#else
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++)
        sum += v[i];
    return sum;
#endif
}

/* ---- exp ---- */

/* 2^v for a v that is given as a whole multiple of 1/32 and a rest r: 2^(j/32) comes from a table
   of 32, what is whole goes into the exponent, and 2^r is so near 1 that two terms do. Where a
   machine has no instruction to look up 16 numbers at once, v is cut at whole numbers and 2^r
   takes six terms. Both are within 2 ulp of 2^v (tested on millions of floats). */
typedef struct {
#if LANES == 16
    Lanes low, high; /* the bits of 2^(j/32) less j << 18, which adding v's bits brings back */
#else
    char unused;
#endif
} ExpTable;

static ExpTable exp_table(void)
{
    ExpTable table;
#if LANES == 16
    for (int32_t j = 0; j < 32; j++) {
        float power = (float)exp2(j / 32.0);
        int32_t bits;
        memcpy(&bits, &power, sizeof bits);
        bits -= j << 18;
        memcpy((char *)&table + (size_t)j * sizeof bits, &bits, sizeof bits);
    }
#else
    table.unused = 0;
#endif
    return table;
}

/* A number so large that adding it rounds v to a multiple of 1/32 (or to a whole number), and
   leaves that multiple in the last bits. */
#if LANES == 16
#define EXP_ROUND 393216.0f /* 1.5 * 2^18 */
#else
#define EXP_ROUND 12583039.0f /* 1.5 * 2^23 + 127: the exponent's bias is in it already */
#endif

/* 2^(k + r), k the multiple that `rounded` = k + EXP_ROUND has in its last bits. */
INLINE Lanes exp2_parts(Lanes rounded, Lanes r, ExpTable table)
{
#if LANES == 16
    Lanes power =
        (Lanes)_mm512_permutex2var_ps((__m512)table.low, (__m512i)rounded, (__m512)table.high);
    power = (Lanes)((LanesBits)power + ((LanesBits)rounded << 18));
    Lanes p = r * 0.2402265f + 0.69315735f;
#else
    (void)table;
    Lanes power = (Lanes)((LanesBits)rounded << 23);
    Lanes p = r * 0.000154531629f + 0.00133908634f;
    p = p * r + 0.00961808256f;
    p = p * r + 0.0555035711f;
    p = p * r + 0.240226508f;
    p = p * r + 0.693147188f;
#endif
    return lanes_multiply_add(power, r * p, power); /* 2^r - 1 is r p, and small */
}

/* 2^(a b) for |a b| <= 126, to 2 ulp of the exact product's power. */
INLINE Lanes exp2_product(Lanes a, Lanes b, ExpTable table)
{
    Lanes rounded = lanes_multiply_add(a, b, lanes_all(EXP_ROUND));
    return exp2_parts(rounded, lanes_multiply_add(a, b, EXP_ROUND - rounded), table);
}

/* 2^(a b) for any a and b: infinite above 2^128, 0 below 2^-127, NaN stays NaN. */
INLINE Lanes exp2_product_any(Lanes a, Lanes b, ExpTable table)
{
    Lanes v = a * b, inside = lanes_at_least(v, -127.0f);
    inside = lanes_choose(inside > 127.9f, lanes_all(127.9f), inside);
    Lanes rounded = inside + EXP_ROUND;
    Lanes power = exp2_parts(rounded, inside - (rounded - EXP_ROUND), table);
    return lanes_choose(v >= 128.0f, lanes_all(INFINITY), power);
}

/* exp(v) for v <= 0, to 2 ulp down to exp(-87); from 2^-127 = exp(-88.03) down it is 0. What is
   over v's multiple k of log 2 is taken with log 2 in two parts: k times the first, of 9 bits, is
   exact. */
INLINE Lanes lanes_exp(Lanes v, ExpTable table)
{
    const float log2_e = 1.44269504f, log_2_high = 0.693359375f, log_2_low = -2.12194440e-4f;
    v = lanes_at_least(v, -88.0296936f);
    Lanes rounded = v * log2_e + EXP_ROUND, k = rounded - EXP_ROUND;
    Lanes over = (v - k * log_2_high) - k * log_2_low;
    return exp2_parts(rounded, over * log2_e, table);
}

/* exp(-|v|): the sigmoid, softplus and silu's derivative are all made of this one exponential, so
   that who wants two of them at one v (the way back does) pays for one. */
INLINE Lanes lanes_decay(Lanes v, ExpTable table)
{
    return lanes_exp(-lanes_abs(v), table);
}

INLINE Lanes sigmoid_from(Lanes v, Lanes decay)
{
    return lanes_choose(v < 0.0f, decay, lanes_all(1.0f)) / (1.0f + decay);
}

/* log1p(e) = 2 atanh(e / (2 + e)), an odd series in s = e / (2 + e) <= 1/3. */
INLINE Lanes softplus_from(Lanes v, Lanes decay)
{
    Lanes s = decay / (2.0f + decay), q = s * s;
    Lanes p = q * (1.0f / 13) + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    Lanes log1p_e = 2.0f * s + 2.0f * s * q * p;
    return lanes_at_least(v, 0.0f) + log1p_e;
}

/* With e = exp(-|v|) the two sigmoids that it is made of are 1 / (1 + e) and e / (1 + e). */
INLINE Lanes silu_slope_from(Lanes v, Lanes decay)
{
    Lanes large = 1.0f / (1.0f + decay), small = decay * large;
    LanesBits left = v < 0.0f;
    return lanes_choose(left, small, large) * (1.0f + v * lanes_choose(left, large, small));
}

INLINE Lanes lanes_sigmoid(Lanes v, ExpTable table)
{
    return sigmoid_from(v, lanes_decay(v, table));
}

INLINE Lanes lanes_softplus(Lanes v, ExpTable table)
{
    return softplus_from(v, lanes_decay(v, table));
}

INLINE Lanes lanes_silu_slope(Lanes v, ExpTable table)
{
    return silu_slope_from(v, lanes_decay(v, table));
}

/* ---- the forward pass ---- */

enum {
    STRETCH = 32,        /* tokens that are prepared together, and gone back over together */
    BLOCK_TILES = 16,    /* vectors of channels that a thread takes through a stretch in turn */
    BLOCK_VECTORS = 256, /* tiles * d_state of a block: its states stay in the nearest caches */
    STATES_TOGETHER = 4, /* that go back over a stretch in registers */
    SCAN_MAX_STATE = 256 /* a larger d_state goes the clear way */
};

/* One tile, LANES channels from `first` on, in one sequence. */
typedef struct {
    size_t b, first, count; /* count < LANES where the channels end */
    float steepest;         /* the largest |A log2 e| of the tile */
    Lanes *A2, *x;          /* (d_state): A log2 e, so that exp(delta A) = 2^(delta A2); x */
    Lanes bias, D;
    Lanes elapsed; /* the sum of Delta over the tokens so far */
} Tile;

/* What the loops over a stretch of tokens want ready. */
typedef struct {
    size_t token, tokens; /* the first, counted through the batch, and how many */
    bool near;            /* no |Delta A2| exceeds 126: no exponential leaves the range of floats */
    bool back;            /* the slopes are wanted too */
    Lanes delta[STRETCH], drive[STRETCH];            /* Delta and Delta u */
    Lanes skip[STRETCH], gate[STRETCH];              /* D u and silu(z) */
    Lanes delta_slope[STRETCH], gate_slope[STRETCH]; /* their derivatives by raw Delta and by z */
} Stretch;

static void tile_open(Tile *tile, Lanes *memory, const Scan *scan, size_t b, size_t first)
{
    size_t d_state = scan->d_state, count = scan->d_inner - first;
    Lanes zeros = {0};
    tile->b = b;
    tile->first = first;
    tile->count = count < LANES ? count : LANES;
    tile->steepest = 0.0f;
    tile->A2 = memory;
    tile->x = memory + d_state;
    for (size_t n = 0; n < 2 * d_state; n++)
        memory[n] = zeros;
    for (size_t i = 0; i < tile->count; i++)
        for (size_t n = 0; n < d_state; n++) {
            float A2 = scan->A[(first + i) * d_state + n] * 1.44269504f;
            tile->A2[n][i] = A2;
            if (!(fabsf(A2) <= tile->steepest)) /* a NaN stays, and goes the careful way */
                tile->steepest = fabsf(A2);
            if (scan->x_start != NULL)
                tile->x[n][i] = scan->x_start[(b * scan->d_inner + first + i) * d_state + n];
        }
    tile->bias = tile->D = tile->elapsed = zeros;
    if (scan->delta_bias != NULL)
        tile->bias = lanes_load_some(scan->delta_bias + first, tile->count);
    if (scan->D != NULL)
        tile->D = lanes_load_some(scan->D + first, tile->count);
}

/* A tile's vectors (d_state) as the rows of a (batch, d_inner, d_state) array. */
static void tile_states(float *out, const Lanes *x, const Tile *tile, const Scan *scan)
{
    out += (tile->b * scan->d_inner + tile->first) * scan->d_state;
    for (size_t i = 0; i < tile->count; i++)
        for (size_t n = 0; n < scan->d_state; n++)
            out[i * scan->d_state + n] = x[n][i];
}

/* Delta, Delta u, D u and the gate of a stretch, and going back what they depend on. */
__attribute__((noinline)) static void stretch_prepare(Stretch *stretch, Tile *tile,
                                                      const Scan *scan, const ExpTable *shared)
{
    const ExpTable table = *shared;
    Lanes largest = {0}, elapsed = {0};
    for (size_t i = 0; i < stretch->tokens; i++) {
        size_t at = (stretch->token + i) * scan->d_inner + tile->first;
        Lanes u = lanes_load_some(scan->u + at, tile->count);
        Lanes delta = lanes_load_some(scan->delta + at, tile->count) + tile->bias;
        if (scan->delta_softplus) {
            Lanes raw = delta, decay = lanes_decay(raw, table);
            delta = softplus_from(raw, decay);
            if (stretch->back)
                stretch->delta_slope[i] = sigmoid_from(raw, decay);
        }
        largest = lanes_larger(largest, lanes_abs(delta));
        elapsed += delta;
        stretch->delta[i] = delta;
        stretch->drive[i] = delta * u;
        stretch->skip[i] = tile->D * u;
        if (scan->z != NULL) {
            Lanes z = lanes_load_some(scan->z + at, tile->count);
            Lanes decay = lanes_decay(z, table);
            stretch->gate[i] = z * sigmoid_from(z, decay);
            if (stretch->back)
                stretch->gate_slope[i] = silu_slope_from(z, decay);
        }
    }
    tile->elapsed += elapsed;
    stretch->near = lanes_largest(largest) * tile->steepest <= 126.0f;
}

INLINE Lanes A_bar_of(Lanes delta, Lanes A2, ExpTable table, const bool near)
{
    return near ? exp2_product(delta, A2, table) : exp2_product_any(delta, A2, table);
}

/* The loop that all the time is spent in. `next` is how far ahead the numbers lie that are wanted
   after these: they are fetched meanwhile. With y NULL only the state moves. */
INLINE void stretch_loop(float *y, const Tile *tile, const Stretch *stretch, const Scan *scan,
                         size_t next, ExpTable table, const bool near, const bool reads)
{
    size_t d_state = scan->d_state;
    const Lanes *A2 = tile->A2;
    Lanes *x = tile->x;
    for (size_t i = 0; i < stretch->tokens; i++) {
        size_t token = stretch->token + i, at = token * scan->d_inner + tile->first, n = 0;
        const float *B = scan->B + token * d_state, *C = scan->C + token * d_state;
        Lanes delta = stretch->delta[i], drive = stretch->drive[i];
        Lanes y_even = stretch->skip[i], y_odd = {0};
        __builtin_prefetch(scan->u + at + next);
        __builtin_prefetch(scan->delta + at + next);
        if (scan->z != NULL)
            __builtin_prefetch(scan->z + at + next);
        if (reads)
            __builtin_prefetch(y + at + next, 1);
        for (; n + 1 < d_state; n += 2) { /* two sums, so that one need not wait for the other */
            x[n] = A_bar_of(delta, A2[n], table, near) * x[n] + drive * B[n];
            x[n + 1] = A_bar_of(delta, A2[n + 1], table, near) * x[n + 1] + drive * B[n + 1];
            if (reads) {
                y_even += x[n] * C[n];
                y_odd += x[n + 1] * C[n + 1];
            }
        }
        if (n < d_state) {
            x[n] = A_bar_of(delta, A2[n], table, near) * x[n] + drive * B[n];
            y_even += x[n] * C[n];
        }
        if (reads)
            lanes_store_some(
                y + at, (y_even + y_odd) * (scan->z != NULL ? stretch->gate[i] : lanes_all(1.0f)),
                tile->count);
    }
}

/* The loop four times over, so that what never changes in it need not be asked in it. */
static void stretch_scan(float *y, const Tile *tile, const Stretch *stretch, const Scan *scan,
                         size_t next, const ExpTable *table)
{
    if (stretch->near && y != NULL)
        stretch_loop(y, tile, stretch, scan, next, *table, true, true);
    else if (stretch->near)
        stretch_loop(y, tile, stretch, scan, next, *table, true, false);
    else if (y != NULL)
        stretch_loop(y, tile, stretch, scan, next, *table, false, true);
    else
        stretch_loop(y, tile, stretch, scan, next, *table, false, false);
}

/* How many neighbouring tiles make a block, and how many blocks the channels make. */
static size_t block_tiles(const Scan *scan)
{
    size_t fit = BLOCK_VECTORS / (scan->d_state + !scan->d_state);
    return fit < 1 ? 1 : smaller(fit, BLOCK_TILES);
}

static size_t block_count(const Scan *scan)
{
    size_t width = block_tiles(scan) * LANES;
    return (scan->d_inner + width - 1) / width;
}

/* At most `most` tiles from channel `first` on, opened; memory for 2 d_state vectors each.
   Returns how many there are. */
static size_t block_open(Tile *tile, Lanes *memory, const Scan *scan, size_t b, size_t first,
                         size_t most)
{
    size_t tiles = 0;
    for (; tiles < most && first < scan->d_inner; first += LANES, tiles++)
        tile_open(&tile[tiles], memory + tiles * 2 * scan->d_state, scan, b, first);
    return tiles;
}

/* Tiles to a block in the forward pass: fewer where processors would stand idle. No channel's bits
   depend on it. */
static size_t forward_tiles(const Scan *scan)
{
    size_t tiles = (scan->d_inner + LANES - 1) / LANES, threads = (size_t)threads_most();
    size_t shares = scan->batch < threads ? threads / (scan->batch + !scan->batch) : 1;
    size_t fair = (tiles + shares - 1) / shares;
    return smaller(block_tiles(scan), fair < 1 ? 1 : fair);
}

static size_t stretch_count(const Scan *scan)
{
    return (scan->len + STRETCH - 1) / STRETCH;
}

static void stretch_place(Stretch *stretch, const Scan *scan, size_t b, size_t number)
{
    size_t t = number * STRETCH;
    stretch->token = b * scan->len + t;
    stretch->tokens = smaller(scan->len - t, STRETCH);
}

/* How many floats the checkpoints of a scan take: the states before every stretch of tokens, 1/32
   of all states. With Scan.checkpoint pointing to them, selective_scan_fast fills them, and
   selective_scan_backward_fast, given the same scan after it, need not run forwards once more. */
size_t selective_scan_checkpoint_floats(const Scan *scan)
{
    size_t tiles = (scan->d_inner + LANES - 1) / LANES;
    return scan->batch * stretch_count(scan) * tiles * scan->d_state * LANES;
}

/* x (d_state, LANES) of this tile before stretch s. */
static float *checkpoint_of(const Tile *tile, size_t s, const Scan *scan)
{
    size_t tiles = (scan->d_inner + LANES - 1) / LANES;
    size_t number = (tile->b * stretch_count(scan) + s) * tiles + tile->first / LANES;
    return scan->checkpoint + number * scan->d_state * LANES;
}

/* The channels of one block in sequence b, from the first token to the last: stretch by stretch,
   and in a stretch tile by tile, so that what is read lies in neighbouring memory. */
static void scan_block(float *y, Tile *tile, size_t tiles, const Scan *scan, const ExpTable *table)
{
    Stretch stretch;
    stretch.back = false;
    for (size_t s = 0; s < stretch_count(scan) && tiles > 0; s++) {
        stretch_place(&stretch, scan, tile->b, s);
        size_t ahead = (s + 2) * STRETCH <= scan->len ? STRETCH * scan->d_inner : 0;
        for (size_t i = 0; i < tiles; i++) {
            if (scan->checkpoint != NULL)
                memcpy(checkpoint_of(&tile[i], s, scan), tile[i].x, scan->d_state * sizeof(Lanes));
            stretch_prepare(&stretch, &tile[i], scan, table);
            size_t next = i + 1 < tiles ? LANES : ahead > 0 ? ahead - i * LANES : 0;
            stretch_scan(y, &tile[i], &stretch, scan, next, table);
        }
    }
}

/* selective_scan, for use: the same to rounding (A is rounded once more, its exponentials to 2
   ulp), and the same bits for any number of threads, because a channel is one thread's alone. No
   memory is asked for. Exponentials below 1e-38 are 0. With y NULL only x_last comes out. */
void selective_scan_fast(float *y, float *x_last, const Scan *scan)
{
    if (scan->d_state > SCAN_MAX_STATE) {
        selective_scan(y, x_last, scan);
        return;
    }
    ExpTable table = exp_table();
    size_t most = forward_tiles(scan), width = most * LANES;
    PARALLEL_FOR(collapse(2) schedule(static) if (scan->len > 1))
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t first = 0; first < scan->d_inner; first += width) {
            Lanes memory[2 * BLOCK_VECTORS];
            Tile tile[BLOCK_TILES];
            size_t tiles = block_open(tile, memory, scan, b, first, most);
            scan_block(y, tile, tiles, scan, &table);
            for (size_t i = 0; i < tiles && x_last != NULL; i++)
                tile_states(x_last, tile[i].x, &tile[i], scan);
        }
}

/* ---- the backward pass ---- */

/* What a tile works on in a stretch, going back. */
typedef struct {
    Stretch forward;
    Lanes y_ungated[STRETCH]; /* y before the gate */
    Lanes y_grad[STRETCH];    /* dL/dy before the gate */
    Lanes from_B[STRETCH];    /* the sum of dL/dx B over the states */
    Lanes from_A[STRETCH];    /* the sum of dL/dA_bar A_bar A2 */
    Lanes D_grad, bias_grad;  /* summed over all tokens */
} BackTile;

/* What one block works on besides its tiles. */
typedef struct {
    BackTile *tile;         /* (tiles) */
    Lanes *x_grad, *A_grad; /* (tiles, d_state) */
    float *B_sum, *C_sum;   /* (len, d_state) what this block adds to the gradients */
} BackBlock;

/* A few states of one stretch: all that the innermost loops touch again and again. B_grad and
   C_grad are summed over the tiles of the block, lane by lane. */
typedef struct {
    size_t n, count; /* states n .. n + count - 1 */
    struct {
        Lanes x, A_bar; /* x before the token, and what takes it on */
        Lanes B_grad, C_grad;
    } at[STRETCH + 1][STATES_TOGETHER];
} BackStates;

/* Vectors of workspace for one block. */
static size_t back_block_vectors(const Scan *scan)
{
    size_t tiles = block_tiles(scan), d_state = scan->d_state;
    size_t sums = (2 * scan->len * d_state + LANES - 1) / LANES;
    return 2 * tiles * d_state + tiles * sizeof(BackTile) / sizeof(Lanes) + sums;
}

static void back_block_place(BackBlock *back, Lanes *memory, const Scan *scan)
{
    size_t tiles = block_tiles(scan), d_state = scan->d_state;
    back->tile = (BackTile *)memory;
    back->x_grad = (Lanes *)(back->tile + tiles);
    back->A_grad = back->x_grad + tiles * d_state;
    back->B_sum = (float *)(back->A_grad + tiles * d_state);
    back->C_sum = back->B_sum + scan->len * d_state;
}

/* The stretch forwards once more, keeping every A_bar and x. */
INLINE void states_replay(BackStates *states, BackTile *back, const float *before, const Lanes *A2,
                          const float *fetch, const Scan *scan, const size_t count, ExpTable table,
                          const bool near)
{
    const Stretch *stretch = &back->forward;
    size_t first = stretch->token * scan->d_state + states->n;
    Lanes x[STATES_TOGETHER];
    for (size_t k = 0; k < count; k++)
        states->at[0][k].x = x[k] = lanes_load(before + (states->n + k) * LANES);
    for (size_t i = 0; i < stretch->tokens; i++) {
        const float *B = scan->B + first + i * scan->d_state;
        const float *C = scan->C + first + i * scan->d_state;
        Lanes delta = stretch->delta[i], drive = stretch->drive[i], y = back->y_ungated[i];
        __builtin_prefetch(fetch + i * scan->d_inner);
        for (size_t k = 0; k < count; k++) {
            Lanes A_bar = A_bar_of(delta, A2[states->n + k], table, near);
            states->at[i][k].A_bar = A_bar;
            x[k] = A_bar * x[k] + drive * B[k];
            states->at[i + 1][k].x = x[k];
            y += x[k] * C[k];
        }
        back->y_ungated[i] = y;
    }
}

/* And backwards: channel_step_backward, line by line. x_grads is what came through the tokens
   after the stretch, and leaves as what goes on to those before it. */
INLINE void states_backward(BackStates *states, BackTile *back, Lanes *x_grads, Lanes *A_grads,
                            const Lanes *A2, const Scan *scan, const size_t count)
{
    const Stretch *stretch = &back->forward;
    size_t first = stretch->token * scan->d_state + states->n;
    Lanes later[STATES_TOGETHER], A_grad[STATES_TOGETHER];
    for (size_t k = 0; k < count; k++) {
        later[k] = x_grads[states->n + k];
        A_grad[k] = A_grads[states->n + k];
    }
    for (size_t i = stretch->tokens; i-- > 0;) {
        const float *B = scan->B + first + i * scan->d_state;
        const float *C = scan->C + first + i * scan->d_state;
        Lanes y_grad = back->y_grad[i], drive = stretch->drive[i], delta = stretch->delta[i];
        Lanes from_A = back->from_A[i], from_B = back->from_B[i];
        for (size_t k = 0; k < count; k++) {
            Lanes x_grad = later[k] + y_grad * C[k];
            states->at[i][k].C_grad += y_grad * states->at[i + 1][k].x;
            states->at[i][k].B_grad += x_grad * drive;
            from_B += x_grad * B[k];
            later[k] = x_grad * states->at[i][k].A_bar;
            Lanes through_A = later[k] * states->at[i][k].x;
            from_A += through_A * A2[states->n + k];
            A_grad[k] += through_A * delta;
        }
        back->from_A[i] = from_A;
        back->from_B[i] = from_B;
    }
    for (size_t k = 0; k < count; k++) {
        x_grads[states->n + k] = later[k];
        A_grads[states->n + k] = A_grad[k];
    }
}

/* The states of `states` in every tile of the block, in stretch s; meanwhile the stretch before it
   of the array `from` is fetched. */
INLINE void states_run(BackStates *states, BackBlock *back, const Tile *tile, size_t tiles,
                       size_t s, const float *from, const Scan *scan, const size_t count,
                       ExpTable table)
{
    for (size_t i = 0; i < STRETCH; i++)
        for (size_t k = 0; k < count; k++)
            states->at[i][k].B_grad = states->at[i][k].C_grad = lanes_all(0.0f);
    for (size_t i = 0; i < tiles; i++) {
        size_t at = i * scan->d_state;
        BackTile *one = &back->tile[i];
        size_t here = one->forward.token * scan->d_inner + tile[i].first;
        const float *before = checkpoint_of(&tile[i], s, scan);
        const float *fetch =
            from + (here >= STRETCH * scan->d_inner ? here - STRETCH * scan->d_inner : 0);
        if (one->forward.near)
            states_replay(states, one, before, tile[i].A2, fetch, scan, count, table, true);
        else
            states_replay(states, one, before, tile[i].A2, fetch, scan, count, table, false);
        states_backward(states, one, back->x_grad + at, back->A_grad + at, tile[i].A2, scan, count);
    }
}

/* The lanes of B_grad and C_grad added up; t is the stretch's first token in its sequence. */
static void states_sum(BackBlock *back, const BackStates *states, size_t t, size_t tokens,
                       size_t d_state)
{
    for (size_t k = 0; k < states->count; k++)
        for (size_t i = 0; i < tokens; i++) {
            back->B_sum[(t + i) * d_state + states->n + k] = lanes_sum(states->at[i][k].B_grad);
            back->C_sum[(t + i) * d_state + states->n + k] = lanes_sum(states->at[i][k].C_grad);
        }
}

/* Before the states: dL/dy through the gate, and the gradient of D. */
static void stretch_gate_backward(BackTile *back, const float *y_grad, const Tile *tile,
                                  const Scan *scan)
{
    Lanes zeros = {0};
    for (size_t i = 0; i < back->forward.tokens; i++) {
        size_t at = (back->forward.token + i) * scan->d_inner + tile->first;
        back->y_grad[i] = lanes_load_some(y_grad + at, tile->count);
        if (scan->z != NULL)
            back->y_grad[i] *= back->forward.gate[i];
        back->D_grad += back->y_grad[i] * lanes_load_some(scan->u + at, tile->count);
        back->y_ungated[i] = back->forward.skip[i];
        back->from_A[i] = back->from_B[i] = zeros;
    }
}

/* After them: u and delta, each reached on two ways, and z, which wanted y before the gate. */
static void stretch_inputs_backward(const ScanGrad *grad, BackTile *back, const float *y_grad,
                                    const Tile *tile, const Scan *scan)
{
    const float log_2 = 0.693147181f;
    const Stretch *forward = &back->forward;
    Lanes bias_grad = back->bias_grad;
    for (size_t i = 0; i < forward->tokens; i++) {
        size_t at = (forward->token + i) * scan->d_inner + tile->first;
        Lanes u = lanes_load_some(scan->u + at, tile->count), from_B = back->from_B[i];
        Lanes delta_grad = u * from_B + log_2 * back->from_A[i];
        if (scan->delta_softplus)
            delta_grad *= forward->delta_slope[i];
        bias_grad += delta_grad;
        if (grad->u != NULL)
            lanes_store_some(grad->u + at, back->y_grad[i] * tile->D + forward->delta[i] * from_B,
                             tile->count);
        if (grad->delta != NULL)
            lanes_store_some(grad->delta + at, delta_grad, tile->count);
        if (scan->z != NULL && grad->z != NULL) {
            Lanes dy = lanes_load_some(y_grad + at, tile->count);
            lanes_store_some(grad->z + at, dy * back->y_ungated[i] * forward->gate_slope[i],
                             tile->count);
        }
    }
    back->bias_grad = bias_grad;
}

/* One block from its last stretch to its first. */
static void back_block_run(const ScanGrad *grad, const float *y_grad, BackBlock *back, Tile *tile,
                           size_t tiles, const Scan *scan, const ExpTable *table)
{
    size_t d_state = scan->d_state;
    BackStates states;
    const float *wanted[4] = {scan->delta, scan->u, y_grad, scan->z != NULL ? scan->z : scan->u};
    for (size_t s = stretch_count(scan); s-- > 0;) {
        for (size_t i = 0; i < tiles; i++) {
            back->tile[i].forward.back = true;
            stretch_place(&back->tile[i].forward, scan, tile->b, s);
            stretch_prepare(&back->tile[i].forward, &tile[i], scan, table);
            stretch_gate_backward(&back->tile[i], y_grad, &tile[i], scan);
        }
        for (states.n = 0; states.n < d_state; states.n += states.count) {
            bool whole = states.n + STATES_TOGETHER <= d_state;
            states.count = whole ? STATES_TOGETHER : 1;
            const float *from = wanted[states.n / STATES_TOGETHER % 4];
            if (whole)
                states_run(&states, back, tile, tiles, s, from, scan, STATES_TOGETHER, *table);
            else
                states_run(&states, back, tile, tiles, s, from, scan, 1, *table);
            states_sum(back, &states, s * STRETCH, back->tile->forward.tokens, d_state);
        }
        for (size_t i = 0; i < tiles; i++)
            stretch_inputs_backward(grad, &back->tile[i], y_grad, &tile[i], scan);
    }
}

/* Where the blocks leave what is to be added up over blocks and sequences, so that it is added in
   one order whatever the threads do. */
typedef struct {
    float *A;          /* (batch, d_inner, d_state) */
    float *D, *bias;   /* (batch, d_inner) */
    Lanes *blocks;     /* (batch, blocks, back_block_vectors) */
    float *checkpoint; /* for a scan that has none of its own */
} BackSums;

size_t selective_scan_backward_floats(const Scan *scan)
{
    size_t clear = (2 * square_root_up(scan->len) + 2) * scan->d_state;
    if (scan->d_state > SCAN_MAX_STATE)
        return clear;
    size_t vectors = scan->batch * block_count(scan) * back_block_vectors(scan) + 1;
    size_t fast = vectors * LANES + scan->batch * scan->d_inner * (scan->d_state + 2);
    if (scan->checkpoint == NULL)
        fast += selective_scan_checkpoint_floats(scan);
    return fast > clear ? fast : clear;
}

static void back_sums_place(BackSums *sums, float *work, const Scan *scan)
{
    size_t vectors = scan->batch * block_count(scan) * back_block_vectors(scan);
    uintptr_t start = (uintptr_t)work, unit = sizeof(Lanes);
    sums->blocks = (Lanes *)(void *)(work + (start + unit - 1) / unit * unit / sizeof(float) -
                                     start / sizeof(float));
    sums->A = (float *)(sums->blocks + vectors);
    sums->D = sums->A + scan->batch * scan->d_inner * scan->d_state;
    sums->bias = sums->D + scan->batch * scan->d_inner;
    sums->checkpoint = sums->bias + scan->batch * scan->d_inner;
}

/* One block of one sequence: forwards for the checkpoints, unless they are there, then back. */
static void back_block(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                       const BackSums *sums, const Scan *scan, size_t b, size_t block,
                       const ExpTable *table)
{
    Lanes memory[2 * BLOCK_VECTORS];
    Tile tile[BLOCK_TILES];
    BackBlock back;
    Scan with = *scan;
    size_t d_state = scan->d_state, most = block_tiles(scan);
    size_t tiles = block_open(tile, memory, scan, b, block * most * LANES, most);
    size_t number = b * block_count(scan) + block;
    back_block_place(&back, sums->blocks + number * back_block_vectors(scan), scan);
    for (size_t i = 0; i < tiles; i++)
        back.tile[i].D_grad = back.tile[i].bias_grad = lanes_all(0.0f);
    memset(back.x_grad, 0, 2 * block_tiles(scan) * d_state * sizeof(Lanes));
    if (scan->checkpoint == NULL) {
        with.checkpoint = sums->checkpoint;
        scan_block(NULL, tile, tiles, &with, table);
    }
    for (size_t i = 0; i < tiles && x_last_grad != NULL; i++)
        for (size_t k = 0; k < tile[i].count * d_state; k++)
            back.x_grad[i * d_state + k % d_state][k / d_state] =
                x_last_grad[(b * scan->d_inner + tile[i].first) * d_state + k];
    back_block_run(grad, y_grad, &back, tile, tiles, &with, table);
    for (size_t i = 0; i < tiles; i++) {
        tile_states(sums->A, back.A_grad + i * d_state, &tile[i], scan);
        if (grad->x_start != NULL)
            tile_states(grad->x_start, back.x_grad + i * d_state, &tile[i], scan);
        lanes_store_some(sums->D + b * scan->d_inner + tile[i].first, back.tile[i].D_grad,
                         tile[i].count);
        lanes_store_some(sums->bias + b * scan->d_inner + tile[i].first, back.tile[i].bias_grad,
                         tile[i].count);
    }
}

/* to (count) = the sum of `parts` arrays that lie `apart` floats from each other. */
static void add_parts(float *to, const float *from, size_t count, size_t parts, size_t apart)
{
    for (size_t i = 0; i < count && to != NULL; i++) {
        float sum = 0.0f;
        for (size_t part = 0; part < parts; part++)
            sum += from[part * apart + i];
        to[i] = sum;
    }
}

static void back_sums_add(const ScanGrad *grad, const BackSums *sums, const Scan *scan)
{
    size_t states = scan->d_inner * scan->d_state, blocks = block_count(scan);
    size_t apart = back_block_vectors(scan) * LANES, shared = scan->len * scan->d_state;
    add_parts(grad->A, sums->A, states, scan->batch, states);
    add_parts(grad->D, sums->D, scan->d_inner, scan->batch, scan->d_inner);
    add_parts(grad->delta_bias, sums->bias, scan->d_inner, scan->batch, scan->d_inner);
    for (size_t b = 0; b < scan->batch && blocks > 0; b++) {
        BackBlock back;
        back_block_place(&back, sums->blocks + b * blocks * back_block_vectors(scan), scan);
        add_parts(grad->B == NULL ? NULL : grad->B + b * shared, back.B_sum, shared, blocks, apart);
        add_parts(grad->C == NULL ? NULL : grad->C + b * shared, back.C_sum, shared, blocks, apart);
    }
}

/* selective_scan_backward, for use: the same to rounding, and the same bits for any number of
   threads. The states before every stretch of 32 tokens come from scan->checkpoint, which
   selective_scan_fast has filled, or, if that is NULL, from a forward pass of its own. */
void selective_scan_backward_fast(const ScanGrad *grad, const float *y_grad,
                                  const float *x_last_grad, const Scan *scan, float *work)
{
    if (scan->d_state > SCAN_MAX_STATE) {
        selective_scan_backward(grad, y_grad, x_last_grad, scan, work);
        return;
    }
    ExpTable table = exp_table();
    BackSums sums;
    float *own = work == NULL ? NEW(float, selective_scan_backward_floats(scan)) : NULL;
    size_t blocks = block_count(scan);
    back_sums_place(&sums, work == NULL ? own : work, scan);
    PARALLEL_FOR(collapse(2) schedule(static))
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t block = 0; block < blocks; block++)
            back_block(grad, y_grad, x_last_grad, &sums, scan, b, block, &table);
    back_sums_add(grad, &sums, scan);
    free(own);
}

/* ---- time in parallel ---- */

/* The end of one piece of one sequence, and what it does to a state that comes in: `x` (d_inner,
   d_state) from 0, and `a`, the product of all A_bar. A product of exponentials is the exponential
   of a sum, so one exp a state is enough: a = exp(A (Delta_1 + Delta_2 + ...)). */
static void piece_summary(float *x, float *a, const Scan *piece, const ExpTable *table)
{
    size_t most = block_tiles(piece);
    for (size_t first = 0; first < piece->d_inner; first += most * LANES) {
        Lanes memory[2 * BLOCK_VECTORS];
        Tile tile[BLOCK_TILES];
        size_t tiles = block_open(tile, memory, piece, 0, first, most);
        scan_block(NULL, tile, tiles, piece, table);
        for (size_t i = 0; i < tiles; i++) {
            tile_states(x, tile[i].x, &tile[i], piece);
            for (size_t n = 0; n < piece->d_state; n++)
                tile[i].x[n] = exp2_product_any(tile[i].elapsed, tile[i].A2[n], *table);
            tile_states(a, tile[i].x, &tile[i], piece);
        }
    }
}

/* Tokens of one sequence as a scan of their own. */
static Scan scan_piece(const Scan *scan, size_t b, size_t start, size_t end)
{
    Scan piece = *scan;
    size_t token = b * scan->len + start;
    piece.batch = 1;
    piece.len = end - start;
    piece.u += token * scan->d_inner;
    piece.delta += token * scan->d_inner;
    piece.B += token * scan->d_state;
    piece.C += token * scan->d_state;
    if (scan->z != NULL)
        piece.z += token * scan->d_inner;
    piece.x_start = NULL;
    piece.checkpoint = NULL;
    return piece;
}

/* selective_scan with time cut into TIME_PIECES pieces, for long sequences with few channels. It
   works everything out twice, so it pays only where processors stand idle otherwise: see --bench.
   The same to rounding, and the same bits for any number of threads. */
void selective_scan_in_time(float *y, float *x_last, const Scan *scan)
{
    if (scan->d_state > SCAN_MAX_STATE) {
        selective_scan(y, x_last, scan);
        return;
    }
    size_t states = scan->d_inner * scan->d_state, pieces = scan->batch * TIME_PIECES;
    float *x = NEW(float, pieces *states), *a = NEW(float, pieces *states);
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static))
    for (size_t p = 0; p < pieces; p++) {
        size_t b = p / TIME_PIECES, k = p % TIME_PIECES;
        Scan piece = scan_piece(scan, b, piece_start(k, scan->len), piece_start(k + 1, scan->len));
        if (k + 1 < TIME_PIECES)
            piece_summary(x + p * states, a + p * states, &piece, &table);
    }
    for (size_t i = 0; i < scan->batch * states; i++) { /* the ends become the starts */
        float now = scan->x_start == NULL ? 0.0f : scan->x_start[i];
        for (size_t k = 0; k < TIME_PIECES; k++) {
            size_t at = (i / states * TIME_PIECES + k) * states + i % states;
            float end = a[at] * now + x[at];
            x[at] = now;
            now = end;
        }
    }
    PARALLEL_FOR(schedule(static))
    for (size_t p = 0; p < pieces; p++) {
        size_t b = p / TIME_PIECES, k = p % TIME_PIECES, start = piece_start(k, scan->len);
        Scan piece = scan_piece(scan, b, start, piece_start(k + 1, scan->len));
        bool last = k + 1 == TIME_PIECES && x_last != NULL;
        piece.x_start = x + p * states;
        selective_scan_fast(y + (b * scan->len + start) * scan->d_inner,
                            last ? x_last + b * states : NULL, &piece);
    }
    free(x);
    free(a);
}

/* ======================================= The demos ========================================= */

/* The story and the cues of data/, for a program that is run anywhere. */
static const char built_in_cues[] =
    "science: refraction, prism, droplets, dispersion, spectrum, wavelength, 42 degrees\n"
    "folklore: leprechaun, pot of gold, fairies, bridge of the gods, enchanted, wishes\n"
    "turn science: a scientist explained, the teacher drew, in the laboratory\n"
    "turn folklore: grandmother told, once upon a time, the old legend\n";

static const char built_in_story[] =
    "Once upon a time, after the rain, a leprechaun hid his pot of gold where the rainbow touched "
    "the meadow. The children walked home slowly past the old mill and the quiet river, and it was "
    "nearly evening. At the gate a scientist explained what they had seen: sunlight enters the "
    "droplets, and by refraction and dispersion each colour leaves on a path of its own. Then they "
    "went in to supper.\n";

/* A text as the readers want it: malloc'ed, its own. */
static char *text_copy(const char *text)
{
    char *copy = NEW(char, strlen(text) + 1);
    memcpy(copy, text, strlen(text) + 1);
    return copy;
}

static bool cues_open(Cues *cues, const char *path, Error *error)
{
    return path != NULL ? cues_read(cues, path, error)
                        : cues_parse(cues, text_copy(built_in_cues), strlen(built_in_cues),
                                     "the built-in cues", error);
}

static bool story_open(Story *story, const char *path, Error *error)
{
    return path != NULL ? story_read(story, path, error)
                        : story_parse(story, text_copy(built_in_story), strlen(built_in_story),
                                      "the built-in story", error);
}

/* A word for the terminal: no control characters, at most `most` of the others. */
static void print_word(const char *word, size_t most)
{
    char shown[128];
    size_t len = 0, wide = 0;
    for (; *word != '\0' && len + 4 < sizeof shown; word++) {
        bool inside = ((unsigned char)*word & 0xC0) == 0x80;
        if (!inside && wide == most)
            break;
        wide += !inside;
        shown[len++] = iscntrl((unsigned char)*word) ? '?' : *word;
    }
    shown[len] = '\0';
    text_pad(stdout, shown, -(int)most);
}

static void print_bar(double value, double most, int width, const Look *look)
{
    double share = fmin(1.0, fmax(0.0, value / most));
    int full = (int)lrint(share * width);
    for (int i = 0; i < width; i++)
        fputs(i < full ? (look->ascii ? "#" : "█") : look->ascii ? "." : "·", stdout);
}

static const char *reading_name(const Cues *cues, const float *x)
{
    size_t reading = story_reading(x, cues->n_context);
    return reading == cues->n_context ? "?" : cues->context[reading];
}

/* Rounded to so many parts of 1, and no negative 0. */
static double rounded_to(double value, double parts)
{
    double rounded = round(value * parts) / parts;
    return rounded == 0.0 ? 0.0 : rounded;
}

/* All states of a story's scan: x (n_word, n_context). C = 1, so y is x. */
static float *story_states(const Wiring *wiring)
{
    float *x = NEW(float, wiring->scan.len * wiring->scan.d_inner);
    selective_scan(x, NULL, &wiring->scan);
    return x;
}

static void print_story_head(const Cues *cues, double step)
{
    printf("%-14s %-18s", "word", "Delta");
    for (size_t d = 0; d < cues->n_context; d++)
        printf(" %8.8s", cues->context[d]);
    printf("  %-9s |", "reading");
    for (size_t d = 0; d < cues->n_context; d++)
        printf(" %8.8s", cues->context[d]);
    printf("  reading, Delta = %g\n", step);
}

static void print_story_word(const char *word, float delta, const float *x, const float *blurred,
                             const Cues *cues, const Look *look)
{
    print_word(word, 14);
    printf(" %4.2f ", rounded_to((double)delta, 100.0));
    print_bar((double)delta, 6.0, 12, look);
    for (size_t d = 0; d < cues->n_context; d++)
        printf(" %8.2f", rounded_to((double)x[d], 100.0));
    printf("  %-9.9s |", reading_name(cues, x));
    for (size_t d = 0; d < cues->n_context; d++)
        printf(" %8.2f", rounded_to((double)blurred[d], 100.0));
    printf("  %.9s\n", reading_name(cues, blurred));
}

/* The widest open gate of a token. */
static float largest_step(const Wiring *wiring, size_t t)
{
    float largest = 0.0f;
    for (size_t d = 0; d < wiring->scan.d_inner; d++)
        largest = fmaxf(largest, step_size(&wiring->scan, t, d));
    return largest;
}

#define STORY_CELL 16.0
#define STORY_LEFT 90.0

/* How dark a cell is drawn: white at 0, the colour at the most. */
static void svg_cell(FILE *out, double x, double y, double size, double share)
{
    int red = (int)lrint(255.0 - share * 255.0), green = (int)lrint(255.0 - share * 141.0);
    fprintf(out,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#%02x%02x%02x\" "
            "stroke=\"#ddd\"/>\n",
            x, y, size, size, red, green, (int)lrint(255.0 - share * 77.0));
}

/* One band of the heat map: a row of cells for each context, values[t * n_context + d] from 0 to
   1. */
static void svg_band(FILE *out, double top, const char *title, const float *values,
                     const Cues *cues, size_t words)
{
    svg_text(out, STORY_LEFT, top - 8.0, "", title);
    for (size_t d = 0; d < cues->n_context; d++) {
        double y = top + (double)d * STORY_CELL;
        svg_text(out, STORY_LEFT - 8.0, y + 12.0, "text-anchor=\"end\"", cues->context[d]);
        for (size_t t = 0; t < words; t++)
            svg_cell(out, STORY_LEFT + (double)t * STORY_CELL, y, STORY_CELL,
                     fmin(1.0, fmax(0.0, (double)values[t * cues->n_context + d])));
    }
}

/* Delta of every word and context, and under it what both systems hold: a heat map. */
static void svg_story(FILE *out, const Story *story, const Cues *cues, const Wiring *wiring,
                      const float *x, const float *blurred)
{
    size_t words = smaller(story->n_word, 200), n = cues->n_context;
    double high = (double)n * STORY_CELL + 30.0, names = 3.0 * high + 14.0;
    float *share = NEW(float, words *n);
    for (size_t i = 0; i < words * n; i++)
        share[i] = sqrtf(step_size(&wiring->scan, i / n, i % n) / RAW_TURN);
    svg_open(out, STORY_LEFT + (double)words * STORY_CELL + 20.0, names + 90.0);
    svg_band(out, 26.0, "Delta: how far each word moves each context", share, cues, words);
    svg_band(out, 26.0 + high, "x: what the contexts hold after it", x, cues, words);
    svg_band(out, 26.0 + 2.0 * high, "x, if Delta is the same for all words", blurred, cues, words);
    for (size_t t = 0; t < words; t++) {
        char style[128];
        double at = STORY_LEFT + ((double)t + 0.7) * STORY_CELL;
        snprintf(style, sizeof style,
                 "font-size=\"11\" text-anchor=\"end\" transform=\"rotate(-60 %.1f %.1f)\"", at,
                 names);
        svg_text(out, at, names, style, story->word[t]);
    }
    svg_close(out);
    free(share);
}

/* The story word by word, through the selective system and through one that cannot choose. */
static bool show_story(const Story *story, const Cues *cues, double step, const Look *look,
                       const char *svg, Error *error)
{
    OutFile out;
    Wiring wiring = story_wire(story, cues), constant = story_wire(story, cues);
    wire_constant(&constant, (float)step);
    float *x = story_states(&wiring), *blurred = story_states(&constant);
    size_t last = (story->n_word - 1) * cues->n_context;
    puts("A story, word by word: the selective system, and the same with one step for all words\n");
    print_story_head(cues, step);
    for (size_t t = 0; t < story->n_word; t++)
        print_story_word(story->word[t], largest_step(&wiring, t), x + t * cues->n_context,
                         blurred + t * cues->n_context, cues, look);
    printf("\nAt the end the selective system answers from: %s. The other one from: %s.\n",
           reading_name(cues, x + last), reading_name(cues, blurred + last));
    bool ok = svg == NULL || out_open(&out, svg, error);
    if (ok && svg != NULL) {
        svg_story(out.stream, story, cues, &wiring, x, blurred);
        ok = out_close(&out, error);
    }
    wiring_free(&wiring);
    wiring_free(&constant);
    free(x);
    free(blurred);
    return ok;
}

/* ---- how long a context lasts ---- */

enum { FILLER_LOOKS = 11, FILLER_STORIES = 400, FILLER_MOST = 1000 };

/* x of two contexts after a cue of the first and `fillers` words of noise, by a step that is
   constant, or, if it is 0, selective. */
static void filler_story(float x[2], size_t fillers, float step, Random *random)
{
    static const char *const phrase[1] = {"prism"};
    Cue cue = {{phrase[0], NULL, NULL, NULL}, 1, 0, 1, false};
    Wiring wiring = wiring_new(fillers + 1, 2);
    float *y = NEW(float, 2 * (fillers + 1));
    wire_word(&wiring, 0, &cue, phrase[0]);
    for (size_t t = 1; t <= fillers; t++) {
        wire_word(&wiring, t, NULL, "");
        for (size_t d = 0; d < 2; d++)
            wiring.u[2 * t + d] = (float)(random_uniform(random) - 0.5);
    }
    if (step > 0.0f)
        wire_constant(&wiring, step);
    selective_scan(y, x, &wiring.scan);
    wiring_free(&wiring);
    free(y);
}

/* The mean margin of the right context over the other, and how often it is the larger. */
static void filler_measure(double *margin, double *right, size_t fillers, float step, uint64_t seed)
{
    Random random = random_from_seed(seed);
    *margin = *right = 0.0;
    for (size_t k = 0; k < FILLER_STORIES; k++) {
        float x[2];
        filler_story(x, fillers, step, &random);
        *margin += (double)(x[0] - x[1]) / FILLER_STORIES;
        *right += (x[0] > x[1] ? 1.0 : 0.0) / FILLER_STORIES;
    }
}

static bool demo_fillers(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    static const size_t fillers[FILLER_LOOKS] = {0,  1,   2,   5,   10,         20,
                                                 50, 100, 200, 500, FILLER_MOST};
    static const float steps[4] = {0.0f, 0.3f, 0.1f, 0.01f};
    static const char *const names[4] = {"selective", "Delta = 0.3", "Delta = 0.1", "Delta = 0.01"};
    double at[FILLER_LOOKS], margin[4][FILLER_LOOKS], right[4][FILLER_LOOKS];
    puts("One cue, then filler words: the margin of the right context (mean of 400 stories), and\n"
         "how often it is the larger one\n");
    printf("  fillers");
    for (int k = 0; k < 4; k++)
        printf("  %16s", names[k]);
    putchar('\n');
    for (size_t i = 0; i < FILLER_LOOKS; i++) {
        at[i] = (double)fillers[i];
        printf("  %7zu", fillers[i]);
        for (int k = 0; k < 4; k++) {
            filler_measure(&margin[k][i], &right[k][i], fillers[i], steps[k], seed + i);
            printf("  %9.3f %5.1f%%", rounded_to(margin[k][i], 1000.0), 100.0 * right[k][i]);
        }
        putchar('\n');
    }
    Chart chart = chart_new("What filler words leave of the margin", "filler words",
                            "share of the margin without any");
    chart.log_x = true;
    for (int k = 0; k < 4; k++) {
        for (size_t i = FILLER_LOOKS; i-- > 0;)
            margin[k][i] /= margin[k][0];
        chart_add(&chart, names[k], MARK_LINE, at + 1, margin[k] + 1, FILLER_LOOKS - 1);
    }
    return show_chart(&chart, look, svg, error);
}

static bool demo_copying(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    enum { LOOKS_COPYING = 9, TASKS = 200 };
    static const size_t noise[LOOKS_COPYING] = {0, 1, 4, 16, 64, 256, 1024, 4096, 16384};
    static const char *const names[3] = {"selective", "halving", "keeping"};
    double at[LOOKS_COPYING], score[3][LOOKS_COPYING];
    puts("Selective copying: 16 symbols of 16 kinds among noise, given back in order. Symbols "
         "right\n"
         "(1 in 16 by chance) for the selective system and two that treat all tokens alike\n");
    printf("  %8s %10s %10s %10s\n", "noise", names[0], names[1], names[2]);
    for (size_t i = 0; i < LOOKS_COPYING; i++) {
        at[i] = (double)noise[i];
        size_t tasks = noise[i] > 256 ? TASKS / 10 : TASKS;
        for (int way = 0; way < 3; way++)
            score[way][i] = copying_score(noise[i], tasks, (CopyWay)way, random_from_seed(seed));
        printf("  %8zu %9.1f%% %9.1f%% %9.1f%%\n", noise[i], 100.0 * score[0][i],
               100.0 * score[1][i], 100.0 * score[2][i]);
    }
    Chart chart = chart_new("Selective copying", "noise tokens", "symbols right");
    chart.log_x = true;
    for (int way = 0; way < 3; way++)
        chart_add(&chart, names[way], MARK_LINE, at + 1, score[way] + 1, LOOKS_COPYING - 1);
    return show_chart(&chart, look, svg, error);
}

/* Theorem 1: with A = -1, one state and the exact hold, the scan is a gate between old and new. */
static bool demo_theorem(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    enum { LEN = 7 };
    static const float raw[LEN] = {-8, -2, 0, 2, 8, -4, 1};
    Random random = random_from_seed(seed);
    Wiring wiring = wiring_new(LEN, 1);
    float y[LEN], x = 0.0f, worst = 0.0f;
    (void)look, (void)svg, (void)error;
    for (size_t t = 0; t < LEN; t++) {
        wiring.delta[t] = raw[t];
        wiring.u[t] = (float)(round(random_normal(&random) * 8.0) / 8.0);
        wiring.B[t] = hold_B(softplus(raw[t]));
    }
    selective_scan(y, NULL, &wiring.scan);
    puts("Theorem 1 of the Mamba paper: A = -1, one state, exact hold. Delta = softplus(s), and\n"
         "g = 1 - exp(-Delta) = sigmoid(s) is a gate: x = (1 - g) x + g u\n");
    puts("        s    Delta        g        u     gate     scan");
    for (size_t t = 0; t < LEN; t++) {
        float g = sigmoid(raw[t]);
        x = (1.0f - g) * x + g * wiring.u[t];
        worst = fmaxf(worst, fabsf(x - y[t]));
        printf("  %7.1f %8.4f %8.4f %8.3f %8.4f %8.4f\n", (double)raw[t], (double)softplus(raw[t]),
               (double)g, (double)wiring.u[t], (double)x, (double)y[t]);
    }
    printf("\nThe last two agree to 1e-6: %s.\n", worst <= 1e-6f ? "yes" : "no");
    wiring_free(&wiring);
    return true;
}

/* ---- the tree ---- */

enum { TREE_LEN = 8 };

static void print_pairs(const char *what, const ScanPair *pair, const bool *changed)
{
    printf("%-14s", what);
    for (size_t t = 0; t < TREE_LEN; t++) {
        char text[32];
        snprintf(text, sizeof text, "%g,%g%s", (double)pair[t].a, (double)pair[t].b,
                 changed[t] ? "*" : "");
        printf(" %12s", text);
    }
    putchar('\n');
}

/* The tree of eight steps in characters: who is joined with whom, going up. */
static void print_tree(const Look *look)
{
    static const char *const lines[2][6] = {
        {"   1    2    3    4    5    6    7    8      eight steps",
         "   └─┬──┘    └─┬──┘    └─┬──┘    └─┬──┘      round 1: neighbours",
         "    12        34        56        78",
         "     └───┬─────┘         └───┬─────┘       round 2: twos",
         "       1234                5678",
         "         └─────────┬─────────┘             round 3: 12345678"},
        {"   1    2    3    4    5    6    7    8      eight steps",
         "   +-+--+    +-+--+    +-+--+    +-+--+      round 1: neighbours",
         "    12        34        56        78",
         "     +---+-----+         +---+-----+       round 2: twos",
         "       1234                5678",
         "         +---------+---------+             round 3: 12345678"}};
    for (int i = 0; i < 6; i++)
        puts(lines[look->ascii][i]);
}

/* One round of Hillis and Steele on pair, which print what changed. */
static void trace_hillis_steele(const ScanPair *in)
{
    ScanPair now[TREE_LEN], next[TREE_LEN];
    bool changed[TREE_LEN] = {false};
    memcpy(now, in, sizeof now);
    puts("\nHillis and Steele: everyone joins the one 1, 2, 4 places before (* changed)");
    print_pairs("given", now, changed);
    for (size_t reach = 1; reach < TREE_LEN; reach *= 2) {
        char name[32];
        for (size_t t = 0; t < TREE_LEN; t++) {
            changed[t] = t >= reach;
            next[t] = changed[t] ? scan_join(now[t - reach], now[t]) : now[t];
        }
        memcpy(now, next, sizeof now);
        snprintf(name, sizeof name, "from %zu before", reach);
        print_pairs(name, now, changed);
    }
}

static void trace_blelloch(const ScanPair *in)
{
    ScanPair tree[TREE_LEN], before[TREE_LEN];
    bool changed[TREE_LEN];
    memcpy(tree, in, sizeof tree);
    puts("\nBlelloch: up the tree, then down again with what came before");
    for (size_t width = 1; width < TREE_LEN; width *= 2) {
        char name[32];
        for (size_t t = 0; t < TREE_LEN; t++)
            changed[t] = (t + 1) % (2 * width) == 0;
        for (size_t t = 2 * width - 1; t < TREE_LEN; t += 2 * width)
            tree[t] = scan_join(tree[t - width], tree[t]);
        snprintf(name, sizeof name, "up, by %zu", 2 * width);
        print_pairs(name, tree, changed);
    }
    sweep_down(tree, TREE_LEN);
    memset(changed, 1, sizeof changed);
    print_pairs("down: before", tree, changed);
    for (size_t t = 0; t < TREE_LEN; t++)
        before[t] = scan_join(tree[t], in[t]);
    print_pairs("and with itself", before, changed);
}

/* One node of the drawn tree and the lines to the two below it. */
static void svg_node(FILE *out, size_t first, size_t last, double level)
{
    char text[16];
    double x = 60.0 + 74.0 * ((double)(first + last) / 2.0 - 1.0), y = 50.0 + 70.0 * level;
    double reach = 74.0 * (double)(last - first + 1) / 4.0;
    if (first < last)
        for (int side = -1; side <= 1; side += 2)
            fprintf(out,
                    "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#888\"/>\n",
                    x + side * reach, y - 70.0, x, y);
    fprintf(out,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"23\" fill=\"white\" stroke=\"%s\" "
            "stroke-width=\"2\"/>\n",
            x, y, first == 1 ? "#0072B2" : "#888");
    snprintf(text, sizeof text, first == last ? "%zu" : "%zu–%zu", first, last);
    svg_text(out, x, y + 5.0, "text-anchor=\"middle\"", text);
}

/* The up-sweep as a picture: level by level, from the leaves at the top to the root. */
static void svg_tree(FILE *out)
{
    svg_open(out, 640, 310);
    for (size_t width = 8, level = 3; width >= 1; width /= 2, level--)
        for (size_t first = 1; first <= TREE_LEN; first += width)
            svg_node(out, first, first + width - 1, (double)level);
    svg_text(out, 16, 300, "fill=\"#0072B2\"",
             "blue: joined from the first step on, so its b is a state x");
    svg_close(out);
}

static bool demo_trace(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    ScanPair in[TREE_LEN], loop[TREE_LEN], tree[TREE_LEN];
    bool unchanged[TREE_LEN] = {false};
    OutFile out;
    (void)seed;
    for (size_t t = 0; t < TREE_LEN; t++) {
        in[t].a = t == 4 ? 0.0f : 0.5f;
        in[t].b = (float)(t + 1);
    }
    puts("x_t = a_t x_{t-1} + b_t for eight steps, as pairs a,b. Step 5 has a = 0: a reset\n");
    print_tree(look);
    scan_pairs(loop, in, TREE_LEN);
    scan_pairs_blelloch(tree, in, TREE_LEN);
    puts("\nThe loop: seven joins, one after the other. Its b are the states");
    print_pairs("loop", loop, unchanged);
    trace_hillis_steele(in);
    trace_blelloch(in);
    bool same = true;
    for (size_t t = 0; t < TREE_LEN; t++)
        same = same && loop[t].a == tree[t].a && loop[t].b == tree[t].b;
    printf("\nAll give the same states: %s.\n", same ? "yes" : "no");
    if (svg == NULL)
        return true;
    if (!out_open(&out, svg, error))
        return false;
    svg_tree(out.stream);
    return out_close(&out, error);
}

/* The short cut that does not work: with P_t = a_1 ... a_t, x_t = P_t (b_1/P_1 + ... + b_t/P_t). */
static bool demo_division(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    enum { LEN = 200 };
    float a = 0.5f, P = 1.0f, sum = 0.0f, x = 0.0f;
    (void)look, (void)svg, (void)seed, (void)error;
    puts(
        "A short cut that does not work: divide by the product of all a so far, and it is a plain\n"
        "sum. a = 1/2 and b = 1 throughout, in float:\n");
    puts("  step      loop   product so far   by division");
    for (size_t t = 1; t <= LEN; t++) {
        x = a * x + 1.0f;
        P *= a;
        sum += 1.0f / P;
        if (t == 1 || t == 10 || t == 100 || t == 126 || t == 128 || t == 149 || t == 150)
            printf("  %4zu  %8.4f %16.4g %13.4g\n", t, (double)x, (double)P,
                   fabs((double)(P * sum))); /* a NaN without its sign */
    }
    puts("\nThe product leaves the range of floats while the state is as lively as ever; with a "
         "single\n"
         "a = 0 it is 0 at once. Logarithms do not save it: log 0, and the log of a negative a.");
    return true;
}

/* Chapter 1's forecast: a channel for each weather, a state for each eigenvalue of P. */
static bool demo_thread(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    enum { DAYS = 5 };
    static const float A[4] = {0.0f, -0.916290732f, 0.0f, -0.916290732f}; /* log 1, log 0.4 */
    static const float x_start[4] = {2.0f / 3, -1.0f / 6, 1.0f / 3, 1.0f / 6};
    float u[2 * DAYS] = {0}, delta[2 * DAYS], ones[2 * DAYS], y[2 * DAYS];
    (void)look, (void)svg, (void)seed, (void)error;
    for (size_t i = 0; i < 2 * DAYS; i++) {
        delta[i] = i < 2 ? 0.0f : 1.0f; /* no time passes before day 0 */
        ones[i] = 1.0f;
    }
    Scan scan = {1, DAYS, 2, 2, u, delta, NULL, A, ones, ones, NULL, NULL, x_start, NULL, false};
    selective_scan(y, NULL, &scan);
    puts("The thread: chapter 1's forecast as a selective scan in which nothing is selected. Delta "
         "=\n"
         "one day, A = (log 1, log 0.4), a channel for each weather\n");
    puts("   day    sunny    rainy");
    for (size_t t = 0; t < DAYS; t++)
        printf("  %4zu   %.4f   %.4f\n", t, (double)y[2 * t], (double)y[2 * t + 1]);
    return true;
}

/* ===================================== Measurements ======================================== */

static int by_size(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;
    return difference < 0.0 ? -1 : difference > 0.0;
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_size);
    return values[count / 2];
}

/* A scan of random numbers, as a trained layer might meet them; everything optional is there. */
typedef struct {
    Scan scan;
    float *memory, *y, *y_grad, *work;
    ScanGrad grad;
} BenchScan;

static float *bench_fill(float **next, size_t count, double low, double high, Random *random)
{
    float *values = *next;
    *next += (count + LANES - 1) / LANES * LANES; /* so that every array starts on a vector */
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(low + (high - low) * random_uniform(random));
    return values;
}

static BenchScan bench_scan_new(size_t batch, size_t len, size_t d_inner, size_t d_state)
{
    BenchScan bench;
    Random random = random_from_seed(1);
    size_t wide = batch * len * d_inner, shared = batch * len * d_state, A = d_inner * d_state;
    memset(&bench, 0, sizeof bench);
    Scan *scan = &bench.scan;
    scan->batch = batch;
    scan->len = len;
    scan->d_inner = d_inner;
    scan->d_state = d_state;
    size_t checkpoint = selective_scan_checkpoint_floats(scan);
    size_t count = 8 * wide + 4 * shared + (3 + batch) * A + 4 * d_inner + checkpoint;
    bench.memory = NEW(float, count + 20 * LANES);
    float *next = bench.memory + (-(uintptr_t)bench.memory % sizeof(Lanes)) / sizeof(float);
    scan->u = bench_fill(&next, wide, -1, 1, &random);
    scan->delta = bench_fill(&next, wide, -4, 1, &random);
    scan->z = bench_fill(&next, wide, -2, 2, &random);
    scan->B = bench_fill(&next, shared, -1, 1, &random);
    scan->C = bench_fill(&next, shared, -1, 1, &random);
    scan->A = bench_fill(&next, A, -(double)d_state, -0.5, &random);
    scan->delta_bias = bench_fill(&next, d_inner, -1, 0, &random);
    scan->D = bench_fill(&next, d_inner, 0, 1, &random);
    scan->delta_softplus = true;
    bench.y_grad = bench_fill(&next, wide, -1, 1, &random);
    bench.y = bench_fill(&next, wide, 0, 0, &random);
    bench.grad.u = bench_fill(&next, wide, 0, 0, &random);
    bench.grad.delta = bench_fill(&next, wide, 0, 0, &random);
    bench.grad.z = bench_fill(&next, wide, 0, 0, &random);
    bench.grad.B = bench_fill(&next, shared, 0, 0, &random);
    bench.grad.C = bench_fill(&next, shared, 0, 0, &random);
    bench.grad.A = bench_fill(&next, A, 0, 0, &random);
    bench.grad.x_start = bench_fill(&next, batch * A, 0, 0, &random);
    bench.grad.delta_bias = bench_fill(&next, d_inner, 0, 0, &random);
    bench.grad.D = bench_fill(&next, d_inner, 0, 0, &random);
    scan->checkpoint = bench_fill(&next, checkpoint, 0, 0, &random);
    bench.work = NEW(float, selective_scan_backward_floats(scan));
    return bench;
}

static void bench_scan_free(BenchScan *bench)
{
    free(bench->memory);
    free(bench->work);
}

typedef void ScanFunction(float *y, float *x_last, const Scan *scan);
typedef void ScanBackFunction(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                              const Scan *scan, float *work);

enum { BENCH_RUNS = 9 };

/* Median seconds of a forward pass. */
static double time_forward(ScanFunction *function, BenchScan *bench, int runs)
{
    double seconds[BENCH_RUNS] = {0};
    for (int i = 0; i < runs; i++) {
        double start = seconds_now();
        function(bench->y, NULL, &bench->scan);
        seconds[i] = seconds_now() - start;
    }
    return median(seconds, (size_t)runs);
}

static double time_backward(ScanBackFunction *function, BenchScan *bench, int runs)
{
    double seconds[BENCH_RUNS] = {0};
    for (int i = 0; i < runs; i++) {
        double start = seconds_now();
        function(&bench->grad, bench->y_grad, NULL, &bench->scan, bench->work);
        seconds[i] = seconds_now() - start;
    }
    return median(seconds, (size_t)runs);
}

/* What this machine can do at most, one processor. */
typedef struct {
    double read;         /* bytes a second from memory */
    double exponentials; /* a second, by exp2_product in the nearest cache */
} Ceilings;

static double measure_read(void)
{
    enum { MIB = 256, WIDE = 8 };
    size_t count = (size_t)MIB * 1024 * 1024 / sizeof(Lanes);
    Lanes *memory = (Lanes *)aligned_alloc(64, count * sizeof(Lanes)), sum[WIDE] = {{0}};
    double seconds[5];
    if (memory == NULL)
        return 0.0;
    memset(memory, 0, count * sizeof(Lanes));
    for (int run = 0; run < 5; run++) {
        double start = seconds_now();
        for (size_t i = 0; i < count; i += WIDE)
            for (size_t k = 0; k < WIDE; k++)
                sum[k] += memory[i + k];
        seconds[run] = seconds_now() - start;
    }
    for (size_t k = 1; k < WIDE; k++)
        sum[0] += sum[k];
    double bytes = (double)count * sizeof(Lanes);
    seconds[0] += lanes_sum(sum[0]) == 1.0f ? 1.0 : 0.0; /* the sum is wanted, so it is made */
    free(memory);
    return bytes / median(seconds, 5);
}

static double measure_exponentials(void)
{
    enum { VECTORS = 64, ROUNDS = 20000 };
    Lanes in[VECTORS], out[VECTORS];
    const ExpTable table = exp_table();
    double seconds[5];
    for (int i = 0; i < VECTORS; i++)
        in[i] = lanes_all(-0.1f * (float)i);
    for (int run = 0; run < 5; run++) {
        double start = seconds_now();
        for (int round = 0; round < ROUNDS; round++) {
            for (int i = 0; i < VECTORS; i++)
                out[i] = exp2_product(in[i], lanes_all(1.442695f), table);
            __asm__ volatile("" : : "r"(out) : "memory");
        }
        seconds[run] = seconds_now() - start;
    }
    return (double)VECTORS * ROUNDS * LANES / median(seconds, 5);
}

static Ceilings measure_ceilings(void)
{
    Ceilings ceilings = {measure_read(), measure_exponentials()};
    return ceilings;
}

/* Seconds below which no forward pass can be on one processor: u, delta, z in and y out once, or an
   exponential for every state and two for every token and channel. */
static void scan_floors(double *memory, double *exponentials, const Scan *scan,
                        const Ceilings *ceilings)
{
    double wide = (double)(scan->batch * scan->len * scan->d_inner);
    *memory = 4.0 * wide * sizeof(float) / ceilings->read;
    *exponentials = wide * (double)(scan->d_state + 2) / ceilings->exponentials;
}

static void bench_table(BenchScan *bench, const Ceilings *ceilings)
{
    const Scan *scan = &bench->scan;
    double memory, exponentials;
    int threads = threads_most();
    float *checkpoint = scan->checkpoint;
    scan_floors(&memory, &exponentials, scan, ceilings);
    printf("\nbatch %zu, len %zu, d_inner %zu, d_state %zu\n", scan->batch, scan->len,
           scan->d_inner, scan->d_state);
    printf("  floor, memory:       %8.2f ms (%.1f GB/s read)\n", 1e3 * memory,
           1e-9 * ceilings->read);
    printf("  floor, exponentials: %8.2f ms (%.2f a nanosecond)\n", 1e3 * exponentials,
           1e-9 * ceilings->exponentials);
    double floor = fmax(memory, exponentials);
    threads_use(1);
    double clear = time_forward(selective_scan, bench, 3);
    bench->scan.checkpoint = NULL;
    double fast = time_forward(selective_scan_fast, bench, BENCH_RUNS);
    bench->scan.checkpoint = checkpoint;
    double keeping = time_forward(selective_scan_fast, bench, BENCH_RUNS);
    double clear_back = time_backward(selective_scan_backward, bench, 1);
    double fast_back = time_backward(selective_scan_backward_fast, bench, BENCH_RUNS);
    threads_use(threads);
    double all = time_forward(selective_scan_fast, bench, BENCH_RUNS);
    double all_back = time_backward(selective_scan_backward_fast, bench, BENCH_RUNS);
    printf("  forward, clear:      %8.2f ms\n", 1e3 * clear);
    printf("  forward, fast:       %8.2f ms   1/%.1f of clear, %.2f times the larger floor\n",
           1e3 * fast, clear / fast, fast / floor);
    printf("    on %2d threads:     %8.2f ms   1/%.2f of one\n", threads, 1e3 * all, keeping / all);
    printf("    with checkpoints:  %8.2f ms\n", 1e3 * keeping);
    printf("  backward, clear:     %8.2f ms\n", 1e3 * clear_back);
    printf("  backward, fast:      %8.2f ms   1/%.1f of clear, %.2f times the fast forward\n",
           1e3 * fast_back, clear_back / fast_back, fast_back / fast);
    printf("    on %2d threads:     %8.2f ms   1/%.2f of one\n", threads, 1e3 * all_back,
           fast_back / all_back);
}

/* Which parallelism pays: the same amount of work in different shapes. */
static void bench_parallel(void)
{
    static const size_t shape[5][3] = {
        {1, 512, 1536}, {16, 512, 96}, {1, 8192, 96}, {1, 49152, 16}, {1, 786432, 1}};
    int threads = threads_most();
    printf(
        "\nThe same work in different shapes, d_state 16: one thread over channels, then %d over\n"
        "channels and batch, over pieces of time; milliseconds\n\n",
        threads);
    puts("  batch     len  d_inner   one thread   channels   time");
    for (int k = 0; k < 5; k++) {
        BenchScan bench = bench_scan_new(shape[k][0], shape[k][1], shape[k][2], 16);
        bench.scan.checkpoint = NULL;
        threads_use(1);
        double one = time_forward(selective_scan_fast, &bench, 5);
        threads_use(threads);
        double channels = time_forward(selective_scan_fast, &bench, 5);
        double time = time_forward(selective_scan_in_time, &bench, 5);
        printf("  %5zu %7zu %8zu %12.2f %10.2f %6.2f\n", shape[k][0], shape[k][1], shape[k][2],
               1e3 * one, 1e3 * channels, 1e3 * time);
        bench_scan_free(&bench);
    }
}

static bool demo_scan_bench(const Look *look, const char *svg, Error *error)
{
    enum { LENGTHS = 6 };
    double len[LENGTHS], clear[LENGTHS], fast[LENGTHS], floors[LENGTHS];
    Progress progress = progress_start("measuring");
    Ceilings ceilings = measure_ceilings();
    progress_show(&progress, 0.1, 1.0);
    BenchScan large = bench_scan_new(1, 2048, 1536, 16);
    printf("The selective scan on this machine: %d numbers to a vector\n", LANES);
    bench_table(&large, &ceilings);
    bench_scan_free(&large);
    progress_show(&progress, 0.5, 1.0);
    bench_parallel();
    threads_use(1);
    for (size_t i = 0; i < LENGTHS; i++) {
        double memory, exponentials;
        BenchScan bench = bench_scan_new(1, (size_t)64 << i, 1536, 16);
        bench.scan.checkpoint = NULL;
        scan_floors(&memory, &exponentials, &bench.scan, &ceilings);
        len[i] = (double)bench.scan.len;
        clear[i] = 1e3 * time_forward(selective_scan, &bench, 3);
        fast[i] = 1e3 * time_forward(selective_scan_fast, &bench, BENCH_RUNS);
        floors[i] = 1e3 * fmax(memory, exponentials);
        bench_scan_free(&bench);
        progress_show(&progress, 0.6 + 0.06 * (double)i, 1.0);
    }
    progress_end(&progress);
    Chart chart = chart_new("d_inner 1536, d_state 16, one thread", "tokens", "milliseconds");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "clear", MARK_LINE, len, clear, LENGTHS);
    chart_add(&chart, "fast", MARK_LINE, len, fast, LENGTHS);
    chart_add(&chart, "floor", MARK_LINE, len, floors, LENGTHS);
    return show_chart(&chart, look, svg, error);
}

/* ======================================= Options =========================================== */

typedef struct {
    const char *story, *cues, *demo, *svg;
    double step; /* of the system that cannot choose */
    uint64_t seed;
    bool bench, ascii;
} SelectiveOptions;

static void selective_usage(FILE *out)
{
    fputs("usage: ch04_selective [--story FILE] [--cues FILE] [--step DELTA]\n"
          "       ch04_selective --demo story|fillers|copying|theorem|trace|division|weather "
          "[--seed S]\n"
          "       ch04_selective --trace | --bench\n"
          "       each with [--svg FILE] [--ascii] [--help]\n",
          out);
}

static void selective_help(void)
{
    selective_usage(stdout);
    fputs("\nSelection and the scan (chapter 4). Without options: the lesson's demos in order.\n\n"
          "  --story FILE  a story of your own, any text, word by word\n"
          "  --cues FILE   the words that open a context, as in data/cues.txt\n"
          "  --step DELTA  the step of the system that cannot choose (default 0.1)\n"
          "  --demo NAME   one demo; with --svg its figure\n"
          "  --trace       the scan in parallel, on eight steps (the same as --demo trace)\n"
          "  --seed S      seed of what is random in a demo (default 1)\n"
          "  --bench       clear against fast, and both against what this machine can do\n"
          "  --svg FILE    write the figure as SVG\n"
          "  --ascii       draw without Unicode\n",
          stdout);
}

static bool constant_step_parse(double *step, const char *text, Error *error)
{
    Error why;
    double value;
    if (!number_parse(&value, text, &why))
        return fail(error, "--step: %s", why.text);
    if (!(value >= 1e-6 && value <= 100.0))
        return fail(error, "--step: %g is not from 0.000001 to 100", value);
    *step = value;
    return true;
}

/* What excludes what. */
static bool selective_options_fit(const SelectiveOptions *options, Error *error)
{
    bool own = options->story != NULL || options->cues != NULL;
    if (own + options->bench + (options->demo != NULL) > 1)
        return fail(error, "--story or --cues, --demo (or --trace) and --bench exclude each other");
    if (options->svg != NULL && !own && !options->bench && options->demo == NULL)
        return fail(error, "--svg needs --story, --cues, --demo, --trace or --bench");
    if (options->svg != NULL && options->demo != NULL &&
        (strcmp(options->demo, "theorem") == 0 || strcmp(options->demo, "division") == 0 ||
         strcmp(options->demo, "weather") == 0))
        return fail(error, "--svg: the demo '%s' has no figure", options->demo);
    return true;
}

/* Fills `options`; false with an error, or with an empty one if getopt has said what is wrong. */
static bool selective_options_parse(SelectiveOptions *options, int argc, char **argv, Error *error)
{
    static const struct option known[] = {
        {"story", 1, NULL, 's'}, {"cues", 1, NULL, 'c'},  {"step", 1, NULL, 't'},
        {"demo", 1, NULL, 'd'},  {"trace", 0, NULL, 'e'}, {"seed", 1, NULL, 'r'},
        {"bench", 0, NULL, 'b'}, {"svg", 1, NULL, 'v'},   {"ascii", 0, NULL, 'a'},
        {"help", 0, NULL, 'h'},  {NULL, 0, NULL, 0}};
    memset(options, 0, sizeof *options);
    options->step = 0.1;
    options->seed = 1;
    error->text[0] = '\0';
    bool ok = true;
    for (int code; ok && (code = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (code) {
        case 's': options->story = optarg; break;
        case 'c': options->cues = optarg; break;
        case 't': ok = constant_step_parse(&options->step, optarg, error); break;
        case 'd': options->demo = optarg; break;
        case 'e': options->demo = "trace"; break;
        case 'r': ok = option_integer(&options->seed, "seed", optarg, 0, UINT64_MAX, error); break;
        case 'b': options->bench = true; break;
        case 'v': options->svg = optarg; break;
        case 'a': options->ascii = true; break;
        case 'h': selective_help(); exit(0);
        default: return false;
        }
    }
    if (ok && optind < argc)
        return fail(error, "'%.40s' is not an option", argv[optind]);
    return ok && selective_options_fit(options, error);
}

static bool run_story(const SelectiveOptions *options, const Look *look, Error *error)
{
    Cues cues;
    Story story;
    if (!cues_open(&cues, options->cues, error))
        return false;
    if (!story_open(&story, options->story, error)) {
        cues_free(&cues);
        return false;
    }
    bool ok = show_story(&story, &cues, options->step, look, options->svg, error);
    story_free(&story);
    cues_free(&cues);
    return ok;
}

static bool run_demos(const SelectiveOptions *options, const Look *look, Error *error)
{
    static const char *const names[] = {"fillers", "copying",  "theorem",
                                        "trace",   "division", "weather"};
    bool (*const demos[])(const Look *, const char *, uint64_t, Error *) = {
        demo_fillers, demo_copying, demo_theorem, demo_trace, demo_division, demo_thread};
    bool found = options->demo == NULL || strcmp(options->demo, "story") == 0;
    bool ok = !found || run_story(options, look, error);
    for (size_t k = 0; ok && k < sizeof names / sizeof *names; k++) {
        if (options->demo != NULL && strcmp(options->demo, names[k]) != 0)
            continue;
        if (found)
            puts("\n");
        found = true;
        ok = demos[k](look, options->svg, options->seed, error);
    }
    return found ? ok
                 : fail(error,
                        "--demo: '%.40s' is none of story, fillers, copying, theorem, trace, "
                        "division, weather",
                        options->demo);
}

int selective_main(int argc, char **argv)
{
    SelectiveOptions options;
    Error error;
    if (!selective_options_parse(&options, argc, argv, &error)) {
        if (error.text[0])
            fprintf(stderr, "error: %s\n", error.text);
        selective_usage(stderr);
        return 2;
    }
    Look look = look_at_terminal(options.ascii);
    bool ok = options.bench ? demo_scan_bench(&look, options.svg, &error)
              : options.story != NULL || options.cues != NULL ? run_story(&options, &look, &error)
                                                              : run_demos(&options, &look, &error);
    fflush(stdout); /* what was said before the error comes before it */
    if (!ok)
        fprintf(stderr, "error: %s\n", error.text);
    return ok ? 0 : 1;
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return selective_main(argc, argv);
}
#endif

#endif /* CH04_SELECTIVE */
