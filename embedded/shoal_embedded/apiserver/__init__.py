"""The Kubernetes REST API on SQLite, for one machine."""
