/* What a layer on integers is told, and vectors; the Python side lays out the same structs. */
#ifndef INTEGER_TYPES_H
#define INTEGER_TYPES_H
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { SPARSE, DENSE, DOTS };

/* Rows of the panel that are added together before the next ones are laid out, so that they stay in the first cache. */
struct block {
    int64_t row, rows; /* weights (channel, kernel row, kernel column) of a group: the first, how many */
    int64_t runs, run_count, order, list; /* where its part of the lists begins */
};

/* 32 numbers of a plane: from where in a channel of the input, which of 128, and whether they are none of the padding. */
struct gather {
    int32_t from;
    uint32_t inside;
    uint8_t at[32];
};

/* All sizes in numbers. Lines are sums: of a ternary layer two for each output channel, over positive and negative weights. */
struct layer {
    int64_t kind;
    int64_t input, input_offset, input_sample, step_c, step_y, step_x;
    int64_t output, output_offset, output_sample, to_c, to_y, to_x;
    int64_t groups, channels, rows, columns; /* channels of a group */
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int64_t out_channels; /* of a group */
    int64_t windows_h, windows_w, pool_h, pool_w, pool_stride_h, pool_stride_w; /* a result is the largest of a window */
    int64_t zero_in, shift, zero, low, high;
    int64_t table_first; /* whether the table is not monotone, and must come before the maximum */
    int64_t lines;       /* for each output channel: 1 or 2 */
    int64_t tile, windows, chunk; /* positions in a tile, windows that these are, samples whose windows share tiles */
    int64_t subset;               /* weights of which every sum is a row of the panel */
    int64_t wide;                 /* whether sums need 32 bits */
    int64_t block_count;
    int64_t phases, plane, plane_w; /* parts of a padded channel, each a plane of so many numbers, its rows so long */
    int64_t results;                /* numbers from one output channel's results of a tile to the next */
    int64_t panel_at, sums_at, results_at; /* bytes in the working memory, which begins with the planes */
    const int32_t *places;          /* (kernel rows, kernel columns, pooling window): in the planes */
    const int32_t *sources;         /* (phases, plane): in a channel of the input, or -1 for padding */
    const struct gather *gathers;   /* (phases, plane / 32): the same, or null */
    const int32_t *factors;   /* two for each output channel */
    const int64_t *constants; /* one for each output channel: bias, and what the zero point adds to the sums */
    const int8_t *table;      /* 256, or null */
    const struct block *blocks;
    const int32_t *runs;      /* steps, and how many lines have so many */
    const int32_t *order;     /* the lines as the runs have them */
    const uint16_t *list;     /* bytes from the panel's beginning to a row */
    const int8_t *weights;    /* DENSE: (groups, lines / 4, rows / 4, 4, 4); DOTS: (groups, lines, rows), 64 at least */
};

/* GCC splits these where the machine's vectors are shorter. Sums may wrap around where nobody reads them. */
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef int64_t i64x8 __attribute__((vector_size(64)));
typedef uint64_t u64x8 __attribute__((vector_size(64)));
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef int8_t i8x8 __attribute__((vector_size(8)));
typedef uint8_t loose_u8x16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef int8_t loose_i8x8 __attribute__((vector_size(8), aligned(1), may_alias));
typedef int16_t loose_i16x8 __attribute__((vector_size(16), aligned(2), may_alias));
typedef int32_t loose_i32x8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t loose_u16x16 __attribute__((vector_size(32), aligned(1), may_alias));
typedef uint64_t loose_u64 __attribute__((aligned(1), may_alias));
typedef uint64_t loose_u64x2 __attribute__((vector_size(16), aligned(1), may_alias));

/* How inputs of a tile are laid out: by runs, by permutations of 32 or 64 numbers for each place in the window, or of a
 * whole channel's 64 or 128 for all of them. */
enum { RUNS, OF_32, OF_64, WHOLE_64, WHOLE_128 };
#define WHOLE_KERNEL 16
#define WHOLE_TILE 64

struct run {
    int32_t to, from, length; /* of windows side by side: in the tile, in the planes */
};

struct piece {
    int32_t from, length;
    int64_t to; /* of results side by side: in the tile, in the output */
};

#endif
