"""Native kernels in C, of training and of inference, with their bindings; optional."""
