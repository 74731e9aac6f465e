/* From int8 samples to padded planes, and from these to the rows of a panel. Compiled for each kind of processor.
 *
 * Planes are (channels, phases, samples, plane): rows and columns whose distance is that of neighbouring windows lie side
 * by side, so that for one weight and one place in the window the inputs of all windows do, too, but for the edges. */

/* Planes of numbers that wider ones hold: int16, or bytes to which 128 is added. */
#define PLANES(name, type, added, widened, store)                                                                     \
    static void NAME(name)(const struct layer *l, const int8_t *in, int64_t samples, void *planes)                    \
    {                                                                                                                 \
        const int64_t channels = l->groups * l->channels, plane = l->plane;                                            \
        const type value = (type)(l->zero_in + (added));                                                              \
        type *to = planes;                                                                                            \
        for (int64_t c = 0; c < channels; c++, in += l->step_c)                                                       \
            for (int64_t phase = 0; phase < l->phases; phase++, to += (l->chunk - samples) * plane)                   \
                for (int64_t s = 0; s < samples; s++, to += plane) {                                                  \
                    const int8_t *from = in + s * l->input_sample;                                                    \
                    GATHER(widened, store)                                                                            \
                    const int32_t *sources = l->sources + phase * plane;                                              \
                    for (int64_t i = 0; i < plane; i++)                                                               \
                        to[i] = sources[i] < 0 ? value : (type)(from[sources[i]] + (added));                          \
                }                                                                                                     \
    }
#ifdef __AVX512VBMI__
/* 32 numbers out of 128 at a time; up to 31 too many, which are overwritten. */
#define GATHER(widened, store)                                                                                        \
    if (l->gathers) {                                                                                                 \
        const struct gather *gather = l->gathers + phase * ((plane + 31) / 32);                                        \
        for (int64_t v = 0; v < (plane + 31) / 32; v++, gather++) {                                                   \
            const __m512i at = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)gather->at));               \
            const __m512i low = _mm512_loadu_si512(from + gather->from);                                              \
            const __m512i high = _mm512_loadu_si512(from + gather->from + 64);                                        \
            __m256i found = _mm512_castsi512_si256(_mm512_permutex2var_epi8(low, at, high));                          \
            found = _mm256_mask_mov_epi8(_mm256_set1_epi8((char)l->zero_in), gather->inside, found);                  \
            store(to + 32 * v, widened(found));                                                                       \
        }                                                                                                             \
        continue;                                                                                                     \
    }
#define WIDEN(x) _mm512_cvtepi8_epi16(x)
#define FLIP(x) _mm256_xor_si256(x, _mm256_set1_epi8(-128))
#define STORE_32(to, x) _mm256_storeu_si256((__m256i *)(to), x)
#else
#define GATHER(widened, store)
#endif
PLANES(wide_planes, uint16_t, 0, WIDEN, _mm512_storeu_si512)
PLANES(byte_planes, uint8_t, 128, FLIP, STORE_32)
#undef PLANES
#undef GATHER
#undef WIDEN
#undef FLIP
#undef STORE_32

/* The windows of a tile, in the planes. */
struct NAME(tile) {
    int64_t count, runs, longest, way;
    int64_t first[4]; /* of 32 windows each */
    struct run run[128];
    uint16_t at[WHOLE_KERNEL][WHOLE_TILE]; /* of each 32 windows, or for each weight of a channel */
};

static void NAME(find_runs)(const struct layer *l, int64_t first, struct NAME(tile) *t)
{
    const int64_t per_sample = l->windows_h * l->windows_w;
    t->runs = 0;
    for (int64_t done = 0; done < t->count; t->runs++) {
        const int64_t at = first + done, rest = at % per_sample, y = rest / l->windows_w, x = rest % l->windows_w;
        const int64_t side = l->windows_w - x;
        struct run *run = t->run + t->runs;
        run->to = (int32_t)done, run->from = (int32_t)(at / per_sample * l->plane + y * l->plane_w + x);
        run->length = (int32_t)(side < t->count - done ? side : t->count - done);
        done += run->length;
    }
}

static void NAME(find_tile)(const struct layer *l, int64_t first, int64_t count, struct NAME(tile) *t)
{
    const int64_t kernel = l->kernel_h * l->kernel_w, members = l->pool_h * l->pool_w;
    const int64_t channel = l->phases * l->chunk * l->plane;
    t->count = count, t->longest = l->windows_w < count ? l->windows_w : count, t->way = RUNS;
    NAME(find_runs)(l, first, t);
#ifdef __AVX512BW__
    const int whole = channel <= 128 && kernel <= WHOLE_KERNEL && l->tile <= WHOLE_TILE;
    t->way = whole ? channel <= 64 ? WHOLE_64 : WHOLE_128 : OF_32;
    for (const struct run *run = t->run; run < t->run + t->runs; run++)
        for (int64_t i = run->to; i < run->to + run->length; i++) {
            const int64_t from = run->from + i - run->to;
            if (i % 32 == 0)
                t->first[i / 32] = from;
            const int64_t far = from - t->first[i / 32];
            if (whole)
                for (int64_t place = 0; place < kernel * members; place++)
                    t->at[place / members][place % members * l->windows + i] = (uint16_t)(l->places[place] + from);
            else {
                t->at[i / 32][i % 32] = (uint16_t)(far & 63);
                t->way = far >= 64 || t->way == RUNS ? RUNS : far >= 32 ? OF_64 : t->way;
            }
        }
#else
    (void)kernel, (void)members, (void)channel;
#endif
}

