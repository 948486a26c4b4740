"""The study's volumes in a browser: a folder with a page that opens from the disk, without a server or a network."""
