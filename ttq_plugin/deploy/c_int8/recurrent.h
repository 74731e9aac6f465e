#if USE_RECUR
/* One channel's share of a gate; of no state before, the bias alone. */
KEEP static int64_t channel_sum(const layer *l, stream *r, const int8_t *x, uint32_t channel)
{
    int64_t total = term(l->bias, l->bias_kind, l->bias_shift, channel);
#if USE_TERNARY
    if (l->negative) {
        collect(l, r);
        if (x)
            total += ternary_sum(l, x, 0, 0, channel);
    }
#endif
#if USE_DENSE
    if (!l->negative && x)
        total += dense_sum(l, x, 0, 0, channel);
#endif
    (void)r;
    return total;
}

/* Clamped to -32767 to 32767. */
KEEP static int32_t within(int32_t a)
{
    return a > 32767 ? 32767 : a < -32767 ? -32767 : a;
}

/* tanh in multiples of 2^-15; bits: of the argument beyond sixteenths. */
KEEP static int32_t bent(const recurrence *l, int32_t a, uint32_t bits)
{
    int32_t size = a < 0 ? -a : a, value = l->curve[128];
    uint32_t place = (uint32_t)size >> bits;
    if (place < 128) {
        int32_t low = l->curve[place], rest = size & ((1 << bits) - 1);
        value = (low << bits) + (l->curve[place + 1] - low) * rest;
        value = (value + ((1 << bits) >> 1)) >> bits;
    }
    return a < 0 ? -value : value;
}

#endif

#if USE_OPENED
/* Sigmoid of a gate, from 0 to 2^15. */
KEEP static int32_t opened(const recurrence *l, int32_t a)
{
    return (32769 + bent(l, a, 8)) >> 1;
}
#endif

#if USE_LSTM
/* Input, forget, cell and output gate; the cell is the state. */
KEEP static int32_t lstm(const recurrence *l, const int32_t *gates, int16_t *state)
{
    int32_t put = nearest(opened(l, gates[0]) * bent(l, gates[2], 7), 15u - l->cell_bits);
    int32_t cell = within(nearest(opened(l, gates[1]) * *state + put, 15));
    *state = (int16_t)cell;
    return opened(l, gates[3]) * bent(l, cell, l->cell_bits - 4u);
}
#endif

#if USE_GRU
/* Reset and update gate, and both parts of the new state. */
KEEP static int32_t gru(const recurrence *l, const int32_t *gates, int16_t *state)
{
    int32_t fresh = bent(l, gates[2] + nearest(opened(l, gates[0]) * gates[3], 15), 7);
    int32_t update = opened(l, gates[1]);
    *state = (int16_t)nearest((32768 - update) * fresh + update * *state, 15);
    return *state;
}
#endif

#if USE_RNN
KEEP static int32_t rnn(const recurrence *l, const int32_t *gates, int16_t *state)
{
    (void)state;
    return bent(l, gates[0], 7);
}
#endif

#if USE_RECUR
/* All gates of one unit: totals of both matrices, rounded. */
KEEP static void gates_of(const recurrence *l, stream *r, const int8_t *x, const int8_t *before, uint32_t unit,
                          int32_t *found)
{
    uint32_t gate, shift = l->parts[0]->shift;
    for (gate = 0; gate < l->gates; gate++) {
        int64_t one = channel_sum(l->parts[0], r, x, unit * l->gates + gate);
        int64_t other = channel_sum(l->parts[1], r + 1, before, unit * l->gates + gate);
        if (l->gates == 3 && gate == 2)
            found[3] = within(nearest(other, shift));
        else
            one += other;
        found[gate] = within(nearest(one, shift));
    }
}

KEEP static void recur(const step *s, const int8_t *x, const int8_t *b, int8_t *y)
{
    const recurrence *l = s->more;
    const int8_t *before = 0;
    int32_t gates[4], x_step = (int32_t)l->x_step, y_step = (int32_t)l->y_step;
    stream r[2];
    uint32_t at, unit;
    (void)b;
    if (l->backward) {
        x += (l->length - 1u) * l->x_step;
        y += (l->length - 1u) * l->y_step;
        x_step = -x_step;
        y_step = -y_step;
    }
    for (at = 0; at < l->length; at++, before = y, x += x_step, y += y_step) {
#if USE_TERNARY
        if (l->parts[0]->negative)
            begin(l->parts[0], &r[0]);
        if (l->parts[1]->negative)
            begin(l->parts[1], &r[1]);
#endif
        for (unit = 0; unit < l->hidden; unit++) {
            if (!before)
                work.state[unit] = 0;
            gates_of(l, r, x, before, unit, gates);
            y[unit] = finish(product(l->unit(l, gates, &work.state[unit]), l->factors[0]), l->shift, l->ends);
        }
    }
}
#endif
