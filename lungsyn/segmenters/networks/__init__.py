"""The networks of families of segmenters, a file for each family."""
