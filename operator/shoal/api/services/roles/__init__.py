"""Start-up configuration of the pod roles, one module per role."""
