"""The Open Inference Protocol (KServe, Triton)."""
