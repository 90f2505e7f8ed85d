"""File names that would break out of a page, a table or a line."""

HOSTILE_NAMES = (
    "<b>bold</b>\"'&.jpg",
    "<img src='http://example.org/x.png'>.jpg",
    "line\nbreak\r\t.jpg",
    "a" * 255 + ".jpg",
    "\u202egpj.exe\u2066",
    "\u4e2d\u6587/\u80f8\u7247.jpg",
    "\U0001fac1.png",
    "$x^2$ {{ 7*7 }} {% raw %}.jpg",
    "e\u0301\u0301\u0301.jpg",
    "x" * 4000,
)
SCRIPT_ENDS = (
    "</script><script>alert(1)</script>.jpg",
    "<!--<script>.jpg",
    "]]></SCRIPT >\u2028\u2029.jpg",
    "\"]}'`${alert(2)}\\.jpg",
    "<img src='film:x'>.jpg",
)
