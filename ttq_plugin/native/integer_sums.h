/* The sums of a layer on integers: sparse ones over the rows of a panel, dense ones over bytes, and dot products.
 * Compiled for each kind of processor. */

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
