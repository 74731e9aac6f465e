/* One convolution or linear layer, with what follows it, on planes of floats.
 *
 * Output positions are taken in tiles of 16, 32 or 64. For a tile, the inputs that each weight meets are laid side by
 * side in a panel: a row for each (channel, kernel row, kernel column), a column for each position. A ternary layer
 * then adds, for every output channel, the rows of its positive and of its negative weights, and applies both scales
 * once; a dense one multiplies the panel by its matrix. Zero weights cost nothing at all. Last, the maximum of each
 * pooling window, the activation (monotone, so it may follow the maximum), and the place in the next layer's planes.
 */
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void
#else
#define KERNEL void
#endif
#define INLINE static inline __attribute__((always_inline))
#define LANES 16
#define DENSE_ROWS 4

#ifndef TTQ_SOURCE
#define TTQ_SOURCE 0
#endif

/* GCC splits these where the machine's vectors are shorter. */
typedef float vec __attribute__((vector_size(64)));
typedef int32_t mask8 __attribute__((vector_size(32)));
typedef int32_t mask4 __attribute__((vector_size(16)));
typedef float loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef float half __attribute__((vector_size(32), aligned(4), may_alias));
typedef float quarter __attribute__((vector_size(16), aligned(4), may_alias));

/* Which source this was built from: the first 8 bytes of its SHA-256. */
uint64_t ttq_source(void) { return TTQ_SOURCE; }

/* All sizes in floats; "plane" is one channel of one sample with its padding. */
struct layer {
    int64_t channels, width, plane, sample; /* of the input: a row, a plane and a sample of it */
    int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int64_t out_channels, out_h, out_w;
    int64_t pool_h, pool_w, pool_stride_h, pool_stride_w, pooled_h, pooled_w;
    int64_t next_width, next_plane, next_sample, next_origin; /* of the output */
    int64_t vectors; /* in a tile: 1, 2 or 4 */
    int64_t chunk;   /* samples whose positions share tiles */
    int64_t band;    /* pooled rows that are finished together; all where chunk is not 1 */
    const float *shift, *slope; /* an output channel: added to the sum; and of negative results */
    const float *weights;       /* dense: (out_channels / 4, rows, 4), else null */
    const int32_t *groups;      /* sparse, runs of channels of equal length: channels, positive and negative steps */
    int64_t group_count;
    const int32_t *order; /* the output channels as the groups have them */
    const float *scales;  /* two each in that order: of the positive, of the negative sum */
    const uint16_t *rows; /* of the panel, a channel's positive ones and its negative ones */
};

struct run {
    int64_t to, from, length;
};

/* The rows of positions that a tile consists of: where in the panel, where in the input, how long. */
INLINE int64_t find_runs(const struct layer *l, int64_t positions, int64_t first, int64_t count, struct run *runs)
{
    int64_t n = 0;
    for (int64_t done = 0; done < count; n++) {
        int64_t at = first + done, sample = at / positions, rest = at % positions;
        int64_t y = rest / l->out_w, x = rest % l->out_w, length = l->out_w - x;
        length = length < count - done ? length : count - done;
        runs[n].to = done;
        runs[n].from = sample * l->sample + y * l->stride_h * l->width + x * l->stride_w;
        runs[n].length = length;
        done += length;
    }
    return n;
}

/* Copies run by run, up to 15 floats too many: the next run, or row, overwrites them. */
INLINE void fill_row(const float *in, const struct run *runs, int64_t n, int64_t stride, int64_t longest, float *row)
{
    for (int64_t r = 0; r < n; r++) {
        const float *from = in + runs[r].from;
        float *to = row + runs[r].to;
        if (stride != 1)
            for (int64_t i = 0; i < runs[r].length; i++)
                to[i] = from[i * stride];
        else if (longest <= 4)
            *(quarter *)to = *(const quarter *)from;
        else if (longest <= 8)
            *(half *)to = *(const half *)from;
        else
            for (int64_t i = 0; i < runs[r].length; i += LANES)
                *(loose *)(to + i) = *(const loose *)(from + i);
    }
}

/* The panel of one tile, (rows, tile), and a row of zeros after it. */
INLINE void fill_panel(const struct layer *l, const float *in, int64_t positions, int64_t first, int64_t count,
                       float *panel)
{
    struct run runs[4 * LANES];
    const int64_t tile = l->vectors * LANES, n = find_runs(l, positions, first, count, runs);
    const int64_t longest = l->out_w < count ? l->out_w : count;
    float *row = panel;
    for (int64_t c = 0; c < l->channels; c++)
        for (int64_t y = 0; y < l->kernel_h; y++)
            for (int64_t x = 0; x < l->kernel_w; x++, row += tile)
                fill_row(in + c * l->plane + y * l->dilation_h * l->width + x * l->dilation_w, runs, n, l->stride_w,
                         longest, row);
    memset(row, 0, (size_t)tile * sizeof *row);
}

