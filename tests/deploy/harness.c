/* Runs an exported model on every sample of a file, of floats or what NUMBER says, and writes its outputs to another. */
#include "model.h"

#include <stdio.h>

#ifndef NUMBER
#define NUMBER float
#endif

static NUMBER x[MODEL_INPUTS], y[MODEL_OUTPUTS];

int main(int count, char **names)
{
    FILE *in, *out;
    if (count != 3 || !(in = fopen(names[1], "rb")) || !(out = fopen(names[2], "wb")))
        return 2;
    while (fread(x, sizeof x, 1, in) == 1) {
        model_run(x, y);
        if (fwrite(y, sizeof y, 1, out) != 1)
            return 3;
    }
    return fclose(out) ? 3 : 0;
}
