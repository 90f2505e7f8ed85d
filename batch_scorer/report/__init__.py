"""The report: facts (numbers to plain sentences), figures (numbers to SVG), render (to PDF)."""
