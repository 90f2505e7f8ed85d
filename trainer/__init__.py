"""Fit the three networks on a folder of labelled chest X-rays."""
