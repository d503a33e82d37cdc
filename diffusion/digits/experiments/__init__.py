"""Studies: experiments that take minutes, each one command, seeded and resumed where they were stopped."""

import os

# As for the command line: what transformers lacks and nobody needs here (torchvision) is no news.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
