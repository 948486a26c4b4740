"""The networks of the families, and what is learned by those that are no plain denoisers."""
