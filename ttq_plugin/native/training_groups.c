/* The ternary step of one float32 layer whose channels have scales and thresholds of their own.
 *
 * A weight is (outer, channels, inner), contiguous; a group is what belongs to one channel. What is known of a group are
 * floats, and distances are rounded as torch rounds them, so that codes computed there decide alike. Where outer > 1 the
 * groups lie scattered: TILE of them at a time are brought together in `scratch`, 3 * TILE rows of outer * inner values.
 */
#include "training_rows.h"

enum { SCALES = 1, THRESHOLDS = 2, ALPHA = 4 }; /* what is raised to SMALLEST, in place, before it is used */
#define SMALLEST 1e-8f
enum { TILE = 16, MEAN = 0, SIGMA, D_MIN, D_MAX, PULL_MIN, PULL_MAX };

struct groups {
    int64_t outer, channels, inner;
};

/* Up to TILE groups from c on, each into a row of its own. */
INLINE void gather(const float *restrict x, struct groups s, int64_t c, float *restrict rows)
{
    const int64_t tile = s.channels - c < TILE ? s.channels - c : TILE, n = s.outer * s.inner;
    for (int64_t o = 0; o < s.outer; o++)
        for (int64_t k = 0; k < tile; k++)
            for (int64_t i = 0; i < s.inner; i++)
                rows[k * n + o * s.inner + i] = x[(o * s.channels + c + k) * s.inner + i];
}

/* The reverse of gather. */
INLINE void scatter(const float *restrict rows, struct groups s, int64_t c, float *restrict x)
{
    const int64_t tile = s.channels - c < TILE ? s.channels - c : TILE, n = s.outer * s.inner;
    for (int64_t o = 0; o < s.outer; o++)
        for (int64_t k = 0; k < tile; k++)
            for (int64_t i = 0; i < s.inner; i++)
                x[(o * s.channels + c + k) * s.inner + i] = rows[k * n + o * s.inner + i];
}

INLINE int ends_tile(struct groups s, int64_t c)
{
    return s.outer > 1 && (c % TILE == TILE - 1 || c == s.channels - 1);
}

INLINE void group_moments(const float *w, int64_t n, float *mean, float *sigma)
{
    double found[2];
    moments(w, n, 1, 0, found);
    *mean = (float)found[0];
    *sigma = (float)(found[1] / sqrt((double)(n - 1)));
}

/* max|w|; NaN if any weight is not finite. */
INLINE float largest_size(const float *w, int64_t n)
{
    float largest = 0, finite = 0;
#pragma omp simd reduction(max : largest) reduction(+ : finite)
    for (int64_t i = 0; i < n; i++) {
        float size = fabsf(w[i]);
        largest = size > largest ? size : largest;
        finite += w[i] * 0;
    }
    return largest + finite;
}

/* The distances, and dD/dt = sigma sign(mean + t sigma) where they are mean + t sigma; see ../core/rules.py. */
static void find_group(int rule, float largest, float t0, float t1, float found[6])
{
    const float mean = found[MEAN], sigma = found[SIGMA];
    volatile float low = t0 * sigma, high = t1 * sigma; /* rounded before the sum */
    const float at_low = mean + low, at_high = mean + high;
    const int tied = rule == TIED;
    found[PULL_MIN] = copysignf(sigma, at_low);
    found[PULL_MAX] = copysignf(sigma, tied ? at_low : at_high);
    switch (rule) {
    case MAX_FRACTION:
        found[D_MIN] = found[D_MAX] = t0 * largest;
        break;
    case SIGNED_MOMENTS:
        found[D_MIN] = -at_low;
        found[D_MAX] = at_high;
        break;
    case DIRECT:
        found[D_MIN] = t0;
        found[D_MAX] = t1;
        found[PULL_MIN] = found[PULL_MAX] = 1;
        break;
    default: /* ABSOLUTE_MOMENTS, TIED */
        found[D_MIN] = fabsf(at_low);
        found[D_MAX] = tied ? found[D_MIN] : fabsf(at_high);
    }
}

/* Mean and standard deviation of each group, (2, channels). */
KERNEL ttq_group_moments(const float *w, const struct groups *s, float *scratch, float *out)
{
    const int64_t n = s->outer * s->inner;
    for (int64_t c = 0; c < s->channels; c++) {
        if (s->outer > 1 && c % TILE == 0)
            gather(w, *s, c, scratch);
        const float *row = s->outer > 1 ? scratch + c % TILE * n : w + c * n;
        group_moments(row, n, out + c, out + s->channels + c);
    }
}

