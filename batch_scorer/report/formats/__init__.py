"""Files for readers: PDF, HTML page, slides, and their verification."""
