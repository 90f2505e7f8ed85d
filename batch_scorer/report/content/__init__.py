"""Numbers to sentences. Pure functions: they read and write nothing."""
