"""The report: content (numbers to sentences), charts (numbers to SVG), formats (PDF, HTML)."""
