"""Ray driver, algorithm registries, weight publishing, checkpoints."""
