"""What trains and measures ``wardrobe``; not needed to use it."""
