"""Runs pods as processes of this machine: the node of the embedded control plane.

Linux only: it needs /proc, pidfds and all of 127.0.0.0/8.
"""
