/* A layer on integers, compiled for each kind of processor: sums, requantisation, table, place in the output. */
#include "integer_planes.h"

/* Adds rows of the panel, in `ways` independent chains for each of `n` vectors, to the lines that the runs name. */
#define ADD_LINES(name, vec, lanes, n, ways)                                                                          \
    static void NAME(name)(const struct layer *l, const struct block *block, const uint8_t *panel, int first,         \
                           void *sums)                                                                                \
    {                                                                                                                 \
        const int32_t *runs = l->runs + block->runs, *order = l->order + block->order;                                \
        const uint16_t *list = l->list + block->list;                                                                 \
        for (int64_t g = 0; g < block->run_count; g++) {                                                              \
            const int64_t steps = runs[2 * g], count = runs[2 * g + 1];                                               \
            for (int64_t c = 0; c < count; c++, order++) {                                                            \
                vec chains[(n) * (ways)];                                                                             \
                for (int i = 0; i < (n) * (ways); i++)                                                                \
                    chains[i] = (vec){0};                                                                             \
                for (int64_t s = 0; s < steps; s++, list += (ways))                                                   \
                    for (int w = 0; w < (ways); w++)                                                                  \
                        for (int i = 0; i < (n); i++)                                                                 \
                            chains[i * (ways) + w] += ((const vec *)(panel + list[w]))[i];                            \
                for (int i = 0; i < (n); i++) {                                                                       \
                    vec sum = chains[i * (ways)];                                                                     \
                    for (int w = 1; w < (ways); w++)                                                                  \
                        sum += chains[i * (ways) + w];                                                                \
                    if (!l->wide) {                                                                                   \
                        vec *to = (vec *)((uint16_t *)sums + *order * (n) * (lanes)) + i;                             \
                        *to = first ? sum : *to + sum;                                                                \
                    } else                                                                                            \
                        for (int half = 0; half < (lanes) / 16; half++) {                                             \
                            i32x16 *to = (i32x16 *)((int32_t *)sums + (*order * (n) + i) * (lanes)) + half;           \
                            i32x16 more = __builtin_convertvector(((i16x16 *)&sum)[half], i32x16);                    \
                            *to = first ? more : *to + more;                                                          \
                        }                                                                                             \
                }                                                                                                     \
            }                                                                                                         \
        }                                                                                                             \
    }
ADD_LINES(add_16, u16x16, 16, 1, 4)
ADD_LINES(add_32, u16x32, 32, 1, 4)
ADD_LINES(add_64, u16x32, 32, 2, 2)
ADD_LINES(add_96, u16x32, 32, 3, 1)
ADD_LINES(add_128, u16x32, 32, 4, 1)
#undef ADD_LINES

/* Four products of an unsigned and a signed byte, added to each of 16 sums. */
INLINE i32x16 NAME(dot4)(i32x16 sum, u32x16 x, const int8_t *w)
{
#ifdef __AVX512VNNI__
    int32_t word;
    memcpy(&word, w, 4);
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, _mm512_set1_epi32(word));
#else
    for (int k = 0; k < 4; k++)
        sum += (i32x16)((x >> (8 * k)) & 255) * (int32_t)w[k];
    return sum;
#endif
}

/* Sums of four lines at a time over `n` vectors of 16 positions. */
#define MULTIPLY(name, n)                                                                                             \
    static void NAME(name)(const uint8_t *panel, const int8_t *weights, int64_t words, int64_t lines, int64_t tile,   \
                           int32_t *sums)                                                                             \
    {                                                                                                                 \
        for (int64_t line = 0; line < lines; line += 4) {                                                             \
            i32x16 found[4][n];                                                                                       \
            for (int j = 0; j < 4; j++)                                                                               \
                for (int i = 0; i < (n); i++)                                                                         \
                    found[j][i] = (i32x16){0};                                                                        \
            const u32x16 *x = (const u32x16 *)panel;                                                                  \
            for (int64_t word = 0; word < words; word++, weights += 16, x += tile / 16)                               \
                for (int j = 0; j < 4; j++)                                                                           \
                    for (int i = 0; i < (n); i++)                                                                     \
                        found[j][i] = NAME(dot4)(found[j][i], x[i], weights + 4 * j);                                 \
            for (int j = 0; j < 4; j++)                                                                               \
                for (int i = 0; i < (n); i++)                                                                         \
                    ((i32x16 *)(sums + (line + j) * tile))[i] = found[j][i];                                          \
        }                                                                                                             \
    }
