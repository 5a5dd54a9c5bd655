"""A Kubernetes control plane for one machine."""