INLINE void raise(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] < SMALLEST ? SMALLEST : x[i];
}

/* q, and what the backward pass has to know, (6, channels). Moments are zero where neither the rule nor the caller has
 * a use for them.
 */
KERNEL ttq_group_forward(const float *w, const struct groups *s, float *scales, float *t, float *alpha, int rule,
                         int want_moments, int raised, float *scratch, float *known, float *q)
{
    const int64_t n = s->outer * s->inner, channels = s->channels;
    const int64_t second = rule == MAX_FRACTION || rule == TIED ? 0 : channels;
    float *scattered = scratch + TILE * n;
    if (raised & SCALES)
        raise(scales, 2 * channels);
    if (raised & THRESHOLDS)
        raise(t, second + channels);
    if (raised & ALPHA)
        raise(alpha, channels);
    for (int64_t c = 0; c < channels; c++) {
        if (s->outer > 1 && c % TILE == 0)
            gather(w, *s, c, scratch);
        const float *row = s->outer > 1 ? scratch + c % TILE * n : w + c * n;
        float found[6] = {0};
        if (want_moments || !(rule == MAX_FRACTION || rule == DIRECT))
            group_moments(row, n, found + MEAN, found + SIGMA);
        find_group(rule, rule == MAX_FRACTION ? largest_size(row, n) : 0, t[c], t[c + second], found);
        for (int k = 0; k < 6; k++)
            known[c + k * channels] = found[k];
        ternarise(row, n, 1, 0, -found[D_MIN], found[D_MAX], -scales[channels + c], scales[c],
                  s->outer > 1 ? scattered + c % TILE * n : q + c * n);
        if (ends_tile(*s, c))
            scatter(scattered, *s, c - c % TILE, q);
    }
}

/* The gradients of each group, as ttq_backward has them: d_scales (2, channels), d_t (k, channels), d_alpha (channels). */
KERNEL ttq_group_backward(const float *w, const float *g, const struct groups *s, const float *scales,
                          const float *alpha, const float *known, double dead, int rule, int soft, float *scratch,
                          float *d_w, float *d_scales, float *d_t, float *d_alpha)
{
    const int64_t n = s->outer * s->inner, channels = s->channels;
    float *scattered_g = scratch + TILE * n, *scattered = scratch + 2 * TILE * n;
    for (int64_t c = 0; c < channels; c++) {
        float found[6];
        double sums[6];
        for (int k = 0; k < 6; k++)
            found[k] = known[c + k * channels];
        if (s->outer > 1 && c % TILE == 0) {
            gather(w, *s, c, scratch);
            gather(g, *s, c, scattered_g);
        }
        const float *x = s->outer > 1 ? scratch + c % TILE * n : w + c * n;
        const float *x_g = s->outer > 1 ? scattered_g + c % TILE * n : g + c * n;
        float *out = s->outer > 1 ? scattered + c % TILE * n : d_w + c * n;
        const double w_p = scales[c], w_n = scales[channels + c], slope = soft ? alpha[c] / (double)found[SIGMA] : 0;
        const struct step step = {1,           -found[D_MIN], found[D_MAX], (float)w_p,
                                  (float)w_n, (float)dead,   (float)slope};
        gradients_of(x, x_g, n, step, 0, soft, out, sums);
        if (ends_tile(*s, c))
            scatter(scattered, *s, c - c % TILE, d_w);
        d_scales[c] = (float)sums[0];
        d_scales[c + channels] = (float)-sums[1];
        const double d_min = w_n * slope * sums[3] * found[PULL_MIN], d_max = -w_p * slope * sums[2] * found[PULL_MAX];
        if (soft && rule == TIED)
            d_t[c] = (float)(d_min + d_max);
        else if (soft && (rule == DIRECT || rule == ABSOLUTE_MOMENTS)) {
            d_t[c] = (float)d_min;
            d_t[c + channels] = (float)d_max;
        }
        if (soft == 2)
            d_alpha[c] = (float)((w_p * sums[4] + w_n * sums[5]) / found[SIGMA]);
    }
}
