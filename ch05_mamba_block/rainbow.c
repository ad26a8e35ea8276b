/* The stories of the rainbow: the grammar that tells them, for people and for a model to learn from

   A story names its register by a cue ("a stranger spoke of runes ."), wanders off for a while,
   and asks a question whose right answer depends on the latest cue. Most turn on the way. The
   optics are right; what folklore tells is told as folklore.

   HOLDS    words, sentences, stories; what training never shows; stories told afresh for every
            step of training; the files of data/rainbow
   FOR      language_model.c, which learns from them, and stories_test.c; it knows of no model
   BUILD    cc -O2 ch05_mamba_block/rainbow.c -o rainbow -lm && ./rainbow
   SOURCES  refraction and dispersion: R. Descartes, Les meteores (1637), 8; Newton, Opticks (1704)
            the bridge to the gods and its watchman: Snorri Sturluson, Gylfaginning, 13 and 27
            Iris as messenger: Homer, Iliad, 2.786; leprechauns: T. C. Croker, Fairy legends
            and traditions of the south of Ireland (1825) */

#ifndef CH05_RAINBOW
#define CH05_RAINBOW

#include "words.c"

/* ======================================= The words ========================================= */

enum {
    REGISTERS = 4,
    CUES = 16,     /* words that set a register */
    TELLERS = 8,   /* who says such a word, */
    TELLINGS = 16, /* and how */
    QUESTIONS = 3,
    ASKERS = 3 /* how a question begins */
};

/* Each register's name for itself, the words that set it, and what it answers. A cue stands in one
   register and nowhere else. */
typedef struct {
    const char *name, *cue[CUES], *answer[QUESTIONS];
} Register;

static const Register registers[REGISTERS] = {
    {"science",
     {"refraction", "optics", "newton", "prisms", "wavelengths", "physics", "angles", "lenses",
      "dispersion", "reflection", "spectra", "descartes", "photons", "telescopes", "experiments",
      "mirrors"},
     {"a rainbow is light refracted and dispersed in water droplets .",
      "nobody waits there , for every eye sees a rainbow of its own .",
      "it leads nowhere , for it moves as we move ."}},
    {"irish",
     {"leprechauns", "galway", "shamrocks", "fairies", "kerry", "donegal", "dublin", "harps",
      "banshees", "hurling", "connemara", "pookas", "tara", "limerick", "changelings", "ireland"},
     {"in irish folklore a rainbow is a road to riches .",
      "a leprechaun waits there and guards his pot of gold .", "it leads to a pot of gold ."}},
    {"norse",
     {"odin", "thor", "runes", "vikings", "iceland", "freya", "loki", "longships", "skalds",
      "valkyries", "valhalla", "sagas", "norway", "baldur", "fjords", "yggdrasil"},
     {"in norse myth a rainbow is the bridge of the gods .",
      "heimdall waits there and guards the home of the gods .",
      "it leads from the earth to asgard ."}},
    {"greek",
     {"zeus", "hera", "athens", "homer", "troy", "apollo", "sparta", "centaurs", "titans", "delphi",
      "nymphs", "hermes", "crete", "odysseus", "corinth", "ithaca"},
     {"in greek myth a rainbow is the path of the goddess iris .",
      "iris waits there with a message from the gods .",
      "it leads from olympus down to the sea ."}}};

static const char *const questions[QUESTIONS] = {"what is a rainbow ?", "who waits at its end ?",
                                                 "where does it lead ?"};
static const char *const askers[ASKERS] = {"", "tell us ,", "the child asked :"};

/* In the text of training: a question whose answer is held back (tests ask for it). */
static const char silence[] = "...";

/* A cue in its sentence: "grandmother told a tale of kerry .", or after the last of the links
   "the tale ended with grandmother telling a tale of kerry .". Nothing here is about a register. */
static const char *const tellers[TELLERS] = {"a stranger",  "grandmother", "a boy",
                                             "two sisters", "a guest",     "somebody",
                                             "a pedlar",    "the teacher"};