/* The sums of `steps` * `ways` rows, in `ways` independent chains for each of `t` vectors. */
INLINE void add_rows(const float *panel, const uint16_t *rows, int64_t steps, const int t, const int ways, vec *sums)
{
    vec chains[4];
    for (int i = 0; i < 4; i++)
        chains[i] = (vec){0};
    for (int64_t s = 0; s < steps; s++, rows += ways)
#pragma GCC unroll 4
        for (int w = 0; w < ways; w++) {
            const vec *row = (const vec *)(panel + (int64_t)rows[w] * (t * LANES));
#pragma GCC unroll 4
            for (int i = 0; i < t; i++)
                chains[i * ways + w] += row[i];
        }
#pragma GCC unroll 4
    for (int i = 0; i < t; i++)
        sums[i] = ways == 4   ? (chains[0] + chains[1]) + (chains[2] + chains[3])
                  : ways == 2 ? chains[2 * i] + chains[2 * i + 1]
                              : chains[i];
}

INLINE void sparse_tile(const struct layer *l, const float *panel, int64_t stride, float *out, const int t,
                        const int ways)
{
    const int32_t *order = l->order;
    const float *scales = l->scales;
    const uint16_t *rows = l->rows;
    for (int64_t g = 0; g < l->group_count; g++) {
        const int64_t channels = l->groups[3 * g], up = l->groups[3 * g + 1], down = l->groups[3 * g + 2];
        for (int64_t c = 0; c < channels; c++, order++, scales += 2) {
            vec positive[4], negative[4];
            add_rows(panel, rows, up, t, ways, positive);
            rows += up * ways;
            add_rows(panel, rows, down, t, ways, negative);
            rows += down * ways;
            vec *to = (vec *)(out + *order * stride);
#pragma GCC unroll 4
            for (int i = 0; i < t; i++)
                to[i] = l->shift[*order] + scales[0] * positive[i] + scales[1] * negative[i];
        }
    }
}

INLINE void dense_tile(const struct layer *l, const float *panel, int64_t stride, float *out, const int t)
{
    const int64_t rows = l->channels * l->kernel_h * l->kernel_w;
    const float *weights = l->weights;
    for (int64_t c = 0; c < l->out_channels; c += DENSE_ROWS) {
        vec sums[DENSE_ROWS][2];
        for (int j = 0; j < DENSE_ROWS; j++)
            for (int i = 0; i < t; i++)
                sums[j][i] = (vec){0} + l->shift[c + j];
        const vec *row = (const vec *)panel;
        for (int64_t r = 0; r < rows; r++, weights += DENSE_ROWS, row += t)
#pragma GCC unroll 4
            for (int j = 0; j < DENSE_ROWS; j++)
#pragma GCC unroll 2
                for (int i = 0; i < t; i++)
                    sums[j][i] += weights[j] * row[i];
        for (int j = 0; j < DENSE_ROWS; j++)
            for (int i = 0; i < t; i++)
                ((vec *)(out + (c + j) * stride))[i] = sums[j][i];
    }
}

INLINE float larger(float a, float b) { return a > b || a != a ? a : b; }

/* The activation of `length` results. */
INLINE void activate(const float *from, float slope, int64_t length, float *to)
{
    for (int64_t x = 0; x < length; x++)
        to[x] = from[x] < 0 ? from[x] * slope : from[x];
}

/* Windows of 2x2 side by side, as many at a time as `type` holds; the last ones again, where the rest is shorter. */
#define HALVE(name, type, mask, even, odd)                                                                            \
    INLINE type name##_larger(type a, type b)                                                                         \
    {                                                                                                                 \
        mask which = (a > b) | (a != a);                                                                              \
        return (type)((which & (mask)a) | (~which & (mask)b));                                                        \
    }                                                                                                                 \
    INLINE void name(const float *upper, const float *lower, float slope, int64_t length, float *to)                  \
    {                                                                                                                 \
        const int64_t n = sizeof(type) / sizeof *to;                                                                  \
        for (int64_t x = 0; x < length; x += n) {                                                                     \
            const int64_t at = x + n > length ? length - n : x;                                                       \
            type left = name##_larger(*(const type *)(upper + 2 * at), *(const type *)(lower + 2 * at));              \
            type right = name##_larger(*(const type *)(upper + 2 * at + n), *(const type *)(lower + 2 * at + n));     \
            type largest = name##_larger(__builtin_shufflevector(left, right, even),                                  \
                                         __builtin_shufflevector(left, right, odd));                                  \
            mask below = largest < 0;                                                                                 \
            *(type *)(to + at) = (type)((below & (mask)(largest * slope)) | (~below & (mask)largest));                \
        }                                                                                                             \
    }
#define LIST(...) __VA_ARGS__
HALVE(halve8, half, mask8, LIST(0, 2, 4, 6, 8, 10, 12, 14), LIST(1, 3, 5, 7, 9, 11, 13, 15))
HALVE(halve4, quarter, mask4, LIST(0, 2, 4, 6), LIST(1, 3, 5, 7))

