"""agent-sandbox: members from Sandboxes."""
