#if USE_EACH
/* Each number, or each pair of numbers, of up to four dimensions. */
KEEP static void each(const step *s, const int8_t *a, const int8_t *b, int8_t *y)
{
    const loops *l = s->more;
    uint32_t i, j, k, n;
    for (i = 0; i < l->size[0]; i++)
        for (j = 0; j < l->size[1]; j++)
            for (k = 0; k < l->size[2]; k++) {
                const int8_t *p = a + i * l->a[0] + j * l->a[1] + k * l->a[2];
                const int8_t *q = b + i * l->b[0] + j * l->b[1] + k * l->b[2];
                int8_t *to = y + i * l->y[0] + j * l->y[1] + k * l->y[2];
                for (n = 0; n < l->size[3]; n++, p += l->a[3], q += l->b[3], to += l->y[3])
                    *to = l->what(l, *p, *q);
            }
}
#endif

#if USE_COPY
KEEP static int8_t copy(const loops *l, int32_t a, int32_t b)
{
    (void)l;
    (void)b;
    return (int8_t)a;
}
#endif

#if USE_TABLE
KEEP static int8_t look_up(const loops *l, int32_t a, int32_t b)
{
    (void)b;
    return l->table[a + 128];
}
#endif

#if USE_ADD
KEEP static int8_t add(const loops *l, int32_t a, int32_t b)
{
    return finish((a - l->a_zero) * l->factors[0] + (b - l->b_zero) * l->factors[1], l->shift, l->ends);
}
#endif

#if USE_MULTIPLY
KEEP static int8_t multiply(const loops *l, int32_t a, int32_t b)
{
    return finish(product((a - l->a_zero) * (b - l->b_zero), l->factors[0]), l->shift, l->ends);
}
#endif

#if USE_REDUCE
/* Sum or maximum over some dimensions. */
KEEP static int32_t fold(const reduction *l, const int8_t *x)
{
    int32_t sum = 0, best = -128;
    uint32_t i, j, k, n;
    for (i = 0; i < l->gone[0]; i++)
        for (j = 0; j < l->gone[1]; j++)
            for (k = 0; k < l->gone[2]; k++) {
                const int8_t *p = x + i * l->gone_step[0] + j * l->gone_step[1] + k * l->gone_step[2];
                for (n = 0; n < l->gone[3]; n++, p += l->gone_step[3]) {
                    sum += *p - l->x_zero;
                    if (*p > best)
                        best = *p;
                }
            }
    return l->mean ? sum : best;
}

KEEP static void reduce(const step *s, const int8_t *x, const int8_t *b, int8_t *y)
{
    const reduction *l = s->more;
    uint32_t i, j, k, n;
    (void)b;
    for (i = 0; i < l->size[0]; i++)
        for (j = 0; j < l->size[1]; j++)
            for (k = 0; k < l->size[2]; k++)
                for (n = 0; n < l->size[3]; n++) {
                    int32_t found = fold(l, x + i * l->step[0] + j * l->step[1] + k * l->step[2] + n * l->step[3]);
                    *y++ = l->mean ? finish(product(found, l->factors[0]), l->shift, l->ends) : (int8_t)found;
                }
}
#endif

#if USE_POOL
/* Where a window begins, how long it is, and how much of it counts where padding counts. */
KEEP static void span(const pooling *p, uint32_t d, uint32_t at, int32_t size, int32_t *found)
{
    if (p->adaptive) {
        const int16_t *spans = p->spans + 2u * (at + (d ? (uint32_t)p->out[0] : 0u));
        found[0] = spans[0];
        found[1] = found[2] = spans[1];
    } else {
        int32_t room;
        found[0] = (int32_t)(at * p->stride[d]) - (int32_t)p->padding[d];
        found[1] = (int32_t)p->window[d];
        room = size + (int32_t)p->padding[d] - found[0];
        found[2] = found[1] < room ? found[1] : room;
    }
}

/* Maximum or mean over windows; the result lies in order. */
KEEP static void pool(const step *s, const int8_t *x, const int8_t *b, int8_t *y)
{
    const pooling *p = s->more;
    int32_t rows = (int32_t)p->rows, columns = (int32_t)p->columns, down[3], right[3], i, j;
    uint32_t channel, row, column;
    (void)b;
    for (channel = 0; channel < p->channels; channel++, x += p->channel_step)
        for (row = 0; row < p->out[0]; row++)
            for (column = 0; column < p->out[1]; column++) {
                int32_t sum = 0, best = -128, seen = 0;
                span(p, 0, row, rows, down);
                span(p, 1, column, columns, right);
                for (i = 0; i < down[1]; i++)
                    for (j = 0; j < right[1]; j++) {
                        int32_t r = down[0] + i * (int32_t)p->dilation[0], c = right[0] + j * (int32_t)p->dilation[1];
                        int32_t value;
                        if (r < 0 || r >= rows || c < 0 || c >= columns)
                            continue;
                        value = x[(uint32_t)r * p->row_step + (uint32_t)c * p->column_step];
                        sum += value - p->x_zero;
                        seen++;
                        if (value > best)
                            best = value;
                    }
#if USE_MEAN_POOL
                if (p->mean) {
                    uint32_t count = (uint32_t)(p->padded ? down[2] * right[2] : seen);
                    best = finish(product(sum, p->factors[count - 1u]), p->shift, p->ends);
                }
#endif
                *y++ = (int8_t)best;
            }
}
#endif
