"""Pure object builders: spec -> pods, services and secrets."""
