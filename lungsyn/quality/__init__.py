"""Is a synthetic case fit to be one? Numbers of its voxels, each beside the range that real train cases give.

A *measure* is one number of a case (``MEASURES``). Its *range* comes from the same measure of the train cases: the
median, and beyond it ``width`` times the way from there to the 5 % and to the 95 % quantile, so that a skewed measure
has a skewed range and one odd case in twenty moves nothing. Positive measures that spread by factors are treated so in
their logarithm. Where more, or less, is never wrong, the range has one end only: no chest has too much of a spine.

The width is one for all measures of a family (``FAMILIES``: the image, and the anatomy in it), so that an odd scanner
does not excuse a missing spine. It is chosen so that as few real cases are rejected as the config says, half of them by
either family: each train case is held against the ranges of all the others, and the width is the one that lets that
share of them through (a conformal quantile: Vovk, Gammerman and Shafer 2005). Few train cases thus make wide ranges.

A measure that a case has too few voxels for, such as soft tissue in a cut-out of lung, is left out for that case; so is
all anatomy of what is no whole chest. Of an inpainted case only nodules that were made are measured: the rest is a real
CT.

A case with a fault is *rejected* and made again with another noise (``attempts``); the masks stay the same. The last
attempt is kept whatever it is, and marked: an arm has as many volumes as the config says, no mask is missing because it
is hard to make, and how many of them are faulty stands in the report. Arrays are ``[x y z]``; HU.
"""
