"""Log ratios of a pipeline's own samples: estimated, validated, and what levels mean for them."""
