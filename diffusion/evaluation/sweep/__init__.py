"""A sweep on ``wardrobe``: what is asked, what came of one setting of one method, and the frontier of all settings."""
