"""Volumes: where their voxels are, what their values mean, how they are cut into patches and read from disk.

Terms. A *volume* is an array ``[x y z]`` with its 4x4 *affine* (voxel index to millimetres, RAS+: x to the
patient's right-to-left axis pointing right, y to the front, z up; the convention of NIfTI). A *space* is a volume
without the values: shape and affine. Values of a CT are *HU* (int16 on disk); the networks see the *model range*
[-1, 1]. A *patch* is a box of voxels of one fixed size; its *start* is the index of its first voxel.
"""
