/* What every exported integer model is computed with; the switches USE_* leave out what this one does not need. */

/* Functions keep their form, so that the bytes that each one takes are known beforehand. */
#if defined(__GNUC__) && !defined(__clang__)
#define KEEP __attribute__((noipa))
#else
#define KEEP
#endif

typedef struct step step;
typedef void kernel(const step *s, const int8_t *a, const int8_t *b, int8_t *y);

struct step {
    kernel *run;
    const void *more;    /* what the kernel needs to know */
    const int8_t *a, *b; /* operands and result: addresses, or how far behind the beginning of input or output */
    int8_t *y;
    uint8_t places; /* two bits each: 0 address, 1 input, 2 output; bit 6 in the last step */
};

#if USE_EACH
typedef struct loops loops;
typedef int8_t element(const loops *l, int32_t a, int32_t b);

struct loops {
    element *what;
    const int32_t *factors;
    const int8_t *table;
    dim size[4], y[4], a[4], b[4]; /* steps of the result and of the operands */
    int8_t a_zero, b_zero, ends[3]; /* of the result: zero point, least, largest */
    uint8_t shift;
};
#endif

#if USE_LAYER
typedef struct {
    const uint8_t *codes;
    const int32_t *positive, *negative; /* factors of the sums */
    const void *bias;
    const int8_t *table;
    dim *taps;           /* working memory: places of the weights that are not zero, as many as most_taps */
    uint8_t (*edges)[2]; /* and their row and column in the kernel */
    dim groups, channels, rows, columns;     /* of the input; channels of one group */
    dim channel_step, row_step, column_step; /* how it lies in memory */
    dim kernel_rows, kernel_columns;
    dim row_stride, column_stride, row_padding, column_padding, row_dilation, column_dilation;
    dim out_channels; /* of one group */
    dim weights, most_taps; /* that are not zero, of a ternary layer */
    dim pool_rows, pool_columns, pool_row_stride, pool_column_stride, pooled_rows, pooled_columns;
    dim out_channel_step, out_position_step;
    uint8_t kind, rice, factor_step; /* 0: one factor for all channels */
    uint8_t bias_kind, bias_shift;   /* 0 none, 1 int16, 2 int32 */
    uint8_t shift, padded;
    int8_t x_zero, ends[3]; /* of the result: zero point, least, largest */
} layer;
#endif

#if USE_POOL
typedef struct {
    const int32_t *factors; /* by the count of numbers */
    const int16_t *spans;   /* where windows differ: begin and length of each */
    dim channels, rows, columns, channel_step, row_step, column_step;
    dim window[2], stride[2], padding[2], dilation[2], out[2];
    uint8_t mean, padded, adaptive, shift;
    int8_t x_zero, ends[3]; /* of the result: zero point, least, largest */
} pooling;
#endif

#if USE_REDUCE
typedef struct {
    const int32_t *factors;
    dim size[4], step[4], gone[4], gone_step[4];
    uint8_t mean, shift;
    int8_t x_zero, ends[3]; /* of the result: zero point, least, largest */
} reduction;
#endif

/*@DATA@*/

/* ---- The arithmetic. ---- */

#if USE_PRODUCT
KEEP static int64_t product(int32_t a, int32_t b)
{
    return (int64_t)a * b;
}
#endif

#if USE_FINISH
/* round(total / 2^shift), halves away from zero, moved and clamped. */
KEEP static int8_t finish(int64_t total, uint32_t shift, const int8_t *ends)
{
    uint64_t size = total < 0 ? (uint64_t)0 - (uint64_t)total : (uint64_t)total;
    uint32_t high = (uint32_t)(size >> 32), low = (uint32_t)size, beyond = 0;
    int32_t q;
    shift--;
    if (shift >= 32) {
        low = high >> (shift - 32);
    } else if (shift > 0) {
        low = (low >> shift) | (high << (32 - shift));
        beyond = high >> shift;
    } else {
        beyond = high;
    }
    if (beyond || low > 0x1000u)
        low = 0x1000u;
    q = (int32_t)((low + 1u) >> 1);
    q = ends[0] + (total < 0 ? -q : q);
    if (q < ends[1])
        q = ends[1];
    if (q > ends[2])
        q = ends[2];
    return (int8_t)q;
}
#endif

#if USE_LAYER
/* bias * 2^shift */
KEEP static int64_t raised(int32_t bias, uint32_t shift)
{
    uint32_t high, low, bits = (uint32_t)bias, sign = bias < 0 ? 0xffffffffu : 0u;
    if (shift >= 32) {
        high = bits << (shift - 32);
        low = 0;
    } else if (shift > 0) {
        high = (sign << shift) | (bits >> (32 - shift));
        low = bits << shift;
    } else {
        high = sign;
        low = bits;
    }
    return (int64_t)(((uint64_t)high << 32) | low);
}

typedef int64_t summed(const layer *l, const int8_t *x, int32_t row, int32_t column, uint32_t channel);

/* All places of one output channel: sums, bias, rounding, table, max pooling. */
KEEP static void positions(const layer *l, const int8_t *x, int8_t *y, uint32_t channel, summed *sum)
{
    int64_t bias = 0;
    uint32_t row, column, i, j;
    if (l->bias_kind == 1)
        bias = raised(((const int16_t *)l->bias)[channel], l->bias_shift);
    else if (l->bias_kind == 2)
        bias = raised(((const int32_t *)l->bias)[channel], l->bias_shift);
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

#if USE_TERNARY
/* Weights that are not zero, one after the other: how many zeros come before, and the sign. */
typedef struct {
    const uint8_t *codes;
    uint32_t skip, window, left;
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

/* The places that one output channel looks at: of positive weights from the first on, of negative ones from the end. */
KEEP static void collect(const layer *l, stream *r, uint32_t *left)
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
        if (--*left == 0) { /* nothing is read behind the last weight that is not zero */
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

KEEP static void run_ternary(const step *s, const int8_t *x, const int8_t *b, int8_t *y)
{
    const layer *l = s->more;
    stream r;
    uint32_t group, out, channel = 0, left = l->weights;
    (void)b;
    r.codes = l->codes;
    r.rice = l->rice;
    r.window = 0;
    r.left = 0;
    r.negative = 0;
    r.skip = 0x10000000u;
    if (left > 0) {
        r.skip = 0;
        next(l, &r);
    }
    for (group = 0; group < l->groups; group++)
        for (out = 0; out < l->out_channels; out++, channel++) {
            collect(l, &r, &left);
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

/* One after the other. */
KEEP static void run_steps(const step *s, const int8_t *input, int8_t *output)
{
    uint32_t places;
    do {
        uint32_t a, b, y;
        places = s->places;
        a = places & 3u;
        b = (places >> 2) & 3u;
        y = (places >> 4) & 3u;
        s->run(s, a == 0 ? s->a : (a == 1 ? input : output) + (uintptr_t)s->a,
               b == 0 ? s->b : (b == 1 ? input : output) + (uintptr_t)s->b, y == 0 ? s->y : output + (uintptr_t)s->y);
        s++;
    } while (!(places & 64u));
}
