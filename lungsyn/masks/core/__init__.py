"""What sources of masks share."""