MULTIPLY(multiply_16, 1)
MULTIPLY(multiply_32, 2)
MULTIPLY(multiply_64, 4)
#undef MULTIPLY

/* The product of the low halves, which are signed 32-bit numbers in 64 bits. */
INLINE i64x8 NAME(times)(i64x8 a, i64x8 b)
{
#if defined(__AVX512F__)
    return (i64x8)_mm512_mul_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    i64x8 product;
    for (int half = 0; half < 2; half++)
        ((__m256i *)&product)[half] = _mm256_mul_epi32(((__m256i *)&a)[half], ((__m256i *)&b)[half]);
    return product;
#else
    return a * b;
#endif
}

INLINE i64x8 NAME(larger)(i64x8 a, i64x8 b)
{
#ifdef __AVX512F__
    return (i64x8)_mm512_max_epi64((__m512i)a, (__m512i)b);
#else
    const i64x8 which = a > b;
    return (a & which) | (b & ~which);
#endif
}

INLINE i64x8 NAME(smaller)(i64x8 a, i64x8 b)
{
#ifdef __AVX512F__
    return (i64x8)_mm512_min_epi64((__m512i)a, (__m512i)b);
#else
    const i64x8 which = a < b;
    return (a & which) | (b & ~which);
#endif
}

/* Eight sums as 64-bit numbers; GCC 12 would convert vectors one by one. */
INLINE i64x8 NAME(load8)(const void *sums, int64_t at, const int wide)
{
    const int32_t *wides = (const int32_t *)sums + at;
    const int16_t *shorts = (const int16_t *)sums + at;
#if defined(__AVX512F__)
    return wide ? (i64x8)_mm512_cvtepi32_epi64(_mm256_loadu_si256((const __m256i *)wides))
                : (i64x8)_mm512_cvtepi16_epi64(_mm_loadu_si128((const __m128i *)shorts));
#elif defined(__AVX2__)
    i64x8 found;
    for (int half = 0; half < 2; half++)
        ((__m256i *)&found)[half] = wide ? _mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)wides + half))
                                         : _mm256_cvtepi16_epi64(_mm_loadu_si64(shorts + 4 * half));
    return found;
#else
    return wide ? __builtin_convertvector(*(const loose_i32x8 *)wides, i64x8)
                : __builtin_convertvector(*(const loose_i16x8 *)shorts, i64x8);
#endif
}

/* The largest sums of eight windows, or the smallest, where the factor is negative. */
INLINE i64x8 NAME(pooled)(const int32_t *sums, int64_t windows, int64_t members, int64_t factor)
{
#ifdef __AVX2__
    __m256i found = _mm256_loadu_si256((const __m256i *)sums);
    for (int64_t m = 1; m < members; m++) {
        const __m256i one = _mm256_loadu_si256((const __m256i *)(sums + m * windows));
        found = factor < 0 ? _mm256_min_epi32(found, one) : _mm256_max_epi32(found, one);
    }
    return NAME(load8)(&found, 0, 1);
#else
    i64x8 found = NAME(load8)(sums, 0, 1);
    for (int64_t m = 1; m < members; m++) {
        const i64x8 one = NAME(load8)(sums, m * windows, 1);
        found = factor < 0 ? NAME(smaller)(found, one) : NAME(larger)(found, one);
    }
    return found;
#endif
}

/* clamp(zero + round(total / 2^shift)) of the largest totals of `count` windows; halves go away from 0. */
INLINE void NAME(requantise)(const struct layer *l, const void *positive, const void *negative, int64_t channel,
                             int64_t at, int64_t members, int64_t count, int8_t *to, const int wide, const int two)
{
    const i64x8 none = {0}, p = none + l->factors[2 * channel], n = none + l->factors[2 * channel + 1];
    const i64x8 constant = none + l->constants[channel], low = none + l->low, high = none + l->high;
    const int64_t half = (int64_t)1 << (l->shift - 1);
    for (int64_t i = 0; i < count; i += 8) {
        i64x8 total = none;
        if (two) {
            for (int64_t m = 0; m < members; m++) {
                const int64_t place = at + m * l->windows + i;
                const i64x8 one = NAME(times)(NAME(load8)(positive, place, wide), p) -
                                  NAME(times)(NAME(load8)(negative, place, wide), n);
                total = m ? NAME(larger)(total, one) : one;
            }
        } else
            total = NAME(times)(
                NAME(pooled)((const int32_t *)positive + at + i, l->windows, members, l->factors[2 * channel]), p);
        total += constant;
        total = ((total + half + (total >> 63)) >> l->shift) + l->zero;
        total = NAME(smaller)(NAME(larger)(total, low), high);
        *(loose_i8x8 *)(to + i) = __builtin_convertvector(total, i8x8);
    }
}

