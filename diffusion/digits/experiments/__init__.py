"""Studies: experiments that take minutes, each one command, seeded and resumed where they were stopped."""
