"""Image decoding: from bytes to pixels."""