static void NAME(look_up)(const int8_t *table, int64_t count, int8_t *q)
{
    int64_t i = 0;
#ifdef __AVX512VBMI__
    const __m512i a = _mm512_loadu_si512(table), b = _mm512_loadu_si512(table + 64);
    const __m512i c = _mm512_loadu_si512(table + 128), d = _mm512_loadu_si512(table + 192);
    for (; i < count; i += 64) { /* entry q + 128, whose low 7 bits are those of q; rooms are padded by 64 */
        const __m512i at = _mm512_loadu_si512(q + i);
        const __m512i below = _mm512_permutex2var_epi8(a, at, b), above = _mm512_permutex2var_epi8(c, at, d);
        _mm512_storeu_si512(q + i, _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), above, below));
    }
#endif
    for (; i < count; i++)
        q[i] = table[q[i] + 128];
}

/* Results of one output channel for `count` windows, before its table if that is monotone. */
static void NAME(finish)(const struct layer *l, const void *positive, const void *negative, int64_t channel,
                         int64_t count, int8_t *to)
{
    const int64_t members = l->pool_h * l->pool_w, apart = l->table_first ? members : 1;
    int8_t more[256];
    for (int64_t m = 0; m < apart; m++) {
        int8_t *found = m ? more : to;
        const int64_t at = m * l->windows, together = members / apart;
        if (!l->wide)
            NAME(requantise)(l, positive, negative, channel, at, together, count, found, 0, 1);
        else if (l->lines == 2)
            NAME(requantise)(l, positive, negative, channel, at, together, count, found, 1, 1);
        else
            NAME(requantise)(l, positive, negative, channel, at, together, count, found, 1, 0);
        if (l->table_first)
            for (int64_t i = 0; i < count; i++) {
                const int8_t q = l->table[found[i] + 128];
                to[i] = m && to[i] > q ? to[i] : q;
            }
    }
}

/* Where the windows of a tile go. */
static int64_t NAME(find_pieces)(const struct layer *l, int64_t first, int64_t count, struct piece *pieces)
{
    const int64_t per_sample = l->windows_h * l->windows_w;
    const int64_t row = l->to_x == 1 && l->to_y == l->windows_w ? per_sample : l->windows_w;
    int64_t n = 0;
    for (int64_t done = 0; done < count; n++) {
        const int64_t at = first + done, rest = at % per_sample;
        const int64_t y = rest / l->windows_w, x = rest % l->windows_w, side = row - rest % row;
        pieces[n].from = (int32_t)done;
        pieces[n].length = (int32_t)(side < count - done ? side : count - done);
        pieces[n].to = at / per_sample * l->output_sample + y * l->to_y + x * l->to_x;
        done += pieces[n].length;
    }
    return n;
}

INLINE void NAME(place)(const struct layer *l, const struct piece *pieces, int64_t n, const int8_t *q, int8_t *out)
{
    for (int64_t k = 0; k < n; k++) {
        int8_t *to = out + pieces[k].to;
        const int8_t *from = q + pieces[k].from;
        if (l->to_x == 1)
            memcpy(to, from, (size_t)pieces[k].length);
        else
            for (int64_t i = 0; i < pieces[k].length; i++)
                to[i * l->to_x] = from[i];
    }
}

/* The sums of a tile, by the kernel that fits it. */
static void NAME(sparse_sums)(const struct layer *l, const uint16_t *planes, int64_t group,
                              const struct NAME(tile) *t, uint16_t *panel, void *sums)
{
    void (*add)(const struct layer *, const struct block *, const uint8_t *, int, void *) =
        l->tile == 16   ? NAME(add_16)
        : l->tile == 32 ? NAME(add_32)
        : l->tile == 64 ? NAME(add_64)
        : l->tile == 96 ? NAME(add_96)
                        : NAME(add_128);
    for (int64_t b = 0; b < l->block_count; b++) {
        const struct block *block = l->blocks + group * l->block_count + b;
        NAME(fill_panel)(l, planes, block, t, panel);
        add(l, block, (const uint8_t *)panel, b == 0, sums);
    }
}

