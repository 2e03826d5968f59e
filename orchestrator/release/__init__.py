"""Takes rendered releases live: deploying, verifying, switching, rolling back."""
