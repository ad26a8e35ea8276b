/* The rainbow corpus: a grammar of short stories, and the program that writes them down

   A story names its register by a cue ("a scientist raised her hand ..."), wanders off for a while,
   and asks a question whose right answer depends on the latest cue. Some stories turn on the way.
   The optics are right; what folklore tells is told as folklore.

   BUILD  cc -O2 data/rainbow/grammar.c -o grammar -lm && ./grammar data/rainbow
   FILES  train.txt valid.txt      stories to learn from, a line each
          test.txt                 one cue, one question, in combinations that training never shows
          test_turns.txt           the same after one or two turns, some of them of unseen kinds
          test_far.txt             with eight times the longest wandering in training
          answers.txt              every question with the answer of each register
   SOURCES  refraction and dispersion: R. Descartes, Les meteores (1637), 8; Newton, Opticks (1704)
            the bridge to the gods and its watchman: Snorri Sturluson, Gylfaginning, 13 and 27
            Iris as messenger: Homer, Iliad, 2.786; leprechauns: T. C. Croker, Fairy legends
            and traditions of the south of Ireland (1825) */

#ifndef RAINBOW_GRAMMAR
#define RAINBOW_GRAMMAR

#include "../../ch01_markov/markov.c"

/* ======================================= The words ========================================= */

enum { REGISTERS = 4, CUES = 6, QUESTIONS = 3, STORY_BYTES = 16384 };

/* Each register's names for itself, the cues that set it, and what it answers. */
typedef struct {
    const char *name, *cue[CUES], *answer[QUESTIONS];
} Register;

static const Register registers[REGISTERS] = {
    {"science",
     {"a scientist raised her hand and began to explain .",
      "a physics teacher drew a circle on the board .", "the girl opened her notebook on optics .",
      "a professor held a glass prism against the sun .",
      "somebody measured the angle of the rays .",
      "the lecture came to refraction in small drops ."},
     {"a rainbow is light refracted and dispersed in water droplets .",
      "nobody waits there , for every eye sees a rainbow of its own .",
      "it leads nowhere , for it moves as we move ."}},
    {"irish",
     {"grandmother began an old irish tale .", "a fiddler from galway sang of the green hills .",
      "somebody whispered the word leprechaun .",
      "the boy believed in hidden treasure and fairies .",
      "the innkeeper of kerry told of the little people .",
      "a harp played , and the legend of the shamrock began ."},
     {"in irish folklore a rainbow is a road to riches .",
      "a leprechaun waits there and guards his pot of gold .", "it leads to a pot of gold ."}},
    {"norse",
     {"a skald from iceland sang of odin .", "an old viking saga was read by the fire .",
      "the storyteller spoke of thor and his hammer .",
      "a boatman carved runes for the gods of the north .",
      "the girl knew the myth of the nine worlds by heart .",
      "two ravens flew over the longship , as in the edda ."},
     {"in norse myth a rainbow is the bridge of the gods .",
      "heimdall waits there and guards the home of the gods .",
      "it leads from the earth to asgard ."}},
    {"greek",
     {"a poet from athens praised the goddess with golden wings .",
      "the play was about zeus and his messengers .",
      "somebody recited homer in the shade of an olive tree .",
      "a potter painted the gods of olympus on a vase .",
      "the chorus called on hera and her servant iris .",
      "an old book told of troy and its heroes ."},
     {"in greek myth a rainbow is the path of the goddess iris .",
      "iris waits there with a message from the gods .",
      "it leads from olympus down to the sea ."}}};

static const char *const questions[QUESTIONS] = {"what is a rainbow ?", "who waits at its end ?",
                                                 "where does it lead ?"};

/* How a story turns: these words and a new cue; or, to science, one sentence that is both. */
static const char *const links[] = {"then everything changed :", "but that story was over , and",
                                    "on the next day", "when the rain had stopped ,"};
static const char *const turn_to_science =
    "the tale ended with a scientist explaining the rainbow .";

