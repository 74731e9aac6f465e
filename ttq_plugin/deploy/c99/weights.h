/* The kernels of every exported model; the switches USE_* leave out what this model does not need. */

/* ---- Weights: as floats, as int8 multiples of a step, or as codes -1, 0, 1 with two scales. ---- */

#if USE_LAYER || USE_EMBED || USE_RECUR
enum { GAPS, TRITS, BYTES, FLOATS };

typedef struct {
    const void *codes;
    const float *positive, *negative; /* W_p, W_n: one for all rows, or one each (see scale_step) */
    uint8_t kind, rice, scale_step;
} weights;
#endif

#if (USE_LAYER || USE_RECUR) && (USE_GAPS || USE_TRITS)
typedef struct {
    const uint8_t *codes;
    uint32_t at, index; /* next bit; weight that was reached */
    uint8_t held, left; /* of a byte of trits */
    int8_t sign;
} reader;

#if USE_GAPS
static uint32_t next_bit(reader *r)
{
    uint32_t bit = (uint32_t)(r->codes[r->at >> 3] >> (r->at & 7u)) & 1u;
    r->at++;
    return bit;
}

/* To the next weight that is not zero: a Rice code of the zeros between, then the sign. */
static void skip_zeros(reader *r, uint32_t rice)
{
    uint32_t high = 0, low = 0, i;
    while (next_bit(r))
        high++;
    for (i = 0; i < rice; i++)
        low |= next_bit(r) << i;
    r->index += (high << rice) | low;
    r->sign = next_bit(r) ? -1 : 1;
}
#endif

/* The sign and index of the next weight that is not zero and lies before limit; 0 if there is none. */
static int next_weight(reader *r, const weights *w, uint32_t limit, uint32_t *index)
{
#if USE_GAPS
    if (w->kind == GAPS) {
        int sign = r->sign;
        if (r->index >= limit)
            return 0;
        *index = r->index++;
        skip_zeros(r, w->rice);
        return sign;
    }
#endif
#if USE_TRITS
    while (r->index < limit) {
        uint32_t trit;
        if (r->left == 0) {
            r->held = *r->codes++;
            r->left = 5;
        }
        trit = r->held % 3u;
        r->held = (uint8_t)(r->held / 3u);
        r->left--;
        *index = r->index++;
        if (trit)
            return trit == 1 ? 1 : -1;
    }
#endif
    (void)w;
    return 0;
}

static reader beginning(const weights *w)
{
    reader r = {0};
    r.codes = w->codes;
#if USE_GAPS
    if (w->kind == GAPS)
        skip_zeros(&r, w->rice);
#endif
    return r;
}
#endif

