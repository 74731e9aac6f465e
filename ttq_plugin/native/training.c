/* The ternary step of one float32 layer in single passes; what it computes is said in ../step.py and ../rules.py.
 *
 * Comparisons are exact: a distance is rounded to float once, as torch rounds a Python number. Sums run in double, so
 * that the order, which the vector width decides, hardly shows. x is w, or w / divisor rounded as torch would; each
 * function has a copy without the division, made by the compiler from a constant argument.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define KERNEL __attribute__((target_clones("avx512f", "avx2", "default"))) void
#else
#define KERNEL void
#endif
#define INLINE static inline __attribute__((always_inline))

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

INLINE void moments(const float *w, int64_t n, float divisor, const int divided, double *out)
{
    double sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += divided ? w[i] / divisor : w[i];
    const double mean = sum / (double)n;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) {
        double deviation = (divided ? w[i] / divisor : w[i]) - mean;
        squares += deviation * deviation;
    }
    out[0] = mean;
    out[1] = sqrt(squares);
}

/* Mean of x, and the root of the sum of its squared deviations, in two passes. */
KERNEL ttq_moments(const float *w, int64_t n, double divisor, double *out)
{
    if (divisor == 1)
        moments(w, n, 1, 0, out);
    else
        moments(w, n, (float)divisor, 1, out);
}

INLINE void ternarise(const float *restrict w, int64_t n, float divisor, const int divided, float low, float high,
                      float negative, float positive, float *restrict q)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float x = divided ? w[i] / divisor : w[i];
        q[i] = x > high ? positive : x < low ? negative : 0;
    }
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

/* exp(-|x|), relative error below 2e-7: 2^k exp(r) with r = -|x| - k ln 2, |r| <= ln 2 / 2, by Taylor to degree 7; no
 * branch, so that it vectorises. 0 beyond |x| = 64: products with denormal numbers would cost ten times as much.
 */
INLINE float exp_minus_size(float x)
{
    float size = fabsf(x);
    float t = size > 64 ? -64 : -size;
    float shifted = t * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's last bits are the rounded product */
    float k = shifted - 12582912.0f;
    float r = (t - k * 0.693359375f) + k * 2.12194440e-4f;
    float e = 1 / 5040.f;
    e = 1 / 720.f + r * e;
    e = 1 / 120.f + r * e;
    e = 1 / 24.f + r * e;
    e = 1 / 6.f + r * e;
    e = 1 / 2.f + r * e;
    e = 1 + r * e;
    e = 1 + r * e;
    int32_t bits;
    uint32_t power;
    memcpy(&bits, &e, 4);
    memcpy(&power, &shifted, 4);
    bits += (int32_t)(power << 23);
    memcpy(&e, &bits, 4);
    return size > 64 ? 0 : e;
}

struct step {
    float divisor, low, high, w_p, w_n, dead, slope;
};

INLINE void gradients(const float *restrict w, const float *restrict g, int64_t n, struct step s, const int divided,
                      const int soft, float *restrict d_w, double *restrict sums)
{
    double positive = 0, negative = 0, above = 0, below = 0, above_x = 0, below_x = 0;
#pragma omp simd reduction(+ : positive, negative, above, below, above_x, below_x)
    for (int64_t i = 0; i < n; i++) {
        float x = divided ? w[i] / s.divisor : w[i];
        positive += x > s.high ? g[i] : 0;
        negative += x < s.low ? g[i] : 0;
        float d = (x > s.high ? s.w_p : x < s.low ? s.w_n : s.dead) * g[i];
        d_w[i] = divided ? d / s.divisor : d;
        if (soft) { /* S' = e / (1 + e)^2; both with one division */
            float to_high = x - s.high, to_low = x - s.low;
            float e_high = exp_minus_size(s.slope * to_high), e_low = exp_minus_size(s.slope * to_low);
            float high = (1 + e_high) * (1 + e_high), low = (1 + e_low) * (1 + e_low), share = g[i] / (high * low);
            float at_high = e_high * low * share, at_low = e_low * high * share;
            above += at_high;
            below += at_low;
            if (soft == 2) {
                above_x += at_high * to_high;
                below_x += at_low * to_low;
            }
        }
    }
    const double all[6] = {positive, negative, above, below, above_x, below_x};
    memcpy(sums, all, sizeof all);
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
    if (divisor == 1 && soft == 0)
        gradients(w, g, n, s, 0, 0, d_w, sums);
    else if (divisor == 1 && soft == 1)
        gradients(w, g, n, s, 0, 1, d_w, sums);
    else if (divisor == 1)
        gradients(w, g, n, s, 0, 2, d_w, sums);
    else if (soft == 0)
        gradients(w, g, n, s, 1, 0, d_w, sums);
    else
        gradients(w, g, n, s, 1, 2, d_w, sums);
}

/* The whole step ---------------------------------------------------------------------------------------------------- */

enum rule { MAX_FRACTION, SIGNED_MOMENTS, ABSOLUTE_MOMENTS, DIRECT, TIED };

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
