/* The losses of a training run: whether they are numbers, and as a chart.

   HOLDS   the first loss that is none; the loss on what is learnt from, averaged over stretches of
           steps, and on what is not, drawn
   FOR     language_model.c --train */

#ifndef CH05_CURVE
#define CH05_CURVE

#include "products.c"

/* What is drawn. */
typedef struct {
    const double *loss; /* (steps) of every step */
    size_t steps;
    const double *at, *check; /* (n_check) the loss on other text, and after which step */
    size_t n_check;
    const char *looked_at; /* what that text is */
} Curve;

/* From the first twentieth on: before that they fall too far. */
bool curve_show(const Curve *curve, const Show *show, Error *error)
{
    size_t steps = curve->steps, points = smaller(steps, 64), skip = points / 20;
    double *x = NEW(double, points + 1), *y = NEW(double, points + 1);
    for (size_t i = 0; i < points; i++) { /* means over stretches of steps */
        size_t from = i * steps / points, to = (i + 1) * steps / points;
        for (size_t k = from; k < to; k++)
            y[i] += curve->loss[k] / (double)(to - from);
        x[i] = (double)to;
    }
    Chart chart = chart_new("Learning to guess the next token", "step", "loss");
    chart_add(&chart, "trained on", MARK_LINE, x + skip, y + skip, points - skip);
    chart_add(&chart, curve->looked_at, MARK_POINTS, curve->at, curve->check, curve->n_check);
    bool ok = chart_show(&chart, show, error);
    free(x), free(y);
    return ok;
}

/* False if one of the losses (steps), or that on other text, is no number: it says after which
   step, and that what was learnt before it stands in the last checkpoint. */
bool losses_are_numbers(const double *loss, uint64_t steps, double other, const char *checkpoint,
                        Error *error)
{
    uint64_t good = 0;
    while (good < steps && isfinite(loss[good]))
        good++;
    return (good == steps && isfinite(other)) ||
           fail(error,
                "the loss is NaN or infinite after step %" PRIu64 ": a smaller --rate may help%s%s",
                good, checkpoint == NULL ? "" : ". The last checkpoint stays: ",
                checkpoint == NULL ? "" : checkpoint);
}

#endif /* CH05_CURVE */
