/* ---- Layers: convolutions and linear layers, followed by BatchNorm, activation and max pooling. ---- */

#if USE_LAYER
typedef struct {
    weights weight;                   /* rows are output channels */
    const float *gain;                /* factor of each output channel, or NULL */
    const float *shift;               /* term of each output channel, or NULL */
    float slope;                      /* of the activation below zero: 0 ReLU, 1 none */
    dim groups, channels, rows, columns;          /* of the input; channels of one group */
    dim channel_step, row_step, column_step;      /* how it lies in memory */
    dim kernel_rows, kernel_columns;
    dim row_stride, column_stride, row_padding, column_padding, row_dilation, column_dilation;
    dim out_channels, out_rows, out_columns;      /* before pooling */
    dim pool_rows, pool_columns, pool_row_stride, pool_column_stride, pooled_rows, pooled_columns;
    dim out_channel_step, out_position_step;
} layer;

static float plus[PLANE];

#if USE_GAPS || USE_TRITS
static float minus[PLANE];
#endif

#if USE_GAPS || USE_TRITS || USE_BYTES
/* Whether the input holds infinite or undefined numbers, which make zero weights matter: 0 * NaN is NaN. */
static int unusual(const layer *l, const float *x)
{
    uint32_t channel, row, column;
    for (channel = 0; channel < (uint32_t)l->channels * l->groups; channel++)
        for (row = 0; row < l->rows; row++)
            for (column = 0; column < l->columns; column++) {
                float value = x[channel * l->channel_step + row * l->row_step + column * l->column_step];
                if (value - value != 0.0f)
                    return 1;
            }
    return 0;
}
#endif

/* acc += weight * (the input, shifted to where weight j of an output channel looks), zeros beyond the edges. */
static void shift_add(float *acc, float weight, const layer *l, const float *x, uint32_t j)
{
    uint32_t taps = (uint32_t)l->kernel_rows * l->kernel_columns;
    uint32_t tap = j % taps;
    int32_t down = (int32_t)(tap / l->kernel_columns * l->row_dilation) - (int32_t)l->row_padding;
    int32_t right = (int32_t)(tap % l->kernel_columns * l->column_dilation) - (int32_t)l->column_padding;
    int32_t first = right >= 0 ? 0 : (-right + (int32_t)l->column_stride - 1) / (int32_t)l->column_stride;
    int32_t room = (int32_t)l->columns - right;
    int32_t last = room <= 0 ? 0 : (room - 1) / (int32_t)l->column_stride + 1;
    uint32_t step = (uint32_t)l->column_stride * l->column_step;
    int32_t row, column;
    x += j / taps * l->channel_step;
    if (last > (int32_t)l->out_columns)
        last = (int32_t)l->out_columns;
    for (row = 0; row < (int32_t)l->out_rows; row++, acc += l->out_columns) {
        int32_t from = row * (int32_t)l->row_stride + down;
        const float *source;
        if (from < 0 || from >= (int32_t)l->rows || first >= last)
            continue;
        source = x + (uint32_t)from * l->row_step
                 + (uint32_t)(first * (int32_t)l->column_stride + right) * l->column_step;
#if USE_GAPS || USE_TRITS
        if (weight == 1.0f) {
            for (column = first; column < last; column++, source += step)
                acc[column] += *source;
            continue;
        }
#endif
        for (column = first; column < last; column++, source += step)
            acc[column] += weight * *source;
    }
}

/* Scales, BatchNorm, max pooling and activation of one output channel. */
static void finish(const layer *l, uint32_t channel, float *y)
{
    float gain = l->gain ? l->gain[channel] : 1.0f;
    float shift = l->shift ? l->shift[channel] : 0.0f;
    float positive = gain * l->weight.positive[channel * l->weight.scale_step];
#if USE_GAPS || USE_TRITS
    float negative = l->weight.negative ? gain * l->weight.negative[channel * l->weight.scale_step] : 0.0f;
#endif
    uint32_t row, column, i, j;
    y += channel * l->out_channel_step;
    for (row = 0; row < l->pooled_rows; row++) {
        for (column = 0; column < l->pooled_columns; column++) {
            float best = 0.0f;
            for (i = 0; i < l->pool_rows; i++) {
                uint32_t at = (row * l->pool_row_stride + i) * l->out_columns + column * l->pool_column_stride;
                for (j = 0; j < l->pool_columns; j++, at++) {
                    float value = positive * plus[at] + shift;
#if USE_GAPS || USE_TRITS
                    if (l->weight.negative)
                        value -= negative * minus[at];
#endif
                    if ((i == 0 && j == 0) || value > best || value != value) /* not a number stays */
                        best = value;
                }
            }
            *y = best < 0.0f ? best * l->slope : best;
            y += l->out_position_step;
        }
    }
}

