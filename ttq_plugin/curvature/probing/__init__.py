"""Products of the Hessian with random vectors: gradients to differentiate again, blocks of layers, and their cost."""
