"""Metrics in the forms that other libraries have for them."""
