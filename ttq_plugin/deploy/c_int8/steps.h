/* Runs the steps in order. */
KEEP static void run_steps(const step *s, const int8_t *input, int8_t *output)
{
    uint32_t places;
    do {
        uint32_t a, b, y;
        places = s->places;
        a = places & 3u;
        b = (places >> 2) & 3u;
        y = (places >> 4) & 3u;
        s->run(s, a == 0 ? s->a : (a == 1 ? input : output) + (uintptr_t)s->a,
               b == 0 ? s->b : (b == 1 ? input : output) + (uintptr_t)s->b, y == 0 ? s->y : output + (uintptr_t)s->y);
        s++;
    } while (!(places & 64u));
}
