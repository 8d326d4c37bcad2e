"""Relative links of Markdown files and what they point to."""

import re
from urllib.parse import unquote

CODE = re.compile(r"^(```|~~~).*?^\1[^\n]*$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(
    r"""!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?[^)]*\)"""  # [text](target "title")
    r"""|!\[[^\]]*\]\(([^)\s]+)\)"""  # a picture inside of a link's text
    r"""|^\s{0,3}\[[^\]]+\]:\s*<?(\S+?)>?\s*$"""  # [name]: target
    r"""|<(?:a|img)\b[^>]*\b(?:href|src)=["']([^"']+)["']""",
    re.MULTILINE,
)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def relative_links(text):
    """Targets of all relative links, `path`, `path#anchor` or `#anchor`, code left out."""
    text = CODE.sub("", text)
    found = []
    for match in LINK.finditer(text):
        found.append(next(filter(None, match.groups())))
        inner = match[0][1:] if match[0].startswith("[") else ""
        found += [picture[1] for picture in re.finditer(r"!\[[^\]]*\]\(([^)\s]+)", inner)]
    return [unquote(target) for target in found if not ELSEWHERE.match(target)]


def anchors(text):
    """Anchors that GitHub gives the headings of a Markdown file, and those set by hand."""
    text = re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    found = set(re.findall(r"""<\w+\b[^>]*\b(?:id|name)=["']([^"']+)["']""", text))
    seen = {}
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE):
        heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
    return found


def broken(page, exists):
    """Relative links of a Markdown file that lead nowhere.

    Args:
        page: its path.
        exists: says of a resolved path whether a link may lead there.
    """
    text = page.read_text(encoding="utf-8")
    found = []
    for link in relative_links(text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page.resolve()
        if not exists(target):
            found.append(link)
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            found.append(link)
    return found
