"""Pages, style and typeface of the report, as package data; no logic beyond loops and ifs.

``fonts/`` holds IBM Plex Sans 3.005, Regular and SemiBold, unpacked from the WOFF2 files of the npm
package @ibm/plex-sans 1.1.0; its licence, the SIL Open Font License 1.1, is beside it (OFL.txt).
"""
