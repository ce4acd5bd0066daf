"""MCMC on the same likelihood."""