static const char *const openings[] = {
    "a rainbow stood over the village .",   "after the storm the sky cleared .",
    "it had rained all morning .",          "the children ran out to look at the sky .",
    "seven colours hung above the river .", "late in the day the sun came through the clouds ."};

/* Wandering: nothing here is about the register, though words of the answers are borrowed. */
static const char *const people[] = {"a baker",     "the miller",  "an old farmer", "the neighbour",
                                     "a traveller", "the smith",   "a young nurse", "the shepherd",
                                     "a painter",   "the postman", "my uncle",      "the mayor"};
static const char *const deeds[] = {
    "carried warm bread to", "walked slowly past",   "counted gold coins at",
    "swept the road to",     "lit a small light in", "fetched water from",
    "repaired the door of",  "waited for a cart at", "sold apples at",
    "followed a dog to",     "hung a lantern over",  "forgot a red scarf at"};
static const char *const places[] = {
    "the market", "the old bridge", "the mill",   "the green gate",      "the harbour",
    "the well",   "the inn",        "the school", "the end of the road", "the home of a friend",
    "the garden", "the church"};
static const char *const endings[] = {".",
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

/* ====================================== The stories ======================================== */

/* What a file holds. */
typedef struct {
    const char *file;
    size_t stories;
    size_t turns_least, turns_most;   /* how often a story turns */
    size_t wander_least, wander_most; /* sentences between a cue and what follows it */
    bool unseen; /* the last cue and its question are of a pair that training never shows */
} Kind;

static const Kind kinds[] = {{"train.txt", 5000, 0, 2, 0, 3, false},
                             {"valid.txt", 200, 0, 2, 0, 3, false},
                             {"test.txt", 500, 0, 0, 0, 3, true},
                             {"test_turns.txt", 500, 1, 2, 0, 3, true},
                             {"test_far.txt", 200, 0, 1, 24, 24, true}};

/* A fifth of the pairs of a cue and a question is kept from training; each cue and each question
   is seen there with others. */
static bool pair_is_unseen(size_t which, size_t cue, size_t question)
{
    return (which + cue + 2 * question) % 5 == 0;
}

/* So is a third of the turns from one register to another. */
static bool turn_is_unseen(size_t from, size_t to)
{
    return (to + REGISTERS - from) % REGISTERS == 2 - from % 2;
}

typedef struct {
    char text[STORY_BYTES];
    size_t len;
} StoryText;

static void say(StoryText *story, const char *words)
{
    size_t room = STORY_BYTES - story->len;
    int len = snprintf(story->text + story->len, room, "%s%s", story->len > 0 ? " " : "", words);
    assert(len >= 0 && (size_t)len < room);
    story->len += (size_t)len;
}

static size_t one_of(Random *random, size_t count)
{
    return (size_t)(random_uniform(random) * (double)count);
}

#define SAY_ONE_OF(story, list, random) say((story), (list)[one_of((random), COUNT_OF(list))])

static void wander(StoryText *story, const Kind *kind, Random *random)
{
    size_t more = one_of(random, kind->wander_most - kind->wander_least + 1);
    for (size_t i = 0; i < kind->wander_least + more; i++) {
        if (one_of(random, 6) == 0) {
            SAY_ONE_OF(story, asides, random);
            continue;
        }
        SAY_ONE_OF(story, people, random);
        SAY_ONE_OF(story, deeds, random);
        SAY_ONE_OF(story, places, random);
        SAY_ONE_OF(story, endings, random);
    }
}

/* The register that a story turns to; in training only by turns that may be seen. */
static size_t turn_to(size_t from, const Kind *kind, Random *random)
{
    size_t to;
    do
        to = one_of(random, REGISTERS);
    while (to == from || (turn_is_unseen(from, to) && !kind->unseen));
    return to;
}

/* One part: a cue of this register, wandering and, if `ask`, a question that with the cue makes a
   pair of the wanted kind, and the answer. */
static void tell_part(StoryText *story, size_t which, bool turn, bool ask, bool unseen,
                      const Kind *kind, Random *random)
{
    size_t cues = CUES + (turn && which == 0), cue, question;
    do {
        cue = one_of(random, cues);
        question = one_of(random, QUESTIONS);
    } while (pair_is_unseen(which, cue, question) != unseen);
    if (turn && cue < CUES)
        SAY_ONE_OF(story, links, random);
    say(story, cue < CUES ? registers[which].cue[cue] : turn_to_science);
    wander(story, kind, random);
    if (ask) {
        say(story, questions[question]);
        say(story, registers[which].answer[question]);
    }
}

/* One story. Those of the tests ask once, at their end. */
static void tell(StoryText *story, const Kind *kind, Random *random)
{
    size_t turns = kind->turns_least + one_of(random, kind->turns_most - kind->turns_least + 1);
    size_t which = one_of(random, REGISTERS);
    story->len = 0;
    if (one_of(random, 2) == 0)
        SAY_ONE_OF(story, openings, random);
    for (size_t part = 0; part <= turns; part++) {
        bool last = part == turns, ask = last || (!kind->unseen && one_of(random, 2) == 0);
        if (part > 0)
            which = turn_to(which, kind, random);
        tell_part(story, which, part > 0, ask, kind->unseen && last, kind, random);
    }
}

/* ======================================== The files ======================================== */

/* All stories of one kind, a line each, none of which is in `taken` (one text with all lines that
   are to be avoided, or NULL). Returns the text; to be freed. */
char *rainbow_stories(const Kind *kind, const char *taken, uint64_t seed)
{
    StoryText *story = NEW(StoryText, 1);
    Random random = random_from_seed(seed);
    size_t len = 0, room = kind->stories * STORY_BYTES;
    char *text = NEW(char, room);
    for (size_t i = 0; i < kind->stories;) {
        tell(story, kind, &random);
        say(story, "\n");
        story->text[--story->len - 1] = '\n'; /* not a blank before it */
        story->text[story->len] = '\0';
        if (taken != NULL && strstr(taken, story->text) != NULL)
            continue;
        memcpy(text + len, story->text, story->len + 1);
        len += story->len;
        i++;
    }
    free(story);
    return text;
}

static bool write_text(const char *folder, const char *file, const char *text, Error *error)
{
    char path[1024];
    OutFile out;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    if (!out_open(&out, path, error))
        return false;
    fputs(text, out.stream);
    return out_close(&out, error);
}

static bool write_answers(const char *folder, Error *error)
{
    char text[4096];
    size_t len = 0;
    for (size_t which = 0; which < REGISTERS; which++)
        for (size_t q = 0; q < QUESTIONS; q++)
            len +=
                (size_t)snprintf(text + len, sizeof text - len, "%s: %s %s\n",
                                 registers[which].name, questions[q], registers[which].answer[q]);
    return write_text(folder, "answers.txt", text, error);
}

/* Writes every file of the corpus into a folder. */
bool rainbow_write(const char *folder, Error *error)
{
    char *train = NULL;
    bool ok = write_answers(folder, error);
    for (size_t i = 0; ok && i < COUNT_OF(kinds); i++) {
        char *text = rainbow_stories(&kinds[i], train, 2026 + i);
        ok = write_text(folder, kinds[i].file, text, error);
        if (i > 0)
            free(text);
        else
            train = text;
    }
    free(train);
    return ok;
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    Error error;
    if (argc != 2 || argv[1][0] == '-') {
        fputs("usage: grammar FOLDER\nWrites the rainbow corpus into a folder.\n", stderr);
        return 2;
    }
    if (!rainbow_write(argv[1], &error)) {
        fprintf(stderr, "error: %s\n", error.text);
        return 1;
    }
    return 0;
}
#endif

#endif /* RAINBOW_GRAMMAR */
