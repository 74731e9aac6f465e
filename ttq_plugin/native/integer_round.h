/* From the sums of a layer on integers to int8: factors, pooling, rounding and table. Compiled for each kind of
 * processor. */

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