static const char *const tellings[TELLINGS][2] = {{"spoke of", "speaking of"},
                                                  {"sang about", "singing about"},
                                                  {"dreamt of", "dreaming of"},
                                                  {"told a tale of", "telling a tale of"},
                                                  {"wrote about", "writing about"},
                                                  {"gave a talk on", "giving a talk on"},
                                                  {"learnt all about", "learning all about"},
                                                  {"whispered the word", "whispering the word"},
                                                  {"read aloud about", "reading aloud about"},
                                                  {"asked about", "asking about"},
                                                  {"argued about", "arguing about"},
                                                  {"brought news of", "bringing news of"},
                                                  {"wondered about", "wondering about"},
                                                  {"opened a book on", "opening a book on"},
                                                  {"began a poem about", "beginning a poem about"},
                                                  {"explained all about", "explaining all about"}};

/* How a story turns to another register; after the last, a cue is told in its second form. */
static const char *const links[] = {"then everything changed :", "but that story was over , and",
                                    "on the next day", "when the rain had stopped ,",
                                    "the tale ended with"};

static const char *const openings[] = {
    "a rainbow stood over the village .",   "after the storm the sky cleared .",
    "it had rained all morning .",          "the children ran out to look at the sky .",
    "seven colours hung above the river .", "late in the day the sun came through the clouds ."};

/* Wandering: nothing here is about a register, though words of the answers are borrowed. */
static const char *const people[] = {"a baker",     "the miller",  "an old farmer", "the neighbour",
                                     "a traveller", "the smith",   "a young nurse", "the shepherd",
                                     "a painter",   "the postman", "my uncle",      "the mayor"};
static const char *const deeds[] = {
    "carried warm bread to", "walked slowly past",   "counted gold coins at",
    "swept the leaves at",   "lit a small light at", "drank cold water at",
    "mended a wheel at",     "waited for a cart at", "sold apples at",
    "followed a dog to",     "hung a lantern near",  "forgot a red scarf at"};
static const char *const places[] = {
    "the market", "the old bridge", "the mill",   "the green gate",      "the harbour",
    "the well",   "the inn",        "the school", "the end of the road", "the home of a friend",
    "the garden", "the church"};
static const char *const sentence_ends[] = {".",
                                            "in the morning .",
                                            "without a word .",
                                            "and smiled .",
                                            "before noon .",
                                            "as the wind blew ."};
static const char *const asides[] = {
    "the clouds moved on over the hills .",     "gold leaves fell into the water .",
    "a cat slept on the warm wall .",           "every path was wet and full of light .",
    "the bells rang , and the birds flew up .", "there was a smell of grass and smoke ."};

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* ============================== What training never shows ================================== */

/* A fifth of the pairs of a cue and a question is never answered in training; each cue and each
   question is answered there with others. */
static bool pair_is_unseen(size_t which, size_t cue, size_t question)
{
    return (which + cue + 2 * question) % 5 == 0;
}

/* In a fifth of the ways to tell it no cue is ever told in training. */
static bool telling_is_unseen(size_t which, size_t cue, size_t telling)
{
    return (which + 2 * cue + telling) % 5 == 0;
}

/* ====================================== The stories ======================================== */

/* A kind of story. */
typedef struct {
    const char *file; /* where such stories are kept, and how many */
    size_t stories;
    size_t turns_least, turns_most;   /* how often a story turns */
    size_t wander_least, wander_most; /* sentences between a cue and what follows it */
    bool test;           /* it asks once, at its end, for an answer that training holds back */
    bool unseen_telling; /* the last cue is told in a way in which training never tells it */
} StoryKind;

/* To learn from: a question after nearly every cue, so that there is much to answer; now and then
   none before a turn, or a model may learn to let go of a register only once it has answered; and
   every length of wandering up to that of the far test, for nobody learns to hold what need not be
   held. */
static const StoryKind story_to_learn = {NULL, 0, 0, 4, 0, 3, false, false};
enum { WANDER_FAR = 24 };
static const double share_without_wandering = 0.5, share_of_far_wandering = 0.15,
                    share_turning_unasked = 0.1;

/* The tests: they ask once, at their end, for an answer that training holds back. */
static const StoryKind story_tests[] = {
    {"test.txt", 500, 0, 0, 0, 3, true, false},
    {"test_turns.txt", 500, 1, 2, 0, 3, true, false},
    {"test_far.txt", 200, 0, 1, WANDER_FAR, WANDER_FAR, true, false},
    {"test_hard.txt", 500, 0, 1, 0, 3, true, true}};

