"""Log ratios of a pipeline's own samples: estimated, examined, and what levels mean for them."""
