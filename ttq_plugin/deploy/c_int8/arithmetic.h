/*@DATA@*/

/* ---- The arithmetic. ---- */

#if USE_PRODUCT
KEEP static int64_t product(int32_t a, int32_t b)
{
    return (int64_t)a * b;
}
#endif

#if USE_FINISH
/* round(total / 2^shift), halves away from zero, at most 2^30 in size. */
KEEP static int32_t nearest(int64_t total, uint32_t shift)
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
    if (beyond || low > 0x7fffffffu)
        low = 0x7fffffffu;
    q = (int32_t)((low + 1u) >> 1);
    return total < 0 ? -q : q;
}

/* The same, moved and clamped. */
KEEP static int8_t finish(int64_t total, uint32_t shift, const int8_t *ends)
{
    int32_t q = ends[0] + nearest(total, shift);
    if (q < ends[1])
        q = ends[1];
    if (q > ends[2])
        q = ends[2];
    return (int8_t)q;
}
#endif

#if USE_TERM
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

/* One of the biases: of none, int16 or int32. */
KEEP static int64_t term(const void *bias, uint32_t kind, uint32_t shift, uint32_t at)
{
    if (kind == 0)
        return 0;
    return raised(kind == 1 ? ((const int16_t *)bias)[at] : ((const int32_t *)bias)[at], shift);
}
#endif

#if USE_QUOTIENT
/* floor(a * 2^15 / b), for a up to 2^30 and b from 2^15 - 1 to 2^31. */
KEEP static int32_t quotient(uint32_t a, uint32_t b)
{
    uint32_t rest = 0, found = 0, place;
    for (place = 0; place < 46; place++) {
        rest = (rest << 1) | (a >> 30);
        a = (a << 1) & 0x7fffffffu;
        found <<= 1;
        if (rest >= b) {
            rest -= b;
            found |= 1u;
        }
    }
    return (int32_t)found;
}
#endif
