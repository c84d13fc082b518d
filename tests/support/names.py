"""File names and class names that break pages and tables which trust them."""

from __future__ import annotations

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>.jpg',
    "' onmouseover='alert(1)' x='",
    "a b\nc\td.jpg",
    "caf\udce9 & co &lt;.png",
    "lone \ud800 surrogate",
    "</style></title></main><!-- ",
    "javascript:alert(1)",
    "//evil.example/x.png",
    "100%41 #frag?query.png",
    "\x00\x1b[31mred\u202egnp.exe",
    "Größe 图像 😀.webp",
]
