// The ternary step of one float32 layer on a GPU, groups and distances as in training_groups.c. Compiled at run time.
//
// A group has `blocks` blocks of THREADS threads. Sums run in double and in an order that is always the same: a thread
// over its weights, a tree over a block's threads, and over blocks in a second kernel where there are several.

#ifndef THREADS
#define THREADS 256
#endif

enum { MAX_FRACTION, SIGNED_MOMENTS, ABSOLUTE_MOMENTS, DIRECT, TIED };
enum { MEAN, SIGMA, D_MIN, D_MAX, PULL_MIN, PULL_MAX };

enum { SCALES = 1, THRESHOLDS = 2, ALPHA = 4 }; // what is raised to SMALLEST, in place, before it is used
#define SMALLEST 1e-8f

struct Step {
    const float *w, *g;
    float *scales, *t, *alpha;
    float *known, *q, *d_w, *d_scales, *d_t, *d_alpha;
    double *partial;
    long long outer, channels, inner;
    int blocks, rule, soft, raised;
    float dead;
};

// Where weight k of group c lies.
static __device__ long long place(const Step &s, long long c, long long k)
{
    return s.outer == 1 ? c * s.inner + k : (k / s.inner * s.channels + c) * s.inner + k % s.inner;
}

// Replace each thread's values by those of the block: sums, or for index `peak` the largest.
template <int N> static __device__ void combine(double (&v)[N], int peak)
{
    __shared__ double all[N][THREADS];
    const int tid = threadIdx.x;
    for (int j = 0; j < N; j++)
        all[j][tid] = v[j];
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (tid < half)
            for (int j = 0; j < N; j++) {
                const double a = all[j][tid], b = all[j][tid + half];
                all[j][tid] = j == peak ? (a > b ? a : b) : a + b;
            }
        __syncthreads();
    }
    for (int j = 0; j < N; j++)
        v[j] = all[j][0];
    __syncthreads();
}

// The values that the blocks of group c left behind.
template <int N> static __device__ void collect(const Step &s, long long c, double (&v)[N], int peak)
{
    for (int j = 0; j < N; j++)
        v[j] = 0;
    for (int b = threadIdx.x; b < s.blocks; b += THREADS)
        for (int j = 0; j < N; j++) {
            const double x = s.partial[(c * s.blocks + b) * N + j];
            v[j] = j == peak ? (x > v[j] ? x : v[j]) : v[j] + x;
        }
    combine(v, peak);
}

template <int N> static __device__ void leave(const Step &s, const double (&v)[N])
{
    if (threadIdx.x == 0)
        for (int j = 0; j < N; j++)
            s.partial[(long long)blockIdx.x * N + j] = v[j];
}

// Sums over a block's weights of x - x_0 and its square, and the largest |x|; NaN if a weight is not finite. x_0, the
// group's first weight, keeps the squares' sum from cancelling.
static __device__ void statistics(const Step &s, long long c, long long block, double (&v)[3])
{
    const long long n = s.outer * s.inner;
    const double first = s.w[place(s, c, 0)];
    float peak = 0, finite = 0;
    v[0] = v[1] = 0;
    for (long long k = block * THREADS + threadIdx.x; k < n; k += (long long)s.blocks * THREADS) {
        const float x = s.w[place(s, c, k)];
        const double d = x - first;
        v[0] += d;
        v[1] += d * d;
        peak = fmaxf(peak, fabsf(x));
        finite += x * 0.0f;
    }
    v[0] += finite;
    v[2] = peak;
    combine(v, 2);
}

// A learned number, as it is from now on; several threads may read and write it, all the same.
static __device__ float raise(const Step &s, int which, float *x)
{
    const float value = *x;
    if (!(s.raised & which) || !(value < SMALLEST))
        return value;
    *x = SMALLEST;
    return SMALLEST;
}

static __device__ void distances(const Step &s, long long c, const double (&v)[3], float (&found)[6])
{
    const double n = (double)(s.outer * s.inner), squares = v[1] - v[0] * v[0] / n;
    const float mean = (float)(s.w[place(s, c, 0)] + v[0] / n);
    const float sigma = (float)sqrt((squares < 0 ? 0 : squares) / (n - 1));
    const int one = s.rule == MAX_FRACTION || s.rule == TIED;
    const float t0 = raise(s, THRESHOLDS, s.t + c), t1 = one ? t0 : raise(s, THRESHOLDS, s.t + s.channels + c);
    const float at_low = __fadd_rn(mean, __fmul_rn(t0, sigma)), at_high = __fadd_rn(mean, __fmul_rn(t1, sigma));
    const int direct = s.rule == DIRECT;
    found[MEAN] = mean;
    found[SIGMA] = sigma;
    found[PULL_MIN] = direct ? 1 : copysignf(sigma, at_low);
    found[PULL_MAX] = direct ? 1 : copysignf(sigma, at_high);
    if (s.rule == MAX_FRACTION)
        found[D_MIN] = found[D_MAX] = __fmul_rn(t0, (float)(v[2] + (v[0] - v[0])));
    else if (s.rule == SIGNED_MOMENTS) {
        found[D_MIN] = -at_low;
        found[D_MAX] = at_high;
    } else {
        found[D_MIN] = direct ? t0 : fabsf(at_low);
        found[D_MAX] = direct ? t1 : fabsf(at_high);
    }
}