static void NAME(dense_sums)(const struct layer *l, const uint8_t *planes, int64_t group,
                             const struct NAME(tile) *t, uint8_t *panel, int32_t *sums)
{
    const int64_t words = (l->channels * l->kernel_h * l->kernel_w + 3) / 4;
    const int64_t lines = (l->lines * l->out_channels + 3) / 4 * 4;
    const int8_t *weights = l->weights + group * lines * words * 4;
    NAME(fill_bytes)(l, planes, t, panel + words * l->tile * 4, panel);
    if (l->tile == 16)
        NAME(multiply_16)(panel, weights, words, lines, l->tile, sums);
    else if (l->tile == 32)
        NAME(multiply_32)(panel, weights, words, lines, l->tile, sums);
    else
        NAME(multiply_64)(panel, weights, words, lines, l->tile, sums);
}

/* The windows of some samples, whose planes are laid out. */
static void NAME(tiles)(const struct layer *l, int64_t samples, int8_t *out, char *work)
{
    const int64_t all = samples * l->windows_h * l->windows_w, size = l->wide ? 4 : 2;
    const int64_t planes = l->phases * l->chunk * l->plane * l->channels; /* of a group */
    char *panel = work + l->panel_at, *sums = work + l->sums_at;
    int8_t *results = (int8_t *)work + l->results_at;
    struct NAME(tile) t;
    struct piece pieces[128];
    for (int64_t first = 0; first < all; first += l->windows) {
        const int64_t count = all - first < l->windows ? all - first : l->windows;
        const int64_t n = NAME(find_pieces)(l, first, count, pieces);
        NAME(find_tile)(l, first, count, &t);
        for (int64_t g = 0; g < l->groups; g++) {
            if (l->kind == SPARSE)
                NAME(sparse_sums)(l, (const uint16_t *)work + g * planes, g, &t, (uint16_t *)panel, sums);
            else
                NAME(dense_sums)(l, (const uint8_t *)work + g * planes, g, &t, (uint8_t *)panel, (int32_t *)sums);
            const int64_t channel = g * l->out_channels;
            for (int64_t c = 0; c < l->out_channels; c++) {
                const char *positive = sums + c * l->lines * l->tile * size;
                NAME(finish)(l, positive, positive + l->tile * size, channel + c, count, results + c * l->results);
            }
            if (l->table && !l->table_first)
                NAME(look_up)(l->table, l->out_channels * l->results, results);
            for (int64_t c = 0; c < l->out_channels; c++)
                NAME(place)(l, pieces, n, results + c * l->results, out + (channel + c) * l->to_c);
        }
    }
}

/* Sums of the products of unsigned bytes with `count` lines of signed ones, `rows` (a multiple of 64) each. */
static void NAME(dots)(const uint8_t *x, const int8_t *weights, int64_t rows, int64_t count, int32_t *sums)
{
    for (int64_t line = 0; line < count; line++, weights += rows) {
        int32_t sum = 0;
#ifdef __AVX512VNNI__
        __m512i found = _mm512_setzero_si512(), other = found;
        int64_t i = 0;
        for (; i + 128 <= rows; i += 128) {
            found = _mm512_dpbusd_epi32(found, _mm512_loadu_si512(x + i), _mm512_loadu_si512(weights + i));
            other = _mm512_dpbusd_epi32(other, _mm512_loadu_si512(x + i + 64), _mm512_loadu_si512(weights + i + 64));
        }
        if (i < rows)
            found = _mm512_dpbusd_epi32(found, _mm512_loadu_si512(x + i), _mm512_loadu_si512(weights + i));
        sum = _mm512_reduce_add_epi32(_mm512_add_epi32(found, other));
#else
        for (int64_t i = 0; i < rows; i++)
            sum += (int16_t)x[i] * (int16_t)weights[i];
#endif
        sums[line] = sum;
    }
}

