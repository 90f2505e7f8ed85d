"""Numbers to sentences. Pure: nothing is read or written."""
