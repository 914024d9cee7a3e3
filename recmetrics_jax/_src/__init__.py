"""Implementation; the public names are those of `recmetrics_jax`."""