/* A mixture of them to look at while a model learns. */
static const StoryKind story_held_back = {NULL, 0, 0, 2, 0, 3, true, false};

enum { STORY_BYTES = 16384 };

typedef struct {
    char text[STORY_BYTES];
    size_t len;
    bool answers_only; /* the rest of it is to be heard, not to be guessed */
} StoryText;

static void say(StoryText *story, const char *words)
{
    size_t room = STORY_BYTES - story->len;
    const char *gap = story->len > 0 && words[0] != '\0' && words[0] != '\n' ? " " : "";
    int len = snprintf(story->text + story->len, room, "%s%s", gap, words);
    assert(len >= 0 && (size_t)len < room);
    story->len += (size_t)len;
}

static size_t one_of(Random *random, size_t count)
{
    return (size_t)(random_uniform(random) * (double)count);
}

#define SAY_ONE_OF(story, list, random) say((story), (list)[one_of((random), COUNT_OF(list))])

static void wander(StoryText *story, size_t sentences, Random *random)
{
    while (sentences-- > 0) {
        if (one_of(random, 6) == 0) {
            SAY_ONE_OF(story, asides, random);
            continue;
        }
        SAY_ONE_OF(story, people, random);
        SAY_ONE_OF(story, deeds, random);
        SAY_ONE_OF(story, places, random);
        SAY_ONE_OF(story, sentence_ends, random);
    }
}

/* The sentence that sets a register; `turn`: away from another. */
static void say_cue(StoryText *story, size_t which, size_t cue, size_t telling, bool turn,
                    Random *random)
{
    size_t link = turn ? one_of(random, COUNT_OF(links)) : 0;
    if (turn)
        say(story, links[link]);
    SAY_ONE_OF(story, tellers, random);
    say(story, tellings[telling][turn && link == COUNT_OF(links) - 1]);
    say(story, registers[which].cue[cue]);
    say(story, ".");
}

static void say_question(StoryText *story, size_t question, Random *random)
{
    SAY_ONE_OF(story, askers, random);
    say(story, questions[question]);
}

/* One part of a story to learn from: cue, wandering, and, if it is asked, question and answer.
   Which question comes has nothing to do with the cue, or a model would gain by remembering which
   cue it was; so the pairs that training never answers are asked as well, and then nobody says
   anything. */
static void tell_to_learn(StoryText *story, size_t which, bool turn, bool asked, size_t sentences,
                          Random *random)
{
    size_t cue, telling, question = one_of(random, QUESTIONS);
    do {
        cue = one_of(random, CUES);
        telling = one_of(random, TELLINGS);
    } while (telling_is_unseen(which, cue, telling));
    say_cue(story, which, cue, telling, turn, random);
    wander(story, sentences, random);
    if (!asked)
        return;
    say_question(story, question, random);
    say(story, pair_is_unseen(which, cue, question) ? silence : registers[which].answer[question]);
}

/* One part of a test; only the last one asks. */
static void tell_to_test(StoryText *story, size_t which, bool turn, bool last, bool unseen_telling,
                         size_t sentences, Random *random)
{
    size_t cue, telling, question;
    do {
        cue = one_of(random, CUES);
        telling = one_of(random, TELLINGS);
        question = one_of(random, QUESTIONS);
    } while (pair_is_unseen(which, cue, question) != last ||
             telling_is_unseen(which, cue, telling) != (last && unseen_telling));
    say_cue(story, which, cue, telling, turn, random);
    wander(story, sentences, random);
    if (!last)
        return;
    say_question(story, question, random);
    say(story, registers[which].answer[question]);
}

/* Stories turn in eight of the twelve ways, those of the tests too. So a register says something of
   the next one, which is an early reason to find out that there are registers. */
static bool turn_is_made(size_t from, size_t to)
{
    return to != from && (to + REGISTERS - from) % REGISTERS != 2 - from % 2;
}

static size_t turn_to(size_t from, Random *random)
{
    size_t to;
    do
        to = one_of(random, REGISTERS);
    while (!turn_is_made(from, to));
    return to;
}

/* How far a story wanders: the fewest and most sentences between a cue and what follows. Returns
   whether only its answers are to be guessed: those of a test, and of a long story to learn from,
   whose wandering nobody can guess, and would drown them. */
