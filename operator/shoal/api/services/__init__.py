"""Messages between Shoal's services."""
