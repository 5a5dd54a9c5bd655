"""A node that runs pods as processes."""