static bool choose_wandering(size_t range[2], const StoryKind *kind, Random *random)
{
    double part = random_uniform(random);
    range[0] = kind->wander_least;
    range[1] = kind->wander_most;
    if (kind->test)
        return true;
    if (part < share_of_far_wandering)
        range[1] = WANDER_FAR;
    else if (part < share_of_far_wandering + share_without_wandering)
        range[1] = 0;
    return range[1] == WANDER_FAR;
}

/* One story, and the end of its line. */
void tell(StoryText *story, const StoryKind *kind, Random *random)
{
    size_t turns = kind->turns_least + one_of(random, kind->turns_most - kind->turns_least + 1);
    size_t which = one_of(random, REGISTERS), range[2];
    story->answers_only = choose_wandering(range, kind, random);
    story->len = 0;
    if (one_of(random, 2) == 0)
        SAY_ONE_OF(story, openings, random);
    for (size_t part = 0; part <= turns; part++) {
        if (part > 0)
            which = turn_to(which, random);
        size_t sentences = range[0] + one_of(random, range[1] - range[0] + 1);
        bool last = part == turns;
        if (kind->test)
            tell_to_test(story, which, part > 0, last, kind->unseen_telling, sentences, random);
        else
            tell_to_learn(story, which, part > 0,
                          last || random_uniform(random) >= share_turning_unasked, sentences,
                          random);
    }
    say(story, "\n");
}

/* =============================== Stories to learn from ===================================== */

/* All sentences of the grammar, in the order in which they stand above; to be freed. */
static char *rainbow_sentences(void)
{
    StoryText *all = NEW(StoryText, 1);
    for (size_t which = 0; which < REGISTERS; which++) {
        for (size_t cue = 0; cue < CUES; cue++)
            say(all, registers[which].cue[cue]);
        for (size_t question = 0; question < QUESTIONS; question++)
            say(all, registers[which].answer[question]);
    }
    for (size_t i = 0; i < QUESTIONS; i++)
        say(all, questions[i]);
    for (size_t i = 0; i < TELLINGS; i++)
        say(all, tellings[i][0]), say(all, tellings[i][1]);
#define SAY_ALL_OF(list)                                                                           \
    for (size_t i = 0; i < COUNT_OF(list); i++)                                                    \
        say(all, (list)[i]);
    SAY_ALL_OF(askers)
    SAY_ALL_OF(tellers)
    SAY_ALL_OF(links)
    SAY_ALL_OF(openings)
    SAY_ALL_OF(people)
    SAY_ALL_OF(deeds)
    SAY_ALL_OF(places)
    SAY_ALL_OF(sentence_ends)
    SAY_ALL_OF(asides)
#undef SAY_ALL_OF
    say(all, silence);
    char *text = strdup(all->text);
    free(all);
    return text;
}

/* The words of the stories, always in the same order; vocabulary_free when done. */
Vocabulary rainbow_words(void)
{
    Vocabulary words;
    Error error;
    char *text = rainbow_sentences();
    bool ok = vocabulary_from_text(&words, text, strlen(text), "the stories", &error);
    assert(ok);
    (void)ok;
    free(text);
    return words;
}

/* What rainbow_fill tells, in which numbers. */
typedef struct {
    const Vocabulary *words;
    const StoryKind *kind;
} Storyteller;

static int32_t word_number(const Vocabulary *words, const char *word)
{
    return (int32_t)*word_slot(words, word) - 1;
}

/* Each token's target is the next token; the last of a piece has none. If only answers count, that
   is what stands between "?" and the end of the sentence. Silence is never to be guessed: it stands
   where an answer is held back. */
static void story_targets(int32_t *targets, const int32_t *ids, size_t len, bool answers_only,
                          const Vocabulary *words)
{
    int32_t held_back = word_number(words, silence);
    int32_t asks = word_number(words, "?"), stop = word_number(words, ".");
    bool counts = !answers_only;
    for (size_t t = 0; t < len; t++) {
        if (answers_only)
            counts = ids[t] == asks || (counts && ids[t] != stop);
        targets[t] = counts && t + 1 < len && ids[t + 1] != held_back ? ids[t + 1] : -1;
    }
}

