"""Networks on integers on this machine's processor: the integers of the torch module, by SIMD kernels."""
