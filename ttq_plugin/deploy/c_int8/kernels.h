/* ---- Layers. ---- */

#if USE_POSITIONS
typedef int64_t summed(const layer *l, const int8_t *x, int32_t row, int32_t column, uint32_t channel);

/* All positions of one output channel: sums, bias, rounding, table, max pooling. */
KEEP static void positions(const layer *l, const int8_t *x, int8_t *y, uint32_t channel, summed *sum)
{
    int64_t bias = term(l->bias, l->bias_kind, l->bias_shift, channel);
    uint32_t row, column, i, j;
    y += channel * l->out_channel_step;
    for (row = 0; row < l->pooled_rows; row++)
        for (column = 0; column < l->pooled_columns; column++) {
            int8_t best = -128;
            for (i = 0; i < l->pool_rows; i++)
                for (j = 0; j < l->pool_columns; j++) {
                    uint32_t down = (row * l->pool_row_stride + i) * l->row_stride;
                    uint32_t right = (column * l->pool_column_stride + j) * l->column_stride;
                    int64_t total = bias + sum(l, x, (int32_t)down - (int32_t)l->row_padding,
                                               (int32_t)right - (int32_t)l->column_padding, channel);
                    int8_t q = finish(total, l->shift, l->ends);
                    if (l->table)
                        q = l->table[q + 128];
                    if (q > best)
                        best = q;
                }
            *y = best;
            y += l->out_position_step;
        }
}
#endif

#if USE_LAYER
/* Weights that are not zero, one after the other: how many zeros come before, and the sign. */
typedef struct {
    const uint8_t *codes;
    uint32_t skip, window, left, weights; /* still to come: bits or trits of the window, weights */
    uint8_t rice, negative;
} stream;
#endif

#if USE_GAPS
/* Rice codes: the quotient in ones and a zero, the remainder, the sign; from the lowest bit of a byte on. */
KEEP static void next_gap(stream *r)
{
    uint32_t high = 0, bit;
    do {
        if (r->left == 0) {
            r->window = *r->codes++;
            r->left = 8;
        }
        bit = r->window & 1u;
        r->window >>= 1;
        r->left--;
        high += bit;
    } while (bit);
    while (r->left < r->rice + 1u) {
        r->window |= (uint32_t)*r->codes++ << r->left;
        r->left += 8;
    }
    r->skip += (high << r->rice) + (r->window & ((1u << r->rice) - 1u));
    r->window >>= r->rice;
    r->negative = (uint8_t)(r->window & 1u);
    r->window >>= 1;
    r->left -= r->rice + 1u;
}
#endif

#if USE_TRITS
/* Base 3, five a byte, the first in the lowest digit: 1 for plus, 2 for minus. */
KEEP static void next_trit(stream *r)
{
    for (;;) {
        uint32_t rest, trit;
        if (r->left == 0) {
            r->window = *r->codes++;
            r->left = 5;
        }
        rest = (r->window * 171u) >> 9; /* a third */
        trit = r->window - 3u * rest;
        r->window = rest;
        r->left--;
        if (trit) {
            r->negative = trit == 2;
            return;
        }
        r->skip++;
    }
}
#endif

#if USE_DELTAS
/* One byte each: zeros before, and in the lowest bit the sign; 127 zeros or more in several bytes. */
KEEP static void next_delta(stream *r)
{
    uint8_t code;
    do {
        code = *r->codes++;
        r->skip += code >> 1;
    } while (code >> 1 == 127);
    r->negative = code & 1u;
}
#endif

#if USE_TERNARY
KEEP static void next(const layer *l, stream *r)
{
#if USE_GAPS
    if (l->kind == 0)
        next_gap(r);
#endif
#if USE_TRITS
    if (l->kind == 1)
        next_trit(r);
#endif
#if USE_DELTAS
    if (l->kind == 2)
        next_delta(r);
#endif
    (void)l;
}

/* Before the first weight of a layer. */
KEEP static void begin(const layer *l, stream *r)
{
    r->codes = l->codes;
    r->rice = l->rice;
    r->window = 0;
    r->left = 0;
    r->negative = 0;
    r->weights = l->weights;
    r->skip = 0x10000000u;
    if (r->weights > 0) {
        r->skip = 0;
        next(l, r);
    }
}

/* The positions that one output channel reads: of positive weights from the start, of negative ones from the end. */
KEEP static void collect(const layer *l, stream *r)
{
    uint32_t channel = 0, row = 0, column = 0, positive = 0, negative = 0;
    uint32_t rest = (uint32_t)l->channels * l->kernel_rows * l->kernel_columns;
    while (r->skip < rest) {
        uint32_t place;
        rest -= r->skip + 1;
        column += r->skip;
        while (column >= l->kernel_columns) {
            column -= l->kernel_columns;
            if (++row == l->kernel_rows) {
                row = 0;
                channel++;
            }
        }
        place = r->negative ? l->most_taps - ++negative : positive++;
        l->taps[place] = (dim)(channel * l->channel_step + row * l->row_dilation * l->row_step
                                 + column * l->column_dilation * l->column_step);
#if USE_EDGES
        l->edges[place][0] = (uint8_t)row;
        l->edges[place][1] = (uint8_t)column;
#endif
        column++;
        r->skip = 0;
        if (--r->weights == 0) { /* nothing is read after the last non-zero weight */
            r->skip = 0x10000000u;
            break;
        }
        next(l, r);
    }
    r->skip -= rest;
    work.positive = (dim)positive;
    work.negative = (dim)negative;
}

