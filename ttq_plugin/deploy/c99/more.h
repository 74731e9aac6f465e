
#if USE_REDUCE
enum { SUM, MEAN, LARGEST };

/* y (contiguous, over n) = sum, mean or maximum of x over the dimensions m. */
static void reduce(int what, const dim n[4], const dim ns[4], const dim m[4], const dim ms[4], const float *x, float *y)
{
    uint32_t i, j, k, l, a, b, c, d;
    float count = (float)m[0] * (float)m[1] * (float)m[2] * (float)m[3];
    for (i = 0; i < n[0]; i++)
        for (j = 0; j < n[1]; j++)
            for (k = 0; k < n[2]; k++)
                for (l = 0; l < n[3]; l++) {
                    const float *from = x + i * ns[0] + j * ns[1] + k * ns[2] + l * ns[3];
                    float result = what == LARGEST ? *from : 0.0f;
                    for (a = 0; a < m[0]; a++)
                        for (b = 0; b < m[1]; b++)
                            for (c = 0; c < m[2]; c++)
                                for (d = 0; d < m[3]; d++) {
                                    float value = from[a * ms[0] + b * ms[1] + c * ms[2] + d * ms[3]];
                                    if (what != LARGEST)
                                        result += value;
                                    else if (value > result || value != value)
                                        result = value;
                                }
                    *y++ = what == MEAN ? result / count : result;
                }
}
#endif

#if USE_PICK
/* y at i along one dimension = x at first[i], or between that and x at second[i]; n are all other dimensions. */
static void pick(uint32_t count, uint32_t x_step, uint32_t y_step, const dim *first, const dim *second,
                 const float *share, const dim n[4], const float *x, const dim xs[4], float *y, const dim ys[4])
{
    uint32_t at, i, j, k, l;
    for (at = 0; at < count; at++) {
        const float *a = x + first[at] * x_step, *b = second ? x + second[at] * x_step : a;
        float part = share ? share[at] : 0.0f;
        for (i = 0; i < n[0]; i++)
            for (j = 0; j < n[1]; j++)
                for (k = 0; k < n[2]; k++)
                    for (l = 0; l < n[3]; l++) {
                        uint32_t from = i * xs[0] + j * xs[1] + k * xs[2] + l * xs[3];
                        float value = a[from];
                        if (part != 0.0f)
                            value = (1.0f - part) * value + part * b[from];
                        y[at * y_step + i * ys[0] + j * ys[1] + k * ys[2] + l * ys[3]] = value;
                    }
    }
}
#endif

#if USE_POOL
typedef struct {
    dim channels, rows, columns, channel_step, row_step, column_step;
    dim window[2], stride[2], padding[2], dilation[2], out[2];
    uint8_t adaptive, mean, padded; /* whether padding counts in the mean */
} pooling;

/* Where a window begins and how long it is, with padding; adaptive ones share the input out. */
static void span(const pooling *p, int d, uint32_t at, int32_t size, int32_t *start, int32_t *length)
{
    if (p->adaptive) {
        *start = (int32_t)(at * (uint32_t)size / p->out[d]);
        *length = (int32_t)(((at + 1) * (uint32_t)size + p->out[d] - 1) / p->out[d]) - *start;
    } else {
        *start = (int32_t)(at * p->stride[d]) - (int32_t)p->padding[d];
        *length = (int32_t)p->window[d];
    }
}

static int32_t clipped(int32_t start, int32_t length, int32_t size)
{
    return start + length > size ? size - start : length;
}

/* Maximum or mean over windows; y is contiguous. */
static void pool(const pooling *p, const float *x, float *y)
{
    uint32_t channel, row, column;
    int32_t top, high, left, wide, i, j;
    int32_t rows = (int32_t)p->rows, columns = (int32_t)p->columns;
    for (channel = 0; channel < p->channels; channel++)
        for (row = 0; row < p->out[0]; row++)
            for (column = 0; column < p->out[1]; column++) {
                const float *from = x + channel * p->channel_step;
                float sum = 0.0f, best = 0.0f;
                int32_t seen = 0, whole;
                span(p, 0, row, rows, &top, &high);
                span(p, 1, column, columns, &left, &wide);
                whole = clipped(top, high, rows + (int32_t)p->padding[0])
                        * clipped(left, wide, columns + (int32_t)p->padding[1]);
                for (i = 0; i < high; i++)
                    for (j = 0; j < wide; j++) {
                        int32_t r = top + i * (int32_t)p->dilation[0], c = left + j * (int32_t)p->dilation[1];
                        float value;
                        if (r < 0 || r >= rows || c < 0 || c >= columns)
                            continue;
                        value = from[(uint32_t)r * p->row_step + (uint32_t)c * p->column_step];
                        sum += value;
                        if (seen++ == 0 || value > best || value != value)
                            best = value;
                    }
                *y++ = p->mean ? sum / (float)(p->padded ? whole : seen) : best;
            }
}
#endif

#if USE_EMBED
/* One weight, which gaps would not give without those before it. */
static float weight_at(const weights *w, uint32_t row, uint32_t index)
{
#if USE_TRITS
    if (w->kind == TRITS) {
        uint32_t held = ((const uint8_t *)w->codes)[index / 5u], place;
        for (place = index % 5u; place > 0; place--)
            held /= 3u;
        held %= 3u;
        return held == 0 ? 0.0f : held == 1u ? w->positive[row * w->scale_step] : -w->negative[row * w->scale_step];
    }
#endif
#if USE_BYTES
    if (w->kind == BYTES)
        return w->positive[row * w->scale_step] * (float)((const int8_t *)w->codes)[index];
#endif
    (void)row;
    return ((const float *)w->codes)[index];
}