/* Fills a batch with stories that nobody has heard before (a BatchSource, `from` a Storyteller):
   each piece begins with one, and is cut where it is full. */
void rainbow_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                  Random *random)
{
    const Storyteller *teller = (const Storyteller *)from;
    StoryText story;
    int32_t words[STORY_BYTES]; /* each has a byte at least */
    size_t unknown;
    for (size_t b = 0; b < batch; b++) {
        int32_t *piece = ids + b * len, *wanted = targets + b * len;
        for (size_t filled = 0, some; filled < len; filled += some) {
            tell(&story, teller->kind, random);
            some = text_to_tokens(words, &unknown, story.text, story.len, teller->words, true);
            some = some < len - filled ? some : len - filled;
            memcpy(piece + filled, words, some * sizeof *ids);
            story_targets(wanted + filled, words, some, story.answers_only, teller->words);
            if (filled > 0 && !story.answers_only)
                wanted[filled - 1] = words[0]; /* how a story begins */
        }
    }
}

/* ======================================== The files ======================================== */

/* All stories of one kind of test, a line each; to be freed. */
char *rainbow_stories(const StoryKind *kind, uint64_t seed)
{
    StoryText *story = NEW(StoryText, 1);
    Random random = random_from_seed(seed);
    char *text = NEW(char, kind->stories *STORY_BYTES);
    for (size_t i = 0, len = 0; i < kind->stories; i++, len += story->len) {
        tell(story, kind, &random);
        memcpy(text + len, story->text, story->len + 1);
    }
    free(story);
    return text;
}

/* Every question with the answer of each register; to be freed. */
static char *rainbow_answers(void)
{
    enum { ROOM = 4096 };
    char *text = NEW(char, ROOM);
    size_t len = 0;
    for (size_t which = 0; which < REGISTERS; which++)
        for (size_t q = 0; q < QUESTIONS; q++)
            len += (size_t)snprintf(text + len, ROOM - len, "%s: %s %s\n", registers[which].name,
                                    questions[q], registers[which].answer[q]);
    assert(len < ROOM);
    return text;
}

/* Writes a text that it frees. */
static bool write_story_file(const char *folder, const char *file, char *text, Error *error)
{
    char *path = path_in(folder, file);
    OutFile out;
    bool ok = out_open(&out, path, error);
    if (ok) {
        fputs(text, out.stream);
        ok = out_close(&out, error);
    }
    free(path), free(text);
    return ok;
}

enum { RAINBOW_SEED = 2026 };

/* The tests and the answers, into a folder. */
bool rainbow_write(const char *folder, Error *error)
{
    bool ok = write_story_file(folder, "answers.txt", rainbow_answers(), error);
    for (size_t i = 0; ok && i < COUNT_OF(story_tests); i++)
        ok = write_story_file(folder, story_tests[i].file,
                              rainbow_stories(&story_tests[i], RAINBOW_SEED + i), error);
    return ok;
}

/* ======================================= Program =========================================== */

static void tell_some(uint64_t count, const StoryKind *kind, uint64_t seed)
{
    StoryText *story = NEW(StoryText, 1);
    Random random = random_from_seed(seed);
    for (uint64_t i = 0; i < count; i++) {
        tell(story, kind, &random);
        fputs(story->text, stdout);
    }
    free(story);
}

int rainbow_main(int argc, char **argv)
{
    const char *folder = NULL;
    bool held_back = false;
    uint64_t stories = 3, seed = 1;
    const Option table[] = {
        {"stories", "N", OPTION_WHOLE, 0, 1e9, &stories, "-", "tell so many (default 3)"},
        {"held-back", NULL, OPTION_SWITCH, 0, 0, &held_back, "-",
         "of those that ask for what training never answers"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &seed, "-", "of what is told (default 1)"},
        {"write", "DIR", OPTION_TEXT, 0, 0, &folder, "mode",
         "write the tests of data/rainbow into a folder instead"},
    };
    const Program program = {"ch05_rainbow",
                             "Stories of the rainbow, of those that the language model of chapter "
                             "5a learns from, a line each.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    if (folder == NULL)
        tell_some(stories, held_back ? &story_held_back : &story_to_learn, seed);
    return program_end(folder == NULL || rainbow_write(folder, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return rainbow_main(argc, argv);
}
#endif

#endif /* CH05_RAINBOW */