static void run_layer(const layer *l, const float *x, float *y)
{
    uint32_t taps = (uint32_t)l->channels * l->kernel_rows * l->kernel_columns;
    uint32_t positions = (uint32_t)l->out_rows * l->out_columns;
    uint32_t channel, i;
#if USE_GAPS || USE_TRITS || USE_BYTES
    int odd = l->weight.kind != FLOATS && unusual(l, x);
#endif
#if USE_GAPS || USE_TRITS
    reader r = beginning(&l->weight);
#endif
    for (channel = 0; channel < l->out_channels; channel++) {
        const float *source = x + channel / (l->out_channels / l->groups) * l->channels * l->channel_step;
        for (i = 0; i < positions; i++)
            plus[i] = 0.0f;
#if USE_GAPS || USE_TRITS
        if (l->weight.kind == GAPS || l->weight.kind == TRITS) {
            uint32_t index = 0, next = channel * taps;
            int sign;
            for (i = 0; i < positions; i++)
                minus[i] = 0.0f;
            while ((sign = next_weight(&r, &l->weight, (channel + 1) * taps, &index)) != 0) {
                for (; odd && next < index; next++)
                    shift_add(plus, 0.0f, l, source, next - channel * taps);
                next = index + 1;
                shift_add(sign > 0 ? plus : minus, 1.0f, l, source, index - channel * taps);
            }
            for (; odd && next < (channel + 1) * taps; next++)
                shift_add(plus, 0.0f, l, source, next - channel * taps);
        }
#endif
#if USE_BYTES
        if (l->weight.kind == BYTES) {
            const int8_t *weights = (const int8_t *)l->weight.codes + channel * taps;
            for (i = 0; i < taps; i++)
                if (weights[i] || odd)
                    shift_add(plus, (float)weights[i], l, source, i);
        }
#endif
#if USE_FLOATS
        if (l->weight.kind == FLOATS) {
            const float *weights = (const float *)l->weight.codes + channel * taps;
            for (i = 0; i < taps; i++)
                shift_add(plus, weights[i], l, source, i);
        }
#endif
        finish(l, channel, y);
    }
}

#endif

/* ---- Everything else. ---- */

#if USE_MAP
/* y = an operation on a and b over four dimensions; a step of 0 repeats. */
static void map(int what, const dim n[4], float *y, const dim ys[4], const float *a, const dim as[4], const float *b,
                const dim bs[4])
{
    uint32_t i, j, k, m;
    for (i = 0; i < n[0]; i++)
        for (j = 0; j < n[1]; j++)
            for (k = 0; k < n[2]; k++)
                for (m = 0; m < n[3]; m++) {
                    float left = a[i * as[0] + j * as[1] + k * as[2] + m * as[3]];
                    float right = b[i * bs[0] + j * bs[1] + k * bs[2] + m * bs[3]];
                    y[i * ys[0] + j * ys[1] + k * ys[2] + m * ys[3]] = apply(what, left, right);
                }
}
#endif

#if USE_ACTIVATE
static void activate(uint32_t n, float slope, const float *x, float *y)
{
    uint32_t i;
    for (i = 0; i < n; i++)
        y[i] = x[i] < 0.0f ? slope * x[i] : x[i];
}
#endif

#if USE_NORMALISE
/* LayerNorm of rows of n values. */
static void normalise(uint32_t rows, uint32_t n, float eps, const float *weight, const float *bias, const float *x,
                      float *y)
{
    uint32_t row, i;
    for (row = 0; row < rows; row++, x += n, y += n) {
        float mean = 0.0f, variance = 0.0f, factor;
        for (i = 0; i < n; i++)
            mean += x[i];
        mean /= (float)n;
        for (i = 0; i < n; i++)
            variance += (x[i] - mean) * (x[i] - mean);
        factor = 1.0f / sqrtf(variance / (float)n + eps);
        for (i = 0; i < n; i++)
            y[i] = (x[i] - mean) * factor * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
    }
}
#endif

#if USE_ATTEND
typedef struct {
    dim heads, queries, keys, width, value_width, shared; /* heads that share one head of keys and values */
    dim q[3], k[3], v[3], mask[3];                        /* steps of head, token, feature; of head, query, key */
    float scale;
    uint8_t causal;
} attention;

/* softmax(q k^T scale + mask) v; y lies as (head, token, feature). */
static void attend(const attention *t, const float *q, const float *k, const float *v, const float *mask, float *y)
{
    static float scores[KEYS];
    uint32_t head, query, key, i;
    for (head = 0; head < t->heads; head++)
        for (query = 0; query < t->queries; query++, y += t->value_width) {
            const float *from = q + head * t->q[0] + query * t->q[1];
            uint32_t keys = t->causal && query + 1 < t->keys ? query + 1 : t->keys;
            float largest = 0.0f, sum = 0.0f;
            int seen = !mask; /* whether the query may look at some key; the mask's least number forbids one */
            for (key = 0; key < keys; key++) {
                const float *to = k + head / t->shared * t->k[0] + key * t->k[1];
                float score = 0.0f;
                for (i = 0; i < t->width; i++)
                    score += from[i * t->q[2]] * to[i * t->k[2]];
                scores[key] = score * t->scale;
                if (mask) {
                    float term = mask[head * t->mask[0] + query * t->mask[1] + key * t->mask[2]];
                    scores[key] += term;
                    seen |= !(term <= -0x1.fffffep+127f);
                }
                if (key == 0 || scores[key] > largest)
                    largest = scores[key];
            }
            for (key = 0; key < keys; key++) {
                scores[key] = expf(scores[key] - largest);
                sum += scores[key];
            }
            for (i = 0; i < t->value_width; i++) {
                float mixed = 0.0f;
                for (key = 0; key < keys; key++)
                    mixed += scores[key] * v[head / t->shared * t->v[0] + key * t->v[1] + i * t->v[2]];
                y[i] = seen ? mixed / sum : 0.0f;
            }
        }
}
#endif
