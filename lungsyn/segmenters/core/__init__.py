"""What families of segmenters share that learn from patches: the loop, the patches, the sliding window."""
