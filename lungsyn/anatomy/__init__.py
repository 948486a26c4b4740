"""Anatomy by rules: body and lungs; which voxels of a whole chest are bone, airway, fat and muscle; numbers that tell a
chest from a heap of plausible patches.

Nothing here is learned. What is *plausible* these modules do not know either: quality control holds each number against
those of real chests. Arrays are ``[x y z]``, RAS+ (x to the patient's right, y to the front, z up), isotropic; HU.
"""
