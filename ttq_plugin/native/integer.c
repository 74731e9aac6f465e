/* Layers of networks on integers: int8 samples in, int8 results out, the same integers as the torch module gives.
 *
 * A ternary layer lays the inputs that each weight meets side by side in a panel of int16: a row for each weight
 * (channel, kernel row, kernel column), a column for each position. Each line, the positive or the negative weights of
 * an output channel, adds the rows that it names; zero weights cost nothing. At few zeros the panel also has the sums
 * of every subset of two to four neighbouring rows, so that a line adds at most one row for each such group. A dense
 * layer multiplies bytes. Then both sums get their factors, the largest of each pooling window is rounded once, and a
 * table may follow. Positions are taken window by window, so that a tile holds whole windows.
 */
#include "integer_types.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define X86 1
#include <immintrin.h>
#else
#define X86 0
#endif

#ifndef TTQ_SOURCE
#define TTQ_SOURCE 0
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(x) JOIN(x, LEVEL)

#define LEVEL plain
#include "integer_layer.h"
#undef LEVEL

#if X86
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define LEVEL avx2
#include "integer_layer.h"
#undef LEVEL
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define LEVEL avx512
#include "integer_layer.h"
#undef LEVEL
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512vnni,avx512vbmi")
#define LEVEL vnni
#include "integer_layer.h"
#undef LEVEL
#pragma GCC pop_options
#define EACH(x) {x##_plain, x##_avx2, x##_avx512, x##_vnni}
#else
#define EACH(x) {x##_plain}
#endif

static void (*const layer[])(const struct layer *, int64_t, const int8_t *, int8_t *, char *) = EACH(layer);
static void (*const quantise[])(const float *, int64_t, double, int64_t, int8_t *) = EACH(quantise);
static void (*const dequantise[])(const int8_t *, int64_t, double, int64_t, float *) = EACH(dequantise);

/* Which source this was built from: the first 8 bytes of its SHA-256. */
uint64_t ttq_source(void) { return TTQ_SOURCE; }

/* The best of the levels above that this processor has. */
int64_t ttq_level(void)
{
#if X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4"))
        return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") ? 3 : 2;
    if (__builtin_cpu_supports("x86-64-v3"))
        return 1;
#endif
    return 0;
}

/* Layers in order. `buffers` are numbered as the layers number them; `work` is aligned to 64 bytes. */
void ttq_layers(const struct layer *layers, int64_t count, int64_t samples, int8_t *const *buffers, void *work,
                int64_t level)
{
    for (const struct layer *l = layers; l < layers + count; l++)
        layer[level](l, samples, buffers[l->input], buffers[l->output], work);
}

void ttq_quantise(const float *x, int64_t count, double scale, int64_t zero, int8_t *q, int64_t level)
{
    quantise[level](x, count, scale, zero, q);
}

void ttq_dequantise(const int8_t *q, int64_t count, double scale, int64_t zero, float *x, int64_t level)
{
    dequantise[level](q, count, scale, zero, x);
}
