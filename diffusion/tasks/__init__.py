"""What is to be done: concepts, prompts, levels, image sets."""
