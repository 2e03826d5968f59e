"""Images: built from a rendered tree, pushed to a registry."""
