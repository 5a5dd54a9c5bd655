"""OpenTelemetry set-up and metric names."""
