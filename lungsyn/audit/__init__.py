"""Can it be shared, and how real is it? What a synthetic set or its generator gives away; its distance to real CT."""
