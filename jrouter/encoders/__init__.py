"""Text encoders: a query's text in, its embedding [d] out; networks in Flax, weights from safetensors files."""
