"""Guards: which words are drawn, which pictures are shown, and what a picture says of where it comes from."""
