"""Integer networks on this machine's processor, by SIMD kernels that give the torch module's integers."""
