"""What a fitted network does: measured, audited, compared."""
