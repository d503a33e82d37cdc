"""Independent checks of the solver: closed forms for Gaussians, what atoms do, and a reference by CVXPY."""
