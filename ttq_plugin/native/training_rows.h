/* What the ternary step does with the weights of one group, one after the other; see training.c. */
#ifndef TRAINING_ROWS_H
#define TRAINING_ROWS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define KERNEL __attribute__((target_clones("avx512f", "avx2", "default"))) void
#else
#define KERNEL void
#endif
#define INLINE static inline __attribute__((always_inline))

/* The numbers of the rules in ../core/rules.py and variants.py. */
enum rule { MAX_FRACTION, SIGNED_MOMENTS, ABSOLUTE_MOMENTS, DIRECT, TIED };

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

INLINE void ternarise(const float *restrict w, int64_t n, float divisor, const int divided, float low, float high,
                      float negative, float positive, float *restrict q)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float x = divided ? w[i] / divisor : w[i];
        q[i] = x > high ? positive : x < low ? negative : 0;
    }
}

/* exp(x) for |x| <= 64, relative error below 2e-7: 2^k exp(r) with r = x - k ln 2, |r| <= ln 2 / 2, by Taylor to degree
 * 7; no branch, so that it vectorises.
 */
INLINE float exp_of(float x)
{
    float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's last bits are the rounded product */
    float k = shifted - 12582912.0f;
    float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
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
    return e;
}

/* exp(-|x|); 0 beyond |x| = 64: products with denormal numbers would cost ten times as much. */
INLINE float exp_minus_size(float x)
{
    float size = fabsf(x);
    return size > 64 ? 0 : exp_of(size > 64 ? -64 : -size);
}

struct step {
    float divisor, low, high, w_p, w_n, dead, slope;
};

enum { NEAR = 10, FAR = 40 };

/* Whether slope times both distances is small enough for one exponential a weight. */
INLINE int is_near(struct step s)
{
    return fabsf(s.slope * s.low) <= NEAR && fabsf(s.slope * s.high) <= NEAR;
}

/* With soft, S' = e / (1 + e)^2 at both distances, with one division. If near, exp(a x - a d) is exp(a x) times one
 * number a distance; where |a x| > FAR, S' is below exp(NEAR - FAR), and may be anything that small.
 */
INLINE void gradients(const float *restrict w, const float *restrict g, int64_t n, struct step s, const int divided,
                      const int soft, const int near, float *restrict d_w, double *restrict sums)
{
    double positive = 0, negative = 0, above = 0, below = 0, above_x = 0, below_x = 0;
    const float to_e_high = near ? expf(-s.slope * s.high) : 0, to_e_low = near ? expf(-s.slope * s.low) : 0;
#pragma omp simd reduction(+ : positive, negative, above, below, above_x, below_x)
    for (int64_t i = 0; i < n; i++) {
        float x = divided ? w[i] / s.divisor : w[i];
        positive += x > s.high ? g[i] : 0;
        negative += x < s.low ? g[i] : 0;
        float d = (x > s.high ? s.w_p : x < s.low ? s.w_n : s.dead) * g[i];
        d_w[i] = divided ? d / s.divisor : d;
        if (soft) {
            float to_high = x - s.high, to_low = x - s.low, e_high, e_low;
            if (near) {
                float z = s.slope * x, e = exp_of(z > FAR ? FAR : z < -FAR ? -FAR : z);
                e_high = e * to_e_high;
                e_low = e * to_e_low;
            } else {
                e_high = exp_minus_size(s.slope * to_high);
                e_low = exp_minus_size(s.slope * to_low);
            }
            float high = 1 + e_high, low = 1 + e_low, both = 1 / (high * low); /* 0 where the product is too large */
            float of_high = low * both, of_low = high * both;
            float at_high = e_high * of_high * of_high * g[i], at_low = e_low * of_low * of_low * g[i];
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

/* `gradients` in the copy that the arguments ask for. */
INLINE void gradients_of(const float *w, const float *g, int64_t n, struct step s, const int divided, int soft,
                         float *d_w, double *sums)
{
    if (soft == 0)
        gradients(w, g, n, s, divided, 0, 0, d_w, sums);
    else if (!is_near(s))
        gradients(w, g, n, s, divided, 2, 0, d_w, sums);
    else if (soft == 1)
        gradients(w, g, n, s, divided, 1, 1, d_w, sums);
    else
        gradients(w, g, n, s, divided, 2, 1, d_w, sums);
}

#endif
