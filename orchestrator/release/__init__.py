"""Takes what was rendered live: deploying, proving, switching, rolling back."""
