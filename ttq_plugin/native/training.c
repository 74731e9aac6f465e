/* The ternary step of one float32 layer in single passes; ../core/steps.py and ../core/rules.py say what it computes.
 *
 * Comparisons are exact: a distance is rounded to float once, as torch rounds a Python number. Sums run in double, so
 * that the order, which the vector width decides, hardly shows. x is w, or w / divisor rounded as torch would; each
 * function has a copy without the division, made by the compiler from a constant argument.
 */
#include "training_rows.h"

#ifndef TTQ_SOURCE
#define TTQ_SOURCE 0
#endif

/* Which source this was built from: the first 8 bytes of its SHA-256. */
uint64_t ttq_source(void) { return TTQ_SOURCE; }

/* The least and the largest weight, and both divided by max|w|; NaN if any weight is not finite. */
KERNEL ttq_peaks(const float *w, int64_t n, double *out)
{
    float low = INFINITY, high = -INFINITY, finite = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : finite)
    for (int64_t i = 0; i < n; i++) {
        low = w[i] < low ? w[i] : low;
        high = w[i] > high ? w[i] : high;
        finite += w[i] * 0; /* 0, or NaN for infinity and NaN, which comparisons would pass over */
    }
    float largest = -low > high ? -low : high;
    out[0] = low + finite;
    out[1] = high + finite;
    out[2] = low / largest + finite;
    out[3] = high / largest + finite;
}

/* Mean of x, and the root of the sum of its squared deviations, in two passes. */
KERNEL ttq_moments(const float *w, int64_t n, double divisor, double *out)
{
    if (divisor == 1)
        moments(w, n, 1, 0, out);
    else
        moments(w, n, (float)divisor, 1, out);
}

/* q = w_p where x > d_max, -w_n where x < -d_min, else 0. */
KERNEL ttq_ternarise(const float *w, int64_t n, double divisor, double d_min, double d_max, double w_p, double w_n,
                     float *q)
{
    if (divisor == 1)
        ternarise(w, n, 1, 0, (float)-d_min, (float)d_max, (float)-w_n, (float)w_p, q);
    else
        ternarise(w, n, (float)divisor, 1, (float)-d_min, (float)d_max, (float)-w_n, (float)w_p, q);
}

/* d_w = g w_p where x > d_max, g w_n where x < -d_min, else g dead, divided by divisor; and six sums over g:
 * of the positive, of the negative; if soft is 1 or 2, with S the logistic sigmoid and S' = S (1 - S), of
 * g S'(slope (x - d_max)) and g S'(slope (x + d_min)); if soft is 2, of these times (x - d_max) and (x + d_min).
 */
KERNEL ttq_gradients(const float *w, const float *g, int64_t n, double divisor, double d_min, double d_max, double w_p,
                     double w_n, double dead, double slope, int soft, float *d_w, double *sums)
{
    const struct step s = {(float)divisor, (float)-d_min, (float)d_max, (float)w_p, (float)w_n, (float)dead,
                           (float)slope};
    if (divisor == 1)
        gradients_of(w, g, n, s, 0, soft, d_w, sums);
    else
        gradients_of(w, g, n, s, 1, soft, d_w, sums);
}

/* The whole step ---------------------------------------------------------------------------------------------------- */

struct known {
    double divisor, d_min, d_max, w_p, w_n, mean, sigma, t[2];
};

/* mean + t sigma, rounded twice as Python does it, so that codes computed there decide alike. */
static double beyond(const struct known *s, double t)
{
    volatile double product = t * s->sigma;
    return s->mean + product;
}

static void find_distances(struct known *s, int rule, double largest)
{
    switch (rule) {
    case MAX_FRACTION:
        s->d_min = s->d_max = s->t[0] * largest;
        break;
    case SIGNED_MOMENTS:
        s->d_min = -beyond(s, s->t[0]);
        s->d_max = beyond(s, s->t[1]);
        break;
    case ABSOLUTE_MOMENTS:
        s->d_min = fabs(beyond(s, s->t[0]));
        s->d_max = fabs(beyond(s, s->t[1]));
        break;
    case DIRECT:
        s->d_min = s->t[0];
        s->d_max = s->t[1];
        break;
    default: /* TIED */
        s->d_min = s->d_max = fabs(beyond(s, s->t[0]));
    }
}

/* Statistics, distances and q, see TernaryStep.forward; what the backward pass needs to know is left in s. `moments`
 * asks for mean and sigma where the rule has no use for them.
 */
void ttq_forward(const float *w, int64_t n, const float *scales, const float *t, int rule, int normalise, int moments,
                 struct known *s, float *q)
{
    const int one = rule == MAX_FRACTION || rule == TIED, of_peaks = rule == MAX_FRACTION;
    const struct known fresh = {1, 0, 0, scales[0], scales[1], 0, 0, {t[0], t[one ? 0 : 1]}};
    double peaks[4], found[2], largest = 0;
    *s = fresh;
    if (normalise || of_peaks) {
        ttq_peaks(w, n, peaks);
        largest = -peaks[0] > peaks[1] ? -peaks[0] : peaks[1];
        if (normalise) {
            s->divisor = largest;
            largest = -peaks[2] > peaks[3] ? -peaks[2] : peaks[3];
        }
    }
    if (moments || !(of_peaks || rule == DIRECT)) {
        ttq_moments(w, n, s->divisor, found);
        s->mean = found[0];
        s->sigma = found[1] * pow((double)(n - 1), -0.5);
    }
    find_distances(s, rule, largest);
    ttq_ternarise(w, n, s->divisor, s->d_min, s->d_max, s->w_p, s->w_n, q);
}

/* dD/dt = sigma sign(mean + t sigma). */
static double pull_back(const struct known *s, int index)
{
    return copysign(s->sigma, beyond(s, s->t[index]));
}

/* The gradients of w, the scales and, if soft is 1 or 2, the thresholds and alpha, see TernaryStep.backward and
 * surrogates.soft_step_chain.
 */
void ttq_backward(const float *w, const float *g, int64_t n, const struct known *s, const float *alpha, double dead,
                  int rule, int soft, float *d_w, float *d_scales, float *d_t, float *d_alpha)
{
    const double slope = soft ? *alpha / s->sigma : 0;
    double sums[6];
    ttq_gradients(w, g, n, s->divisor, s->d_min, s->d_max, s->w_p, s->w_n, dead, slope, soft, d_w, sums);
    d_scales[0] = (float)sums[0];
    d_scales[1] = (float)-sums[1];
    if (!soft)
        return;
    const double d_min = s->w_n * slope * sums[3], d_max = -s->w_p * slope * sums[2];
    if (rule == TIED)
        d_t[0] = (float)((d_min + d_max) * pull_back(s, 0));
    else if (rule == DIRECT || rule == ABSOLUTE_MOMENTS) {
        d_t[0] = (float)(rule == DIRECT ? d_min : d_min * pull_back(s, 0));
        d_t[1] = (float)(rule == DIRECT ? d_max : d_max * pull_back(s, 1));
    }
    if (soft == 2)
        *d_alpha = (float)((s->w_p * sums[4] + s->w_n * sums[5]) / s->sigma);
}