/* Rows of a table; indices come as floats, and an invalid index selects the first row. */
static void embed(uint32_t n, uint32_t rows, uint32_t width, const weights *table, const float *x, float *y)
{
    uint32_t i, j;
    for (i = 0; i < n; i++) {
        uint32_t row = x[i] >= 0.0f && x[i] < (float)rows ? (uint32_t)x[i] : 0u;
        for (j = 0; j < width; j++)
            *y++ = weight_at(table, row, row * width + j);
    }
}
#endif

#if USE_RECUR
typedef struct {
    weights input_weight, hidden_weight;
    const float *input_bias, *hidden_bias;
    dim length, width, hidden, x_step, x_feature_step, y_step;
    uint8_t gates, backward; /* 1 tanh, 3 GRU, 4 LSTM */
} recurrence;

/* What is read of a matrix row by row. */
typedef struct {
    const weights *w;
#if USE_GAPS || USE_TRITS
    reader r;
    int odd; /* infinite or undefined numbers, which make zero weights matter */
#endif
} matrix;

static matrix rows_of(const weights *w, const float *x, uint32_t n, uint32_t step)
{
    matrix m;
    m.w = w;
#if USE_GAPS || USE_TRITS
    m.r = beginning(w);
    m.odd = 0;
    for (; n > 0; n--, x += step)
        if (*x - *x != 0.0f)
            m.odd = 1;
#else
    (void)x;
    (void)n;
    (void)step;
#endif
    return m;
}

/* A row, the next one, times a vector. */
static float dot(matrix *m, uint32_t row, const float *x, uint32_t n, uint32_t step)
{
    const weights *w = m->w;
    float sum = 0.0f;
    uint32_t i;
#if USE_GAPS || USE_TRITS
    if (w->kind == GAPS || w->kind == TRITS) {
        float less = 0.0f, none = 0.0f;
        uint32_t index = 0, next = row * n;
        int sign;
        while ((sign = next_weight(&m->r, w, (row + 1) * n, &index)) != 0) {
            for (; m->odd && next < index; next++)
                none += 0.0f * x[(next - row * n) * step];
            next = index + 1;
            *(sign > 0 ? &sum : &less) += x[(index - row * n) * step];
        }
        for (; m->odd && next < (row + 1) * n; next++)
            none += 0.0f * x[(next - row * n) * step];
        return w->positive[row * w->scale_step] * sum - w->negative[row * w->scale_step] * less + none;
    }
#endif
#if USE_BYTES
    if (w->kind == BYTES) {
        for (i = 0; i < n; i++)
            sum += (float)((const int8_t *)w->codes)[row * n + i] * x[i * step];
        return w->positive[row * w->scale_step] * sum;
    }
#endif
    for (i = 0; i < n; i++)
        sum += ((const float *)w->codes)[row * n + i] * x[i * step];
    return sum;
}

static float logistic(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* One layer of an LSTM, GRU or RNN in one direction, from a state of zeros. */
static void recur(const recurrence *r, const float *x, float *y)
{
    static float state[HIDDEN], cell[HIDDEN], fresh[4 * HIDDEN], kept[4 * HIDDEN];
    uint32_t step, i, h = r->hidden;
    for (i = 0; i < h; i++)
        state[i] = cell[i] = 0.0f;
    for (step = 0; step < r->length; step++) {
        uint32_t at = r->backward ? r->length - 1u - step : step;
        matrix input = rows_of(&r->input_weight, x + at * r->x_step, r->width, r->x_feature_step);
        matrix hidden = rows_of(&r->hidden_weight, state, h, 1);
        for (i = 0; i < r->gates * h; i++) {
            fresh[i] = dot(&input, i, x + at * r->x_step, r->width, r->x_feature_step);
            kept[i] = dot(&hidden, i, state, h, 1);
            fresh[i] += r->input_bias ? r->input_bias[i] : 0.0f;
            kept[i] += r->hidden_bias ? r->hidden_bias[i] : 0.0f;
        }
        for (i = 0; i < h; i++) {
            if (r->gates == 4) {
                float in = logistic(fresh[i] + kept[i]), forget = logistic(fresh[h + i] + kept[h + i]);
                cell[i] = forget * cell[i] + in * tanhf(fresh[2 * h + i] + kept[2 * h + i]);
                state[i] = logistic(fresh[3 * h + i] + kept[3 * h + i]) * tanhf(cell[i]);
            } else if (r->gates == 3) {
                float reset = logistic(fresh[i] + kept[i]), update = logistic(fresh[h + i] + kept[h + i]);
                float made = tanhf(fresh[2 * h + i] + reset * kept[2 * h + i]);
                state[i] = (1.0f - update) * made + update * state[i];
            } else {
                state[i] = tanhf(fresh[i] + kept[i]);
            }
            y[at * r->y_step + i] = state[i];
        }
    }
}
#endif

#if USE_PRODUCT
/* y = a b for each of n pairs of matrices; steps of pair, row, column; y is contiguous. */
static void product(uint32_t n, uint32_t rows, uint32_t inner, uint32_t columns, const float *a, const dim as[3],
                    const float *b, const dim bs[3], float *y)
{
    uint32_t pair, i, j, k;
    for (pair = 0; pair < n; pair++)
        for (i = 0; i < rows; i++)
            for (j = 0; j < columns; j++) {
                float sum = 0.0f;
                for (k = 0; k < inner; k++)
                    sum += a[pair * as[0] + i * as[1] + k * as[2]] * b[pair * bs[0] + k * bs[1] + j * bs[2]];
                *y++ = sum;
            }
}
#endif
