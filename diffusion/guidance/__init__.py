"""The optimal target by guidance, without training."""
