/* A layer on integers, compiled for each kind of processor: planes, sums, rounding, place in the output. */
#include "integer_planes.h"
#include "integer_round.h"
#include "integer_sums.h"

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
