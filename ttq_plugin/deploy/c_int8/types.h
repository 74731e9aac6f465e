/* The kernels of every exported integer model; the switches USE_* leave out what this model does not need. */

/* Functions are compiled on their own, so that the size of each one is known in advance. */
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

#if USE_MATRICES
typedef struct {
    const int32_t *factors;
    dim size[5]; /* pairs of matrices, in two dimensions; rows, products of one sum, columns */
    dim a[4], b[4]; /* steps of pairs, and of rows and columns of each */
    uint8_t shift;
    int8_t a_zero, b_zero, ends[3]; /* of the result: zero point, least, largest */
} matrices;
#endif

#if USE_SOFTMAX
typedef struct {
    const int32_t *factors;
    const int16_t *powers; /* by how far a number is below the largest */
    dim size[4], x[4], hidden[4], y[4]; /* the last dimension is the one that is added up */
    dim powers_count; /* that are not zero */
    uint8_t causal, masked, shift;
    int8_t ends[3]; /* of the result: zero point, least, largest */
} shares;
#endif

#if USE_NORM
typedef struct {
    const int16_t *factors;
    const int32_t *epsilon;
    const void *bias;
    dim rows, width;
    uint8_t factor_step; /* 0: one factor for the whole row */
    uint8_t epsilon_shift, centred;
    uint8_t bias_kind, bias_shift; /* 0 none, 1 int16, 2 int32 */
    uint8_t shift;
    int8_t x_zero, ends[3]; /* of the result: zero point, least, largest */
} norm;
#endif

#if USE_EMBED
typedef struct {
    const uint8_t *table;
    dim count, rows, width, row_bytes;
    uint8_t bytes, ternary; /* of an index; whether the table holds five codes a byte, each row from a byte on */
    int8_t values[3]; /* what the codes stand for */
} embedding;
#endif

#if USE_RECUR
typedef struct recurrence recurrence;
typedef int32_t unit(const recurrence *l, const int32_t *gates, int16_t *state);

struct recurrence {
    unit *unit;
    const layer *parts[2]; /* of the input and of the state before */
    const int16_t *curve;
    const int32_t *factors;
    dim length, hidden, x_step, y_step;
    uint8_t gates, backward, cell_bits, shift;
    int8_t ends[3]; /* of the result: zero point, least, largest */
};
#endif
