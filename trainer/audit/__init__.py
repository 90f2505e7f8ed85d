"""What is wrong with a data set: leakage, copies, shortcuts, and files that cannot be used.

``measure`` reads the images, ``copies`` and ``shortcut`` compare them, ``facts`` counts,
``findings`` says it in words, ``figures`` draws it, ``page`` lays it out.
"""
