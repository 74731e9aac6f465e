"""Integer networks: int8 activations, ternary or int8 weights, and the same arithmetic in torch and C."""