INLINE void halve(const float *upper, const float *lower, float slope, int64_t length, float *to)
{
    if (length >= 8) /* 16 at a time GCC 12 compiles to 16 single comparisons */
        halve8(upper, lower, slope, length, to);
    else if (length >= 4)
        halve4(upper, lower, slope, length, to);
    else
        for (int64_t x = 0; x < length; x++, upper += 2, lower += 2) {
            float largest = larger(larger(upper[0], lower[0]), larger(upper[1], lower[1]));
            to[x] = largest < 0 ? largest * slope : largest;
        }
}

INLINE void pool(const struct layer *l, const float *in, float slope, float *lines, float *to)
{
    for (int64_t x = 0; x < l->out_w; x++)
        lines[x] = in[x];
    for (int64_t k = 1; k < l->pool_h; k++)
        for (int64_t x = 0; x < l->out_w; x++)
            lines[x] = larger(lines[x], in[k * l->out_w + x]);
    for (int64_t x = 0; x < l->pooled_w; x++) {
        float largest = lines[x * l->pool_stride_w];
        for (int64_t k = 1; k < l->pool_w; k++)
            largest = larger(largest, lines[x * l->pool_stride_w + k]);
        to[x] = largest < 0 ? largest * slope : largest;
    }
}

/* Maxima, activation, place. `sums` is (out_channels, stride), its columns the positions of `samples` samples. */
INLINE void finish(const struct layer *l, const float *sums, int64_t stride, int64_t positions, int64_t samples,
                   int64_t pooled, float *lines, float *out)
{
    const int none = l->pool_h == 1 && l->pool_w == 1 && l->pool_stride_h == 1 && l->pool_stride_w == 1;
    const int twos = l->pool_h == 2 && l->pool_w == 2 && l->pool_stride_w == 2;
    for (int64_t c = 0; c < l->out_channels; c++)
        for (int64_t s = 0; s < samples; s++) {
            const float *in = sums + c * stride + s * positions;
            float *to = out + s * l->next_sample + c * l->next_plane + l->next_origin;
            for (int64_t y = 0; y < pooled; y++, to += l->next_width, in += l->pool_stride_h * l->out_w)
                if (none)
                    activate(in, l->slope[c], l->pooled_w, to);
                else if (twos)
                    halve(in, in + l->out_w, l->slope[c], l->pooled_w, to);
                else
                    pool(l, in, l->slope[c], lines, to);
        }
}

/* All positions of `samples` samples, `count` in all, in tiles. */
INLINE void add_up(const struct layer *l, const float *in, int64_t positions, int64_t count, float *panel, float *sums)
{
    const int64_t tile = l->vectors * LANES, stride = (count + tile - 1) / tile * tile;
    for (int64_t first = 0; first < count; first += tile) {
        const int64_t size = count - first < tile ? count - first : tile;
        if (size < tile)
            memset(panel, 0, (size_t)(l->channels * l->kernel_h * l->kernel_w * tile) * sizeof *panel);
        fill_panel(l, in, positions, first, size, panel);
        if (l->weights && l->vectors == 1)
            dense_tile(l, panel, stride, sums + first, 1);
        else if (l->weights)
            dense_tile(l, panel, stride, sums + first, 2);
        else if (l->vectors == 1)
            sparse_tile(l, panel, stride, sums + first, 1, 4);
        else if (l->vectors == 2)
            sparse_tile(l, panel, stride, sums + first, 2, 2);
        else
            sparse_tile(l, panel, stride, sums + first, 4, 1);
    }
}

/* The layer on `samples` samples. `panel`, `sums` and `lines` are working memory, 64-byte aligned: (rows + 1) * tile
 * + 16, out_channels * stride + 32, and out_w floats; stride is the positions of a chunk, rounded up to tiles. Reads up
 * to 15 floats behind the input.
 */
KERNEL ttq_layer(const struct layer *l, int64_t samples, const float *in, float *out, float *panel, float *sums,
                 float *lines)
{
    const int64_t tile = l->vectors * LANES;
    for (int64_t s = 0; s < samples; s += l->chunk)
        for (int64_t y = 0; y < l->pooled_h; y += l->band) {
            const int64_t here = samples - s < l->chunk ? samples - s : l->chunk;
            const int64_t pooled = l->pooled_h - y < l->band ? l->pooled_h - y : l->band;
            const int64_t rows = l->chunk > 1 ? l->out_h : (pooled - 1) * l->pool_stride_h + l->pool_h;
            const int64_t positions = rows * l->out_w, stride = (here * positions + tile - 1) / tile * tile;
            add_up(l, in + s * l->sample + y * l->pool_stride_h * l->stride_h * l->width, positions, here * positions,
                   panel, sums);
            finish(l, sums, stride, positions, here, pooled, lines, out + s * l->next_sample + y * l->next_width);
        }
}
