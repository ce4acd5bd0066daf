"""The SPS model, the network that replaces it, and mass simulation."""
