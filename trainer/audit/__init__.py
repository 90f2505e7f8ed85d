"""The audit of a data set: leakage, duplicates, shortcuts, and files that cannot be used.

``image_stats`` reads the images; ``duplicates`` and ``confounders`` compare them; ``audit`` counts.
``findings`` writes the sentences, ``charts`` draws, ``html`` lays out the page.
"""
