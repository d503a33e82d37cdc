"""One trainer, and what it trains: adapters or all weights."""
