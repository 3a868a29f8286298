"""The HTTP face: jobs, three dialects and a page over the same requests as the command line's."""
