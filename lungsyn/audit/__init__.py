"""Can it be shared? What a synthetic set, or the generator itself, gives away about the patients it was trained on."""
