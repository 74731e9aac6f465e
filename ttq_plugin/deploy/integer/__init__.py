"""Networks on integers: int8 activations, ternary or int8 weights, one arithmetic for torch and C."""