KEEP static int32_t gather(const int8_t *x, const dim *at, uint32_t count)
{
    int32_t sum = 0;
    while (count-- > 0)
        sum += x[*at++];
    return sum;
}

#if USE_EDGES
KEEP static int32_t gather_inside(const layer *l, const int8_t *x, int32_t row, int32_t column, uint32_t at,
                                  uint32_t count)
{
    int32_t sum = 0, start = row * (int32_t)l->row_step + column * (int32_t)l->column_step;
    for (; count > 0; count--, at++) {
        uint32_t r = (uint32_t)row + (uint32_t)l->edges[at][0] * l->row_dilation;
        uint32_t c = (uint32_t)column + (uint32_t)l->edges[at][1] * l->column_dilation;
        if (r < l->rows && c < l->columns)
            sum += x[start + (int32_t)l->taps[at]] - l->x_zero;
    }
    return sum;
}
#endif

KEEP static int64_t ternary_sum(const layer *l, const int8_t *x, int32_t row, int32_t column, uint32_t channel)
{
    int32_t positive, negative;
    uint32_t factor = l->factor_step ? channel : 0u;
#if USE_EDGES
    int32_t down = row + (int32_t)((l->kernel_rows - 1u) * l->row_dilation);
    int32_t right = column + (int32_t)((l->kernel_columns - 1u) * l->column_dilation);
    if (l->padded && (row < 0 || column < 0 || down >= (int32_t)l->rows || right >= (int32_t)l->columns)) {
        positive = gather_inside(l, x, row, column, 0, work.positive);
        negative = gather_inside(l, x, row, column, (uint32_t)l->most_taps - work.negative, work.negative);
    } else
#endif
    {
        x += (uint32_t)row * l->row_step + (uint32_t)column * l->column_step;
        positive = gather(x, l->taps, work.positive) - l->x_zero * (int32_t)work.positive;
        negative = gather(x, l->taps + (l->most_taps - work.negative), work.negative) - l->x_zero * (int32_t)work.negative;
    }
    return product(positive, l->positive[factor]) - product(negative, l->negative[factor]);
}
#endif

#if USE_RUN_TERNARY
KEEP static void run_ternary(const step *s, const int8_t *x, const int8_t *b, int8_t *y)
{
    const layer *l = s->more;
    stream r;
    uint32_t group, out, channel = 0;
    (void)b;
    begin(l, &r);
    for (group = 0; group < l->groups; group++)
        for (out = 0; out < l->out_channels; out++, channel++) {
            collect(l, &r);
            positions(l, x + group * l->channels * l->channel_step, y, channel, ternary_sum);
        }
}
#endif

#if USE_DENSE
KEEP static int64_t dense_sum(const layer *l, const int8_t *x, int32_t row, int32_t column, uint32_t channel)
{
    const int8_t *w = (const int8_t *)l->codes;
    uint32_t c, i, j, taps = (uint32_t)l->kernel_rows * l->kernel_columns;
    uint32_t step = (uint32_t)l->column_dilation * l->column_step;
    int32_t sum = 0, zero = l->x_zero;
    w += channel * taps * l->channels;
    for (c = 0; c < l->channels; c++, x += l->channel_step)
        for (i = 0; i < l->kernel_rows; i++, w += l->kernel_columns) {
            uint32_t at = (uint32_t)column, r = (uint32_t)row + i * l->row_dilation;
            if (r >= l->rows)
                continue;
            if (l->padded) {
                for (j = 0; j < l->kernel_columns; j++, at += l->column_dilation)
                    if (at < l->columns)
                        sum += w[j] * (x[r * l->row_step + at * l->column_step] - zero);
            } else {
                const int8_t *from = x + r * l->row_step + at * l->column_step;
                for (j = 0; j < l->kernel_columns; j++, from += step)
                    sum += w[j] * (*from - zero);
            }
        }
    return product(sum, l->positive[l->factor_step ? channel : 0u]);
}
#endif

#if USE_RUN_DENSE
KEEP static void run_dense(const step *s, const int8_t *x, const int8_t *b, int8_t *y)
{
    const layer *l = s->more;
    uint32_t group, out, channel = 0;
    (void)b;
    for (group = 0; group < l->groups; group++)
        for (out = 0; out < l->out_channels; out++, channel++)
            positions(l, x + group * l->channels * l->channel_step, y, channel, dense_sum);
}
#endif
