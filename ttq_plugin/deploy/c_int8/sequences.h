#if USE_MATRICES
/* Products of pairs of matrices; the results lie in order. */
KEEP static void multiply_matrices(const step *s, const int8_t *a, const int8_t *b, int8_t *y)
{
    const matrices *l = s->more;
    uint32_t i, j, row, column, n;
    for (i = 0; i < l->size[0]; i++)
        for (j = 0; j < l->size[1]; j++)
            for (row = 0; row < l->size[2]; row++)
                for (column = 0; column < l->size[4]; column++) {
                    const int8_t *p = a + i * l->a[0] + j * l->a[1] + row * l->a[2];
                    const int8_t *q = b + i * l->b[0] + j * l->b[1] + column * l->b[3];
                    int32_t sum = 0;
                    for (n = 0; n < l->size[3]; n++, p += l->a[3], q += l->b[2])
                        sum += (*p - l->a_zero) * (*q - l->b_zero);
                    *y++ = finish(product(sum, l->factors[0]), l->shift, l->ends);
                }
}
#endif

#if USE_SOFTMAX
/* What a number of a row counts, beside 2^15 - 1 for the largest; count: places from the first that are not hidden. */
KEEP static int32_t power(const shares *l, const int8_t *x, const int8_t *hidden, uint32_t at, uint32_t count,
                          int32_t best)
{
    uint32_t below;
    if (at >= count || (l->masked && hidden[at * l->hidden[3]]))
        return 0;
    below = (uint32_t)(best - x[at * l->x[3]]);
    return below < l->powers_count ? l->powers[below] : 0;
}

KEEP static void soften(const step *s, const int8_t *a, const int8_t *b, int8_t *y)
{
    const shares *l = s->more;
    uint32_t i, j, k, n;
    for (i = 0; i < l->size[0]; i++)
        for (j = 0; j < l->size[1]; j++)
            for (k = 0; k < l->size[2]; k++) {
                const int8_t *x = a + i * l->x[0] + j * l->x[1] + k * l->x[2];
                const int8_t *hidden = b + i * l->hidden[0] + j * l->hidden[1] + k * l->hidden[2];
                int8_t *to = y + i * l->y[0] + j * l->y[1] + k * l->y[2];
                uint32_t sum = 0, count = l->size[3];
                int32_t best = -128, factor = 0;
                if (l->causal && k + 1u < count)
                    count = k + 1u;
                for (n = 0; n < count; n++)
                    if (!(l->masked && hidden[n * l->hidden[3]]) && x[n * l->x[3]] > best)
                        best = x[n * l->x[3]];
                for (n = 0; n < count; n++)
                    sum += (uint32_t)power(l, x, hidden, n, count, best);
                if (sum > 0)
                    factor = quotient((uint32_t)l->factors[0], sum);
                for (n = 0; n < l->size[3]; n++)
                    to[n * l->y[3]] = finish(product(power(l, x, hidden, n, count, best), factor), l->shift, l->ends);
            }
}
#endif

#if USE_NORM
/* 2^16 / sqrt(squares) as a factor and a right shift; squares of 0 count as 1. */
KEEP static int32_t inverse_root(int64_t squares, uint32_t *shift)
{
    uint32_t high = (uint32_t)((uint64_t)squares >> 32), low = (uint32_t)squares, root = 0, bit;
    *shift = 29;
    if (high == 0 && low == 0)
        low = 1;
    for (; high > 0; ++*shift) {
        low = (low >> 2) | (high << 30);
        high >>= 2;
    }
    for (; low < 0x40000000u; --*shift)
        low <<= 2;
    for (bit = 0x40000000u; bit > 0; bit >>= 2) {
        if (low >= root + bit) {
            low -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return quotient(0x40000000u, root);
}

/* Rows less their mean (if centred) over the root of their mean square, times a weight, plus a bias. */
KEEP static void normalise(const step *s, const int8_t *x, const int8_t *b, int8_t *y)
{
    const norm *l = s->more;
    uint32_t row, n, shift;
    (void)b;
    for (row = 0; row < l->rows; row++, x += l->width, y += l->width) {
        int32_t sum = 0, squares = 0, scale;
        for (n = 0; n < l->width; n++) {
            int32_t u = x[n] - l->x_zero;
            sum += u;
            squares += u * u;
        }
        if (!l->centred)
            sum = 0;
        scale = inverse_root(product((int32_t)l->width, squares) - product(sum, sum)
                                 + raised(l->epsilon[0], l->epsilon_shift), &shift);
        for (n = 0; n < l->width; n++) {
            int32_t normal = nearest(product((x[n] - l->x_zero) * (int32_t)l->width - sum, scale), shift);
            int64_t total = product(normal, l->factors[l->factor_step ? n : 0u]);
            y[n] = finish(total + term(l->bias, l->bias_kind, l->bias_shift, n), l->shift, l->ends);
        }
    }
}
#endif

#if USE_EMBED
/* Rows of a table; an index beyond the last row is taken for it. */
KEEP static void embed(const step *s, const int8_t *x, const int8_t *b, int8_t *y)
{
    const embedding *l = s->more;
    const uint8_t *from;
    uint32_t i, n, k;
    (void)b;
    for (i = 0; i < l->count; i++) {
        uint32_t row = 0;
        for (k = 0; k < l->bytes; k++)
            row |= (uint32_t)(uint8_t)*x++ << (8u * k);
        if (row >= l->rows)
            row = l->rows - 1u;
        from = l->table + row * l->row_bytes;
        if (l->ternary) {
            uint32_t window = 0, rest;
            for (n = 0, k = 0; n < l->width; n++, k--) {
                if (k == 0) {
                    window = *from++;
                    k = 5;
                }
                rest = (window * 171u) >> 9; /* a third */
                *y++ = l->values[window - 3u * rest];
                window = rest;
            }
        } else {
            for (n = 0; n < l->width; n++)
                *y++ = (int8_t)*from++;
        }
    }
}
#endif
