"""The segmenter: finds nodules, trained in every arm by the same loop with the same number of optimiser steps."""
