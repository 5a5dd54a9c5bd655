"""Inference engines behind one HTTP contract: vLLM and the reference engine."""
