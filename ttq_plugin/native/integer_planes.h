/* From int8 samples to padded planes, and from these to the rows of a panel. Compiled for each kind of processor. */

/* A row of `columns` numbers, `pad` places to the right, in `phases` parts of `width`: column c is c / phases of part
 * c % phases. What lies before and behind is `pad_value`. */
#define PLANES(name, type, convert)                                                                                   \
    INLINE void NAME(name##_row)(const struct layer *l, const int8_t *from, type value, type *to)                     \
    {                                                                                                                 \
        const int64_t phases = l->phases, width = l->plane_w, pad = l->pad_w, columns = l->columns;                   \
        for (int64_t phase = 0; phase < phases; phase++, to += width) {                                               \
            const int64_t left = pad > phase ? (pad - phase + phases - 1) / phases : 0;                               \
            const int64_t end = pad + columns > phase ? (pad + columns - phase + phases - 1) / phases : 0;            \
            const int64_t right = end < width ? end : width, first = left < right ? left : right;                     \
            const int8_t *source = from + (left * phases + phase - pad) * l->step_x;                                  \
            const int64_t step = phases * l->step_x;                                                                  \
            for (int64_t i = 0; i < first; i++)                                                                       \
                to[i] = value;                                                                                        \
            if (step == 1)                                                                                            \
                for (int64_t i = first; i < right; i++)                                                               \
                    to[i] = (type)convert(source[i - first]);                                                         \
            else                                                                                                      \
                for (int64_t i = first; i < right; i++)                                                               \
                    to[i] = (type)convert(source[(i - first) * step]);                                                \
            for (int64_t i = right; i < width; i++)                                                                   \
                to[i] = value;                                                                                        \
        }                                                                                                             \
    }                                                                                                                 \
    static void NAME(name)(const struct layer *l, const int8_t *in, int64_t samples, void *planes)                    \
    {                                                                                                                 \
        const type value = (type)convert(l->zero_in);                                                                 \
        const int64_t length = l->phases * l->plane_w, all = l->groups * l->channels;                                 \
        type *to = planes;                                                                                            \
        for (int64_t s = 0; s < samples; s++)                                                                         \
            for (int64_t c = 0; c < all; c++)                                                                         \
                for (int64_t y = 0; y < l->plane_h; y++, to += length) {                                              \
                    const int64_t row = y - l->pad_h;                                                                 \
                    if (row < 0 || row >= l->rows)                                                                    \
                        for (int64_t i = 0; i < length; i++)                                                          \
                            to[i] = value;                                                                            \
                    else                                                                                              \
                        NAME(name##_row)(l, in + s * l->input_sample + c * l->step_c + row * l->step_y, value, to);   \
                }                                                                                                     \
    }
#define SIGNED(x) (x)
#define UNSIGNED(x) ((x) + 128)
PLANES(wide_planes, uint16_t, SIGNED)
PLANES(byte_planes, uint8_t, UNSIGNED)
#undef PLANES

/* The runs of a tile: windows of one row side by side, for each place in the window. */
static int64_t NAME(find_runs)(const struct layer *l, int64_t first, int64_t count, struct run *runs)
{
    const int64_t per_sample = l->windows_h * l->windows_w, length = l->phases * l->plane_w;
    const int64_t sample = l->groups * l->channels * l->plane_h * length;
    int64_t n = 0;
    for (int64_t m = 0; m < l->pool_h * l->pool_w; m++)
        for (int64_t done = 0; done < count; n++) {
            const int64_t at = first + done, rest = at % per_sample, y = rest / l->windows_w, x = rest % l->windows_w;
            const int64_t row = (y * l->pool_stride_h + m / l->pool_w) * l->stride_h;
            int64_t side = l->windows_w - x;
            side = side < count - done ? side : count - done;
            runs[n].to = (int32_t)(m * l->windows + done);
            runs[n].from = (int32_t)(at / per_sample * sample + row * length + x);
            runs[n].length = (int32_t)side;
            runs[n].column = (int32_t)(m % l->pool_w * l->stride_w);
            done += side;
        }
    return n;
}

/* Where the first column of a run lies for a kernel column. */
INLINE int64_t NAME(shifted)(const struct layer *l, const struct run *run, int64_t kernel_x)
{
    const int64_t column = run->column + kernel_x * l->dilation_w;
    return run->from + column % l->phases * l->plane_w + column / l->phases;
}

/* For each kernel column, the places of all runs. */
static void NAME(place_runs)(const struct layer *l, const struct run *runs, int64_t n, int32_t *places)
{
    for (int64_t x = 0; x < l->kernel_w; x++)
        for (int64_t i = 0; i < n; i++)
            *places++ = (int32_t)NAME(shifted)(l, runs + i, x);
}

/* Copies run by run, up to 31 numbers too many: the next run, or row, overwrites them. */
INLINE void NAME(copy_runs)(const uint16_t *in, const struct run *runs, const int32_t *places, int64_t n,
                            int64_t longest, uint16_t *row)
{
    if (longest <= 4)
        for (int64_t i = 0; i < n; i++)
            *(loose_u64 *)(row + runs[i].to) = *(const loose_u64 *)(in + places[i]);
    else if (longest <= 8)
        for (int64_t i = 0; i < n; i++)
            *(loose_u64x2 *)(row + runs[i].to) = *(const loose_u64x2 *)(in + places[i]);
    else if (longest <= 16)
        for (int64_t i = 0; i < n; i++)
            *(loose_u16x16 *)(row + runs[i].to) = *(const loose_u16x16 *)(in + places[i]);
    else
        for (int64_t i = 0; i < n; i++)
            for (int64_t x = 0; x < runs[i].length; x += 32)
                *(loose_u16x32 *)(row + runs[i].to + x) = *(const loose_u16x32 *)(in + places[i] + x);
}

/* Rows `first` to `first + count` of the panel, (rows, tile); of `subset` weights every sum has its row. Last a row of 0. */
static void NAME(fill_panel)(const struct layer *l, const uint16_t *planes, const struct block *block,
                             const struct run *runs, const int32_t *places, int64_t n, int64_t longest,
                             uint16_t *panel)
{
    const int64_t tile = l->tile, length = l->phases * l->plane_w, kernel = l->kernel_h * l->kernel_w;
    const int64_t sums = ((int64_t)1 << l->subset) - 1;
    int64_t c = block->row / kernel, y = block->row % kernel / l->kernel_w, x = block->row % l->kernel_w;
    for (int64_t r = 0; r < block->rows; r += l->subset, panel += sums * tile) {
        const int64_t together = block->rows - r < l->subset ? block->rows - r : l->subset;
        for (int64_t k = 0; k < together; k++) {
            uint16_t *row = panel + (((int64_t)1 << k) - 1) * tile;
            const uint16_t *from = planes + (c * l->plane_h + y * l->dilation_h) * length;
            NAME(copy_runs)(from, runs, places + x * n, n, longest, row);
            if (++x == l->kernel_w) {
                x = 0;
                if (++y == l->kernel_h)
                    y = 0, c++;
            }
        }
        for (int64_t which = 3; which < (int64_t)1 << together; which++)
            if (which & (which - 1)) {
                const int64_t rest = which & (which - 1), lowest = which ^ rest;
                for (int64_t i = 0; i < tile; i += 16)
                    *(u16x16 *)(panel + (which - 1) * tile + i) = *(u16x16 *)(panel + (rest - 1) * tile + i) +
                                                                  *(u16x16 *)(panel + (lowest - 1) * tile + i);
            }
    }
    memset(panel, 0, (size_t)tile * sizeof *panel);
}

/* The panel of a dense layer: (rows / 4, tile, 4) bytes. `four` has room for four rows. */
static void NAME(fill_bytes)(const struct layer *l, const uint8_t *planes, const struct run *runs,
                             const int32_t *places, int64_t n, uint8_t *four, uint8_t *panel)
{
    const int64_t tile = l->tile, length = l->phases * l->plane_w, rows = l->channels * l->kernel_h * l->kernel_w;
    const int64_t stride = tile + 64;
    int64_t c = 0, y = 0, x = 0;
    for (int64_t r = 0; r < rows; r += 4, panel += 4 * tile) {
        for (int64_t k = 0; k < 4 && r + k < rows; k++) {
            const uint8_t *from = planes + (c * l->plane_h + y * l->dilation_h) * length;
            for (int64_t i = 0; i < n; i++)
                for (int64_t at = 0; at < runs[i].length; at += 16)
                    *(loose_u8x16 *)(four + k * stride + runs[i].to + at) =
                        *(const loose_u8x16 *)(from + places[x * n + i] + at);
            if (++x == l->kernel_w) {
                x = 0;
                if (++y == l->kernel_h)
                    y = 0, c++;
            }
        }
        for (int64_t i = 0; i < tile; i += 16) {
            u32x16 word = {0};
            for (int k = 0; k < 4; k++)
                word |= __builtin_convertvector(*(const loose_u8x16 *)(four + k * stride + i), u32x16) << (8 * k);
            *(u32x16 *)(panel + 4 * i) = word;
        }
    }
}