/* The inputs of one position of a group, in the order of the weights. */
static void NAME(gather)(const struct layer *l, const int8_t *in, int64_t y, int64_t x, uint8_t *row)
{
    for (int64_t c = 0; c < l->channels; c++)
        for (int64_t j = 0; j < l->kernel_h; j++)
            for (int64_t i = 0; i < l->kernel_w; i++) {
                const int64_t v = y * l->stride_h + j * l->dilation_h - l->pad_h;
                const int64_t u = x * l->stride_w + i * l->dilation_w - l->pad_w;
                const int inside = v >= 0 && v < l->rows && u >= 0 && u < l->columns;
                *row++ = (uint8_t)((inside ? in[c * l->step_c + v * l->step_y + u * l->step_x] : l->zero_in) + 128);
            }
}

/* A layer of few positions, without pooling: one after the other. */
static void NAME(each_position)(const struct layer *l, int64_t samples, const int8_t *in, int8_t *out, char *work)
{
    const int64_t kernel = l->channels * l->kernel_h * l->kernel_w, rows = (kernel + 63) / 64 * 64;
    const int64_t count = l->lines * l->out_channels, half = (int64_t)1 << (l->shift - 1);
    uint8_t *row = (uint8_t *)work;
    int32_t *sums = (int32_t *)(work + l->sums_at);
    for (int64_t s = 0; s < samples; s++)
        for (int64_t g = 0; g < l->groups; g++)
            for (int64_t at = 0; at < l->windows_h * l->windows_w; at++) {
                const int64_t y = at / l->windows_w, x = at % l->windows_w;
                const int8_t *from = in + s * l->input_sample + g * l->channels * l->step_c;
                int8_t *to = out + s * l->output_sample + y * l->to_y + x * l->to_x;
                if (kernel == l->channels && l->step_c == 1 && !l->pad_h && !l->pad_w) {
                    from += y * l->stride_h * l->step_y + x * l->stride_w * l->step_x;
                    for (int64_t i = 0; i < kernel; i++)
                        row[i] = (uint8_t)from[i] ^ 128;
                } else
                    NAME(gather)(l, from, y, x, row);
                memset(row + kernel, 0, (size_t)(rows - kernel));
                NAME(dots)(row, l->weights + g * count * rows, rows, count, sums);
                for (int64_t c = 0; c < l->out_channels; c++) {
                    const int64_t k = g * l->out_channels + c, *constant = l->constants + k;
                    const int32_t *sum = sums + c * l->lines, *factor = l->factors + 2 * k;
                    int64_t total = sum[0] * (int64_t)factor[0] + *constant;
                    if (l->lines == 2)
                        total -= sum[1] * (int64_t)factor[1];
                    total = ((total + half + (total >> 63)) >> l->shift) + l->zero;
                    total = total < l->low ? l->low : total > l->high ? l->high : total;
                    to[k * l->to_c] = l->table ? l->table[total + 128] : (int8_t)total;
                }
            }
}

static void NAME(layer)(const struct layer *l, int64_t samples, const int8_t *in, int8_t *out, char *work)
{
    in += l->input_offset, out += l->output_offset;
    if (l->kind == DOTS) {
        NAME(each_position)(l, samples, in, out, work);
        return;
    }
    for (int64_t s = 0; s < samples; s += l->chunk, in += l->chunk * l->input_sample, out += l->chunk * l->output_sample) {
        const int64_t several = samples - s < l->chunk ? samples - s : l->chunk;
        if (l->kind == SPARSE)
            NAME(wide_planes)(l, in, several, work);
        else
            NAME(byte_planes)(l, in, several, work);
        NAME(tiles)(l, several, out, work);
    }
}

static void NAME(quantise)(const float *x, int64_t count, double scale, int64_t zero, int8_t *q)
{
    for (int64_t i = 0; i < count; i++) {
        double steps = x[i] / scale;
        steps = steps != steps ? 0.0 : steps > 1e9 ? 1e9 : steps < -1e9 ? -1e9 : steps;
        /* Truncation after half a step, with the sign, is rounding half away from 0. */
        int32_t whole = (int32_t)(steps < 0 ? steps - 0.5 : steps + 0.5) + (int32_t)zero;
        q[i] = (int8_t)(whole < -128 ? -128 : whole > 127 ? 127 : whole);
    }
}

static void NAME(dequantise)(const int8_t *q, int64_t count, double scale, int64_t zero, float *x)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)((double)(q[i] - zero) * scale);
}