// Before ttq_ternarise, where a group has several blocks.
extern "C" __global__ void ttq_statistics(const Step s)
{
    double v[3];
    statistics(s, blockIdx.x / s.blocks, blockIdx.x % s.blocks, v);
    leave(s, v);
}

// What is known of each group, and q unless it is null.
extern "C" __global__ void ttq_ternarise(const Step s)
{
    const long long c = blockIdx.x / s.blocks, block = blockIdx.x % s.blocks, n = s.outer * s.inner;
    double v[3];
    float found[6];
    if (s.blocks == 1)
        statistics(s, c, 0, v);
    else
        collect(s, c, v, 2);
    distances(s, c, v, found);
    if (block == 0 && threadIdx.x == 0)
        for (int j = 0; j < 6; j++)
            s.known[j * s.channels + c] = found[j];
    if (!s.q)
        return;
    const float w_p = raise(s, SCALES, s.scales + c), w_n = -raise(s, SCALES, s.scales + s.channels + c);
    if (s.raised & ALPHA)
        raise(s, ALPHA, s.alpha + c);
    for (long long k = block * THREADS + threadIdx.x; k < n; k += (long long)s.blocks * THREADS) {
        const long long i = place(s, c, k);
        const float x = s.w[i];
        s.q[i] = x > found[D_MAX] ? w_p : x < -found[D_MIN] ? w_n : 0;
    }
}

// exp(-|x|) / (1 + exp(-|x|))^2, the slope of the logistic sigmoid; 0 beyond |x| = 64, as in training_rows.h.
static __device__ float slope_of_sigmoid(float x)
{
    const float size = fabsf(x), e = expf(-size);
    return size > 64 ? 0 : e / ((1 + e) * (1 + e));
}

static __device__ void finish(const Step &s, long long c, const double (&v)[6])
{
    if (threadIdx.x != 0)
        return;
    s.d_scales[c] = (float)v[0];
    s.d_scales[s.channels + c] = (float)-v[1];
    if (!s.soft)
        return;
    const double w_p = s.scales[c], w_n = s.scales[s.channels + c], sigma = s.known[SIGMA * s.channels + c];
    const double slope = s.alpha[c] / sigma;
    const double d_min = w_n * slope * v[3] * s.known[PULL_MIN * s.channels + c];
    const double d_max = -w_p * slope * v[2] * s.known[PULL_MAX * s.channels + c];
    if (s.rule == TIED)
        s.d_t[c] = (float)(d_min + d_max);
    else if (s.rule == DIRECT || s.rule == ABSOLUTE_MOMENTS) {
        s.d_t[c] = (float)d_min;
        s.d_t[s.channels + c] = (float)d_max;
    }
    if (s.soft == 2)
        s.d_alpha[c] = (float)((w_p * v[4] + w_n * v[5]) / sigma);
}

// dL/dw, and the sums of the other gradients; these themselves where a group has one block.
extern "C" __global__ void ttq_gradients(const Step s)
{
    const long long c = blockIdx.x / s.blocks, block = blockIdx.x % s.blocks, n = s.outer * s.inner;
    const float low = -s.known[D_MIN * s.channels + c], high = s.known[D_MAX * s.channels + c];
    const float w_p = s.scales[c], w_n = s.scales[s.channels + c];
    const float slope = s.soft ? (float)(s.alpha[c] / (double)s.known[SIGMA * s.channels + c]) : 0;
    double v[6] = {0, 0, 0, 0, 0, 0};
    for (long long k = block * THREADS + threadIdx.x; k < n; k += (long long)s.blocks * THREADS) {
        const long long i = place(s, c, k);
        const float x = s.w[i], g = s.g[i];
        v[0] += x > high ? g : 0;
        v[1] += x < low ? g : 0;
        s.d_w[i] = (x > high ? w_p : x < low ? w_n : s.dead) * g;
        if (s.soft) {
            const float to_high = x - high, to_low = x - low;
            const float at_high = slope_of_sigmoid(slope * to_high) * g, at_low = slope_of_sigmoid(slope * to_low) * g;
            v[2] += at_high;
            v[3] += at_low;
            if (s.soft == 2) {
                v[4] += at_high * to_high;
                v[5] += at_low * to_low;
            }
        }
    }
    combine(v, -1);
    if (s.blocks == 1)
        finish(s, c, v);
    else
        leave(s, v);
}

// After ttq_gradients, where a group has several blocks; one block a group.
extern "C" __global__ void ttq_sums(const Step s)
{
    double v[6];
    collect(s, blockIdx.x, v, -1);
    finish(s, blockIdx.x, v);
}
