"""What Shoal's parts say to users and to each other, as pydantic models."""