/* The inputs of all windows for one weight and one place in the window; up to 31 numbers too many. */
INLINE void NAME(copy_section)(const uint16_t *in, const struct NAME(tile) *t, uint16_t *row)
{
#ifdef __AVX512BW__
    if (t->way != RUNS) {
        for (int64_t v = 0; 32 * v < t->count; v++) {
            const uint16_t *from = in + t->first[v];
            const __m512i at = _mm512_loadu_si512(t->at[v]), low = _mm512_loadu_si512(from);
            const __m512i found = t->way == OF_32
                                      ? _mm512_permutexvar_epi16(at, low)
                                      : _mm512_permutex2var_epi16(low, at, _mm512_loadu_si512(from + 32));
            if (t->count <= 16)
                _mm256_storeu_si256((__m256i *)row, _mm512_castsi512_si256(found));
            else
                _mm512_storeu_si512(row + 32 * v, found);
        }
        return;
    }
#endif
    if (t->longest <= 4)
        for (int64_t i = 0; i < t->runs; i++)
            *(loose_u64 *)(row + t->run[i].to) = *(const loose_u64 *)(in + t->run[i].from);
    else if (t->longest <= 8)
        for (int64_t i = 0; i < t->runs; i++)
            *(loose_u64x2 *)(row + t->run[i].to) = *(const loose_u64x2 *)(in + t->run[i].from);
    else
        for (int64_t i = 0; i < t->runs; i++)
            for (int64_t x = 0; x < t->run[i].length; x += 16)
                *(loose_u16x16 *)(row + t->run[i].to + x) = *(const loose_u16x16 *)(in + t->run[i].from + x);
}

/* The inputs of a whole tile for weight k of a channel. */
INLINE void NAME(copy_row)(const struct layer *l, const uint16_t *channel, int64_t k, const struct NAME(tile) *t,
                           uint16_t *row)
{
    const int64_t members = l->pool_h * l->pool_w;
#ifdef __AVX512BW__
    if (t->way >= WHOLE_64) {
        const __m512i a = _mm512_loadu_si512(channel), b = _mm512_loadu_si512(channel + 32);
        for (int64_t i = 0; i < l->tile; i += 32) {
            const __m512i at = _mm512_loadu_si512(t->at[k] + i);
            __m512i found = _mm512_permutex2var_epi16(a, at, b);
            if (t->way == WHOLE_128) {
                const __m512i c = _mm512_loadu_si512(channel + 64), d = _mm512_loadu_si512(channel + 96);
                const __mmask32 far = _mm512_test_epi16_mask(at, _mm512_set1_epi16(64));
                found = _mm512_mask_mov_epi16(found, far, _mm512_permutex2var_epi16(c, at, d));
            }
            if (l->tile == 16)
                _mm256_storeu_si256((__m256i *)row, _mm512_castsi512_si256(found));
            else
                _mm512_storeu_si512(row + i, found);
        }
        return;
    }
#endif
    for (int64_t m = 0; m < members; m++)
        NAME(copy_section)(channel + l->places[k * members + m], t, row + m * l->windows);
}

/* The rows of a block, (rows, tile); of `subset` weights every sum has its row. Last a row of zeros. */
static void NAME(fill_panel)(const struct layer *l, const uint16_t *planes, const struct block *block,
                             const struct NAME(tile) *t, uint16_t *panel)
{
    const int64_t tile = l->tile, kernel = l->kernel_h * l->kernel_w;
    const int64_t sums = ((int64_t)1 << l->subset) - 1, channel = l->phases * l->chunk * l->plane;
    const uint16_t *from = planes + block->row / kernel * channel;
    int64_t k = block->row % kernel;
    for (int64_t r = 0; r < block->rows; r += l->subset, panel += sums * tile) {
        const int64_t together = block->rows - r < l->subset ? block->rows - r : l->subset;
        for (int64_t i = 0; i < together; i++) {
            NAME(copy_row)(l, from, k, t, panel + (((int64_t)1 << i) - 1) * tile);
            if (++k == kernel)
                k = 0, from += channel;
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

INLINE u32x16 NAME(words)(const uint8_t *bytes)
{
#ifdef __AVX512F__
    return (u32x16)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)bytes));
#else
    return __builtin_convertvector(*(const loose_u8x16 *)bytes, u32x16);
#endif
}

/* The panel of a dense layer: (rows / 4, tile, 4) bytes. `four` has room for four rows. */
static void NAME(fill_bytes)(const struct layer *l, const uint8_t *planes, const struct NAME(tile) *t, uint8_t *four,
                             uint8_t *panel)
{
    const int64_t tile = l->tile, kernel = l->kernel_h * l->kernel_w, members = l->pool_h * l->pool_w;
    const int64_t channel = l->phases * l->chunk * l->plane, rows = l->channels * kernel, stride = tile + 64;
    int64_t k = 0;
    for (int64_t r = 0; r < rows; r += 4, panel += 4 * tile) {
        for (int64_t j = 0; j < 4 && r + j < rows; j++) {
            for (int64_t m = 0; m < members; m++) {
                const uint8_t *from = planes + l->places[k * members + m];
                uint8_t *row = four + j * stride + m * l->windows;
                for (int64_t i = 0; i < t->runs; i++)
                    for (int64_t x = 0; x < t->run[i].length; x += 16)
                        *(loose_u8x16 *)(row + t->run[i].to + x) = *(const loose_u8x16 *)(from + t->run[i].from + x);
            }
            if (++k == kernel)
                k = 0, planes += channel;
        }
        for (int64_t i = 0; i < tile; i += 16) {
            u32x16 word = {0};
            for (int j = 0; j < 4; j++)
                word |= NAME(words)(four + j * stride + i) << (8 * j);
            *(u32x16 *)(panel + 4 * i) = word;
        }
    }
}
