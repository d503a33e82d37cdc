"""What trains and measures ``wardrobe``; not needed to use it."""

import os

# As for the command line: what transformers lacks and nobody needs here (torchvision) is no news.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
