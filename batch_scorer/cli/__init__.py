"""The command line, and the entry points for AWS Lambda and HTTP."""
