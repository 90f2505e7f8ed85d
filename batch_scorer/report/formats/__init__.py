"""The report as files: PDF, HTML page, slides, and their verification."""
