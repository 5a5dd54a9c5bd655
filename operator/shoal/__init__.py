"""Shoal's control plane: a Kubernetes operator for agentic reinforcement learning."""
